"""How far a figure would move with other images of the same kind: the bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lightning_automl_vision.samples import FloatArray, IntArray

SAMPLES = 1000
LEVEL = 0.95
# So many counts are held at a time: 32 MB.
_BLOCK = 1 << 22


class Interval(NamedTuple):
    """Where a figure lies with LEVEL certainty."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


def resampled(
    figures: Callable[[IntArray], tuple[float, ...]], images: int, *, samples: int = SAMPLES, seed: int = 0
) -> FloatArray:
    """Several figures at once, of as many images drawn with repetition: a row for each sample.

    Figures of the same draw are paired: their difference varies less than each of them.
    """
    generator = np.random.default_rng(seed)
    return np.array([figures(generator.integers(images, size=images)) for _ in range(samples)], dtype=np.float64)


def interval(values: FloatArray) -> Interval:
    """Between the quantiles that leave as much out on either side; undefined figures are left out."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(values, (tail, 1 - tail))
    return Interval(float(low), float(high))


def resampled_counts(images: int, *, samples: int = SAMPLES, seed: int = 0) -> Iterator[FloatArray]:
    """The draws of `resampled` as how often each image is in each of them, images x samples, block after block."""
    generator = np.random.default_rng(seed)
    most = max(1, _BLOCK // max(1, images))
    for begin in range(0, samples, most):
        drawn = [generator.integers(images, size=images) for _ in range(min(most, samples - begin))]
        yield np.stack([np.bincount(draw, minlength=images) for draw in drawn], axis=1).astype(np.float64)
