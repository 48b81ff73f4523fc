"""What was found, in the documented form of an answer: masks become polygons of few points; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_automl_vision.data.tracing import MOST_POINTS, outlines, simplified, smooth
from lightning_automl_vision.masks import Crop, Mask, draw_shape
from lightning_automl_vision.samples import FloatArray, ScoredBoxes, ScoredLabels, ScoredMasks

_SPECKS = 0.005
"""The share of an object's pixels that may go with its smallest parts and holes."""

_DECIMALS = 6  # of a share: less than a hundredth of a pixel in a picture of 10 000


def prediction_dict(prediction: ScoredLabels | ScoredBoxes, most_points: int = MOST_POINTS) -> dict[str, Any]:
    """The documented answer of a scoring endpoint; a polygon of an object has at most so many points in each part."""
    answer: dict[str, Any] = dict(prediction.as_dict())
    if not isinstance(prediction, ScoredMasks):
        return answer
    objects = zip(answer["boxes"], crops_of(prediction), strict=True)
    size = prediction.width, prediction.height
    return {"boxes": [{**found, "polygon": _shares(polygons_of(crop, most_points), size)} for found, crop in objects]}


def crops_of(prediction: ScoredMasks) -> list[Crop]:
    """The mask of each object, as far as it reaches."""
    return [
        draw_shape(shape, box, prediction.pixel_threshold, prediction.width, prediction.height)
        for shape, box in zip(prediction.shapes, prediction.boxes, strict=True)
    ]


def polygons_of(mask: Mask | Crop, most_points: int = MOST_POINTS) -> list[FloatArray]:
    """Polygons in the picture's pixels that draw the mask again; a part within another is a hole.

    Each part has three to ``most_points`` points. Specks and pinholes go as long as all of them together are half a
    percent of the object.
    """
    crop = mask if isinstance(mask, Crop) else crop_of(mask)
    parts = _without_specks(outlines(crop.pixels))
    return [np.add(simplified(smooth(part), most_points), (crop.left, crop.top)) for part in parts]


def crop_of(mask: Mask) -> Crop:
    """A mask as far as it reaches."""
    if not len(mask.runs):
        return Crop(left=0, top=0, pixels=np.zeros((0, 0), dtype=np.bool_))
    starts, last = mask.runs[::2], mask.runs[1::2] - 1
    left, right = int(starts[0]) // mask.height, int(last[-1]) // mask.height + 1
    top, bottom = 0, mask.height
    if (starts // mask.height == last // mask.height).all():  # else a run goes on from column to column
        top, bottom = int((starts % mask.height).min()), int((last % mask.height).max()) + 1
    rows, columns = bottom - top, right - left
    changes = np.zeros(rows * columns + 1, dtype=np.int8)
    changes[(starts // mask.height - left) * rows + starts % mask.height - top] = 1
    changes[(last // mask.height - left) * rows + last % mask.height - top + 1] ^= 1
    inside = np.bitwise_xor.accumulate(changes[:-1]).view(np.bool_)
    return Crop(left=left, top=top, pixels=np.ascontiguousarray(inside.reshape(columns, rows).T))


def _without_specks(parts: Sequence[FloatArray]) -> list[FloatArray]:
    areas = np.array([_area(part) for part in parts])  # negative for a hole
    order = np.argsort(np.abs(areas))
    small = np.cumsum(np.abs(areas[order])) <= _SPECKS * areas.sum()
    specks = set(order[small].tolist())
    return [part for index, part in enumerate(parts) if index not in specks]


def _area(outline: FloatArray) -> float:
    (x, y), (following_x, following_y) = outline[:-1].T, outline[1:].T
    closing = outline[-1, 0] * outline[0, 1] - outline[0, 0] * outline[-1, 1]
    return float(x @ following_y - y @ following_x + closing) / 2


def _shares(polygons: Sequence[FloatArray], size: tuple[int, int]) -> list[list[float]]:
    return [(part / size).clip(0, 1).round(_DECIMALS).ravel().tolist() for part in polygons]
