"""How the learning rate changes: factors of its highest value, as pure functions of the optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable

from lightning_automl_vision.settings import TrainingConfig


def warmup_cosine(step: int, *, warmup: int, total: int, cycles: float) -> float:
    """A straight rise from 0 during ``warmup`` steps, then ``cycles`` of a cosine wave until ``total``.

    A run that ends within its warm-up only ever rises.
    """
    if step < warmup:
        return step / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return 0.5 * (1 + math.cos(2 * math.pi * cycles * progress))


def stepped(step: int, *, steps_per_epoch: int, epochs: int, gamma: float) -> float:
    """``gamma`` once more after every so many epochs."""
    return float(gamma ** (step // steps_per_epoch // epochs))


def factor_of(training: TrainingConfig, *, steps_per_epoch: int, total: int) -> Callable[[int], float]:
    """The schedule that is asked for, over ``total`` optimiser steps."""
    if training.learning_rate_scheduler == "step":
        return lambda step: stepped(
            step, steps_per_epoch=steps_per_epoch, epochs=training.step_lr_step_size, gamma=training.step_lr_gamma
        )
    warmup = training.warmup_cosine_lr_warmup_epochs * steps_per_epoch
    return lambda step: warmup_cosine(step, warmup=warmup, total=total, cycles=training.warmup_cosine_lr_cycles)
