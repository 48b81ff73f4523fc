"""A network of timm in place of the first ten layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lav_timm.weights import published_weights
from lav_torchvision.backbones import features_of, timm_body
from lav_torchvision.weights import pretrained_body
from lav_yolov5.network import STRIDES


class TimmFeatures(nn.Module):
    """The last features of each stride; pictures from 0 to 1 are normalised as the network's weights know them."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: Any, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        strides, widths = list(body.feature_info.reduction()), body.feature_info.channels()
        self.levels = [_last(strides, stride) for stride in STRIDES]
        fine, middle, coarse = (widths[level] for level in self.levels)
        self.channels: tuple[int, int, int] = (fine, middle, coarse)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = features_of(self.body, (images - self.mean) / self.std)
        return [features[level] for level in self.levels]


def timm_features(name: str, *, pretrained: bool) -> TimmFeatures:
    published = published_weights(name, key="model.backbone")
    body = pretrained_body(name) if pretrained else timm_body(name)
    return TimmFeatures(body, mean=published.mean, std=published.std)


def _last(strides: Sequence[int], stride: int) -> int:
    return max(level for level, found in enumerate(strides) if found == stride)
