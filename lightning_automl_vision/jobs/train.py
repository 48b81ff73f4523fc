"""``lav train``: from labelled images to a model folder."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import (
    Interrupted,
    StorageError,
    TrainingError,
    VisionError,
)
from lightning_automl_vision.jobs.checking import check, is_one_of_many, seeded
from lightning_automl_vision.jobs.folds import rows_of, trained_in_folds
from lightning_automl_vision.jobs.following import followed
from lightning_automl_vision.lock import write_lock
from lightning_automl_vision.log import LOG, in_file
from lightning_automl_vision.mlflow_runs import check_installed, publish, tracked
from lightning_automl_vision.result import FINISHED, PrimaryMetric, Result
from lightning_automl_vision.run import RunFolder, finite
from lightning_automl_vision.settings import (
    JobConfig,
)
from lightning_automl_vision.specs import ModelSpec, without_published
from lightning_automl_vision.storage import is_full, unwritable
from lightning_automl_vision.tables import table
from lightning_automl_vision.training.continuing import continued, reading
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
    if is_one_of_many(settings) and fold is None:
        from lightning_automl_vision.training.ranks import end_with_parent, is_follower

        end_with_parent()
        if is_follower(settings.trainer):
            seen = _checked_transform(settings)
            return followed(settings, lambda asked, path, data: _trained(asked, spec, seen, RunFolder(path), data)[0])
    folder = RunFolder(settings.output_dir)
    folder.check()
    check_installed(settings.logger)
    settings = seeded(continued(settings))
    transform = _checked_transform(settings)
    _check_groups(settings, spec)
    folder.create(settings)
    with in_file(folder.path / "run.log"):
        try:
            settings = tracked(settings, folder.path, several=bool(settings.data.folds) and fold is None)
            with _connected(settings, folder, started, fold):
                result, data = _trained(settings, spec, transform, folder, fold)
        except BaseException as error:
            told = _written_down(error, settings, folder, time.monotonic() - started)
            if told is error:
                raise
            raise told from error
        result = replace(result, seconds=round(result.seconds + time.monotonic() - started, 3))
        folder.finish(result)
        if fold is None:
            if result.status in FINISHED:
                write_lock(folder.path, settings, data)
            _write_card(folder.path)
        publish(settings, folder.path, result)
        if not settings.quiet and fold is None:
            print(summary(result))
    if result.status == "interrupted":
        kept = "the best epoch so far is kept" if result.primary_metric.epoch else "no epoch was evaluated yet"
        raise Interrupted(f"Interrupted: {kept} in {result.folder}. Repeat the command to go on from there.")
    return result


def _write_card(folder: Path) -> None:
    from lightning_automl_vision.model_card import write_card

    write_card(folder)


def _connected(
    settings: Settings, folder: RunFolder, started: float, fold: DataSplits[Any] | None
) -> AbstractContextManager[None]:
    """With the other processes of this training, where there are any; they hear of its seed and its folder.

    They stay together for all of its folds.
    """
    if not is_one_of_many(settings) or fold is not None:
        return nullcontext()
    from lightning_automl_vision.training.devices import device_of
    from lightning_automl_vision.training.gathering import told
    from lightning_automl_vision.training.ranks import connected

    def lost(error: VisionError) -> None:
        """Called where this process itself waits for ever."""
        LOG.error(str(_written_down(error, settings, folder, time.monotonic() - started)))

    @contextmanager
    def telling() -> Iterator[None]:
        with connected(settings, folder.path, device=device_of(settings.trainer.accelerator), lost=lost):
            told((settings.training.random_seed, str(folder.path)))
            yield

    return telling()


def _written_down(error: BaseException, settings: Settings, folder: RunFolder, seconds: float) -> BaseException:
    """The same error, as far as it is told; result.json says it too."""
    best = folder.best(settings.task.judged_by, lower_is_better=settings.task.lower_is_better)
    told = _told(error, folder, best)
    result = _unfinished(settings, folder, told, best, seconds)
    with suppress(StorageError):  # there is no room for it either
        folder.finish(result)
    publish(settings, folder.path, result)
    return told


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
    from lightning_automl_vision.training.gathering import is_first
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
    with reading(folder.path, ignores_faults=settings.data.ignore_data_errors):
        fitted = session.fit(folder)
        if fitted.best_epoch is not None and is_first():
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
        data=_counts(data, session.lost),
        started_from={} if session.carried is None else session.carried.as_dict(),
        epochs=fitted.epochs,
        seconds=fitted.seconds_before,
        random_seed=seed,
        folder=str(folder.path),
        reason=fitted.reason,
        batch_size=session.batch_size,
        validation_batch_size=session.validation_batch_size,
    )
    return result, data


def _counts(data: DataSplits[Any], lost: Collection[str]) -> dict[str, Any]:
    """``lost`` are the images that could no longer be read while training."""
    return {
        "training": len(data.training),
        "validation": len(data.validation),
        "test": len(data.test) if data.test is not None else 0,
        "classes": len(data.classes),
        "dropped": {**data.dropped, **({"image lost while training": len(lost)} if lost else {})},
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
