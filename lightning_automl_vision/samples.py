"""What readers give and models answer: plain numpy, so that nothing here needs torch.

A reader's boxes and polygons are shares of the image's width and height (0 to 1), as the picture is displayed,
EXIF orientation applied; `placed` turns them into absolute pixels of a picture that the image has a place in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lightning_automl_vision.geometry import Window

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]

SIDES = ("topX", "topY", "bottomX", "bottomY")
"""What the documented formats call a box's corners."""


class Place(NamedTuple):
    """Where the whole of an image lies in a picture made from it, in that picture's pixels; it may reach beyond."""

    left: float
    top: float
    width: float
    height: float

    def points(self, shares: FloatArray) -> FloatArray:
        """Shares of the image as pixels of the picture; the last axis is x, y in turn."""
        size, corner = self._turned(shares)
        return shares * size + corner

    def shares(self, points: FloatArray) -> FloatArray:
        """The inverse."""
        size, corner = self._turned(points)
        return (points - corner) / size

    def _turned(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Size and corner as often as the last axis has pairs."""
        turns = points.shape[-1] // 2
        return np.array((self.width, self.height) * turns), np.array((self.left, self.top) * turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class indices: one for a multi-class image, any number for a multi-label one, one for each object."""

    labels: IntArray

    def placed(self, place: Place) -> Self:
        """From shares of the image to pixels of a picture."""
        return self

    def shares(self, place: Place) -> Self:
        """From pixels of a picture to shares of the image."""
        return self

    def chosen(self, keep: NDArray[Any]) -> Self:
        """Some of the objects, by index or by yes and no."""
        return replace(self, labels=self.labels[keep])


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes(Labels):
    """N x 4 corners x1, y1, x2, y2 and, for each, whether it stands for a crowd."""

    boxes: FloatArray
    crowd: BoolArray

    def placed(self, place: Place) -> Self:
        return replace(self, boxes=place.points(self.boxes))

    def shares(self, place: Place) -> Self:
        return replace(self, boxes=place.shares(self.boxes))

    def chosen(self, keep: NDArray[Any]) -> Self:
        return replace(self, labels=self.labels[keep], boxes=self.boxes[keep], crowd=self.crowd[keep])


Polygons = tuple[tuple[FloatArray, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks(Boxes):
    """Boxes, and for each object its parts as polygons of P x 2 points; parts that overlap make a hole."""

    polygons: Polygons

    def placed(self, place: Place) -> Self:
        polygons = tuple(tuple(place.points(part) for part in parts) for parts in self.polygons)
        return replace(self, boxes=place.points(self.boxes), polygons=polygons)

    def shares(self, place: Place) -> Self:
        polygons = tuple(tuple(place.shares(part) for part in parts) for parts in self.polygons)
        return replace(self, boxes=place.shares(self.boxes), polygons=polygons)

    def chosen(self, keep: NDArray[Any]) -> Self:
        indices = np.arange(len(self.labels))[keep]
        return replace(
            self,
            labels=self.labels[keep],
            boxes=self.boxes[keep],
            crowd=self.crowd[keep],
            polygons=tuple(self.polygons[index] for index in indices),
        )


T = TypeVar("T", bound=Labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Generic[T]):
    """One labelled image: where it lies, what is known of it, and the line of the data file that says so.

    With a ``window`` it is that part of the image, in whole pixels, and the target's coordinates are shares of it.
    """

    image: str
    target: T
    line: int = 0
    group: str | None = None
    window: Window | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLabels:
    """One score for each class, in the order of the model's labels; a multi-class image's scores add up to 1.

    A network answers without `labels`; whoever knows the classes names them. ``decided`` are the classes that the
    operating points of the model decide for, best first, where they are in use.
    """

    scores: Scores
    labels: tuple[str, ...] = ()
    decided: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        """The class with the highest score, the first of them in a tie."""
        return self.labels[int(np.argmax(self.scores))]

    @property
    def score(self) -> float:
        return float(np.max(self.scores))

    def as_dict(self) -> dict[str, list[float] | list[str]]:
        """The documented answer of a scoring endpoint, and what operating points decide for, where they are in use."""
        answer: dict[str, list[float] | list[str]] = {"probs": self.scores.tolist(), "labels": list(self.labels)}
        return answer if self.decided is None else {**answer, "decided": [self.labels[index] for index in self.decided]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBoxes:
    """The objects found in a picture of ``width`` x ``height`` pixels, best score first; corners in its pixels.

    A network answers with class indices and without ``classes``; whoever knows the classes names them.
    """

    labels: IntArray
    boxes: FloatArray
    scores: Scores
    width: int
    height: int
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def restored(self, place: Place, width: int, height: int) -> Self:
        """In the pixels of the image that has this place in the picture; nothing reaches beyond the image."""
        boxes = (place.shares(self.boxes) * ((width, height) * 2)).clip(0, (width, height) * 2)
        return replace(self, boxes=boxes, width=width, height=height)

    def chosen(self, keep: NDArray[Any]) -> Self:
        return replace(self, **{name: getattr(self, name)[keep] for name in self._by_object})

    def beside(self, others: Sequence[Self]) -> Self:
        """The objects of several answers for one picture, those of this one first."""
        every = (self, *others)
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(one, name) for one in every]) for name in self._by_object
        }
        return replace(self, **joined)

    @property
    def _by_object(self) -> tuple[str, ...]:
        """What has a value for each object."""
        return "labels", "boxes", "scores"

    def seen_through(self, place: Place, window: Window, width: int, height: int) -> Self:
        """As ``restored``, where the picture shows a window, in whole pixels, of an image of this size."""
        return self.restored(place, int(window.width), int(window.height)).moved(window, width, height)

    def moved(self, window: Window, width: int, height: int) -> Self:
        """In the pixels of an image of this size, where the picture is a window of it."""
        return replace(self, boxes=self.boxes + (window[:2] * 2), width=width, height=height)

    @property
    def names(self) -> Sequence[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels]

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """The documented answer of a scoring endpoint: corners as shares of the image."""
        shares = self.boxes / ((self.width, self.height) * 2)
        return {
            "boxes": [
                {"box": dict(zip(SIDES, box, strict=True)), "label": name, "score": score}
                for box, name, score in zip(shares.tolist(), self.names, self.scores.tolist(), strict=True)
            ]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredMasks(ScoredBoxes):
    """Boxes, and for each a grid of shares that covers it: how sure the model is that a place belongs to the object.

    What is at least ``pixel_threshold`` sure is the object's mask; `masks.mask_of` draws it at the picture's size.
    """

    shapes: NDArray[np.float32]
    pixel_threshold: float = 0.5

    def restored(self, place: Place, width: int, height: int) -> Self:
        """As of boxes; where a box is cut at the image's border its shape is cut alike."""
        whole = place.shares(self.boxes) * ((width, height) * 2)
        cut = replace(self, boxes=whole.clip(0, (width, height) * 2), width=width, height=height)
        shapes = self.shapes.copy()
        for index in np.flatnonzero(np.abs(cut.boxes - whole).max(axis=1, initial=0) > 0):
            across, down = (
                resampling(whole[index, axis::2], cut.boxes[index, axis::2], shapes.shape[2 - axis]) for axis in (0, 1)
            )
            shapes[index] = down @ shapes[index] @ across.T
        return replace(cut, shapes=shapes)

    def without_shapes(self) -> ScoredBoxes:
        return ScoredBoxes(
            labels=self.labels,
            boxes=self.boxes,
            scores=self.scores,
            width=self.width,
            height=self.height,
            classes=self.classes,
        )

    @property
    def _by_object(self) -> tuple[str, ...]:
        return "labels", "boxes", "scores", "shapes"


def resampling(old: FloatArray, new: FloatArray, cells: int, *, beyond: bool = True) -> NDArray[np.float32]:
    """The linear map from values in the cells of one span to those in as many cells of another.

    Outside the old span its last value holds, or nothing where there is nothing ``beyond`` it.
    """
    centres = np.arange(cells) + 0.5
    wanted = new[0] + centres / cells * (new[1] - new[0])
    given = old[0] + centres / cells * (old[1] - old[0])
    rows = np.stack([np.interp(wanted, given, unit) for unit in np.eye(cells)], axis=1).astype(np.float32)
    if not beyond:
        rows[(wanted < old[0]) | (wanted > old[1])] = 0
    return rows
