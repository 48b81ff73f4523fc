"""An exported model's folder: as a model's, with the files of a format in place of the weights."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_automl_vision.delivery.companions import write_companions
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.formats import Options, format_named
from lightning_automl_vision.model_folder import LABELS, MODEL, SETTINGS
from lightning_automl_vision.process import requests_to_end
from lightning_automl_vision.result import versions
from lightning_automl_vision.run import write_json
from lightning_automl_vision.storage import missing_of, remove_empty, writing

if TYPE_CHECKING:
    from lightning_automl_vision.predictor import OpenedModel

PARITY = "parity.json"


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
    """Refuse a folder in which there is something, and one beside which nothing that fails could be kept."""
    path, aside = Path(output), aside_of(Path(output))
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output={output} is a file. Name a folder.")
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"output={output} is not empty. Name another folder.")
    if aside.exists() and not (aside / PARITY).is_file():
        raise ConfigError(f"output={output}: an export that fails is kept in {aside}, which is not free. Move it.")


def check_outside(output: str, model: Path) -> None:
    """Refuse a place in the folder of the model, which is copied as a whole."""
    if Path(output).resolve().is_relative_to(model.resolve()):
        raise ConfigError(f"output={output} lies in {model}, the folder of the model itself. Name one beside it.")


def aside_of(output: Path) -> Path:
    """Where an export is kept that is not good enough."""
    return output.with_name(f"{output.name}.failed")


@contextmanager
def beside(output: Path) -> Iterator[Path]:
    """A folder to work in, on the output's disk, which vanishes at the end, however that comes."""
    place = output.absolute().with_name(f".{os.getpid()}.{output.name}")
    missing = missing_of(place.parent)
    try:
        with requests_to_end(_interrupt), writing(output, "output"):
            place.mkdir(parents=True)
            with _held(place):
                _clear_abandoned(place, output.name)
                yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        remove_empty(missing)


@contextmanager
def _held(place: Path) -> Iterator[bool]:
    """Whether this process alone has the folder meanwhile: the system ends that with the process, however it ends."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        yield _can_lock(descriptor)
    finally:
        os.close(descriptor)


def _can_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clear_abandoned(place: Path, name: str) -> None:
    """What exports to the same output have left that were killed."""
    for other in place.parent.iterdir():
        if other != place and re.fullmatch(rf"\.\d+\.{re.escape(name)}", other.name):
            with _held(other) as is_nobodys:
                if is_nobodys:
                    shutil.rmtree(other, ignore_errors=True)


def _interrupt(*_: object) -> None:
    """What exporters that catch every error let through."""
    raise KeyboardInterrupt


def keep(folder: Path, output: Path) -> None:
    """What is done, in its place."""
    if output.is_dir():
        output.rmdir()
    folder.rename(output)


def keep_failed(folder: Path, aside: Path) -> None:
    """What was not good enough, to be looked at, in the place of what failed before."""
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
