"""A pass of greedy merging over boxes that are not too dense, cell by cell of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from lightning_automl_vision.merging.overlaps import Neighbours, Overlap, areas
from lightning_automl_vision.merging.suppression import conflicts
from lightning_automl_vision.samples import FloatArray, IntArray

# With more boxes to compare a box with than about this, whole arrays are faster.
_DENSE = 128
# Cells are so many times as long as the mean box.
_CELL = 2.0

_Cells = tuple[int, int, int, int]
"""The first and the last column and row, as left, top, right, bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Which boxes, given best first, lie in each cell; a cell's are a stretch of ``places``."""

    left: float
    top: float
    width: float
    height: float
    across: int
    cells: dict[int, int]
    begins: list[int]
    places: list[int]

    @classmethod
    def over(cls, boxes: FloatArray) -> Grid | None:
        """None where there are too many boxes in a cell, or too many cells under a box."""
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        # No more cells than boxes, however far apart they are.
        cell = np.maximum((boxes[:, 2:] - boxes[:, :2]).mean(axis=0) * _CELL, (high - low) / math.sqrt(len(boxes)))
        cell[cell <= 0] = 1
        first, last = ((boxes[:, :2] - low) / cell).astype(np.int64), ((boxes[:, 2:] - low) / cell).astype(np.int64)
        across = last - first + 1
        counts = across[:, 0] * across[:, 1]
        if counts.sum() > _DENSE * len(boxes):
            return None
        owners = np.repeat(np.arange(len(boxes)), counts)
        row, column = np.divmod(np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners], across[owners, 0])
        columns = int(last[:, 0].max()) + 1
        keys = (first[owners, 1] + row) * columns + first[owners, 0] + column
        order = np.argsort(keys, kind="stable")
        begins = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
        if (np.diff(begins).astype(np.float64) ** 2).sum() > _DENSE * len(boxes):
            return None
        return cls(
            left=float(low[0]),
            top=float(low[1]),
            width=float(cell[0]),
            height=float(cell[1]),
            across=columns,
            cells=dict(zip(keys[order[begins[:-1]]].tolist(), range(len(begins)), strict=False)),
            begins=begins.tolist(),
            places=owners[order].tolist(),
        )

    def under(self, left: float, top: float, right: float, bottom: float) -> _Cells:
        return (
            int((left - self.left) / self.width),
            int((top - self.top) / self.height),
            int((right - self.left) / self.width),
            int((bottom - self.top) / self.height),
        )

    def lying_in(self, cells: _Cells, but: _Cells = (0, 0, -1, -1)) -> list[int]:
        """The boxes in some cells that are not among others; one may come more than once."""
        left, top, right, bottom = cells
        found: list[int] = []
        for row in range(top, bottom + 1):
            seen = but[1] <= row <= but[3]
            for column in range(left, right + 1):
                if seen and but[0] <= column <= but[2]:
                    continue
                cell = self.cells.get(row * self.across + column)
                if cell is not None:
                    found += self.places[self.begins[cell] : self.begins[cell + 1]]
        return found


def sweep(
    boxes: FloatArray, grid: Grid, *, threshold: float, overlap: Overlap, largest: float
) -> tuple[IntArray, FloatArray]:
    """By whom each box, given best first, is taken in, perhaps itself, and what the takers grow to."""
    lefts, tops, rights, bottoms = boxes.T.tolist()
    sizes, ios = areas(boxes).tolist(), overlap == "ios"
    leaders, unions = list(range(len(boxes))), boxes.copy()
    for taker in _takers(boxes, threshold, overlap):
        if leaders[taker] != taker:
            continue
        left, top, right, bottom, size = lefts[taker], tops[taker], rights[taker], bottoms[taker], sizes[taker]
        seen = grid.under(left, top, right, bottom)
        waiting = [place for place in grid.lying_in(seen) if place > taker and leaders[place] == place]
        heapify(waiting)
        while waiting:
            place = heappop(waiting)
            its_left, its_top, its_right, its_bottom = lefts[place], tops[place], rights[place], bottoms[place]
            wide = (right if right < its_right else its_right) - (left if left > its_left else its_left)
            tall = (bottom if bottom < its_bottom else its_bottom) - (top if top > its_top else its_top)
            if wide <= 0 or tall <= 0 or leaders[place] != place or not (common := wide * tall):
                continue
            its_size = sizes[place]
            whole = (size if size < its_size else its_size) if ios else size + its_size - common
            if not common / whole > threshold:
                continue
            union = min(left, its_left), min(top, its_top), max(right, its_right), max(bottom, its_bottom)
            if largest < math.inf and (
                union[2] - union[0] > max(largest, right - left, its_right - its_left)
                or union[3] - union[1] > max(largest, bottom - top, its_bottom - its_top)
            ):
                continue
            leaders[place] = taker
            if union == (left, top, right, bottom):
                continue
            left, top, right, bottom = union
            size = (right - left) * (bottom - top)
            reached = grid.under(left, top, right, bottom)
            if reached != seen:
                for other in grid.lying_in(reached, seen):
                    if other > place and leaders[other] == other:
                        heappush(waiting, other)
                seen = reached
        unions[taker] = left, top, right, bottom
    return np.array(leaders, dtype=np.int64), unions


def _takers(boxes: FloatArray, threshold: float, overlap: Overlap) -> list[int]:
    """The boxes that overlap a worse one too much as they are; a box that does not never takes in any."""
    pairs = Neighbours.of(boxes, np.zeros(len(boxes), np.int64)).pairs()
    takers: list[int] = np.unique(conflicts(pairs, boxes, threshold, overlap)[0]).tolist()
    return takers
