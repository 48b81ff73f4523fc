"""One run's folder: files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.result import FINISHED, RESULT, Result


class RunFolder:
    """Where a run writes: what it was asked for, what it logs, and what comes of it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    @property
    def model(self) -> Path:
        return self.path / "model"

    def create(self, settings: Settings) -> None:
        if self._status() in FINISHED:
            raise ConfigError(
                f"output_dir={self.path} already holds a finished run. Name another folder, or delete that one."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output_dir={self.path} cannot be made: {error.strerror}.") from None
        config = {**settings.as_dict(), "output_dir": str(self.path)}
        write(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write(self.path / "overrides.txt", _repeatable(settings.overrides))

    def finish(self, result: Result) -> None:
        write_json(self.path / RESULT, result.as_dict())

    def _status(self) -> str | None:
        try:
            result = json.loads((self.path / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return result.get("status") if isinstance(result, dict) else None


def _repeatable(overrides: Sequence[str]) -> str:
    """One a line, without the folder, which another run must not share."""
    return "".join(f"{override}\n" for override in overrides if not override.startswith("output_dir="))


def write(path: Path, text: str) -> None:
    """The whole file, or the one that was there before."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    write(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines; no file for no values."""
    lines = "".join(json.dumps(finite(value), ensure_ascii=False) + "\n" for value in values)
    if lines:
        write(path, lines)


def finite(value: Any) -> Any:
    """The same value with what JSON cannot say, NaN and infinities, as null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value
