"""Masks of objects as run lengths: drawn from polygons or from a model's shapes, within the object's box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.data.rle import compress
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray, ScoredMasks


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of a mask that holds all of its object: the pixels from ``left`` and ``top`` on."""

    left: int
    top: int
    pixels: BoolArray


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Which pixels of a picture are an object's: the starts and ends of its runs, column by column.

    Runs are in order, apart and not empty; a position is x * height + y.
    """

    runs: IntArray
    width: int
    height: int

    @cached_property
    def area(self) -> int:
        return int(np.diff(self.runs)[::2].sum())

    @property
    def pixels(self) -> BoolArray:
        changes = np.zeros(self.width * self.height + 1, dtype=np.int8)
        changes[self.runs] = 1
        inside = (np.cumsum(changes[:-1]) & 1).astype(np.bool_)
        return np.ascontiguousarray(inside.reshape(self.width, self.height).T)

    def as_coco(self) -> dict[str, Any]:
        """COCO's compressed run lengths."""
        counts = np.diff(self.runs, prepend=0, append=self.width * self.height)
        if len(counts) > 1 and not counts[-1]:
            counts = counts[:-1]
        return {"size": [self.height, self.width], "counts": compress(counts.tolist())}


def encode(crop: Crop, width: int, height: int) -> Mask:
    """The runs of a mask whose picture has this size; the crop lies within the picture."""
    rows, columns = crop.pixels.shape
    changes = np.zeros((columns, rows + 1), dtype=np.int8)
    changes[:, :-1] = crop.pixels.T
    flat = np.flatnonzero(np.diff(changes.ravel(), prepend=0))
    column, row = np.divmod(flat, rows + 1)
    runs = (column + crop.left) * height + row + crop.top
    # A run down to the bottom edge goes on where the next column begins with one at the top edge.
    meeting = np.flatnonzero(runs[1:-1:2] == runs[2::2]) * 2 + 1
    runs = np.delete(runs, np.concatenate([meeting, meeting + 1])) if len(meeting) else runs
    return Mask(runs=runs, width=width, height=height)


def draw_polygons(parts: Sequence[FloatArray], width: int, height: int) -> Crop:
    """The pixels whose centres are inside an odd number of the parts, so that a part within another is a hole."""
    points = np.concatenate(parts)
    left, top = (max(math.floor(value), 0) for value in points.min(axis=0))
    right = min(math.ceil(points[:, 0].max()), width)
    bottom = min(math.ceil(points[:, 1].max()), height)
    if right <= left or bottom <= top:
        return Crop(left=min(left, width), top=min(top, height), pixels=np.zeros((0, 0), dtype=np.bool_))
    starts = points - (left + 0.5, top + 0.5)
    ends = np.concatenate([np.roll(part, -1, axis=0) for part in parts]) - (left + 0.5, top + 0.5)
    rows, columns = _crossings(starts, ends, bottom - top)
    crossed = np.zeros((bottom - top, right - left + 1), dtype=np.int32)
    np.add.at(crossed, (rows, columns.clip(0, right - left)), 1)
    inside = (np.cumsum(crossed, axis=1)[:, :-1] & 1).astype(np.bool_)
    return Crop(left=left, top=top, pixels=inside)


def _crossings(starts: FloatArray, ends: FloatArray, height: int) -> tuple[IntArray, IntArray]:
    """Rows whose centre line an edge crosses, and the first column whose centre is not left of the crossing."""
    downwards = starts[:, 1] <= ends[:, 1]
    upper = np.where(downwards[:, None], starts, ends)
    lower = np.where(downwards[:, None], ends, starts)
    first = np.ceil(upper[:, 1]).clip(0, height).astype(np.int64)
    last = np.ceil(lower[:, 1]).clip(0, height).astype(np.int64)
    counts = last - first
    edges = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    rise = (lower - upper)[edges]
    x = upper[edges, 0] + (rows - upper[edges, 1]) * rise[:, 0] / rise[:, 1]
    return rows, np.ceil(x).astype(np.int64)


def polygon_mask(parts: Sequence[FloatArray], width: int, height: int) -> Mask:
    return encode(draw_polygons(parts, width, height), width, height)


def draw_shape(shape: NDArray[np.float32], box: NDArray[np.float64], threshold: float, width: int, height: int) -> Crop:
    """A grid of shares stretched over its box, as far as it lies within the picture, where it reaches the threshold."""
    rows, columns = shape.shape
    across, down = columns / (box[2] - box[0]), rows / (box[3] - box[1])
    # Beyond the box shares fall to nothing within half a cell of the grid.
    left, top = (max(math.floor(value), 0) for value in (box[0] - 0.5 / across, box[1] - 0.5 / down))
    right = min(math.ceil(box[2] + 0.5 / across), width)
    bottom = min(math.ceil(box[3] + 0.5 / down), height)
    if right <= left or bottom <= top:
        return Crop(left=min(left, width), top=min(top, height), pixels=np.zeros((0, 0), dtype=np.bool_))
    grid_of_pixel = np.array(
        [
            [across, 0, (left + 0.5 - box[0]) * across - 0.5],
            [0, down, (top + 0.5 - box[1]) * down - 0.5],
        ]
    )
    drawn = cv2.warpAffine(
        shape, grid_of_pixel, (right - left, bottom - top), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return Crop(left=left, top=top, pixels=drawn >= threshold)


def masks_of(prediction: ScoredMasks) -> list[Mask]:
    """The mask of each object found, at the size of the prediction's picture."""
    width, height = prediction.width, prediction.height
    return [
        encode(draw_shape(shape, box, prediction.pixel_threshold, width, height), width, height)
        for shape, box in zip(prediction.shapes, prediction.boxes, strict=True)
    ]
