"""How pictures become what the model takes, in training and afterwards, by the kind of augmentation asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning_automl_vision.augment import build_training_transform
from lightning_automl_vision.data.prepared import Transform
from lightning_automl_vision.data.resizing import Resizing, ShortSide, resizing_of
from lightning_automl_vision.errors import PluginError
from lightning_automl_vision.models import VisionModel
from lightning_automl_vision.object_augment import ObjectTransform, build_object_transform, object_resizing
from lightning_automl_vision.settings import AugmentConfig, ObjectAugmentConfig, TrainingConfig


def training_transform(augment: AugmentConfig | ObjectAugmentConfig, training: TrainingConfig) -> Transform:
    """Made and, where it is the user's own, tried out; the size that only a model knows is still to be filled in."""
    if isinstance(augment, ObjectAugmentConfig):
        resizing = object_resizing(augment, ShortSide())
        return build_object_transform(augment, resizing, epochs=training.number_of_epochs)
    return build_training_transform(augment, training)


def resizing_for(
    model: VisionModel[Any, Any], augment: AugmentConfig | ObjectAugmentConfig, training: TrainingConfig
) -> Resizing:
    """How pictures are brought to size for this model where nothing is random."""
    if not isinstance(augment, ObjectAugmentConfig):
        return resizing_of(augment, training)
    if model.resizing is None:
        raise PluginError(f"{type(model).__name__} finds objects and does not say how pictures are resized for it.")
    return object_resizing(augment, model.resizing)


def sized(transform: Transform, resizing: Resizing, *, hsv_later: bool = False) -> Transform:
    """The transform for a model that takes pictures so resized; the device may do what ``augment.hsv`` asks for."""
    if not isinstance(transform, ObjectTransform):
        return transform
    return replace(transform, resizing=resizing, hsv_later=hsv_later)
