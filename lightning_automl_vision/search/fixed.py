"""What all trials of a sweep start from is kept in its folder: whoever goes on there must start from the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.run import write
from lightning_automl_vision.training.continuing import FREE, differing, flat_settings

FIXED = "fixed.yaml"
NO_TEST = "data.test=null"  # what every trial is told of the test set, which the sweep scores itself
_FREE = (*FREE, "data.test", "job")  # no trial is told of either


def remember_fixed(settings: Settings, folder: Path) -> None:
    """Once, when the sweep begins."""
    file = folder / FIXED
    if not file.exists():
        write(file, yaml.safe_dump(flat_settings(settings)))


def check_fixed(settings: Settings, folder: Path) -> None:
    """ConfigError where a sweep in this folder was begun with something else that its trials' figures depend on."""
    if not (earlier := fixed_in(folder)):
        return
    now = flat_settings(settings)
    key = next(differing(earlier, now, _FREE), None)
    if key is not None:
        raise ConfigError(
            f"output_dir={folder} holds a sweep that was begun with {key}={earlier.get(key)}, and cannot go on with"
            f" {key}={now.get(key)}: its trials could not be compared. Repeat the command that began it, with other"
            " limits at most, or name another output_dir."
        )


def fixed_in(folder: Path) -> dict[str, Any]:
    """By full names; nothing where there is none yet, or where what is there will be found out by whoever needs it."""
    try:
        return dict(yaml.safe_load((folder / FIXED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
