"""Areas and surrounding boxes of many objects at once, and the pixels that masks have in common, without decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lightning_automl_vision.masks import Mask
from lightning_automl_vision.samples import FloatArray, IntArray

# Intermediate arrays stay below this many elements.
PORTION = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Extents:
    """``boxes`` holds all of an object, ``areas`` is what the object itself covers; whole numbers for masks."""

    boxes: FloatArray
    areas: FloatArray


def box_extents(boxes: FloatArray) -> Extents:
    exact = boxes.astype(np.float64, copy=False)
    return Extents(boxes=exact, areas=(exact[:, 2] - exact[:, 0]) * (exact[:, 3] - exact[:, 1]))


def mask_extents(masks: Sequence[Mask]) -> Extents:
    """An empty mask has an empty box."""
    boxes, areas = np.zeros((len(masks), 4)), np.zeros(len(masks))
    counts = np.array([len(mask.runs) // 2 for mask in masks], dtype=np.int64)
    filled = np.flatnonzero(counts)
    for part in portions(counts[filled]):
        chosen = filled[part]
        runs = np.concatenate([masks[index].runs for index in chosen.tolist()])
        heights = np.array([masks[index].height for index in chosen.tolist()], dtype=np.int64)
        boxes[chosen], areas[chosen] = _extents_of_runs(runs[::2], runs[1::2], counts[chosen], heights)
    return Extents(boxes=boxes, areas=areas)


def _extents_of_runs(
    starts: IntArray, ends: IntArray, counts: IntArray, heights: IntArray
) -> tuple[FloatArray, FloatArray]:
    firsts = np.cumsum(counts) - counts
    height = np.repeat(heights, counts)
    column, top = np.divmod(starts, height)
    bottom = ends - column * height
    # A run that goes on in the next column touches both edges.
    wraps = bottom > height
    top[wraps] = 0
    bottom = np.minimum(bottom, height)
    boxes = (
        column[firsts],
        np.minimum.reduceat(top, firsts),
        (ends[firsts + counts - 1] - 1) // heights + 1,
        np.maximum.reduceat(bottom, firsts),
    )
    return np.stack(boxes, axis=1).astype(np.float64), np.add.reduceat(ends - starts, firsts).astype(np.float64)


def portions(sizes: IntArray) -> Iterator[slice]:
    """Consecutive items whose sizes add up to about `PORTION`."""
    block = np.cumsum(sizes) // PORTION
    cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(sizes)]
    for begin, end in pairwise(cuts):
        if end > begin:
            yield slice(begin, end)


def pixels_in_common(some: Sequence[Mask], others: Sequence[Mask], pairs: tuple[IntArray, IntArray]) -> FloatArray:
    """How many pixels a mask of one and a mask of the other have in common, for each pair of indices; none is empty."""
    first, second = pairs
    sizes = [_sizes(masks, indices) for masks, indices in ((some, first), (others, second))]
    if (sizes[0] != sizes[1]).any():
        raise ValueError("masks of one image must have one width and height")
    counts = np.array([len(some[index].runs) for index in first.tolist()], dtype=np.int64)
    parts = [_pixels_in_common(some, others, first[part], second[part]) for part in portions(counts)]
    return np.concatenate(parts) if parts else np.empty(0)


def _sizes(masks: Sequence[Mask], indices: IntArray) -> IntArray:
    return np.array([(masks[index].width, masks[index].height) for index in indices.tolist()], dtype=np.int64)


def _pixels_in_common(some: Sequence[Mask], others: Sequence[Mask], first: IntArray, second: IntArray) -> FloatArray:
    """The length that a mask covers up to a position is linear between its runs' ends.

    So what one run has in common with a mask is the mask's length up to the run's end less that up to its start. The
    masks lie one behind the other on one line, and each pair asks on its own stretch of it. All numbers are whole.
    """
    table, stretch = np.unique(second, return_inverse=True)
    runs = [others[index].runs for index in table.tolist()]
    lengths = np.array([others[index].width * others[index].height for index in table.tolist()], dtype=np.int64)
    begins = np.cumsum(lengths) - lengths
    counts = np.array([len(run) for run in runs], dtype=np.int64)
    ends = np.concatenate(runs) + np.repeat(begins, counts)
    covered = np.cumsum(np.where(np.arange(len(ends)) % 2, np.diff(ends, prepend=0), 0))
    asked_of = [some[index].runs for index in first.tolist()]
    counts = np.array([len(run) for run in asked_of], dtype=np.int64)
    asked = np.concatenate(asked_of) + np.repeat(begins[stretch], counts)
    answers = np.interp(asked, ends, covered)
    common: FloatArray = np.add.reduceat(answers[1::2] - answers[::2], (np.cumsum(counts) - counts) // 2)
    return common
