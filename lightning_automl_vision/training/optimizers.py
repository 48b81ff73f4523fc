"""The documented optimisers with the documented options."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.settings import TrainingConfig


def make_optimizer(parameters: Iterable[nn.Parameter], training: TrainingConfig) -> Optimizer:
    """One for the parameters that are trained at all; sgd without momentum is the same with and without nesterov."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ConfigError(
            f"training.layers_to_freeze={training.layers_to_freeze}: nothing is left to train. Freeze fewer layers."
        )
    if training.optimizer == "sgd":
        return SGD(
            trained,
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov and training.momentum > 0,
        )
    for name in ("beta1", "beta2"):
        if getattr(training, name) >= 1:
            raise ConfigError(f"training.{name}=1: {training.optimizer} would never move. Give less than 1.")
    kind: type[Adam | AdamW] = Adam if training.optimizer == "adam" else AdamW
    return kind(
        trained,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=training.weight_decay,
        amsgrad=training.ams_gradient,
    )
