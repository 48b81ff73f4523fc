"""What all trials of a sweep start from is kept in its folder: whoever goes on there must start from the same."""

from __future__ import annotations

from pathlib import Path

import yaml

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.run import write
from lightning_automl_vision.training.continuing import FREE, differing, flat_settings

FIXED = "fixed.yaml"
_FREE = (*FREE, "data.test", "job")  # no trial is told of either


def remember_fixed(settings: Settings, folder: Path) -> None:
    """Once, when the sweep begins."""
    file = folder / FIXED
    if not file.exists():
        write(file, yaml.safe_dump(flat_settings(settings)))


def check_fixed(settings: Settings, folder: Path) -> None:
    """ConfigError where a sweep in this folder was begun with something else that its trials' figures depend on."""
    try:
        earlier = yaml.safe_load((folder / FIXED).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return  # there is none yet, or what is there will be found out by whoever needs it
    now = flat_settings(settings)
    key = next(differing(earlier, now, _FREE), None)
    if key is not None:
        raise ConfigError(
            f"output_dir={folder} holds a sweep that was begun with {key}={earlier.get(key)}, and cannot go on with"
            f" {key}={now.get(key)}: its trials could not be compared. Repeat the command that began it, with other"
            " limits at most, or name another output_dir."
        )
