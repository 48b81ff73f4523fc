"""Boxes and polygons as arrays, from label values that are as they should be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import cycle
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from lightning_automl_vision.samples import BoolArray, FloatArray, Masks

# What relative coordinates are divided by: 1 and 1, or the picture's width and height for pixels.
Scale = tuple[float, float]
NUMBERS = frozenset((int, float))
_SWITCH = frozenset((0, 1))
_CORNERS = itemgetter("topX", "topY", "bottomX", "bottomY")
_RELATIVE = (1.0, 1.0)


class Listed(NamedTuple):
    """An image's boxes on the way into a packed set: four relative numbers, a class and a byte of crowd for each."""

    labels: list[int]
    numbers: list[float]
    crowd: bytes


def usual_boxes(objects: Any, classes: Mapping[object, int], scale: Scale) -> Listed | None:
    """None when anything about them is unusual."""
    width, height = scale
    numbers: list[float] = []
    try:
        for corners in map(_CORNERS, objects):
            left, top, right, bottom = corners
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                return None
            numbers += corners
        if not {*map(type, numbers)} <= NUMBERS:
            return None
        labels = [classes[item["label"]] for item in objects]
        crowd = _usual_bytes(objects)
    except (KeyError, TypeError):
        return None
    if crowd is None:
        return None
    if scale != _RELATIVE:
        numbers = [number / whole for number, whole in zip(numbers, cycle(scale))]
    return Listed(labels, numbers, crowd)


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
    crowd = _usual_bytes(objects)
    if crowd is None:
        return None
    return np.frombuffer(crowd, dtype=np.bool_) if 1 in crowd else no_crowd(len(crowd))


def _usual_bytes(objects: Any) -> bytes | None:
    crowd = [item.get("isCrowd", 0) for item in objects]
    kinds = {*crowd}
    if not kinds <= _SWITCH:
        return None
    return bytes(map(bool, crowd)) if 1 in kinds else bytes(len(crowd))


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
