"""The Python door: the command line's words as keyword arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lightning_automl_vision.arguments import GROUPS, ROOT
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.config_errors import explain, known_keys, unknown_key
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.log import on_console
from lightning_automl_vision.result import Result


def train(*, experiment: str | None = None, **keys: Any) -> Result:
    """Train one model; a group is a choice, a mapping of its keys, or a mapping with its choice under ``name``.

    ``train(task="image_classification", model="resnet18", data={"training": "photos/"},
    training={"number_of_epochs": 5}, output_dir="run")``
    """
    from lightning_automl_vision.jobs.train import train_model

    asked = settings(experiment=experiment, **keys)
    with on_console(quiet=asked.quiet):
        return train_model(asked)


def settings(*, experiment: str | None = None, **keys: Any) -> Settings:
    """What the keyword arguments compose to, checked."""
    overrides = [*([f"+experiment={experiment}"] if experiment else []), *_overrides(keys)]
    register()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR), job_name="lightning_automl_vision"):
            config = compose(config_name="config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from None
    return Settings.from_config(config, tuple(overrides))


def _overrides(keys: Mapping[str, Any]) -> Iterator[str]:
    for key, value in keys.items():
        if key not in ROOT:
            raise ConfigError(unknown_key(key))
        if key in GROUPS and isinstance(value, Mapping):
            below = dict(value)
            if "name" in below:
                yield f"{key}={below.pop('name')}"
            yield from _below(key, below)
        elif key in GROUPS:
            yield f"{key}={value}"
        else:
            yield f"{key}={_quoted(value)}"


def _below(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}.{key}" not in dict(known_keys()):
            yield from _below(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}={_quoted(value)}"


def _quoted(value: Any) -> str:
    """The value in hydra's grammar, whatever characters it holds."""
    if isinstance(value, (str, PathLike)):
        # Hydra halves the backslashes before a quote, and only those.
        text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), fspath(value))
        return f"'{text}'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_quoted(item) for item in value) + "]"
    return json.dumps(value)
