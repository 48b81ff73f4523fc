"""Parts of many boxes that can be merged apart, whatever the merged boxes grow to."""

from __future__ import annotations

import numpy as np

from lightning_automl_vision.merging.overlaps import Neighbours, Overlap, areas
from lightning_automl_vision.samples import FloatArray, IntArray

# Bounds are computed in another order than the overlaps that they bound.
_ROUNDING = 1 - 1e-9
# How many candidates a box is compared with in the first round; most boxes of a crowd join early.
_FIRST_LIMIT = 16


def islands(boxes: FloatArray, groups: IntArray, threshold: float, overlap: Overlap) -> IntArray:
    """The island of each box: boxes of different islands never overlap by more than the threshold, even grown.

    A merged box lies within the hull of its island and is not smaller than the island's smallest box; together these
    bound how much it can overlap another.
    """
    numbers, least, limit = np.arange(len(boxes)), areas(boxes), _FIRST_LIMIT
    while True:
        neighbours = Neighbours.of(boxes, groups)
        first, second = may_merge(neighbours, least, threshold, overlap, limit)
        if len(first):
            joined = _connected(len(boxes), first, second)
            numbers = joined[numbers]
            order, starts = _starts(joined)
            boxes, groups = hulls_of(joined, boxes), groups[order][starts]
            least = np.minimum.reduceat(least[order], starts)
        elif not neighbours.candidates or limit >= neighbours.most:
            return numbers
        limit = min(2 * limit, len(numbers))


def first_islands(boxes: FloatArray, groups: IntArray, threshold: float, overlap: Overlap) -> IntArray:
    """A guess at ``islands``: what hangs together as it is, as far as near neighbours tell."""
    first, second = may_merge(Neighbours.of(boxes, groups), areas(boxes), threshold, overlap, _FIRST_LIMIT)
    return _connected(len(boxes), first, second)


def joined_islands(numbers: IntArray, some: IntArray, others: IntArray) -> IntArray:
    """The islands when some are one with the others beside them."""
    return _connected(int(numbers.max(initial=-1)) + 1, some, others)[numbers]


def may_merge(
    neighbours: Neighbours, smallest: FloatArray, threshold: float, overlap: Overlap, limit: int | None = None
) -> tuple[IntArray, IntArray]:
    """Pairs of boxes that may overlap too much, or may have when they were as small as ``smallest``."""
    lesser = np.minimum if overlap == "ios" else np.maximum
    firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, second, common in neighbours.pairs(limit):
        may = common > lesser(smallest[first], smallest[second]) * (threshold * _ROUNDING)
        firsts.append(first[may])
        seconds.append(second[may])
    return np.concatenate(firsts), np.concatenate(seconds)


def hulls_of(numbers: IntArray, boxes: FloatArray) -> FloatArray:
    """The hull of each island, in the order of their numbers, which have no gap."""
    order, starts = _starts(numbers)
    low = np.minimum.reduceat(boxes[order, :2], starts) if len(starts) else boxes[:, :2]
    high = np.maximum.reduceat(boxes[order, 2:], starts) if len(starts) else boxes[:, 2:]
    return np.hstack([low, high])


def _starts(numbers: IntArray) -> tuple[IntArray, IntArray]:
    order = np.argsort(numbers, kind="stable")
    return order, np.flatnonzero(np.diff(numbers[order], prepend=-1))


def _connected(count: int, first: IntArray, second: IntArray) -> IntArray:
    """Numbers without a gap that are equal for what pairs connect."""
    roots = np.arange(count)
    while len(first):
        low = np.minimum(roots[first], roots[second])
        np.minimum.at(roots, roots[first], low)
        np.minimum.at(roots, roots[second], low)
        while ((shorter := roots[roots]) != roots).any():
            roots = shorter
        apart = roots[first] != roots[second]
        first, second = first[apart], second[apart]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)
