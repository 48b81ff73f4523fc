"""Says what is wrong with the objects of an image, and keeps those that are not.

Also reads what is unusual but clear: numbers written as text, a single object without a list, rounding beyond an edge.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np

from lightning_automl_vision.data.classes import ClassIndex
from lightning_automl_vision.data.objects import Scale, masks_of, twice_area
from lightning_automl_vision.data.rows import MISSING, Faults, Row, shown
from lightning_automl_vision.samples import SIDES, Boxes, FloatArray, Masks

_CROWD = {"true": True, "false": False, "1": True, "0": False, "none": False}
_BOX_FORM = "Write label, topX, topY, bottomX and bottomY, topX < bottomX and topY < bottomY"
_POLYGON_FORM = "Write label and polygon, a list of parts [x1, y1, x2, y2, …] of three points or more"

# Six decimals are what most tools write; what they round beyond an edge is put on the edge.
ROUNDING = 1e-6


class Fault(Exception):
    """One object cannot be used: reason, text, way out."""

    def __init__(self, reason: str, text: str, way_out: str = "Correct it") -> None:
        super().__init__(reason, text, way_out)
        self.reason, self.text, self.way_out = reason, text, way_out


class Diagnosis:
    def __init__(self, classes: ClassIndex, faults: Faults) -> None:
        self._classes = classes
        self._faults = faults

    def boxes(self, row: Row, scale: Scale) -> Boxes | None:
        kept = self._kept(row, scale, _box)
        if kept is None:
            return None
        return Boxes(
            labels=np.array([label for label, _, _ in kept], dtype=np.int64),
            boxes=np.array([corners for _, corners, _ in kept], dtype=np.float64).reshape(-1, 4),
            crowd=np.array([crowd for _, _, crowd in kept], dtype=np.bool_),
        )

    def masks(self, row: Row, scale: Scale) -> Masks | None:
        kept = self._kept(row, scale, _polygon)
        if kept is None:
            return None
        crowd = np.array([crowd for _, _, crowd in kept], dtype=np.bool_)
        return masks_of([label for label, _, _ in kept], tuple(parts for _, parts, _ in kept), crowd)

    def _kept(self, row: Row, scale: Scale, shape: Any) -> list[tuple[int, Any, bool]] | None:
        objects = self._objects(row)
        if objects is None:
            return None
        kept = []
        for index, item in enumerate(objects):
            try:
                kept.append(self._object(item, scale, shape))
            except Fault as fault:
                self._faults.drop(fault.reason, _place(row, index, len(objects)), fault.text, fault.way_out)
        if objects and not kept:
            self._faults.drop("no object left", row.place, "every object of the image is faulty")
            return None
        return kept

    def _objects(self, row: Row) -> list[Any] | None:
        if isinstance(row.label, dict):
            self._faults.note("one label object without a list, read as a list of one")
            return [row.label]
        if isinstance(row.label, list):
            return row.label
        self._faults.drop(
            "label of a wrong type",
            row.place,
            f"a list of objects is expected, not {shown(row.label)}",
            "Such labels belong to task=image_classification or image_classification_multilabel; choose it"
            if isinstance(row.label, str)
            else "Write a list, empty for an image without objects",
        )
        return None

    def _object(self, item: Any, scale: Scale, shape: Any) -> tuple[int, Any, bool]:
        if not isinstance(item, dict):
            raise Fault(
                "label of a wrong type",
                f"an object with a label and a place is expected, not {shown(item)}",
                "Such labels belong to task=image_classification_multilabel; choose it"
                if isinstance(item, str)
                else _BOX_FORM,
            )
        name = item.get("label", MISSING)
        fault = ("no label", f"no 'label', only {shown([*item])}") if name is MISSING else self._classes.fault(name)
        if fault:
            raise Fault(*fault)
        placed = shape(item, scale)
        return self._classes[name], placed, _crowd(item.get("isCrowd"))


def _place(row: Row, index: int, count: int) -> str:
    return row.places[index] if row.places else f"{row.place}, object {index + 1} of {count}"


def _box(item: dict[str, Any], scale: Scale) -> FloatArray:
    missing = [side for side in SIDES if side not in item]
    if missing and "polygon" in item:
        raise Fault(
            "no box",
            "a polygon, but no box",
            "Such labels belong to task=image_instance_segmentation; choose it",
        )
    if missing:
        raise Fault("no box", f"no {' and no '.join(missing)}, only {shown([*item])}", _BOX_FORM)
    corners = [_number(item[side], side) for side in SIDES]
    left, top, right, bottom = corners
    for low, high, order in ((left, right, "topX < bottomX"), (top, bottom, "topY < bottomY")):
        if low >= high:
            reason, kind = ("box without area", "has no area") if low == high else ("reversed box", "is reversed")
            text = f"the box {_shown_numbers(corners)} of {shown(item['label'])} {kind}"
            raise Fault(reason, f"{text}: {order} does not hold for {low:.9g} and {high:.9g}")
    return _inside(np.array(corners).reshape(2, 2), scale, "box", item).reshape(4)


def _polygon(item: dict[str, Any], scale: Scale) -> tuple[FloatArray, ...]:
    parts = item.get("polygon", MISSING)
    if parts is MISSING and "topX" in item:
        raise Fault(
            "no polygon", "a box, but no polygon", "Such labels belong to task=image_object_detection; choose it"
        )
    if parts is MISSING:
        raise Fault("no polygon", f"no 'polygon', only {shown([*item])}", _POLYGON_FORM)
    if not isinstance(parts, list) or not parts or not all(isinstance(part, list) for part in parts):
        raise Fault("polygon of a wrong type", f"the polygon is {shown(parts)}, not a list of lists", _POLYGON_FORM)
    return tuple(_part(part, scale, item) for part in parts)


def _part(part: list[Any], scale: Scale, item: dict[str, Any]) -> FloatArray:
    numbers = [_number(value, "a coordinate") for value in part]
    if len(numbers) % 2:
        raise Fault("odd number of coordinates", f"a polygon of {len(numbers)} numbers, x without y", _POLYGON_FORM)
    if len(numbers) < 6:
        raise Fault(
            "polygon of under 3 points",
            f"a polygon of {len(numbers) // 2} points, {_shown_numbers(numbers)}: three are the least",
            _POLYGON_FORM,
        )
    points = _inside(np.array(numbers).reshape(-1, 2), scale, "polygon", item)
    if not twice_area(points):
        raise Fault("polygon has no area", f"the polygon {_shown_numbers(numbers)} has no area", _POLYGON_FORM)
    return points


def _inside(points: FloatArray, scale: Scale, kind: str, item: dict[str, Any]) -> FloatArray:
    """The points, relative; what lies beyond an edge by no more than rounding is put on it."""
    relative = points / scale
    beyond = np.maximum(-relative, relative - 1)
    if beyond.max() > ROUNDING:
        worst = np.unravel_index(int(beyond.argmax()), beyond.shape)
        room = "0 to 1" if scale == (1, 1) else f"the picture's {scale[0]:g}x{scale[1]:g} pixels"
        negative = "negative" if points[worst] < 0 else "too large"
        raise Fault(
            "outside the image",
            f"the {kind} of {shown(item['label'])} leaves {room}: {'xy'[worst[1]]}={points[worst]:.9g} is {negative}",
            "Coordinates are shares of the picture's width and height; correct it"
            if scale == (1, 1)
            else "Coordinates are pixels of the picture as it is displayed; correct it",
        )
    return np.asarray(relative.clip(0, 1), dtype=np.float64)


def _number(value: Any, name: str) -> float:
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Fault("not a number", f"{name}={shown(value)} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Fault("not a number", f"{name}={number} is not a finite number")
    return number


def _crowd(value: Any) -> bool:
    crowd = _CROWD.get(str(value).lower())
    if crowd is None:
        raise Fault("isCrowd of a wrong type", f"isCrowd={shown(value)}", "Write true or false")
    return crowd


def _shown_numbers(numbers: list[float]) -> str:
    listed = ", ".join(f"{number:.7g}" for number in numbers[:8])
    return f"[{listed}, …]" if len(numbers) > 8 else f"[{listed}]"
