"""A labelled set seen through a tiler's windows: each window is a picture, made when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np

from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.packed import PackedSamples
from lightning_automl_vision.geometry import B, Window, still_seen, visible_shares
from lightning_automl_vision.samples import BoolArray, Boxes, IntArray, Place, Sample
from lightning_automl_vision.tiling import MINIMUM_VISIBILITY, Tiler, tiled_target, windows_of

V = TypeVar("V", covariant=True)
Size = tuple[int, int]


@dataclass(frozen=True)
class Windows(Sequence[Window]):
    """Every window of every image; those of image ``i`` are ``first[i]`` to ``first[i + 1]``."""

    sizes: Sequence[Size]
    kinds: dict[Size, tuple[Window, ...]]
    first: IntArray

    @classmethod
    def of(cls, images: LabelledImages[Any], tiler: Tiler) -> Self:
        sizes = [(header.width, header.height) for header in images.headers]
        kinds = {size: windows_of(tiler, *size) for size in {*sizes}}
        return cls(sizes, kinds, np.cumsum([0, *(len(kinds[size]) for size in sizes)]))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, number: Any) -> Any:
        image = self.image_of(number)
        return self.kinds[self.sizes[image]][number - int(self.first[image])]

    def __iter__(self) -> Iterator[Window]:
        for size in self.sizes:
            yield from self.kinds[size]

    def image_of(self, number: int) -> int:
        return int(np.searchsorted(self.first, number, side="right")) - 1


def tiled(
    images: LabelledImages[B], windows: Windows, minimum_visibility: float = MINIMUM_VISIBILITY
) -> LabelledImages[B]:
    """Every window of every image, image by image; what is labelled in a tile is cut at its borders."""
    return replace(images, samples=_Samples(windows, images.samples, minimum_visibility), headers=_Headers(windows))


def empty_tiles(
    images: LabelledImages[Boxes], windows: Windows, minimum_visibility: float = MINIMUM_VISIBILITY
) -> BoolArray:
    """Which windows show nothing that is labelled; a whole image is no tile."""
    empty = np.zeros(len(windows), dtype=np.bool_)
    for sample, size, first in zip(images.samples, windows.sizes, windows.first.tolist(), strict=False):
        target = sample.target.placed(Place(0, 0, *size))
        for number, window in enumerate(windows.kinds[size], start=first):
            shares = visible_shares(target, window)
            empty[number] = not is_whole(window, size) and not still_seen(shares, minimum_visibility).any()
    return empty


def is_whole(window: Window, size: Size) -> bool:
    return window == (0, 0, *size)


@dataclass(frozen=True)
class _Lazy(Sequence[V], Generic[V]):
    """A value for each window."""

    windows: Windows

    @abstractmethod
    def value(self, number: int) -> V: ...

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.value(int(number))


@dataclass(frozen=True)
class _Samples(_Lazy[Sample[B]], Generic[B]):
    images: Sequence[Sample[B]]
    minimum_visibility: float

    def value(self, number: int) -> Sample[B]:
        image, window = self.windows.image_of(number), self.windows[number]
        whole, size = self.images[image], self.windows.sizes[image]
        if is_whole(window, size):
            return replace(whole, window=window)
        cut = tiled_target(whole.target.placed(Place(0, 0, *size)), window, self.minimum_visibility)
        return replace(whole, window=window, target=cut.shares(Place(0, 0, window.width, window.height)))


def image_at(samples: Sequence[Sample[Any]], number: int) -> str:
    """The path or URL of one of them, without cutting or making anything else of it."""
    if isinstance(samples, _Samples):
        return image_at(samples.images, samples.windows.image_of(number))
    return samples.name(samples.row(number)) if isinstance(samples, PackedSamples) else samples[number].image


@dataclass(frozen=True)
class _Headers(_Lazy[ImageHeader]):
    def value(self, number: int) -> ImageHeader:
        window = self.windows[number]
        return ImageHeader(int(window.width), int(window.height))
