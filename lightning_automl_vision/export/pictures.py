"""Which pictures an export is compared on: those a run was validated on, or others that are given."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, DataError, VisionError
from lightning_automl_vision.lock import CONFIG
from lightning_automl_vision.log import LOG
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.task_settings import ObjectTaskConfig, TaskConfig
from lightning_automl_vision.validated_on import validation_of

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import LabelledImages
    from lightning_automl_vision.model_folder import ModelCard


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Names and places of pictures; where their labels are known the set they are from, which is ``judged_by`` that."""

    source: str
    names: Sequence[str]
    places: Sequence[str]
    judged_by: TaskConfig
    labelled: LabelledImages[Any] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def chosen(self, count: int, *, without: Sequence[int] = ()) -> tuple[Pictures, list[int]]:
        """So many, spread evenly, of those whose index is not among ``without`` where there are others."""
        from lightning_automl_vision.data.labelled import part_of

        taken = {*without}
        free = [index for index in range(len(self)) if index not in taken] or list(range(len(self)))
        steps = np.linspace(0, len(free) - 1, min(count, len(free))).round().astype(int)
        indices = [free[step] for step in steps]
        labelled = None if self.labelled is None else part_of(self.labelled, indices)
        names, places = ([values[index] for index in indices] for values in (self.names, self.places))
        return replace(self, names=names, places=places, labelled=labelled), indices


def pictures_for(settings: Settings, card: ModelCard, folder: Path, images: str | None) -> Pictures:
    """Those that ``images`` names, else those that the run of this model folder was validated on."""
    return _validated_on(settings, card, folder) if images is None else _given(settings, card, folder, images)


def _given(settings: Settings, card: ModelCard, folder: Path, images: str) -> Pictures:
    """With their labels, where they have any that are understood."""
    from lightning_automl_vision.data.inputs import pictures_of
    from lightning_automl_vision.data.labelled import read_labelled

    if "://" not in images and not glob.has_magic(images) and not Path(images).exists():
        raise DataError(f"images={images}: there is no such file or folder. Name labelled images, or pictures.")
    judged_by = _judged_by(card, _trained(settings, folder.parent))
    try:
        labelled = read_labelled(images, card.task, settings.data, classes=tuple(card.labels), role="validation")
        return _of(labelled, images, judged_by)
    except (DataError, ConfigError) as error:
        found = pictures_of(images, settings.data)
        if faults := [picture.fault for picture in found if picture.fault is not None]:
            raise DataError(faults[0]) from None
        LOG.warning("images=%s is taken without labels, so that answers alone are compared: %s", images, error)
    return Pictures(
        source=images,
        names=[picture.name for picture in found],
        places=[picture.image for picture in found],
        judged_by=judged_by,
    )


def _validated_on(settings: Settings, card: ModelCard, folder: Path) -> Pictures:
    from lightning_automl_vision.written_settings import settings_in

    run = folder.parent
    if not (run / CONFIG).is_file():
        raise ConfigError(
            f"{folder} lies in no run's folder, so that nobody knows what it was validated on. Name pictures to compare"
            " the export on: images=PATH; without quantise, parity.images=0 leaves the comparison out."
        )
    trained = settings_in(run / CONFIG, settings, ())
    images, lock = validation_of(run, trained, card.task, key="images")
    was = None if lock is None else lock.data.get("validation")
    if was is not None and was.images != len(images):
        LOG.warning("%s was validated on %d images, and %d are there now.", run, was.images, len(images))
    return _of(images, images.source, _judged_by(card, trained))


def _trained(settings: Settings, run: Path) -> Settings | None:
    from lightning_automl_vision.written_settings import settings_in

    try:
        return settings_in(run / CONFIG, settings, ()) if (run / CONFIG).is_file() else None
    except VisionError:
        return None


def _judged_by(card: ModelCard, trained: Settings | None) -> TaskConfig:
    """As in its training, where that is known; by a metric at least, and by what is answered at all."""
    task = TASKS[card.task]
    if trained is None or trained.task.name != task.name:
        return task.config(name=task.name, primary_metric=task.primary_metric)
    known = trained.task
    if not isinstance(known, ObjectTaskConfig):
        return known
    measured = "voc" if known.lower_is_better else known.validation_metric_type
    return replace(known, validation_metric_type=measured, metric_score_floor=None)


def _of(images: LabelledImages[Any], source: str, judged_by: TaskConfig) -> Pictures:
    return Pictures(
        source=source,
        names=[images.name(index) for index in range(len(images))],
        places=[sample.image for sample in images.samples],
        judged_by=judged_by,
        labelled=images,
    )
