"""Class weights in the loss: ``training.weighted_loss``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.models import ClassificationLoss, Classifier, VisionModel
from lightning_automl_vision.samples import FloatArray, IntArray
from lightning_automl_vision.settings import TrainingConfig


def class_weights(labels: Iterable[IntArray], num_classes: int) -> FloatArray:
    """``1 / images that have the class``, divided by the mean over classes.

    One array of class indices for each image, so it holds for one label an image and for several alike. A class that
    never occurs weighs as much as the rarest that does.
    """
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *labels]), minlength=num_classes)
    seen = counts[counts > 0]
    inverse = 1 / np.maximum(counts, seen.min() if seen.size else 1)
    weights: FloatArray = inverse / inverse.mean()
    return weights


def loss_weights(labels: Iterable[IntArray], num_classes: int, *, weighted_loss: int) -> Tensor | None:
    """None for 0, the square roots of the class weights for 1, the class weights for 2."""
    if not weighted_loss:
        return None
    weights = class_weights(labels, num_classes)
    return torch.from_numpy(np.sqrt(weights) if weighted_loss == 1 else weights).float()


def configure_loss(
    model: VisionModel[Any, Any], training: TrainingConfig, labels: Iterable[IntArray], num_classes: int
) -> None:
    """Weigh and smooth as asked; only a Classifier's loss is ours to change."""
    if not training.weighted_loss and not training.label_smoothing:
        return
    if not isinstance(model, Classifier):
        raise ConfigError(
            f"training.weighted_loss={training.weighted_loss}, training.label_smoothing={training.label_smoothing}:"
            " this model has a loss of its own, which takes neither. Leave them at 0."
        )
    model.loss = ClassificationLoss(
        multilabel=model.loss.multilabel,
        class_weights=loss_weights(labels, num_classes, weighted_loss=training.weighted_loss),
        label_smoothing=training.label_smoothing,
    )
