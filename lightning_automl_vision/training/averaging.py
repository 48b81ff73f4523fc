"""A moving average of a model's weights, which is what is validated and saved when ``training.ema_decay`` is set."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lightning_automl_vision.models import VisionModel
from lightning_automl_vision.settings import TrainingConfig


def decay_at(update: int, decay: float, ramp: int) -> float:
    """Near 0 at the start, so that a short run does not average its first weights."""
    return decay * (1 - math.exp(-update / ramp))


class AveragedWeights(nn.Module):
    """``average = d * average + (1 - d) * weights`` after each optimiser step, batch-norm statistics included."""

    def __init__(self, model: VisionModel[Any, Any], decay: float, ramp: int) -> None:
        super().__init__()
        self.decay = decay
        self.ramp = ramp
        self.updates = 0
        self.model = deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        means = [mean for mean, _ in pairs if mean.is_floating_point()]
        values = [value for mean, value in pairs if mean.is_floating_point()]
        torch._foreach_lerp_(means, values, 1 - decay_at(self.updates, self.decay, self.ramp))
        for mean, value in pairs:
            if not mean.is_floating_point():  # how many batches a norm has seen
                mean.copy_(value)

    def get_extra_state(self) -> int:
        return self.updates

    def set_extra_state(self, state: int) -> None:
        self.updates = state


def averaged_weights(model: VisionModel[Any, Any], training: TrainingConfig) -> AveragedWeights | None:
    return AveragedWeights(model, training.ema_decay, training.ema_ramp_steps) if training.ema_decay else None


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
