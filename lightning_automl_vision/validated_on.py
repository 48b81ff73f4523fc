"""The images that a finished run was validated on, read again as its own configuration says."""

from __future__ import annotations

from contextlib import chdir, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, DataError, VisionError
from lightning_automl_vision.lock import CONFIG, LOCK, Lock, read_lock

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import LabelledImages


def validated_on(run: Path, command: Settings, task: str) -> LabelledImages[Any]:
    """VisionError where they are not known, cannot be read, or are not what they were."""
    from lightning_automl_vision.written_settings import settings_in

    if not (run / CONFIG).is_file():
        raise ConfigError(
            f"input is not given, and {run} is no run's folder, so that nobody knows what its model was validated on."
            " Name labelled images: input=PATH."
        )
    trained = settings_in(run / CONFIG, command, ())
    if trained.data.folds:
        raise ConfigError(
            f"input is not given, and {run} was validated in folds, each by another model. Name labelled images:"
            " input=PATH."
        )
    images, lock = validation_of(run, trained, task, key="input")
    _check_unchanged(images, lock, run)
    return images


def validation_of(run: Path, trained: Settings, task: str, *, key: str) -> tuple[LabelledImages[Any], Lock | None]:
    """As they are now, of folds the first; ``trained`` is the run's configuration, ``key`` names others to the user."""
    from lightning_automl_vision.data.labelled import load_data

    lock = read_lock(run) if (run / LOCK).is_file() else None
    place = lock.working_folder if lock is not None else ""
    seed = trained.training.random_seed or (lock.random_seed if lock is not None else 0)
    try:
        with chdir(place) if place and Path(place).is_dir() else nullcontext():
            return load_data(trained.data, task, seed=int(seed)).validation, lock
    except VisionError as error:
        raise type(error)(
            f"What {run} was validated on cannot be read: {error} Or name other labelled images: {key}=PATH."
        ) from None


def _check_unchanged(images: LabelledImages[Any], lock: Lock | None, run: Path) -> None:
    from lightning_automl_vision.data.manifest import difference, manifest_of

    was = None if lock is None else lock.data.get("validation")
    changed = None if was is None else difference(was, manifest_of(images), images)
    if changed is not None:
        raise DataError(
            f"The images that {run} was validated on are no longer what they were: {changed}. Bring them back, or name"
            " others: input=PATH."
        )
