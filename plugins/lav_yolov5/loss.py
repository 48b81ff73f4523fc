"""How far the maps are from the truth: in boxes, in objectness and in classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from lav_yolov5.assignment import Assigned, assign
from lav_yolov5.boxes import complete_iou

_BALANCE = {3: (4.0, 1.0, 0.4)}
_OTHER_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
# The level of stride 16, whose weight the others are measured by.
_MIDDLE = 1
_KEPT = 0.9999
_FOCAL_SHARE = 0.25


@dataclass(frozen=True)
class LossOptions:
    """Gains are what the parts are multiplied by, as they are set for 80 classes and 640 pixels or after ``scaled``.

    ``balance_levels`` lets the levels' weights in the objectness follow their losses.
    """

    box_gain: float = 0.05
    objectness_gain: float = 1.0
    class_gain: float = 0.5
    class_positive_weight: float = 1.0
    objectness_positive_weight: float = 1.0
    anchor_threshold: float = 4.0
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0
    balance_levels: bool = False


def scaled(options: LossOptions, *, classes: int, image_size: int, levels: int) -> LossOptions:
    """With gains for so many classes, pictures of this size and so many maps."""
    return replace(
        options,
        box_gain=options.box_gain * 3 / levels,
        objectness_gain=options.objectness_gain * (image_size / 640) ** 2 * 3 / levels,
        class_gain=options.class_gain * classes / 80 * 3 / levels,
    )


class YoloLoss(nn.Module):
    """The parts of the loss, each times its gain; their sum is that of one image, whatever the batch.

    The weights of the levels are state of training alone: they are neither stored nor changed in evaluation.
    """

    balance: Tensor

    def __init__(self, options: LossOptions, classes: int, levels: int = 3) -> None:
        super().__init__()
        self.options = options
        self.classes = classes
        balance = _BALANCE.get(levels, _OTHER_BALANCE[:levels])
        self.register_buffer("balance", torch.tensor(balance), persistent=False)

    def forward(self, maps: Sequence[Tensor], targets: Tensor, anchors: Tensor) -> dict[str, Tensor]:
        """``maps`` are logits, images x anchors x rows x columns x 5 + classes; ``targets``, ``anchors``: ``assign``.

        With a single class there is no loss of classes.
        """
        options = self.options
        shapes = [(grid.shape[2], grid.shape[3]) for grid in maps]
        assigned = assign(targets, shapes, anchors, threshold=options.anchor_threshold)
        read = list(starmap(_read, zip(maps, assigned, strict=True)))
        counts = [len(level) for level in assigned]
        rows = torch.cat([rows for rows, _ in read])
        agreement = complete_iou(
            _decoded(rows[:, :4], torch.cat([level.anchors for level in assigned])),
            torch.cat([level.boxes for level in assigned]),
        )
        truth = torch.split(agreement.detach().clamp(min=0), counts)
        losses = {
            "box": options.box_gain * _sum_of_means(1 - agreement, counts),
            "objectness": options.objectness_gain
            * self._balanced(
                [
                    self._entropy(logits, _painted(logits, level, values), options.objectness_positive_weight).mean()
                    for (_, logits), level, values in zip(read, assigned, truth, strict=True)
                ]
            ),
        }
        if self.classes > 1:
            labels = torch.cat([level.label for level in assigned])
            entropy = self._entropy(rows[:, 5:], self._one_hot(rows[:, 5:], labels), options.class_positive_weight)
            losses["class"] = options.class_gain * _sum_of_means(entropy.mean(dim=1), counts)
        return losses

    def _entropy(self, logits: Tensor, truth: Tensor, positive_weight: float) -> Tensor:
        """Of each element by itself; with the focal option the sure ones count less."""
        weight = None if positive_weight == 1 else logits.new_tensor(positive_weight)
        entropy = binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=weight)
        gamma = self.options.focal_gamma
        if gamma == 0:
            return entropy
        score = logits.sigmoid()
        right = truth * score + (1 - truth) * (1 - score)
        share = truth * _FOCAL_SHARE + (1 - truth) * (1 - _FOCAL_SHARE)
        return entropy * share * (1 - right) ** gamma

    def _one_hot(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.options.label_smoothing
        return torch.full_like(logits, smoothing / 2).scatter_(1, labels[:, None], 1 - smoothing / 2)

    def _balanced(self, losses: Sequence[Tensor]) -> Tensor:
        values = torch.stack(list(losses))
        total = (self.balance.to(values) * values).sum()
        if self.options.balance_levels and self.training:
            followed = self.balance * _KEPT + (1 - _KEPT) / values.detach().to(self.balance)
            self.balance = followed / followed[_MIDDLE]  # not in place: the gradient needs those of this step
        return total


def _decoded(logits: Tensor, anchors: Tensor) -> Tensor:
    """Centre in cells from the corner of the cell, width and height in cells."""
    twice = 2 * logits.sigmoid()
    return torch.cat([twice[:, :2] - 0.5, twice[:, 2:].square() * anchors], dim=1)


def _sum_of_means(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Over the levels; one without rows adds nothing."""
    return torch.stack([part.sum() / max(len(part), 1) for part in torch.split(values, list(counts))]).sum()


def _painted(logits: Tensor, level: Assigned, values: Tensor) -> Tensor:
    """A map of zeros with a value at the place of each row; of several at one place the last, on any device."""
    _, anchors, rows, columns = logits.shape
    places = ((level.image * anchors + level.anchor) * rows + level.row) * columns + level.column
    numbers = torch.arange(1, len(places) + 1, device=places.device)
    last = torch.zeros(logits.numel(), dtype=torch.long, device=places.device)
    last = last.scatter_reduce(0, places, numbers, "amax")
    return torch.cat([values.new_zeros(1), values])[last].view_as(logits)


def _read(grid: Tensor, level: Assigned) -> tuple[Tensor, Tensor]:
    """The logits of the assigned rows, and the objectness of every cell, in no less than single precision."""
    rows, objectness = _Reading.apply(grid, level.image, level.anchor, level.row, level.column)
    precision = torch.promote_types(grid.dtype, torch.float32)
    return rows.to(precision), objectness.to(precision)


class _Reading(torch.autograd.Function):
    """Fills a single gradient for the map, where reading it twice would fill two of its size and add them up."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, *places: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(grid, *places)
        return grid[places], grid[..., 4].clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grid, *places = ctx.saved_tensors
        of_rows, of_objectness = gradients
        gradient = torch.zeros_like(grid)
        gradient[..., 4] = of_objectness
        gradient.index_put_(tuple(places), of_rows, accumulate=True)
        return gradient, *(None for _ in places)
