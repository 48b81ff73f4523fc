"""The truth of several images as one batch's targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lightning_automl_vision.models import BoxTargets, MaskTargets, Targets
from lightning_automl_vision.samples import Boxes, Labels, Masks

Truth = Callable[[Sequence[Any]], Targets]


def class_targets(truth: Sequence[Labels]) -> Targets:
    """One class for each image."""
    return Targets(labels=torch.from_numpy(np.concatenate([target.labels for target in truth]).astype(np.int64)))


def indicator_targets(truth: Sequence[Labels], *, num_classes: int) -> Targets:
    """Any number of classes for each image."""
    labels = torch.zeros(len(truth), num_classes)
    for row, target in zip(labels, truth, strict=True):
        row[torch.from_numpy(target.labels)] = 1.0
    return Targets(labels=labels)


def box_targets(truth: Sequence[Boxes]) -> BoxTargets:
    return BoxTargets(
        labels=torch.from_numpy(np.concatenate([target.labels for target in truth]).astype(np.int64)),
        boxes=torch.from_numpy(np.concatenate([target.boxes for target in truth]).astype(np.float32).reshape(-1, 4)),
        crowd=torch.from_numpy(np.concatenate([target.crowd for target in truth]).astype(np.bool_)),
        counts=tuple(len(target.labels) for target in truth),
    )


def mask_targets(truth: Sequence[Masks]) -> MaskTargets:
    boxes = box_targets(truth)
    return MaskTargets(
        labels=boxes.labels,
        boxes=boxes.boxes,
        crowd=boxes.crowd,
        counts=boxes.counts,
        polygons=tuple(parts for target in truth for parts in target.polygons),
    )


def no_targets(images: int) -> Targets:
    """For pictures whose truth is not known."""
    return Targets(labels=torch.zeros(images, dtype=torch.int64))
