"""What readers give and models answer: plain numpy, so that nothing here needs torch.

A reader's boxes and polygons are shares of the image's width and height (0 to 1), as the picture is displayed,
EXIF orientation applied; `in_pixels` turns them into absolute pixels once the image's size is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class indices: one for a multi-class image, any number for a multi-label one, one for each object."""

    labels: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes(Labels):
    """N x 4 corners x1, y1, x2, y2 and, for each, whether it stands for a crowd."""

    boxes: FloatArray
    crowd: BoolArray

    def in_pixels(self, width: int, height: int) -> Self:
        return replace(self, boxes=self.boxes * (width, height, width, height))


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks(Boxes):
    """Boxes, and for each object its parts as polygons of P x 2 points; parts that overlap make a hole."""

    polygons: tuple[tuple[FloatArray, ...], ...]

    def in_pixels(self, width: int, height: int) -> Self:
        scale = (width, height)
        return replace(
            self,
            boxes=self.boxes * (width, height, width, height),
            polygons=tuple(tuple(part * scale for part in parts) for parts in self.polygons),
        )


T = TypeVar("T", bound=Labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Generic[T]):
    """One labelled image: where it lies, what is known of it, and the line of the data file that says so."""

    image: str
    target: T
    line: int = 0
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLabels:
    """One score for each class, in the order of the model's labels; a multi-class image's scores add up to 1.

    A network answers without `labels`; whoever knows the classes names them.
    """

    scores: Scores
    labels: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The class with the highest score, the first of them in a tie."""
        return self.labels[int(np.argmax(self.scores))]

    @property
    def score(self) -> float:
        return float(np.max(self.scores))

    def as_dict(self) -> dict[str, list[float] | list[str]]:
        """The documented answer of a scoring endpoint."""
        return {"probs": [float(score) for score in self.scores], "labels": list(self.labels)}
