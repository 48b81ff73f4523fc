"""Boxes as centre and size, as corners, and how well two of them agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPSILON = 1e-7


def corners(centred: Tensor) -> Tensor:
    """From x, y of the centre, width and height to x1, y1, x2, y2; the last axis holds these four alone."""
    centre, size = torch.split(centred, 2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def complete_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union, less the distance of the centres and the difference in shape, of pairs of boxes.

    Both are centre and size, N x 4. The weight of the shape is a constant to the gradient.
    """
    centre, size = torch.split(predicted, 2, dim=-1)
    target_centre, target_size = torch.split(target, 2, dim=-1)
    apart = (centre - target_centre).abs()
    halves = (size + target_size) / 2
    # Two intervals share what their halves exceed the distance of their middles by, but no more than the shorter one.
    shared = torch.minimum(halves - apart, torch.minimum(size, target_size)).clamp(min=0).prod(dim=-1)
    union = size.prod(dim=-1) + target_size.prod(dim=-1) - shared + _EPSILON
    iou = shared / union
    around = torch.maximum(halves + apart, torch.maximum(size, target_size))
    distance = apart.square().sum(dim=-1) / (around.square().sum(dim=-1) + _EPSILON)
    shape = 4 / math.pi**2 * (_slope(target_size) - _slope(size)).square()
    with torch.no_grad():
        weight = shape / (shape - iou + 1 + _EPSILON)
    agreement: Tensor = iou - distance - weight * shape
    return agreement


def _slope(size: Tensor) -> Tensor:
    """The angle whose tangent is width by height; that of nothing is 0, not unknown."""
    return torch.atan2(size[..., 0], size[..., 1])
