"""What a trial was to train, as it wrote it down itself: whether it obeyed, and whether another did the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_automl_vision.arguments import is_group

# What decides nothing about what is trained, or is the sweep's own.
_ASIDE = ("output_dir", "quiet", "limits", "logger", "resume")


def configuration(folder: Path) -> DictConfig:
    """What a run says that it was asked for."""
    loaded = OmegaConf.load(folder / "config.yaml")
    assert isinstance(loaded, DictConfig)
    return loaded


def hash_of(used: DictConfig) -> str:
    """The same for any two runs that train the same."""
    plain = OmegaConf.to_container(used, resolve=True)
    assert isinstance(plain, dict)
    decisive = {key: value for key, value in plain.items() if key not in _ASIDE}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


def not_obeyed(values: Mapping[str, Any], used: DictConfig) -> str | None:
    """Every value that was drawn must stand in the configuration that the trial says it had."""
    for key, value in values.items():
        there = OmegaConf.select(used, key.lstrip("+"))
        there = OmegaConf.to_container(there) if OmegaConf.is_config(there) else there
        if is_group(key):  # of which the configuration keeps the keys, and of some the name
            there = there.get("name", value) if isinstance(there, dict) else value
        if there != value:
            return f"{key}={value!r} was asked for, and {there!r} was used"
    return None


def without_effect(values: Mapping[str, Any], others: Sequence[tuple[int, Mapping[str, Any]]]) -> str | None:
    """Why different values that came to one configuration cannot stand; ``others`` are trials that came to the same.

    Values of different keys, as those of two spaces, may well meet.
    """
    for number, theirs in others:
        for key in values:
            if key in theirs and theirs[key] != values[key]:
                return (
                    f"{key}={values[key]!r} trains the same as trial {number} with {key}={theirs[key]!r}: the key, or"
                    " the choice between these two, has no effect; leave it out of the space"
                )
    return None
