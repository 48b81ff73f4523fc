"""The documented optimisers with the documented options."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_automl_vision.settings import TrainingConfig


def make_optimizer(parameters: Iterable[nn.Parameter], training: TrainingConfig) -> Optimizer:
    """One for the parameters that are trained at all."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if training.optimizer == "sgd":
        return SGD(
            trained,
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov and training.momentum > 0,
        )
    kind: type[Adam | AdamW] = Adam if training.optimizer == "adam" else AdamW
    return kind(
        trained,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
        amsgrad=training.ams_gradient,
    )
