"""The trackers that are asked for: Lightning's loggers, each an extra of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger

from lightning_automl_vision.errors import ConfigError

# Faults of a tracker are nobody else's business; MLflow's telemetry is off from the package's own import on.
_SILENT = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


def make_trackers(config: Mapping[str, Any]) -> list[Logger]:
    """One for each node of the ``logger`` group; ConfigError with the pip command when its package is missing."""
    for variable, value in _SILENT.items():
        os.environ.setdefault(variable, value)
    return [_tracker(name, node) for name, node in config.items()]


def _tracker(name: str, node: Mapping[str, Any]) -> Logger:
    try:
        tracker: Logger = instantiate(node)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError):
            raise ConfigError(
                f"logger={name}: {cause.name or name} is not installed."
                f" Install it: pip install 'lightning-automl-vision[{name}]'."
            ) from None
        raise ConfigError(f"logger={name}: {' '.join(str(cause or error).split())[:300]}.") from None
    return tracker
