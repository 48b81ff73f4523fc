"""``lav convert``: any labelled images that can be read, as JSON Lines; imports torch only to augment."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key
from lightning_automl_vision.settings import DataConfig, JobConfig

if TYPE_CHECKING:
    from lightning_automl_vision.data.copying import Copies
    from lightning_automl_vision.data.labelled import LabelledImages


_OF_COPIES = ("augment", "training", "model")
_OF_TRAINING = ("trainer", "limits", "logger", "tiler", "checkpoint", "runs", "resume")


@dataclass
class Config(JobConfig):
    """Write labelled images as JSON Lines, with augmented copies if asked; how they are read is said by ``data.*``."""

    input: str = key("???", "The labelled images to read: a file or a folder.")
    output: str = key("???", "The JSON Lines file to write.")
    copies: int = key(
        0,
        "How many copies of each image are written too, augmented as `augment` says and not resized; data.group_by="
        "original then keeps them on one side of a split.",
        minimum=0,
        maximum=1000,
    )
    images_dir: str | None = key(
        None, "The new folder for the copies' pictures; by default it is named after the output: train_images."
    )


def run(settings: Settings) -> None:
    job = settings.job
    if not isinstance(job, Config):
        raise ConfigError(f"job={job.name} is not convert.")
    _check(settings, job)
    if job.copies:
        convert_with_copies(settings, job)
        return
    convert(settings.task.name, job.input, job.output, settings.data)


def _check(settings: Settings, job: Config) -> None:
    """Refuse what would not be obeyed."""
    if job.images_dir is not None and not job.copies:
        raise ConfigError(f"images_dir={job.images_dir}: there are no pictures to write. Ask for some: copies=1.")
    for name, value in given(settings.overrides):
        group = name.partition(".")[0]
        if group in _OF_COPIES and not job.copies:
            raise ConfigError(f"{name}={value}: nothing is augmented without copies. Ask for some: copies=1.")
        if group in _OF_TRAINING:
            raise ConfigError(f"{name}={value}: lav convert trains nothing and has no use for it. Leave it out.")


def convert(task: str, source: str, output: str, config: DataConfig) -> int:
    """Read, check and write; says in one line what was written and gives the number of lines."""
    from lightning_automl_vision.data.writing import jsonl_lines, write_atomically

    target = _target(source, output)
    images = _read(source, task, config)
    count = write_atomically(jsonl_lines(images, task, target.parent, _group_key(config)), target)
    print(f"{output}: {count} images, {_contents(images, task)}.")
    return count


def convert_with_copies(settings: Settings, job: Config) -> int:
    """The same with augmented copies after the originals; nothing appears before all of them are made."""
    from lightning_automl_vision.data.copying import Copies, check_new_folder
    from lightning_automl_vision.data.writing import write_atomically
    from lightning_automl_vision.jobs.checking import seeded

    target = _target(job.input, job.output)
    pictures = Path(os.path.abspath(job.images_dir or target.with_name(f"{target.stem}_images")))
    check_new_folder(pictures)
    settings = seeded(settings)
    copies = Copies(
        transform=_offline_transform(settings, job),
        number=job.copies,
        seed=int(settings.training.random_seed or 0),
        maximum_pixels=settings.data.maximum_image_pixels,
    )
    images = _read(job.input, settings.task.name, settings.data)
    with closing(_lines(images, settings, target.parent, copies, pictures)) as lines:
        count = write_atomically(lines, target)
    contents = _contents(images, settings.task.name)
    print(f"{job.output}: {count} images, {len(images)} of them originals with {contents}.\n{_said(copies, pictures)}")
    return count


def _lines(
    images: LabelledImages[Any], settings: Settings, folder: Path, copies: Copies, pictures: Path
) -> Generator[dict[str, Any]]:
    from lightning_automl_vision.data.copying import copied_lines
    from lightning_automl_vision.data.writing import jsonl_lines

    task, group_key = settings.task.name, _group_key(settings.data)
    yield from jsonl_lines(images, task, folder, group_key, with_originals=True)
    yield from copied_lines(images, task, folder, group_key, copies, pictures)


def _said(copies: Copies, pictures: Path) -> str:
    dropped = f"; {copies.dropped} objects were cut away in them" if copies.dropped else ""
    return (
        f"{pictures}: the augmented pictures, made with training.random_seed={copies.seed}{dropped}."
        " Train with data.group_by=original, so that no image is on both sides of a split."
    )


def _offline_transform(settings: Settings, job: Config) -> Any:
    """Refuses copies that would be the originals again."""
    from lightning_automl_vision.augment import build_offline_transform
    from lightning_automl_vision.object_augment import build_object_transform
    from lightning_automl_vision.settings import ObjectAugmentConfig

    augment = settings.augment
    if isinstance(augment, ObjectAugmentConfig):
        transform: Any = build_object_transform(augment, None)
    else:
        transform = build_offline_transform(augment, settings.training)
    if not transform.is_random:
        raise ConfigError(
            f"copies={job.copies}: nothing is augmented, so that they would be the originals again."
            " Leave augment out for the documented augmentation, or ask for copies=0."
        )
    return transform


def _target(source: str, output: str) -> Path:
    target = Path(os.path.abspath(output))
    if target.is_dir():
        raise ConfigError(
            f"output={output} is a folder. Name the file to write, such as {output.rstrip('/')}/train.jsonl."
        )
    if os.path.exists(source) and target.exists() and os.path.samefile(source, target):
        raise ConfigError(f"output={output} is the input itself. Name another file.")
    return target


def _read(source: str, task: str, config: DataConfig) -> LabelledImages[Any]:
    from lightning_automl_vision.data.labelled import read_labelled

    return read_labelled(source, task, config)


def _group_key(config: DataConfig) -> str | None:
    from lightning_automl_vision.data.rows import is_pattern

    return None if config.group_by is None or is_pattern(config.group_by) else config.group_by


def _contents(images: LabelledImages[Any], task: str) -> str:
    from lightning_automl_vision.data.classes import shown_names

    labels = sum(len(sample.target.labels) for sample in images.samples)
    kind = "labels" if task.startswith("image_classification") else "objects"
    dropped = ", ".join(f"{reason} {number}" for reason, number in sorted(images.dropped.items()))
    text = f"{labels} {kind}, {len(images.classes)} classes ({shown_names(images.classes)})"
    return f"{text}; dropped: {dropped}" if dropped else text
