"""The trackers that are asked for: Lightning's loggers, each an extra of this package."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger

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


def keep_rows(trackers: Iterable[Logger], step: int) -> None:
    """Of a table that an earlier attempt wrote, what it had written at this step: Lightning begins a new one.

    Whatever was told at that very step, but for its evaluation, is told again.
    """
    for tracker in trackers:
        file = Path(tracker.log_dir or "") / "metrics.csv"
        if not isinstance(tracker, CSVLogger) or not file.is_file():
            continue
        with file.open(newline="", encoding="utf-8") as table:
            rows = [{name: value for name, value in row.items() if name and value} for row in csv.DictReader(table)]
        tracker.experiment.metrics.extend(row for row in rows if _is_before(row, step))
        tracker.save()


def _is_before(row: Mapping[str, str], step: int) -> bool:
    number = row.get("step", "")
    return number.isdigit() and (int(number) < step or (int(number) == step and "epoch" in row))
