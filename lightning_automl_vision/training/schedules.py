"""How the learning rate changes, as pure functions: of the optimiser step, or with a warm-up, of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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


def accumulated_batches(nominal: int, batch_size: int) -> int:
    """How many batches come near to the nominal number of images."""
    return max(round(nominal / batch_size), 1)


def linear(progress: float, final: float) -> float:
    return (1 - progress) * (1 - final) + final


def half_cosine(progress: float, final: float) -> float:
    return 1 + (final - 1) * (1 - math.cos(math.pi * progress)) / 2


FADES = {"linear": linear, "cosine": half_cosine}


class Pace(NamedTuple):
    """What one batch is trained with: the rates of biases and of everything else, momentum, the batches of a step."""

    bias_rate: float
    rate: float
    momentum: float
    accumulated: int


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Rates, momentum and accumulation rise or fall to their values along straight lines, batch by batch.

    ``batches`` is how long that takes; the learning rate fades from epoch to epoch all the while.
    """

    training: TrainingConfig
    batches: int
    accumulated: int

    @classmethod
    def of(cls, training: TrainingConfig, batches_per_epoch: int) -> WarmUp:
        nominal = training.nominal_batch_size
        return cls(
            training=training,
            batches=max(round(training.warmup_epochs * batches_per_epoch), 100) if training.warmup_epochs else 0,
            accumulated=accumulated_batches(nominal, int(training.training_batch_size)) if nominal else 1,
        )

    def at(self, batch: int, epoch: int) -> Pace:
        """Batches and epochs count from 0."""
        training = self.training
        fade = FADES[training.learning_rate_scheduler]
        rate = training.learning_rate * fade(
            min(epoch / training.number_of_epochs, 1), training.final_learning_rate_share
        )
        momentum = training.momentum if training.optimizer == "sgd" else training.beta1
        if batch >= self.batches:
            return Pace(rate, rate, momentum, self.accumulated)
        share = batch / self.batches
        return Pace(
            bias_rate=_between(training.warmup_bias_learning_rate, rate, share),
            rate=rate * share,
            momentum=_between(training.warmup_momentum, momentum, share),
            accumulated=max(round(_between(1, self.accumulated, share)), 1),
        )


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share
