"""Turns the label of a row into the task's target: the usual case fast, any other through a diagnosis.

A target is None when the whole row was dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_automl_vision.data.classes import ClassIndex
from lightning_automl_vision.data.diagnosis import Diagnosis
from lightning_automl_vision.data.objects import Listed, Scale, masks_of, usual_boxes, usual_crowd, usual_part
from lightning_automl_vision.data.rows import Faults, Row, shown
from lightning_automl_vision.samples import Boxes, Labels, Masks

Target = Callable[[Row, Scale], Labels | Listed | None]

_RELATIVE = (1.0, 1.0)


def target_of(task: str, classes: ClassIndex, faults: Faults) -> Target:
    """The function that makes the targets of a task; its second argument is what coordinates are divided by."""
    return _TARGETS[task](classes, faults)


class _Classes:
    """Images of one class share one target."""

    def __init__(self, classes: ClassIndex, faults: Faults) -> None:
        self._classes = classes
        self._faults = faults
        self._targets: dict[object, Labels] = {}

    def __call__(self, row: Row, scale: Scale = _RELATIVE) -> Labels | None:
        try:
            return self._targets[row.label]
        except (KeyError, TypeError):
            return self._first(row)

    def _first(self, row: Row) -> Labels | None:
        if isinstance(row.label, list):
            hint = "task=image_classification_multilabel"
            if any(isinstance(item, dict) for item in row.label):
                hint = "task=image_object_detection or image_instance_segmentation"
            self._faults.drop(
                "label of a wrong type",
                row.place,
                f"one label as text is expected, not a list: {shown(row.label)}",
                f"Such labels belong to {hint}; choose it",
            )
            return None
        fault = self._classes.fault(row.label)
        if fault:
            self._faults.drop(fault[0], row.place, fault[1])
            return None
        target = Labels(labels=np.array([self._classes[row.label]], dtype=np.int64))
        self._targets[row.label] = target
        return target


class _ClassSets:
    """Any number of classes an image; an empty list says that it shows none of them."""

    def __init__(self, classes: ClassIndex, faults: Faults) -> None:
        self._classes = classes
        self._faults = faults
        self._targets: dict[tuple[str, ...], Labels] = {}

    def __call__(self, row: Row, scale: Scale = _RELATIVE) -> Labels | None:
        try:
            return self._targets[tuple(row.label)] if type(row.label) is list else self._first(row)
        except (KeyError, TypeError):
            return self._first(row)

    def _first(self, row: Row) -> Labels | None:
        if not isinstance(row.label, list):
            hint = "" if isinstance(row.label, str) else " of text"
            self._faults.drop(
                "label of a wrong type",
                row.place,
                f"a list{hint} is expected, not {shown(row.label)}",
                'Write ["name"] for a single label, or choose task=image_classification',
            )
            return None
        names = [name for name in row.label if self._allowed(name, row)]
        names = [name for index, name in enumerate(names) if self._new(name, names[:index], row)]
        if row.label and not names:
            self._faults.drop("no label left", row.place, "every label of the image is faulty")
            return None
        target = self._targets.get(tuple(names)) or Labels(
            labels=np.array([self._classes[name] for name in names], dtype=np.int64)
        )
        self._targets[tuple(names)] = target
        return target

    def _allowed(self, name: object, row: Row) -> bool:
        fault = self._classes.fault(name)
        if fault:
            self._faults.drop(fault[0], row.place, fault[1])
        return fault is None

    def _new(self, name: str, before: list[str], row: Row) -> bool:
        if name in before:
            self._faults.drop("label listed twice", row.place, f"the label {shown(name)} is listed twice")
        return name not in before


class _Boxes:
    def __init__(self, classes: ClassIndex, faults: Faults) -> None:
        self._classes = classes
        self._diagnosis = Diagnosis(classes, faults)

    def __call__(self, row: Row, scale: Scale = _RELATIVE) -> Listed | Boxes | None:
        return usual_boxes(row.label, self._classes, scale) or self._diagnosis.boxes(row, scale)


class _Masks:
    def __init__(self, classes: ClassIndex, faults: Faults) -> None:
        self._classes = classes
        self._diagnosis = Diagnosis(classes, faults)

    def __call__(self, row: Row, scale: Scale = _RELATIVE) -> Masks | None:
        return self._usual(row.label, scale) or self._diagnosis.masks(row, scale)

    def _usual(self, objects: Any, scale: Scale) -> Masks | None:
        try:
            polygons = tuple(tuple(usual_part(part, scale) for part in item["polygon"]) for item in objects)
            labels = [self._classes[item["label"]] for item in objects]
            crowd = usual_crowd(objects)
        except (KeyError, TypeError, ValueError):
            return None
        if crowd is None or not all(polygons):
            return None
        return masks_of(labels, polygons, crowd)


_TARGETS: dict[str, Callable[[ClassIndex, Faults], Target]] = {
    "image_classification": _Classes,
    "image_classification_multilabel": _ClassSets,
    "image_object_detection": _Boxes,
    "image_instance_segmentation": _Masks,
}
