"""Parts of many boxes that can be merged apart, whatever the merged boxes grow to."""

from __future__ import annotations

import math

import numpy as np

from lightning_automl_vision.merging.overlaps import Neighbours, Overlap, areas
from lightning_automl_vision.samples import FloatArray, IntArray

# Bounds are computed in another order than the overlaps that they bound.
_ROUNDING = 1 - 1e-9
# How many candidates a box is compared with in the first round; most boxes of a crowd join early.
_FIRST_LIMIT = 16


def islands(
    boxes: FloatArray, groups: IntArray, threshold: float, overlap: Overlap, *, rounds: float = math.inf
) -> IntArray:
    """The island of each box: boxes of different islands never overlap by more than the threshold, even grown.

    A merged box lies within the hull of its island and is not smaller than the island's smallest box; together these
    bound how much it can overlap another. After so many ``rounds`` without an end the islands are the groups.
    """
    numbers, least, limit, given = np.arange(len(boxes)), areas(boxes), _FIRST_LIMIT, groups
    while rounds > 0:
        rounds -= 1
        neighbours = Neighbours(boxes, groups)
        first, second = _may_merge(neighbours, least, threshold, overlap, limit)
        if len(first):
            joined = _connected(len(boxes), first, second)
            numbers = joined[numbers]
            order, starts = _starts(joined)
            boxes, groups = hulls_of(joined, boxes), groups[order][starts]
            least = np.minimum.reduceat(least[order], starts)
        elif not neighbours.candidates or limit >= neighbours.most:
            return numbers
        limit = min(2 * limit, len(numbers))
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def _may_merge(
    neighbours: Neighbours, smallest: FloatArray, threshold: float, overlap: Overlap, limit: int
) -> tuple[IntArray, IntArray]:
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
