"""The colours of a whole batch changed where the batch is, so that the processes that read need not do it."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_automl_vision.hsv import HUES

# Fixed-point arithmetic of OpenCV's 8-bit conversion: hues are 180 steps, divisions a table of integers.
_SHIFT = 12


def hsv_on_device(images: Tensor, gains: Tensor) -> Tensor:
    """N x 3 x H x W uint8 of RGB with each image's factors; an image whose factors are all 1 stays as it is."""
    hue, saturation, value = _to_hsv(images)
    factors = gains.to(images.device, torch.float32)[:, :, None, None]
    hue = torch.remainder(hue * factors[:, 0], HUES).floor()
    saturation = (saturation * factors[:, 1]).clamp(0, 255).floor()
    value = (value * factors[:, 2]).clamp(0, 255).floor()
    changed = _to_rgb(hue, saturation, value)
    return torch.where((factors == 1).all(dim=1, keepdim=True), images, changed)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers, N x H x W each: hue below 180, the others below 256."""
    red, green, blue = images.int().unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    around = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    half = 1 << (_SHIFT - 1)
    saturation = (spread * _table(255, images)[value] + half) >> _SHIFT
    hue = (around * _table(HUES / 6, images)[spread] + half) >> _SHIFT
    return torch.where(hue < 0, hue + HUES, hue), saturation, value


def _table(numerator: float, images: Tensor) -> Tensor:
    """numerator / i in fixed point for every i, and 0 for 0."""
    divisors = torch.arange(256, device=images.device, dtype=torch.float64)
    quotients = (numerator * (1 << _SHIFT) / divisors.clamp(min=1)).round()
    quotients[0] = 0
    return quotients.int()


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The usual formula in floating point; N x 3 x H x W uint8, cut off as OpenCV's vector code does."""
    turn = hue * (6 / HUES)
    offsets = torch.tensor([5.0, 3.0, 1.0], device=hue.device)[None, :, None, None]
    phase = torch.remainder(offsets + turn[:, None], 6)
    weight = torch.minimum(phase, 4 - phase).clamp(0, 1)
    share = (saturation / 255)[:, None]
    return (value[:, None] * (1 - share * weight)).clamp(0, 255).to(torch.uint8)
