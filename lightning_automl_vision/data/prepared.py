"""A labelled picture as a model takes it, and what makes one; neither torch nor albumentations is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lightning_automl_vision.data.resizing import Resizing
from lightning_automl_vision.samples import Labels, Pixels, Place

Seed = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """``target`` is in pixels of this picture; ``dropped`` counts the objects that were cut away.

    ``place`` is where the whole image lies in the picture; None after an augmentation that keeps no such place.
    ``gains`` are the factors of hue, saturation and brightness that are still to be applied, on the device.
    """

    pixels: Pixels
    target: Labels
    place: Place | None = None
    dropped: int = 0
    gains: tuple[float, float, float] | None = None


Labelled = tuple[Pixels, Labels]


class Transform(Protocol):
    """A picture, its target in shares of it, and a seed to what the model takes; the same three give the same."""

    @property
    def short_side(self) -> int | None:
        """What the picture may be reduced to while it is decoded; None asks for all of it."""

    def __call__(self, pixels: Pixels, target: Labels, seed: Seed) -> Prepared: ...


@runtime_checkable
class Composing(Protocol):
    """A transform that may put several images of the data set into one picture."""

    @property
    def short_side(self) -> int | None: ...

    def partners(self, images: int, seed: Seed) -> Sequence[int]:
        """Which of so many images this one is put together with; none where it stays alone."""

    def __call__(self, pixels: Pixels, target: Labels, seed: Seed, others: Sequence[Labelled] = ()) -> Prepared: ...


@dataclass(frozen=True)
class Evaluated:
    """A resizing as a transform: nothing is random."""

    resizing: Resizing

    @property
    def short_side(self) -> int:
        return self.resizing.short_side

    def __call__(self, pixels: Pixels, target: Labels, seed: Seed) -> Prepared:
        place = self.resizing.place(pixels.shape[1], pixels.shape[0])
        return Prepared(pixels=self.resizing(pixels), target=target.placed(place), place=place)
