"""``lav convert``: any labelled images that can be read, as JSON Lines; imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key
from lightning_automl_vision.settings import DataConfig, JobConfig


@dataclass
class Config(JobConfig):
    """Write labelled images as JSON Lines; how they are read is said by ``data.*``."""

    input: str = key("???", "The labelled images to read: a file or a folder.")
    output: str = key("???", "The JSON Lines file to write.")


def run(settings: Settings) -> None:
    job = settings.job
    if not isinstance(job, Config):
        raise ConfigError(f"job={job.name} is not convert.")
    convert(settings.task.name, job.input, job.output, settings.data)


def convert(task: str, source: str, output: str, config: DataConfig) -> int:
    """Read, check and write; says in one line what was written and gives the number of lines."""
    from lightning_automl_vision.data.classes import shown_names
    from lightning_automl_vision.data.labelled import read_labelled
    from lightning_automl_vision.data.rows import is_pattern
    from lightning_automl_vision.data.writing import jsonl_lines, write_atomically

    target = Path(os.path.abspath(output))
    if target.is_dir():
        raise ConfigError(
            f"output={output} is a folder. Name the file to write, such as {output.rstrip('/')}/train.jsonl."
        )
    if os.path.exists(source) and target.exists() and os.path.samefile(source, target):
        raise ConfigError(f"output={output} is the input itself. Name another file.")
    images = read_labelled(source, task, config)
    group_key = None if config.group_by is None or is_pattern(config.group_by) else config.group_by
    count = write_atomically(jsonl_lines(images, task, target.parent, group_key), target)
    labels = sum(len(sample.target.labels) for sample in images.samples)
    kind = "labels" if task.startswith("image_classification") else "objects"
    dropped = ", ".join(f"{reason} {number}" for reason, number in sorted(images.dropped.items()))
    print(
        f"{output}: {count} images, {labels} {kind}, {len(images.classes)} classes ({shown_names(images.classes)})"
        + (f"; dropped: {dropped}." if dropped else ".")
    )
    return count
