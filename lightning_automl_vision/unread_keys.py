"""Keys that were given and mean nothing beside others: the rest of a sweep may need them, so they are only told."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.settings import ObjectAugmentConfig

_SCHEDULES = {
    "step": ("step_lr_gamma", "step_lr_step_size"),
    "warmup_cosine": ("warmup_cosine_lr_cycles", "warmup_cosine_lr_warmup_epochs"),
    "linear": ("final_learning_rate_share", "warmup_epochs", "warmup_momentum", "warmup_bias_learning_rate"),
}
_SAME = {"cosine": "linear"}
_OPTIMIZERS = {"sgd": ("momentum", "nesterov"), "adam": ("beta1", "beta2", "ams_gradient")}
_ALIKE = {"adamw": "adam"}


def unread_keys(settings: Settings) -> Iterator[str]:
    """A line for each."""
    training = settings.training
    schedule, optimizer = training.learning_rate_scheduler, training.optimizer
    reasons = {
        **_of_others(_SCHEDULES, _SAME.get(schedule, schedule), f"training.learning_rate_scheduler={schedule}"),
        **_of_others(_OPTIMIZERS, _ALIKE.get(optimizer, optimizer), f"training.optimizer={optimizer}"),
    }
    if not training.ema_decay:
        reasons["training.ema_ramp_steps"] = "training.ema_decay=0"
    if settings.model.weights is not None:
        reasons["model.pretrained=true"] = "model.weights"
    if isinstance(settings.augment, ObjectAugmentConfig):
        reasons |= _of_mosaics(settings.augment, training.number_of_epochs)
    for name, value in given(settings.overrides):
        reason = reasons.get(name) or reasons.get(f"{name}={value}")
        if reason:
            yield f"{name}={value} is not used beside {reason}."


def _of_others(choices: dict[str, tuple[str, ...]], chosen: str, reason: str) -> dict[str, str]:
    return {f"training.{name}": reason for choice, names in choices.items() if choice != chosen for name in names}


def _of_mosaics(augment: ObjectAugmentConfig, epochs: int) -> dict[str, str]:
    if not augment.apply_mosaic_for_yolo:
        reason = "augment.apply_mosaic_for_yolo=false"
        return {"augment.mosaic.p": reason, "augment.mosaic.plain_epochs": reason}
    if not augment.mosaic.p:
        return {"augment.mosaic.plain_epochs": f"augment.mosaic.p={augment.mosaic.p:g}"}
    if augment.mosaic.plain_epochs >= epochs:
        return {"augment.mosaic.p": f"as many plain_epochs as the training has epochs ({epochs})"}
    return {}
