"""Which of many boxes overlap, found strip by strip without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.samples import FloatArray, IntArray

Overlap = Literal["iou", "ios"]
"""The common area over that of the union, or over that of the smaller box."""

# Pairs are looked at in portions of about this many.
_PORTION = 1 << 15


class Pairs(NamedTuple):
    """Places of boxes that have area in common, and how much."""

    first: IntArray
    second: IntArray
    common: FloatArray


def areas(boxes: FloatArray) -> FloatArray:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def overlap_of(common: NDArray[Any], some: NDArray[Any], others: NDArray[Any], overlap: Overlap) -> FloatArray:
    """From a common area above zero and the areas of the two."""
    return np.asarray(common / (some + others - common if overlap == "iou" else np.minimum(some, others)))


def overlaps_with(box: FloatArray, boxes: FloatArray, overlap: Overlap) -> FloatArray:
    """How much each of the boxes overlaps one."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clip(0).prod(axis=1)
    meet = common > 0
    found = np.zeros(len(boxes))
    found[meet] = overlap_of(common[meet], areas(box[None]), areas(boxes[meet]), overlap)
    return found


@dataclass(frozen=True, slots=True)
class _Frame:
    """Horizontal strips about as high as a box; a group, a strip and a place along it make one number to sort by.

    Rounding keeps the order of such numbers, so that a search by them finds too much rather than too little.
    """

    left: float
    top: float
    height: float
    strips: int
    pitch: float

    @classmethod
    def around(cls, boxes: FloatArray) -> _Frame:
        left, top = boxes[:, 0].min(), boxes[:, 1].min()
        width, height = boxes[:, 2].max() - left, boxes[:, 3].max() - top
        # As high as the mean box, so that a box lies in two strips on average; no more strips than boxes.
        strip = max(float((boxes[:, 3] - boxes[:, 1]).mean()), float(height) / len(boxes)) or 1.0
        return cls(float(left), float(top), strip, int(height / strip) + 2, 2 * float(width) + 1)


@dataclass(frozen=True, slots=True)
class _Entries:
    """A box once for every strip that it lies in, in the order of where it begins."""

    owners: IntArray
    begins: FloatArray
    ends: FloatArray
    boxes: FloatArray  # 4 x N
    strips: IntArray
    first_strips: IntArray

    @classmethod
    def of(cls, boxes: FloatArray, groups: IntArray, frame: _Frame) -> _Entries:
        first = ((boxes[:, 1] - frame.top) / frame.height).astype(np.int64)
        counts = ((boxes[:, 3] - frame.top) / frame.height).astype(np.int64) - first + 1
        owners, within = _spread(counts)
        strips = first[owners] + within
        line = (groups[owners] * frame.strips + strips) * frame.pitch - frame.left
        begins = line + boxes[owners, 0]
        order = np.argsort(begins)
        owners, strips = owners[order], strips[order]
        sides = np.ascontiguousarray(boxes.T)[:, owners]
        return cls(owners, begins[order], line[order] + sides[2], sides, strips, first[owners])


def _spread(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Each place as often as its count says, and the how manieth time it is."""
    places = np.repeat(np.arange(len(counts)), counts)
    return places, np.arange(len(places)) - (np.cumsum(counts) - counts)[places]


@dataclass(frozen=True, slots=True)
class _Search:
    """For each of some entries a stretch of others that may overlap it."""

    some: _Entries
    others: _Entries
    froms: IntArray
    counts: IntArray

    def pairs(self, limit: int | None = None) -> Iterator[Pairs]:
        counts = self.counts if limit is None else np.minimum(self.counts, limit)
        block = np.cumsum(counts) // _PORTION
        cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(counts)]
        for begin, end in pairwise(cuts):
            places, within = _spread(counts[begin:end])
            if len(places):
                yield self._meeting(places + begin, self.froms[begin:end][places] + within)

    def _meeting(self, one: IntArray, other: IntArray) -> Pairs:
        some, others = self.some, self.others
        tall = np.minimum(some.boxes[3][one], others.boxes[3][other])
        tall -= np.maximum(some.boxes[1][one], others.boxes[1][other])
        # What lies side by side in several strips counts in the first of them.
        strip = some.strips[one]
        meet = (tall > 0) & ((some.first_strips[one] == strip) | (others.first_strips[other] == strip))
        one, other, tall = one[meet], other[meet], tall[meet]
        wide = np.minimum(some.boxes[2][one], others.boxes[2][other])
        wide -= np.maximum(some.boxes[0][one], others.boxes[0][other])
        common = np.where(wide > 0, wide * tall, 0)
        meet = common > 0
        return Pairs(some.owners[one[meet]], others.owners[other[meet]], common[meet])


class Neighbours:
    """The pairs among boxes of one group that have area in common, each once."""

    def __init__(self, boxes: FloatArray, groups: IntArray) -> None:
        self._search: _Search | None = None
        self.candidates = 0
        if len(boxes):
            entries = _Entries.of(boxes, groups, _Frame.around(boxes))
            froms = np.arange(1, len(entries.begins) + 1)
            counts = np.searchsorted(entries.begins, entries.ends, side="right") - froms
            self._search = _Search(entries, entries, froms, counts)
            self.candidates = int(counts.sum())
            self.most = int(counts.max())

    def pairs(self, limit: int | None = None) -> Iterator[Pairs]:
        """With a limit not all of them: each box is compared with so many candidates in a strip at most."""
        return iter(()) if self._search is None else self._search.pairs(limit)


def pairs_between(boxes: FloatArray, groups: IntArray, others: FloatArray, their_groups: IntArray) -> Iterator[Pairs]:
    """The pairs of one box of each kind that have area in common, each once."""
    if not len(boxes) or not len(others):
        return
    frame = _Frame.around(np.concatenate([boxes, others]))
    some, rest = _Entries.of(boxes, groups, frame), _Entries.of(others, their_groups, frame)
    froms = np.searchsorted(rest.begins, some.begins, side="left")
    counts = np.searchsorted(rest.begins, some.ends, side="right") - froms
    yield from _Search(some, rest, froms, counts).pairs()
    froms = np.searchsorted(some.begins, rest.begins, side="right")
    counts = np.searchsorted(some.begins, rest.ends, side="right") - froms
    for pairs in _Search(rest, some, froms, counts).pairs():
        yield Pairs(pairs.second, pairs.first, pairs.common)
