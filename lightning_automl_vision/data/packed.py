"""Labelled images in a few long arrays: little memory, and none of it that a reading process copies.

A process that was forked shares memory until someone writes to it, and Python writes to every object it looks at: it
counts who holds it. Looking at a part of an array writes nothing into the array.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.objects import Listed
from lightning_automl_vision.samples import BoolArray, Boxes, FloatArray, IntArray, Labels, Masks, Polygons, Sample, T

_TEXT = ("utf-8", "surrogatepass")
_NO_GROUP = -1
# So many images are counted at once.
_PART = 1 << 16


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, one after another in ``values``; row ``i`` ends at ``ends[i]``."""

    values: NDArray[Any]
    ends: IntArray

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.ends, prepend=0)

    def span(self, index: int) -> slice:
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.values[self.span(index)]

    def kept(self, rows: BoolArray) -> Self:
        lengths = self.lengths
        return replace(self, values=self.values[np.repeat(rows, lengths)], ends=np.cumsum(lengths[rows]))

    def gathered(self, rows: IntArray) -> Self:
        """Some rows, in this order."""
        lengths = self.ends[rows] - np.where(rows > 0, self.ends[rows - 1], 0)
        ends = np.cumsum(lengths)
        places = np.arange(int(lengths.sum())) + np.repeat(self.ends[rows] - ends, lengths)
        return replace(self, values=self.values[places], ends=ends)


@dataclass(frozen=True)
class _Objects:
    """Of all objects in a row: their boxes and, where a task has them, the parts of their outlines and the points."""

    boxes: FloatArray
    crowd: BoolArray
    parts: IntArray | None = None
    points: Ragged | None = None

    def target(self, labels: IntArray, span: slice) -> Boxes:
        boxes, crowd = self.boxes[span], self.crowd[span]
        if self.parts is None:
            return Boxes(labels=labels, boxes=boxes, crowd=crowd)
        polygons = tuple(self._outline(number) for number in range(span.start, span.stop))
        return Masks(labels=labels, boxes=boxes, crowd=crowd, polygons=polygons)

    def _outline(self, number: int) -> tuple[FloatArray, ...]:
        assert self.parts is not None
        assert self.points is not None
        first = int(self.parts[number - 1]) if number else 0
        return tuple(self.points[part] for part in range(first, int(self.parts[number])))

    def kept(self, objects: BoolArray) -> Self:
        boxes = replace(self, boxes=self.boxes[objects], crowd=self.crowd[objects])
        if self.parts is None or self.points is None:
            return boxes
        counts = np.diff(self.parts, prepend=0)
        return replace(boxes, parts=np.cumsum(counts[objects]), points=self.points.kept(np.repeat(objects, counts)))


@dataclass(frozen=True, eq=False)
class PackedSamples(Sequence[Sample[T]], Generic[T]):
    """Samples that are made when they are asked for; ``order`` says which of the packed ones, where not all in turn."""

    names: Ragged
    lines: IntArray
    groups: IntArray
    group_names: Sequence[str]
    labels: Ragged
    objects: _Objects | None = None
    order: IntArray | None = None

    def __len__(self) -> int:
        return len(self.lines) if self.order is None else len(self.order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._sample(self.row(index))

    def __iter__(self) -> Iterator[Sample[T]]:
        return (self._sample(row) for row in self.rows)

    @property
    def labels_of_each(self) -> Sequence[IntArray]:
        return _LabelsOfEach(self)

    def chosen(self, indices: Sequence[int] | IntArray) -> Self:
        """Some of them, in this order; the arrays are shared."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(self, order=chosen if self.order is None else self.order[chosen])

    def compacted(self, kept: Sequence[int]) -> Self:
        """Those of all packed ones alone, in arrays of their own, in the order they were packed in."""
        rows = np.zeros(len(self.lines), dtype=np.bool_)
        rows[np.asarray(kept, dtype=np.int64)] = True
        objects = np.repeat(rows, self.labels.lengths)
        return replace(
            self,
            names=self.names.kept(rows),
            lines=self.lines[rows],
            groups=self.groups[rows],
            labels=self.labels.kept(rows),
            objects=None if self.objects is None else self.objects.kept(objects),
        )

    def sort_labels(self) -> None:
        """Those of each image; for sets of labels, which have no objects beside them."""
        owners = np.repeat(np.arange(len(self.lines)), self.labels.lengths)
        self.labels.values[:] = self.labels.values[np.lexsort((self.labels.values, owners))]

    def name(self, row: int) -> str:
        return self.names[row].tobytes().decode(*_TEXT)

    def group(self, row: int) -> str | None:
        number = int(self.groups[row])
        return None if number == _NO_GROUP else self.group_names[number]

    @property
    def rows(self) -> Iterator[int]:
        return iter(range(len(self.lines))) if self.order is None else (int(row) for row in self.order)

    def row(self, index: Any) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = int(index) % len(self)
        return place if self.order is None else int(self.order[place])

    def _sample(self, row: int) -> Sample[Any]:
        span = self.labels.span(row)
        labels = self.labels.values[span]
        target = Labels(labels=labels) if self.objects is None else self.objects.target(labels, span)
        return Sample(image=self.name(row), target=target, line=int(self.lines[row]), group=self.group(row))


@dataclass(frozen=True, eq=False)
class _LabelsOfEach(Sequence[IntArray]):
    """Without the rest of the sample."""

    samples: PackedSamples[Any]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples.labels[self.samples.row(index)]

    def __iter__(self) -> Iterator[IntArray]:
        return (self.samples.labels[row] for row in self.samples.rows)

    def part(self, start: int, stop: int) -> Ragged:
        order = self.samples.order
        rows = np.arange(start, min(stop, len(self))) if order is None else order[start:stop]
        return self.samples.labels.gathered(rows)


class Packing:
    """Takes samples one by one; all of a kind."""

    def __init__(self) -> None:
        self._names, self._name_ends = bytearray(), array("q")
        self._lines, self._groups = array("q"), array("q")
        self._group_numbers: dict[str, int] = {}
        self._labels, self._label_ends = array("q"), array("q")
        self._boxes, self._crowd = array("d"), bytearray()
        self._parts, self._points, self._point_ends = array("q"), array("d"), array("q")
        self._kind: type[Labels] = Labels

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, image: str, target: Labels | Listed, *, line: int = 0, group: str | None = None) -> None:
        self._names += image.encode(*_TEXT)
        self._name_ends.append(len(self._names))
        self._lines.append(line)
        numbers = self._group_numbers
        self._groups.append(_NO_GROUP if group is None else numbers.setdefault(group, len(numbers)))
        if isinstance(target, Listed):
            self._add_listed(target)
            return
        self._labels.frombytes(target.labels.astype(np.int64, copy=False).tobytes())
        self._label_ends.append(len(self._labels))
        self._kind = type(target)
        if isinstance(target, Boxes):
            self._boxes.frombytes(target.boxes.tobytes())
            self._crowd += target.crowd.tobytes()
        if isinstance(target, Masks):
            self._add_outlines(target.polygons)

    @property
    def lines(self) -> Sequence[int]:
        return self._lines

    @property
    def images(self) -> list[str]:
        """Their paths and URLs so far."""
        ends = [0, *self._name_ends]
        return [self._names[start:end].decode(*_TEXT) for start, end in pairwise(ends)]

    def samples(self) -> PackedSamples[Any]:
        """All of them; nothing can be added any more."""
        return PackedSamples(
            names=Ragged(_view(self._names, np.uint8), _view(self._name_ends, np.int64)),
            lines=_view(self._lines, np.int64),
            groups=_view(self._groups, np.int64),
            group_names=tuple(self._group_numbers),
            labels=Ragged(_view(self._labels, np.int64), _view(self._label_ends, np.int64)),
            objects=self._objects() if issubclass(self._kind, Boxes) else None,
        )

    def _add_listed(self, target: Listed) -> None:
        self._labels.fromlist(target.labels)
        self._label_ends.append(len(self._labels))
        self._boxes.fromlist(target.numbers)
        self._crowd += target.crowd
        self._kind = Boxes

    def _add_outlines(self, polygons: Polygons) -> None:
        for parts in polygons:
            for part in parts:
                self._points.frombytes(np.asarray(part, dtype=np.float64).tobytes())
                self._point_ends.append(len(self._points) // 2)
            self._parts.append(len(self._point_ends))

    def _objects(self) -> _Objects:
        boxes, crowd = _view(self._boxes, np.float64).reshape(-1, 4), _view(self._crowd, np.bool_)
        if not issubclass(self._kind, Masks):
            return _Objects(boxes, crowd)
        points = _view(self._points, np.float64).reshape(-1, 2)
        return _Objects(boxes, crowd, _view(self._parts, np.int64), Ragged(points, _view(self._point_ends, np.int64)))


def _view(values: array[Any] | bytearray, kind: Any) -> NDArray[Any]:
    return np.frombuffer(values, dtype=kind) if len(values) else np.empty(0, dtype=kind)


@dataclass(frozen=True, eq=False)
class PackedHeaders(Sequence[ImageHeader]):
    """N x 2 widths and heights."""

    sizes: NDArray[np.int32]

    @classmethod
    def of(cls, headers: Sequence[ImageHeader]) -> Self:
        sizes = np.fromiter((side for header in headers for side in (header.width, header.height)), dtype=np.int32)
        return cls(sizes.reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return ImageHeader(*self.sizes[index].tolist())

    def __iter__(self) -> Iterator[ImageHeader]:
        return (ImageHeader(*self.sizes[index].tolist()) for index in range(len(self)))

    def chosen(self, indices: Sequence[int] | IntArray) -> Self:
        return replace(self, sizes=self.sizes[np.asarray(indices, dtype=np.int64)])


def labels_of(samples: Sequence[Sample[Any]]) -> Sequence[IntArray]:
    """The labels of each, without making samples where they are packed."""
    if isinstance(samples, PackedSamples):
        return samples.labels_of_each
    return [sample.target.labels for sample in samples]


def images_of(samples: Sequence[Sample[Any]]) -> Iterator[str]:
    """Their paths and URLs, likewise."""
    if isinstance(samples, PackedSamples):
        return map(samples.name, samples.rows)
    return (sample.image for sample in samples)


def groups_of(samples: Sequence[Sample[Any]]) -> list[str | None]:
    if isinstance(samples, PackedSamples):
        return [samples.group(row) for row in samples.rows]
    return [sample.group for sample in samples]


def classes_seen(labels: Sequence[IntArray]) -> Iterator[tuple[IntArray, IntArray]]:
    """Each image's classes, once each: numbers of images and classes of a part of the set, then of the next one."""
    for start in range(0, len(labels), _PART):
        part = labels.part(start, start + _PART) if isinstance(labels, _LabelsOfEach) else _ragged(labels, start)
        owners = np.repeat(np.arange(start, start + len(part.ends)), part.lengths)
        classes = int(part.values.max(initial=0)) + 1
        pairs = np.sort(owners * classes + part.values)
        yield np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], classes)


def _ragged(labels: Sequence[IntArray], start: int) -> Ragged:
    part = labels[start : start + _PART]
    return Ragged(np.concatenate(part), np.cumsum([len(each) for each in part]))
