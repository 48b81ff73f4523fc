"""Boxes and polygons as arrays, from label values that are as they should be."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lightning_automl_vision.samples import BoolArray, FloatArray, Masks

# What relative coordinates are divided by: 1 and 1, or the picture's width and height for pixels.
Scale = tuple[float, float]
NUMBERS = frozenset((int, float))
_SWITCH = frozenset((0, 1))


def usual_part(part: Any, scale: Scale) -> FloatArray:
    """The points of a part, relative; ValueError or TypeError when anything about it is unusual."""
    if len(part) < 6 or len(part) % 2 or not {*map(type, part)} <= NUMBERS:
        raise ValueError
    points = np.array(part, dtype=np.float64).reshape(-1, 2) / scale
    if not (points.min() >= 0 and points.max() <= 1 and twice_area(points)):
        raise ValueError
    return points


def twice_area(points: FloatArray) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def usual_crowd(objects: Any) -> BoolArray | None:
    crowd = [item.get("isCrowd", 0) for item in objects]
    kinds = {*crowd}
    if not kinds <= _SWITCH:
        return None
    return np.array(crowd, dtype=np.bool_) if 1 in kinds else no_crowd(len(crowd))


@lru_cache(maxsize=1024)
def no_crowd(count: int) -> BoolArray:
    """One array for all images of so many objects: most have no crowd."""
    return np.zeros(count, dtype=np.bool_)


def masks_of(labels: list[int], polygons: tuple[tuple[FloatArray, ...], ...], crowd: BoolArray) -> Masks:
    boxes = np.empty((len(labels), 4))
    for index, parts in enumerate(polygons):
        points = parts[0] if len(parts) == 1 else np.concatenate(parts)
        boxes[index, :2] = points.min(axis=0)
        boxes[index, 2:] = points.max(axis=0)
    return Masks(labels=np.array(labels, dtype=np.int64), boxes=boxes, crowd=crowd, polygons=polygons)
