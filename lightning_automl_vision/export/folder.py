"""An exported model's folder: as a model's, with the files of a format in place of the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_automl_vision.delivery.companions import write_companions
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.formats import Options, format_named
from lightning_automl_vision.model_folder import LABELS, MODEL, SETTINGS
from lightning_automl_vision.result import versions
from lightning_automl_vision.run import write_json
from lightning_automl_vision.storage import writing

if TYPE_CHECKING:
    from lightning_automl_vision.predictor import OpenedModel

PARITY = "parity.json"
FAILED = ".failed"


def write_folder(opened: OpenedModel, format: str, options: Options, folder: Path) -> None:
    """``model.json`` comes last; settings and labels are those of the model as they are."""
    module = format_named(format)
    facts = module.write(opened, folder, options)
    for name in (SETTINGS, LABELS):
        shutil.copyfile(opened.folder / name, folder / name)
    write_companions(folder, opened.card.name, module.TO_ASK)
    description = json.loads((opened.folder / MODEL).read_text(encoding="utf-8"))
    description.pop("weights", None)
    write_json(folder / MODEL, {**description, "versions": versions(), "exported": dict(facts)})


def check_free(output: str) -> None:
    """Refuse a folder in which there is something."""
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output={output} is a file. Name a folder.")
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"output={output} is not empty. Name another folder.")


@contextmanager
def beside(output: Path) -> Iterator[Path]:
    """A folder to work in, on the output's disk, which vanishes at the end."""
    place = output.absolute().with_name(f".{os.getpid()}.{output.name}")
    try:
        with writing(output):
            place.mkdir(parents=True)
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def keep(folder: Path, output: Path) -> None:
    """What is done, in its place."""
    if output.is_dir():
        output.rmdir()
    folder.rename(output)


def keep_failed(folder: Path, output: Path) -> Path:
    """What was not good enough, to be looked at, in the place of what failed before."""
    place = output.with_name(f"{output.name}{FAILED}")
    shutil.rmtree(place, ignore_errors=True)
    folder.rename(place)
    return place


def bytes_of(folder: Path) -> int:
    """Of the network's files."""
    facts = json.loads((folder / MODEL).read_text(encoding="utf-8"))["exported"]
    return sum((folder / name).stat().st_size for name in facts["files"])
