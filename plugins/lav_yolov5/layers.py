"""The parts that the network is made of; their attributes are named as the tensors of published files are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-3
NORM_MOMENTUM = 0.03
# What the untrained head expects: so many objects in a picture of this side, and some class at this rate.
EXPECTED_OBJECTS, OF_PIXELS = 8, 640
EXPECTED_CLASS = 0.6
COORDINATES = 5  # x, y, width, height, objectness


class NormedConvolution(nn.Module):
    """Convolution, norm, SiLU; without ``padding`` an odd kernel keeps the size of what it strides over."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        around = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, around, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        return functional.silu(self.bn(self.conv(features)), inplace=True)


class Bottleneck(nn.Module):
    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.cv1 = NormedConvolution(channels, channels)
        self.cv2 = NormedConvolution(channels, channels, kernel=3)
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.cv2(self.cv1(features))
        return features + changed if self.residual else changed


class SplitBlock(nn.Module):
    """Half of the channels goes through the bottlenecks, the other half past them."""

    def __init__(self, inputs: int, outputs: int, *, blocks: int, residual: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = NormedConvolution(inputs, half)
        self.cv2 = NormedConvolution(inputs, half)
        self.cv3 = NormedConvolution(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, residual=residual) for _ in range(blocks)))

    def forward(self, features: Tensor) -> Tensor:
        both = torch.cat((self.m(self.cv1(features)), self.cv2(features)), dim=1)
        joined: Tensor = self.cv3(both)
        return joined


class PooledContext(nn.Module):
    """Each place sees the strongest features of 1, 5, 9 and 13 places around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = NormedConvolution(channels, half)
        self.cv2 = NormedConvolution(4 * half, channels)

    def forward(self, features: Tensor) -> Tensor:
        scales = [self.cv1(features)]
        for _ in range(3):
            scales.append(functional.max_pool2d(scales[-1], kernel_size=5, stride=1, padding=2))
        joined: Tensor = self.cv2(torch.cat(scales, dim=1))
        return joined


class Head(nn.Module):
    """A 1 x 1 convolution on each level, which answers for every anchor at every place.

    The ``anchors`` are widths and heights in cells of their level. A map is B x anchors x rows x columns x (x, y,
    width, height, objectness, classes), before any sigmoid.
    """

    anchors: Tensor

    def __init__(
        self, channels: Sequence[int], classes: int, *, strides: Sequence[int], anchors: Sequence[Sequence[float]]
    ) -> None:
        super().__init__()
        self.values = COORDINATES + classes
        self.strides = tuple(strides)
        pixels = torch.tensor(anchors, dtype=torch.float32).view(len(strides), -1, 2)
        self.register_buffer("anchors", pixels / torch.tensor(strides).view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(width, pixels.shape[1] * self.values, 1) for width in channels)
        for level, stride in zip(self.m, strides, strict=True):
            assert isinstance(level, nn.Conv2d)
            self._expect_few(level, stride)

    def _expect_few(self, level: nn.Conv2d, stride: int) -> None:
        """Add to the bias what makes an untrained head answer about as often as there are objects."""
        assert level.bias is not None
        with torch.no_grad():
            by_anchor = level.bias.view(-1, self.values)
            by_anchor[:, COORDINATES - 1] += objectness_offset(stride)
            by_anchor[:, COORDINATES:] += class_offset(self.values - COORDINATES)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [self.split(level(features)) for level, features in zip(self.m, levels, strict=True)]

    def split(self, answers: Tensor) -> Tensor:
        """A convolution's channels as a map; in 32 bits at least, for 16 are too few for pixels."""
        images, _, rows, columns = answers.shape
        exact = answers.float() if answers.dtype in (torch.float16, torch.bfloat16) else answers
        return exact.view(images, -1, self.values, rows, columns).permute(0, 1, 3, 4, 2)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """B x N x values: centre, width and height in pixels, then objectness and classes from 0 to 1.

        N runs through levels, then anchors, then rows, then columns.
        """
        found = []
        for level, anchors, stride in zip(maps, self.anchors, self.strides, strict=True):
            rows, columns = (torch.arange(length, device=level.device) for length in level.shape[2:4])
            cells = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
            found.append(_decoded(level, cells, anchors[:, None, None], stride).flatten(1, 3))
        return torch.cat(found, dim=1)

    def decode_likely(self, maps: Sequence[Tensor], threshold: float) -> list[Tensor]:
        """For each image the rows of ``decode`` whose objectness exceeds the threshold; the rest costs no time."""
        images, rows = [], []
        for level, anchors, stride in zip(maps, self.anchors, self.strides, strict=True):
            image, anchor, row, column = (level[..., COORDINATES - 1].sigmoid() > threshold).nonzero(as_tuple=True)
            cells = torch.stack((column, row), dim=-1)
            rows.append(_decoded(level[image, anchor, row, column], cells, anchors[anchor], stride))
            images.append(image)
        image = torch.cat(images)
        counts = torch.bincount(image, minlength=len(maps[0])).tolist()
        return list(torch.split(torch.cat(rows)[image.argsort(stable=True)], counts))


def _decoded(logits: Tensor, cells: Tensor, anchors: Tensor, stride: int) -> Tensor:
    shares = logits.sigmoid()
    centres = (2 * shares[..., 0:2] - 0.5 + cells) * stride
    sides = (2 * shares[..., 2:4]) ** 2 * (anchors.to(shares.dtype) * stride)
    return torch.cat((centres, sides, shares[..., 4:]), dim=-1)


def objectness_offset(stride: int) -> float:
    return math.log(EXPECTED_OBJECTS / (OF_PIXELS / stride) ** 2)


def class_offset(classes: int) -> float:
    return math.log(EXPECTED_CLASS / (classes - 0.99999))
