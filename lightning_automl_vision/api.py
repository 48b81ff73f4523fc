"""The Python door: the command line's words as keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lightning_automl_vision.arguments import ROOT
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.config_errors import explain, unknown_key
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.log import on_console
from lightning_automl_vision.result import Result
from lightning_automl_vision.search.overrides import as_overrides


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


def _overrides(keys: Mapping[str, Any]) -> list[str]:
    for key in keys:
        if key not in ROOT:
            raise ConfigError(unknown_key(key))
    return as_overrides(keys, literal=False)
