"""How far a trial has come, as its own folder says, and what it would have taken to the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_automl_vision.result import RESULT

_TAIL = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``epochs`` were evaluated, of the ``number_of_epochs`` that were asked for; ``value`` is that of the last one.

    ``seconds`` are those of training alone; ``best``, the value of the best epoch, and ``device_memory``, the most
    bytes of a GPU, are what a run says at its end.
    """

    epochs: int = 0
    number_of_epochs: int | None = None
    value: float | None = None
    best: float | None = None
    model: str | None = None
    seconds: float | None = None
    device_memory: int | None = None

    @property
    def seconds_left(self) -> float | None:
        """At the pace it had."""
        if not self.epochs or self.seconds is None or self.number_of_epochs is None:
            return None
        return max(self.number_of_epochs - self.epochs, 0) * self.seconds / self.epochs


def progress_of(folder: Path, metric: str, number_of_epochs: int | None = None) -> Progress:
    """Nothing is known of a trial that has not begun; what is known already need not be read again."""
    line = _last_evaluation(folder / "metrics.jsonl")
    result = _mapping(folder / RESULT, json.loads)
    config = {} if number_of_epochs else _mapping(folder / "config.yaml", lambda text: yaml.load(text, _Loader))
    return Progress(
        epochs=int(line.get("epoch") or 0),
        number_of_epochs=number_of_epochs or _number_of_epochs(config),
        value=line.get(metric),
        best=_below(result, "primary_metric", "value"),
        model=_below(config, "model", "name"),
        seconds=line.get("seconds"),
        device_memory=result.get("device_memory"),
    )


def _last_evaluation(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):  # the last one may be written at this moment
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and "epoch" in values:
            return values
    return {}


def _number_of_epochs(config: Mapping[str, Any]) -> int | None:
    """None where something else decides, such as a number of steps."""
    if (config.get("trainer") or {}).get("max_steps"):
        return None
    number = (config.get("data") or {}).get("folds") or (config.get("training") or {}).get("number_of_epochs")
    return number if isinstance(number, int) else None


def _mapping(path: Path, read: Any) -> dict[str, Any]:
    try:
        values = read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _below(values: Mapping[str, Any], key: str, name: str) -> Any:
    below = values.get(key)
    return below.get(name) if isinstance(below, dict) else None


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
