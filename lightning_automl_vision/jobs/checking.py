"""What can be refused of a training before a folder is made or data are read; imports no torch."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.jobs.folds import check_folds
from lightning_automl_vision.plugins import model_spec, model_specs
from lightning_automl_vision.settings import (
    AugmentConfig,
    LimitsConfig,
    ObjectAugmentConfig,
    TrainingConfig,
)
from lightning_automl_vision.specs import TASKS, ModelSpec, TaskSpec
from lightning_automl_vision.task_settings import ObjectTaskConfig
from lightning_automl_vision.tiler_settings import TilingConfig
from lightning_automl_vision.training.continuing import check_resume
from lightning_automl_vision.training.earlier_model import earlier_model


def seeded(settings: Settings) -> Settings:
    """With a seed that is drawn if none is given, and then stands among the overrides, so that they repeat the run."""
    if settings.training.random_seed is not None:
        return settings
    seed = secrets.randbelow(2**32)
    training = replace(settings.training, random_seed=seed)
    return replace(settings, training=training, overrides=(*settings.overrides, f"training.random_seed={seed}"))


def check(settings: Settings) -> ModelSpec:
    """Everything that can be refused before a folder is made or data are read."""
    if not settings.data.training:
        raise ConfigError("data.training is not given. Name the labelled images: data.training=PATH.")
    check_resume(settings.resume)
    _check_alone(settings.limits)
    for name in ("checkpoint", "runs"):
        if getattr(settings, name):
            raise ConfigError(f"{name}={getattr(settings, name)}: lav train takes no other run. Leave it out.")
    task = TASKS[settings.task.name]
    if settings.task.primary_metric != task.primary_metric:
        raise ConfigError(
            f"task.primary_metric={settings.task.primary_metric}: {task.name} is judged by {task.primary_metric}."
            " Leave it out; every other metric is in result.json and metrics.jsonl."
        )
    serving = sorted(spec.name for spec in model_specs().values() if task.name in spec.tasks)
    if not serving:
        raise ConfigError(
            f"task={task.name}: no installed plugin has a model for it. `lav models` lists what there is."
        )
    spec = model_spec(settings.model.name)
    if task.name not in spec.tasks:
        raise ConfigError(
            f"model={spec.name} does not serve task={task.name}, but {', '.join(sorted(spec.tasks))}."
            f" Choose one of {', '.join(serving)}."
        )
    _check_weights(settings.model.weights)
    earlier_model(settings)
    _check_augment(settings.augment, task)
    _check_tiler(settings, task)
    spec.check_trainer(settings.trainer)
    _check_unused(settings, task)
    _check_recipe(settings.training)
    _check_sizes(settings, spec)
    _check_freezing(settings.training, spec, settings.model_parameters)
    _check_split(settings)
    check_folds(settings)
    _check_scores(settings)
    return spec


def _check_alone(limits: LimitsConfig) -> None:
    """What only a sweep knows."""
    for name in ("max_trials", "max_concurrent_trials", "trial_timeout_minutes"):
        value = getattr(limits, name)
        if value != getattr(LimitsConfig, name):
            raise ConfigError(
                f"limits.{name}={value}: one training has no use for it. Leave it out, or begin a sweep on the command"
                " line: lav -m training.learning_rate=0.01,0.02 limits.max_concurrent_trials=2."
            )


def _check_augment(augment: AugmentConfig | ObjectAugmentConfig, task: TaskSpec) -> None:
    if isinstance(augment, ObjectAugmentConfig) != issubclass(task.config, ObjectTaskConfig):
        raise ConfigError(
            f"This augmentation is not for {task.name}. Choose augment=none, letterbox or custom, or leave augment out."
        )
    share = augment.copy_paste.p if isinstance(augment, ObjectAugmentConfig) else 0.0
    if share and task.name != "image_instance_segmentation":
        from lightning_automl_vision.pasting import without_polygons

        raise without_polygons(share)


def _check_tiler(settings: Settings, task: TaskSpec) -> None:
    if not isinstance(settings.tiler, TilingConfig):
        return
    from lightning_automl_vision.tiling_plan import tiling_of

    if not issubclass(task.config, ObjectTaskConfig):
        raise ConfigError(
            f"tiler={settings.tiler.name}: tiles are for finding objects, {task.name} finds none. Leave it out."
        )
    tiling_of(settings.tiler, [name for name, _ in given(settings.overrides)])


def _check_unused(settings: Settings, task: TaskSpec) -> None:
    for name, usual in task.unused.items():
        if (value := getattr(settings.training, name)) != usual:
            raise ConfigError(f"training.{name}={value}: {task.name} has no use for it. Leave it out.")


def _check_recipe(training: TrainingConfig) -> None:
    if training.nominal_batch_size is not None and training.gradient_accumulation_step > 1:
        raise ConfigError(
            f"training.gradient_accumulation_step={training.gradient_accumulation_step} and"
            f" training.nominal_batch_size={training.nominal_batch_size} both say how many batches make a step."
            " Give the former with training.nominal_batch_size=null, or leave it at 1."
        )


def _check_freezing(training: TrainingConfig, spec: ModelSpec, parameters: Mapping[str, Any]) -> None:
    groups = spec.groups(**parameters)
    if groups is not None and training.layers_to_freeze > len(groups):
        raise ConfigError(
            f"training.layers_to_freeze={training.layers_to_freeze}: {spec.name} has {len(groups)} layer groups."
            f" Give at most {len(groups)}."
        )


def _check_split(settings: Settings) -> None:
    if not settings.data.validation:
        return
    for name, value in given(settings.overrides):
        if name in ("data.split", "data.validation_data_size"):
            raise ConfigError(
                f"{name}={value}: data.validation={settings.data.validation} is given, so that nothing is split."
                " Leave one of them out."
            )


def _check_scores(settings: Settings) -> None:
    floor = getattr(settings.task, "metric_score_floor", None)
    threshold = getattr(settings.model, "box_score_threshold", None)
    if floor is not None and threshold is not None and floor > threshold:
        raise ConfigError(
            f"task.metric_score_floor={floor:g} is above model.box_score_threshold={threshold:g}: objects that the"
            f" model answers with would not be judged. Give a floor of at most {threshold:g}, or raise"
            " model.box_score_threshold."
        )


def _check_weights(weights: str | None) -> None:
    if weights is not None and Path(weights).is_dir():
        raise WeightsError(
            f"model.weights={weights} is a folder. Name the file in it, which is model/weights.safetensors in a run's."
        )
    if weights is not None and not Path(weights).is_file():
        raise WeightsError(
            f"model.weights={weights}: no such file. Name a file of tensors, or leave model.weights out."
        )


def _check_sizes(settings: Settings, spec: ModelSpec) -> None:
    for name in ("training_crop_size", "validation_crop_size"):
        size = getattr(settings.training, name)
        if spec.fixed_image_size is not None and size != spec.fixed_image_size:
            raise ConfigError(
                f"training.{name}={size}: {spec.name} takes {spec.fixed_image_size} pixels only."
                f" Leave it at {spec.fixed_image_size}, or choose a model that takes any size, such as resnet50."
            )


def is_one_of_many(settings: Settings) -> bool:
    """Whether several processes train together."""
    return settings.trainer.devices * settings.trainer.num_nodes > 1
