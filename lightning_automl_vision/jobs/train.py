"""``lav train``: from labelled images to a model folder."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import (
    ConfigError,
    Interrupted,
    StorageError,
    TrainingError,
    VisionError,
    WeightsError,
)
from lightning_automl_vision.jobs.folds import check_folds, rows_of, trained_in_folds
from lightning_automl_vision.lock import write_lock
from lightning_automl_vision.log import LOG, in_file
from lightning_automl_vision.plugins import model_spec, model_specs
from lightning_automl_vision.result import FINISHED, PrimaryMetric, Result
from lightning_automl_vision.run import RunFolder, finite
from lightning_automl_vision.settings import (
    AugmentConfig,
    JobConfig,
    LimitsConfig,
    ObjectAugmentConfig,
    TrainingConfig,
)
from lightning_automl_vision.specs import TASKS, ModelSpec, TaskSpec, without_published
from lightning_automl_vision.storage import is_full, unwritable
from lightning_automl_vision.tables import table
from lightning_automl_vision.task_settings import ObjectTaskConfig
from lightning_automl_vision.tiler_settings import TilingConfig
from lightning_automl_vision.training.continuing import check_resume, continued
from lightning_automl_vision.unread_keys import unread_keys

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import DataSplits
    from lightning_automl_vision.data.prepared import Transform


@dataclass
class Config(JobConfig):
    """Train one model."""


def run(settings: Settings) -> float | None:
    """Train, and give the primary metric to whoever drives a sweep."""
    return train_model(settings).primary_metric.value


def train_model(settings: Settings, fold: DataSplits[Any] | None = None) -> Result:
    """The whole run, or one fold of it; whatever happens after the folder is made, the folder says it."""
    started = time.monotonic()
    spec = check(settings)
    folder = RunFolder(settings.output_dir)
    folder.check()
    settings = seeded(continued(settings))
    transform = _checked_transform(settings)
    _check_groups(settings, spec)
    folder.create(settings)
    with in_file(folder.path / "run.log"):
        try:
            result, data = _trained(settings, spec, transform, folder, fold)
        except BaseException as error:
            best = folder.best(settings.task.judged_by, lower_is_better=settings.task.lower_is_better)
            told = _told(error, folder, best)
            with suppress(StorageError):  # there is no room for it either
                folder.finish(_unfinished(settings, folder, told, best, time.monotonic() - started))
            if told is error:
                raise
            raise told from error
        result = replace(result, seconds=round(result.seconds + time.monotonic() - started, 3))
        folder.finish(result)
        if result.status in FINISHED and fold is None:
            write_lock(folder.path, settings, data)
        if not settings.quiet and fold is None:
            print(summary(result))
    if result.status == "interrupted":
        kept = "the best epoch so far is kept" if result.primary_metric.epoch else "no epoch was evaluated yet"
        raise Interrupted(f"Interrupted: {kept} in {result.folder}. Repeat the command to go on from there.")
    return result


def _checked_transform(settings: Settings) -> Transform:
    """The first that needs heavy imports."""
    from lightning_automl_vision.training.session import checked_transform

    return checked_transform(settings)


def _check_groups(settings: Settings, spec: ModelSpec) -> None:
    """A model that alone knows its layer groups is made for them, without its weights, before the data are read."""
    frozen, parameters = settings.training.layers_to_freeze, settings.model_parameters
    if not frozen or spec.groups(**parameters) is not None:
        return
    from lightning_automl_vision.training.freezing import freeze

    size = settings.training.validation_crop_size
    model = spec.build_with(without_published(parameters), task=settings.task.name, num_classes=1, image_size=size)
    freeze(model, frozen, spec.name)


def _trained(
    settings: Settings, spec: ModelSpec, transform: Transform, folder: RunFolder, fold: DataSplits[Any] | None
) -> tuple[Result, DataSplits[Any]]:
    spec.check_weights(**settings.model_parameters)
    from lightning_automl_vision.data.labelled import load_data
    from lightning_automl_vision.training.session import TrainingSession

    if fold is None:
        for line in unread_keys(settings):
            LOG.warning(line)
        LOG.info("Reading the labelled images of %s", settings.data.training)
        if settings.data.folds:
            return trained_in_folds(settings, folder)
    seed = int(settings.training.random_seed or 0)
    data = fold or load_data(settings.data, settings.task.name, seed=seed)
    LOG.info(
        "%d images to train on, %d to validate on, %d classes; %s in %s",
        len(data.training),
        len(data.validation),
        len(data.classes),
        spec.name,
        folder.path,
    )
    if settings.task.lower_is_better:
        LOG.info("No metrics are computed: the lowest %s ends training and picks the epoch.", settings.task.judged_by)
    session = TrainingSession.prepare(settings, spec, data, transform, seed)
    fitted = session.fit(folder)
    if fitted.best_epoch is not None:
        session.save(folder, fitted.best_metrics)
    test = session.score(data.test) if data.test is not None else {}
    result = Result(
        status=fitted.status,
        task=settings.task.name,
        model=settings.model.name,
        primary_metric=PrimaryMetric(
            name=settings.task.judged_by,
            value=finite(fitted.best_metrics.get(settings.task.judged_by)),
            epoch=fitted.best_epoch,
        ),
        metrics=finite(fitted.best_metrics),
        test_metrics=finite(test),
        data=_counts(data),
        epochs=fitted.epochs,
        seconds=fitted.seconds_before,
        random_seed=seed,
        folder=str(folder.path),
        reason=fitted.reason,
    )
    return result, data


def _counts(data: DataSplits[Any]) -> dict[str, Any]:
    return {
        "training": len(data.training),
        "validation": len(data.validation),
        "test": len(data.test) if data.test is not None else 0,
        "classes": len(data.classes),
        "dropped": dict(data.dropped),
    }


def summary(result: Result) -> str:
    """The table at the end of a run."""
    primary = result.primary_metric
    rows = [
        ("status", f"{result.status}: {result.reason}" if result.reason else result.status),
        (
            primary.name,
            _figure(primary.value)
            + (f" (epoch {primary.epoch} of {result.epochs})" if primary.epoch and not result.folds else ""),
        ),
        *rows_of(result),
        *(
            [(f"{primary.name}, test set", _figure(result.test_metrics.get(primary.name)))]
            if result.test_metrics
            else []
        ),
        ("model", result.model),
        ("images", _images(result)),
        ("dropped", ", ".join(f"{reason} {count}" for reason, count in result.data["dropped"].items()) or "nothing"),
        ("seconds", f"{result.seconds:.0f}"),
        ("folder", result.folder),
    ]
    return table(("run", ""), rows)


def _images(result: Result) -> str:
    training, validation = result.data["training"], result.data["validation"]
    if result.folds:
        return f"{training}, of which {validation} were judged by models that had not seen them"
    return f"{training} to train on, {validation} to validate on"


def _figure(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.4f}"


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
    _check_augment(settings.augment, task)
    _check_tiler(settings, task)
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


def _told(error: BaseException, folder: RunFolder, best: PrimaryMetric) -> BaseException:
    """The same error, with what is left of the training after all."""
    if is_full(error):  # a tracker's, or anyone's who writes
        error = unwritable(Path(str(error.filename or folder.path)), error)
    if not isinstance(error, TrainingError) or best.epoch is None:
        return error
    return type(error)(f"{error} The best epoch so far, {best.epoch}, is kept in {folder.path}/checkpoints/best.ckpt.")


def _unfinished(
    settings: Settings, folder: RunFolder, error: BaseException, best: PrimaryMetric, seconds: float
) -> Result:
    status = "interrupted" if isinstance(error, (KeyboardInterrupt, Interrupted)) else "failed"
    reason = str(error) if isinstance(error, VisionError) else f"{type(error).__name__}: {error}"
    return Result(
        status=status,
        task=settings.task.name,
        model=settings.model.name,
        primary_metric=best,
        seconds=round(seconds, 3),
        folder=str(folder.path),
        error=None if status == "interrupted" else reason,
    )
