"""Layers that are not trained: the first groups of a model, counted from its input."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.models import VisionModel


def freeze(model: VisionModel[Any, Any], groups: int, name: str = "the model") -> None:
    """Stop training the first groups; whoever trains keeps their ``frozen_norms`` in evaluation mode."""
    if groups > len(model.freezable):
        raise ConfigError(
            f"training.layers_to_freeze={groups}: {name} has {len(model.freezable)} layer groups."
            f" Give at most {len(model.freezable)}."
        )
    prefixes = _prefixes(model, groups)
    for key, parameter in model.named_parameters():
        if prefixes and key.startswith(prefixes):
            parameter.requires_grad = False


def frozen_norms(model: VisionModel[Any, Any], groups: int) -> list[nn.Module]:
    """Norms of the first groups, and others without trained weights: their statistics would move all the same."""
    prefixes = _prefixes(model, groups)
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        and (_has_only_frozen_weights(module) or (prefixes and f"{name}.".startswith(prefixes)))
    ]


def _has_only_frozen_weights(module: nn.Module) -> bool:
    weights = list(module.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def _prefixes(model: VisionModel[Any, Any], groups: int) -> tuple[str, ...]:
    return tuple(prefix for group in model.freezable[:groups] for prefix in group)
