"""The feature pyramids: on a ResNet of torchvision, or on any network of timm that has the features."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from timm.layers.format import Format
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelMaxPool

from lav_timm.weights import published_weights
from lav_torchvision.architectures import BODY
from lightning_automl_vision.errors import ConfigError

Groups = tuple[tuple[str, ...], ...]
Norm = Callable[..., nn.Module]

CHANNELS = 256
STRIDES = (4, 8, 16, 32)


def resnet_pyramid(
    depth: int, strides: Sequence[int], extra: Callable[[int], ExtraFPNBlock] | None, norm: Norm | None
) -> nn.Module:
    """``extra`` makes the coarser levels of the pyramid from the channels of the last feature."""
    resnet: Any = get_model(f"resnet{depth}", weights=None)
    stages = [STRIDES.index(stride) + 1 for stride in strides]
    channels = [resnet.inplanes >> (len(STRIDES) - stage) for stage in stages]
    layers = {f"layer{stage}": str(level) for level, stage in enumerate(stages)}
    pyramid: nn.Module = BackboneWithFPN(resnet, layers, channels, CHANNELS, extra and extra(channels[-1]), norm)
    return pyramid


class TimmPyramid(nn.Module):
    out_channels = CHANNELS

    def __init__(
        self,
        body: nn.Module,
        strides: Sequence[int],
        extra: Callable[[int], ExtraFPNBlock] | None,
        norm: Norm | None,
    ) -> None:
        super().__init__()
        self.body = body
        self.levels = [_level(body, stride) for stride in strides]
        channels = [_information(body).channels()[level] for level in self.levels]
        blocks = extra(channels[-1]) if extra else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(channels, CHANNELS, blocks, norm)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = features_of(self.body, images)
        levels = OrderedDict((str(name), features[level]) for name, level in enumerate(self.levels))
        pyramid: dict[str, Tensor] = self.fpn(levels)
        return pyramid


def timm_body(name: str, **loading: Any) -> nn.Module:
    """timm's network without its head; one that gives no features of the strides is refused."""
    published_weights(name, key="model.backbone")
    try:
        body: nn.Module = timm.create_model(name, features_only=True, **loading)
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        if loading:
            raise
        raise _unsuitable(name, " ".join(str(error).split())[:200]) from error
    strides = list(_information(body).reduction())
    if not set(STRIDES) <= set(strides) or strides[-1] != STRIDES[-1]:
        raise _unsuitable(name, f"its features have strides of {', '.join(map(str, dict.fromkeys(strides)))}")
    return body


def check_backbone(name: str) -> None:
    """Refuse what cannot be a backbone; the pictures come in many sizes."""
    body = timm_body(name).eval()
    for height, width in ((64, 96), (128, 64)):
        try:
            with torch.inference_mode():
                features = features_of(body, torch.zeros(1, 3, height, width))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise _unsuitable(
                name, f"of {width} x {height} pixels it says: {' '.join(str(error).split())[:200]}"
            ) from error
        last = features[-1].shape[-2:]
        if tuple(last) != (height // STRIDES[-1], width // STRIDES[-1]):
            raise _unsuitable(name, f"of {width} x {height} pixels it makes {last[1]} x {last[0]}")


def features_of(body: nn.Module, images: Tensor) -> list[Tensor]:
    features: list[Tensor] = body(images)
    if getattr(body, "output_fmt", Format.NCHW) == Format.NHWC:
        return [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
    return features


def timm_groups(body: nn.Module) -> Groups:
    """The stages that end with a feature, from the input on; by modules, so that running statistics belong too."""
    modules = [name for name, _ in body.named_modules()]
    ends = sorted(_last_within(modules, feature) for feature in _information(body).module_name()[:-1])
    groups: dict[int, list[str]] = {}
    for name, _ in body.named_parameters():
        stage = bisect_left(ends, modules.index(name.rpartition(".")[0]))
        groups.setdefault(stage, []).append(f"{BODY}{_prefix(body, name)}")
    return tuple(tuple(dict.fromkeys(groups[stage])) for stage in sorted(groups))


def _last_within(modules: Sequence[str], name: str) -> int:
    """Where a module ends; timm may have renamed it when it took the network apart. One that is gone ends nothing."""
    prefixes = (f"{name}.", f"{name.replace('.', '_')}.")
    return max((place for place, module in enumerate(modules) if f"{module}.".startswith(prefixes)), default=-1)


def _prefix(body: nn.Module, parameter: str) -> str:
    """The parameter's module; the parameter itself where the module has others within."""
    owner = parameter.rpartition(".")[0]
    alone = owner and not any(list(child.parameters()) for child in body.get_submodule(owner).children())
    return f"{owner}." if alone else parameter


def _level(body: nn.Module, stride: int) -> int:
    """The last of the features with this stride."""
    strides = list(_information(body).reduction())
    return len(strides) - 1 - strides[::-1].index(stride)


def _information(body: Any) -> Any:
    return body.feature_info


def _unsuitable(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"model.backbone={name} cannot be used: features of strides {', '.join(map(str, STRIDES))} are needed"
        f" of pictures of any size, and {reason.rstrip('.')}."
        " Choose a convolutional one, such as resnet50 or convnext_tiny."
    )
