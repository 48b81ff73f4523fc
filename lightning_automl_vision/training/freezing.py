"""Layers that are not trained: the first groups of a model, counted from its input."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.models import VisionModel


def freeze(model: VisionModel[Any, Any], groups: int) -> None:
    """Stop training the first groups; their batch norms keep their statistics through ``keep_frozen``."""
    if groups > len(model.freezable):
        raise ConfigError(f"training.layers_to_freeze={groups}: the model has {len(model.freezable)} layer groups.")
    prefixes = tuple(prefix for group in model.freezable[:groups] for prefix in group)
    if not prefixes:
        return
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad = False


def keep_frozen(model: nn.Module) -> None:
    """Put frozen batch norms back to evaluation, after a call of ``train`` that reached them."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None and not module.weight.requires_grad:
            module.eval()
