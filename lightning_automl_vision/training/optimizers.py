"""The documented optimisers with the documented options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.training.schedules import Pace, accumulated_batches

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
BIASES = "biases"


def make_optimizer(model: nn.Module, training: TrainingConfig) -> Optimizer:
    """One for the parameters that are trained at all; sgd without momentum is the same with and without nesterov."""
    groups = _groups(model, training)
    if not groups:
        raise ConfigError(
            f"training.layers_to_freeze={training.layers_to_freeze}: nothing is left to train. Freeze fewer layers."
        )
    decay = scaled_decay(training)
    if training.optimizer == "sgd":
        return SGD(
            groups,
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=decay,
            nesterov=training.nesterov and training.momentum > 0,
        )
    for name in ("beta1", "beta2"):
        if getattr(training, name) >= 1:
            raise ConfigError(f"training.{name}=1: {training.optimizer} would never move. Give less than 1.")
    kind: type[Adam | AdamW] = Adam if training.optimizer == "adam" else AdamW
    return kind(
        groups,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        weight_decay=decay,
        amsgrad=training.ams_gradient,
    )


def scaled_decay(training: TrainingConfig) -> float:
    """The weight decay for what a nominal batch size really comes to."""
    nominal, size = training.nominal_batch_size, int(training.training_batch_size)
    if nominal is None:
        return training.weight_decay
    return training.weight_decay * size * accumulated_batches(nominal, size) / nominal


def set_pace(optimizer: Optimizer, pace: Pace) -> None:
    for group in optimizer.param_groups:
        group["lr"] = pace.bias_rate if group["name"] == BIASES else pace.rate
        if "momentum" in group:
            group["momentum"] = pace.momentum
        else:
            group["betas"] = (pace.momentum, group["betas"][1])


def _groups(model: nn.Module, training: TrainingConfig) -> Sequence[dict[str, Any]]:
    """Weights, the weights of norms, and biases, as far as there are any that are trained."""
    weights: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                group = biases if name == "bias" else norms if isinstance(module, _NORMS) else weights
                group.append(parameter)
    spared = {} if training.decay_norms_and_biases else {"weight_decay": 0.0}
    groups = (
        {"name": "weights", "params": _once(weights)},
        {"name": "norms", "params": _once(norms), **spared},
        {"name": BIASES, "params": _once(biases), **spared},
    )
    return [group for group in groups if group["params"]]


def _once(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Modules may share a parameter."""
    return list({id(parameter): parameter for parameter in parameters}.values())
