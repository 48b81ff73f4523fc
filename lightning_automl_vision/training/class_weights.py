"""Class weights in the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.models import ClassificationLoss, Classifier, VisionModel
from lightning_automl_vision.samples import IntArray
from lightning_automl_vision.settings import TrainingConfig


def class_weights(labels: Iterable[IntArray], num_classes: int) -> Tensor:
    """Inverse frequencies with a mean of 1; a class that never occurs weighs what the rarest one does."""
    counts = torch.zeros(num_classes)
    for indices in labels:
        counts[torch.from_numpy(indices)] += 1
    inverse = 1 / counts.clamp(min=counts[counts > 0].min())
    return inverse / inverse.mean()


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
    weights = class_weights(labels, num_classes) if training.weighted_loss else None
    if weights is not None and training.weighted_loss == 1:
        weights = weights.sqrt()
    model.loss = ClassificationLoss(
        multilabel=model.loss.multilabel, class_weights=weights, label_smoothing=training.label_smoothing
    )
