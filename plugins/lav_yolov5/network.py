"""The network: a body that looks at finer to coarser levels, a neck that joins them up and down, a head.

Layers are kept by their numbers in published files, so that the names of their tensors are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lav_yolov5.layers import Head, NormedConvolution, PooledContext, SplitBlock
from lav_yolov5.sizes import Size

STRIDES = (8, 16, 32)
# Widths and heights in pixels, level by level.
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
HEAD = "24"


class Body(Protocol):
    """Another network in place of the first layers: features of strides 8, 16 and 32."""

    channels: tuple[int, int, int]

    def __call__(self, images: Tensor) -> Sequence[Tensor]: ...


class Network(nn.Module):
    """Pictures from 0 to 1, with sides that 32 divides, to the maps of three levels, which the head decodes."""

    def __init__(self, size: Size, classes: int, *, backbone: Body | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        body = body_layers(size) if backbone is None else {}
        channels = own_channels(size) if backbone is None else backbone.channels
        neck = neck_layers(size, channels)
        outputs = [size.channels(nominal) for nominal in (256, 512, 1024)]
        head = Head(outputs, classes, strides=STRIDES, anchors=[sum(level, ()) for level in ANCHORS])
        self.model = nn.ModuleDict({**body, **neck, HEAD: head})

    @property
    def head(self) -> Head:
        head = self.model[HEAD]
        assert isinstance(head, Head)
        return head

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = self._own_features(images) if self.backbone is None else self.backbone(images)
        maps: list[Tensor] = self.head(self._joined(*levels))
        return maps

    def _own_features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self._through(images, 0, 1, 2, 3, 4)
        middle = self._through(fine, 5, 6)
        return fine, middle, self._through(middle, 7, 8, 9)

    def _joined(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is known at a coarse level goes up to the finer ones, and what was found there comes down again."""
        coarse = self._through(coarse, 10)
        middle = self._through(_beside(_doubled(coarse), middle), 13, 14)
        fine = self._through(_beside(_doubled(middle), fine), 17)
        middle = self._through(_beside(self._through(fine, 18), middle), 20)
        return fine, middle, self._through(_beside(self._through(middle, 21), coarse), 23)

    def _through(self, features: Tensor, *layers: int) -> Tensor:
        for layer in layers:
            features = self.model[str(layer)](features)
        return features


def own_channels(size: Size) -> tuple[int, int, int]:
    return size.channels(256), size.channels(512), size.channels(1024)


def body_layers(size: Size) -> Mapping[str, nn.Module]:
    """Layers 0 to 9."""
    stem, *stages = (size.channels(nominal) for nominal in (64, 128, 256, 512, 1024))
    layers: list[nn.Module] = [NormedConvolution(3, stem, kernel=6, stride=2, padding=2)]
    for (inputs, outputs), blocks in zip(pairwise([stem, *stages]), (3, 6, 9, 3), strict=True):
        layers += [
            NormedConvolution(inputs, outputs, kernel=3, stride=2),
            SplitBlock(outputs, outputs, blocks=size.blocks(blocks), residual=True),
        ]
    layers.append(PooledContext(stages[-1]))
    return {str(number): layer for number, layer in enumerate(layers)}


def neck_layers(size: Size, channels: tuple[int, int, int]) -> Mapping[str, nn.Module]:
    """Layers 10 to 23 that have weights, on features of so many channels, the finest first."""
    fine, middle, coarse = (size.channels(nominal) for nominal in (256, 512, 1024))
    blocks = size.blocks(3)

    def joining(inputs: int, outputs: int) -> SplitBlock:
        return SplitBlock(inputs, outputs, blocks=blocks, residual=False)

    return {
        "10": NormedConvolution(channels[2], middle),
        "13": joining(middle + channels[1], middle),
        "14": NormedConvolution(middle, fine),
        "17": joining(fine + channels[0], fine),
        "18": NormedConvolution(fine, fine, kernel=3, stride=2),
        "20": joining(2 * fine, middle),
        "21": NormedConvolution(middle, middle, kernel=3, stride=2),
        "23": joining(2 * middle, coarse),
    }


def _doubled(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2.0, mode="nearest")


def _beside(features: Tensor, others: Tensor) -> Tensor:
    return torch.cat((features, others), dim=1)
