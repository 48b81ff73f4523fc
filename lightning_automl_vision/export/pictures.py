"""Which pictures an export is compared on: those a run was validated on, or others that are given."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, DataError, VisionError
from lightning_automl_vision.lock import CONFIG, LOCK, read_lock
from lightning_automl_vision.log import LOG

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import LabelledImages
    from lightning_automl_vision.model_folder import ModelCard


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Names and places of pictures, and the set they are from where their labels are known."""

    source: str
    names: Sequence[str]
    places: Sequence[str]
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
        return Pictures(source=self.source, names=names, places=places, labelled=labelled), indices


def pictures_for(settings: Settings, card: ModelCard, folder: Path, images: str | None) -> Pictures:
    """Those that ``images`` names, else those that the run of this model folder was validated on."""
    return _validated_on(settings, card, folder) if images is None else _given(settings, card, images)


def _given(settings: Settings, card: ModelCard, images: str) -> Pictures:
    """With their labels, where they have any that are understood."""
    from lightning_automl_vision.data.inputs import pictures_of
    from lightning_automl_vision.data.labelled import read_labelled

    if "://" not in images and not glob.has_magic(images) and not Path(images).exists():
        raise DataError(f"images={images}: there is no such file or folder.")
    try:
        return _of(
            read_labelled(images, card.task, settings.data, classes=tuple(card.labels), role="validation"), images
        )
    except (DataError, ConfigError) as error:
        found = pictures_of(images, settings.data)
        LOG.warning("images=%s is taken without labels, so that answers alone are compared: %s", images, error)
    return Pictures(
        source=images, names=[picture.name for picture in found], places=[picture.image for picture in found]
    )


def _validated_on(settings: Settings, card: ModelCard, folder: Path) -> Pictures:
    from lightning_automl_vision.data.labelled import load_data
    from lightning_automl_vision.written_settings import settings_in

    run = folder.parent
    if not (run / CONFIG).is_file():
        raise ConfigError(
            f"{folder} lies in no run's folder, so that nobody knows what it was validated on. Name pictures to compare"
            " the export on: images=PATH; without quantise, parity.images=0 leaves the comparison out."
        )
    try:
        trained = settings_in(run / CONFIG, settings, ())
        lock = read_lock(run) if (run / LOCK).is_file() else None
        place = lock.working_folder if lock is not None else ""
        seed = trained.training.random_seed or (lock.random_seed if lock is not None else 0)
        with chdir(place) if Path(place).is_dir() and place else nullcontext():
            images = load_data(trained.data, card.task, seed=seed).validation
    except VisionError as error:
        raise type(error)(
            f"What {run} was validated on cannot be read: {error} Or name other pictures to compare the export on:"
            " images=PATH."
        ) from None
    _check_unchanged(images, lock.data if lock is not None else {}, run)
    return _of(images, images.source)


def _check_unchanged(images: LabelledImages[Any], known: Mapping[str, Any], run: Path) -> None:
    was = known.get("validation")
    if was is not None and was.images != len(images):
        LOG.warning("%s was validated on %d images, and %d are there now.", run, was.images, len(images))


def _of(images: LabelledImages[Any], source: str) -> Pictures:
    return Pictures(
        source=source,
        names=[images.name(index) for index in range(len(images))],
        places=[sample.image for sample in images.samples],
        labelled=images,
    )
