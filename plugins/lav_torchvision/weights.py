"""Published weights: COCO's for the whole network where torchvision has them, else ImageNet's for the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_weight

from lav_timm.weights import locate, published_weights
from lav_torchvision.architectures import ARCHITECTURES
from lav_torchvision.backbones import check_backbone, timm_body
from lightning_automl_vision.downloads import hub_file
from lightning_automl_vision.errors import ConfigError, WeightsError


def find_weights(
    *, name: str, pretrained: bool, backbone: str | None, min_size: int = 1, max_size: int = 1, **_: Any
) -> None:
    """Refuse an unsuitable backbone or size; with ``pretrained``, have the weights on disk when this returns."""
    if min_size > max_size:
        raise ConfigError(f"model.min_size={min_size} is more than model.max_size={max_size}. Raise the latter.")
    if backbone is not None:
        check_backbone(backbone)
        if pretrained:
            locate(backbone, published_weights(backbone, key="model.backbone"))
    elif pretrained:
        weights_file(name)


finders = SimpleNamespace(**{name: partial(find_weights, name=name) for name in ARCHITECTURES})


def weights_file(name: str) -> Path:
    return hub_file(get_weight(ARCHITECTURES[name].weights).url, of=name)


def pretrained_body(backbone: str) -> nn.Module:
    """timm's network with its published weights."""
    weights = locate(backbone, published_weights(backbone, key="model.backbone"))
    try:
        return timm_body(backbone, pretrained=True, pretrained_cfg_overlay=weights.as_overlay())
    except Exception as error:  # torch, pickle, zip and safetensors each have their own
        raise _unfit(weights.path, backbone, str(error)) from error


def load_published(network: Any, name: str) -> None:
    """Everything must fit but the heads, which stay new."""
    architecture, file = ARCHITECTURES[name], weights_file(name)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if architecture.coco:
            _load_all_but(architecture.family.heads, network, state)
        else:
            _load_all_but(("fc.",), network.backbone.body, state)
    except (RuntimeError, OSError, EOFError, AttributeError, TypeError, UnpicklingError) as error:
        raise _unfit(file, name, str(error)) from error
    if architecture.bare_norms:
        absorb_epsilon(network.backbone.body)


def _load_all_but(heads: tuple[str, ...], module: nn.Module, state: Mapping[str, Tensor]) -> None:
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
    missing, unexpected = module.load_state_dict(kept, strict=False)
    lacking = [name for name in missing if not name.startswith(heads)]
    if lacking or unexpected:
        raise RuntimeError(f"it lacks {lacking[:3]} and has {unexpected[:3]} beyond")


def absorb_epsilon(body: nn.Module) -> None:
    """Let norms whose weights were trained without an epsilon answer the same with theirs."""
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_var is not None
            with torch.no_grad():
                norm.weight.mul_(norm.running_var.rsqrt() * (norm.running_var + norm.eps).sqrt())


def renamed(network: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of a file by the names they have here: those of older files, and those of a backbone alone."""
    body = {_plain(name): f"backbone.body.{name}" for name in network.backbone.body.state_dict()}
    if not any(name.startswith("backbone.") for name in tensors):
        return {body.get(_plain(name), name): tensor for name, tensor in tensors.items()}
    given = dict(tensors)
    for prefix, module in network.named_modules():
        if not module._parameters and not module._buffers:  # it fills nothing itself, and renames what its parts had
            module._load_from_state_dict(given, f"{prefix}.", {}, False, [], [], [])
    return given


def _plain(name: str) -> str:
    """timm joins the names of what it takes apart with another sign."""
    return name.replace("_", ".")


def _unfit(file: str | Path, name: str, reason: str) -> WeightsError:
    return WeightsError(
        f"{file} does not hold the weights of {name}: {' '.join(reason.split())[:300]}."
        " Delete it to have it downloaded again, or train from scratch with model.pretrained=false."
    )
