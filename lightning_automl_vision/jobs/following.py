"""What every process of a training does but the first, which alone writes: the same, in a folder that is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.log import LOG, silent
from lightning_automl_vision.result import PrimaryMetric, Result

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import DataSplits

# Trains on the data of a fold, or on all, beside the first process with its folder.
Train = Callable[[Settings, str, "DataSplits[Any] | None"], Result]


def followed(settings: Settings, train: Train) -> Result:
    """Of several folds the result is that of the last one."""
    from lightning_automl_vision.training.devices import device_of
    from lightning_automl_vision.training.gathering import told
    from lightning_automl_vision.training.ranks import connected

    with TemporaryDirectory(prefix="lav_") as left, silent():
        accelerator = device_of(settings.trainer.accelerator)
        with connected(settings, Path(left), device=accelerator, lost=lambda error: LOG.error(str(error))):
            seed, folder = told((0, ""))
            settings = replace(settings, output_dir=left, training=replace(settings.training, random_seed=seed))
            if settings.data.folds:
                return _followed_in_folds(settings, seed, train)
            return train(settings, folder, None)


def _followed_in_folds(settings: Settings, seed: int, train: Train) -> Result:
    """Those that the first process names, as they come: it alone knows which are done, and when there are enough."""
    from lightning_automl_vision.data.labelled import load_folds
    from lightning_automl_vision.training.gathering import told

    data = load_folds(settings.data, settings.task.name, seed=seed)
    metric = PrimaryMetric(name=settings.task.judged_by)
    result = Result(status="completed", task=settings.task.name, model=settings.model.name, primary_metric=metric)
    unheard: tuple[int, str] | None = None
    while (named := told(unheard)) is not None:
        number, folder = named
        result = train(settings, folder, data.fold(number))
    return result
