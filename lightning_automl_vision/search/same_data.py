"""All trials of a sweep learn from the same images: the first keeps in its folder what tells them from any others."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.run import write
from lightning_automl_vision.search.fixed import FIXED
from lightning_automl_vision.search.watching import TRIAL_FOLDER
from lightning_automl_vision.storage import share, writing
from lightning_automl_vision.training.continuing import FREE, flat_settings

_DATA = "data"
_DECISIVE = ("training.random_seed", "task.name")


class OtherDataError(ConfigError):
    """By its exit code a trial tells its sweep, which ends."""

    exit_code = 10


def is_trial() -> bool:
    """Whether this process trains for a sweep that remembers what is fixed."""
    trial = os.environ.get(TRIAL_FOLDER)
    return trial is not None and (Path(trial).parent / FIXED).exists()


def check_same_data(settings: Settings, folder: Path, found: str) -> None:
    """Nothing outside a sweep; in one, trials that are to be given the same data must have ``found`` the same."""
    if not is_trial():
        return
    trial = os.environ[TRIAL_FOLDER]
    sweep = Path(trial).parent
    if _first(sweep / _DATA / f"{_asked(settings, os.path.relpath(folder, trial))}.txt", found) != found:
        raise OtherDataError(
            f"output_dir={sweep} holds a sweep that cannot go on: the images or labels its trials were trained on have"
            " changed since. Give it those it had, or name another output_dir."
        )


def _asked(settings: Settings, fold: str) -> str:
    """Of what decides on the images of a trial."""
    decisive = {
        name: value
        for name, value in flat_settings(settings).items()
        if name in _DECISIVE or (name.startswith("data.") and name not in (*FREE, "data.test"))
    }
    return hashlib.sha256(json.dumps([fold, decisive], sort_keys=True).encode()).hexdigest()[:16]


def _first(file: Path, text: str) -> str:
    """What the file holds, which is this text if nobody was faster."""
    with writing(file):
        file.parent.mkdir(exist_ok=True)
        with NamedTemporaryFile("w", dir=file.parent, prefix=".") as part:
            part.write(text)
            part.flush()
            share(Path(part.name))
            with suppress(FileExistsError):
                try:
                    os.link(part.name, file)
                except (PermissionError, NotImplementedError):  # a file system that knows no links
                    if not file.exists():
                        write(file, text)
    return file.read_text(encoding="utf-8")
