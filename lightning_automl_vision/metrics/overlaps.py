"""Which objects found overlap which true ones enough to matter, and how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.metrics.extents import Extents, pixels_in_common, portions
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects
from lightning_automl_vision.samples import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Indices of an object found and of a true one, and their overlap; what was found in one group comes together.

    The overlap is intersection over union, with a crowd intersection over the area of the object found.
    """

    found: IntArray
    truth: IntArray
    overlap: FloatArray

    def __len__(self) -> int:
        return len(self.found)

    def chosen(self, order: NDArray[Any]) -> Pairs:
        return Pairs(found=self.found[order], truth=self.truth[order], overlap=self.overlap[order])


def overlapping(truth: TrueObjects, found: FoundObjects, *, at_least: float, by_class: bool = True) -> Pairs:
    """Pairs of one image, and of one class with ``by_class``, in the order of the groups and of what was found."""
    if not 0 < at_least <= 1:
        raise ValueError(f"an overlap must be in (0, 1] to count, got {at_least}")
    groups = truth.groups(by_class=by_class), found.groups(by_class=by_class)
    parts = [_overlapping(truth, found, pairs, at_least) for pairs in _pairs_within_groups(*groups)]
    nothing = Pairs(found=np.empty(0, np.int64), truth=np.empty(0, np.int64), overlap=np.empty(0))
    return Pairs(
        found=np.concatenate([nothing.found, *(part.found for part in parts)]),
        truth=np.concatenate([nothing.truth, *(part.truth for part in parts)]),
        overlap=np.concatenate([nothing.overlap, *(part.overlap for part in parts)]),
    )


def _pairs_within_groups(truth: IntArray, found: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Indices of true objects and of those found beside them, portion by portion."""
    truth_order, found_order = np.argsort(truth, kind="stable"), np.argsort(found, kind="stable")
    sorted_truth, sorted_found = truth[truth_order], found[found_order]
    firsts = np.searchsorted(sorted_truth, sorted_found, side="left")
    counts = np.searchsorted(sorted_truth, sorted_found, side="right") - firsts
    for part in portions(counts):
        count = counts[part]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        yield truth_order[np.repeat(firsts[part], count) + within], np.repeat(found_order[part], count)


def _overlapping(truth: TrueObjects, found: FoundObjects, pairs: tuple[IntArray, IntArray], at_least: float) -> Pairs:
    """Masks are compared only where their boxes and areas leave room for the overlap."""
    of_truth, of_found = pairs
    common = _common_areas(truth.extents, found.extents, of_truth, of_found)
    if truth.masks is not None and found.masks is not None:
        common = np.minimum(common, np.minimum(truth.extents.areas[of_truth], found.extents.areas[of_found]))
    overlap = _overlaps(truth, found, of_truth, of_found, common)
    kept = np.flatnonzero(overlap >= at_least)
    of_truth, of_found, overlap = of_truth[kept], of_found[kept], overlap[kept]
    if truth.masks is not None and found.masks is not None:
        common = pixels_in_common(found.masks, truth.masks, (of_found, of_truth))
        overlap = _overlaps(truth, found, of_truth, of_found, common)
        kept = np.flatnonzero(overlap >= at_least)
        of_truth, of_found, overlap = of_truth[kept], of_found[kept], overlap[kept]
    return Pairs(found=of_found, truth=of_truth, overlap=overlap)


def _common_areas(truth: Extents, found: Extents, of_truth: IntArray, of_found: IntArray) -> FloatArray:
    true_sides, found_sides = truth.boxes.T, found.boxes.T
    width, height = (
        np.minimum(true_sides[high][of_truth], found_sides[high][of_found])
        - np.maximum(true_sides[low][of_truth], found_sides[low][of_found])
        for low, high in ((0, 2), (1, 3))
    )
    return np.where((width > 0) & (height > 0), width * height, 0.0)


def _overlaps(
    truth: TrueObjects, found: FoundObjects, of_truth: IntArray, of_found: IntArray, common: FloatArray
) -> FloatArray:
    areas = found.extents.areas[of_found]
    whole = np.where(truth.crowd[of_truth], areas, areas + truth.extents.areas[of_truth] - common)
    overlaps: FloatArray = np.divide(common, whole, out=np.zeros(len(common)), where=common > 0)
    return overlaps
