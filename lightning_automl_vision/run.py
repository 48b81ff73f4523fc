"""One run's folder: files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.result import FINISHED, RESULT, PrimaryMetric, Result
from lightning_automl_vision.storage import replacing, writing
from lightning_automl_vision.training.continuing import CHECKPOINTS, PREVIOUS
from lightning_automl_vision.training.early_stopping import NAN, improves

# Kept free, so that a run which fills the disk can still say so.
_RESERVED = 1 << 16
SWEEP = "study.txt"  # what every sweep's folder holds, and no run's
Stamp = tuple[int, int] | None


def check_no_sweep(folder: Path, asked: str = "") -> None:
    """ConfigError, by the key that ``asked`` for a run, for the folder of a sweep."""
    if (folder / SWEEP).exists():
        raise ConfigError(f"{asked or folder} is a sweep. Name one of its trials, or {folder}/best.")


class RunFolder:
    """Where a run writes: what it was asked for, what it logs, and what comes of it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._reserve = self.path / ".reserve"
        self._before: Stamp = None

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def check(self) -> None:
        """Refuse a folder that nothing may be written to any more."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output_dir={self.path} is a file. Name a folder.")
        if (self.path / SWEEP).exists():
            raise ConfigError(f"output_dir={self.path} holds a sweep, not a run. Name another folder.")
        if self._status() in FINISHED:
            raise ConfigError(
                f"output_dir={self.path} already holds a finished run. Name another folder, or delete that one."
            )

    def create(self, settings: Settings) -> None:
        self.check()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with writing(self._reserve):
            self._reserve.write_bytes(os.urandom(_RESERVED))
        self.remember()
        (self.path / RESULT).unlink(missing_ok=True)  # of an attempt that this one goes on from
        config = {**settings.as_dict(), "output_dir": str(self.path)}
        write(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write(self.path / "overrides.txt", _repeatable(settings.overrides))

    def remember(self) -> None:
        """What an earlier run left here is none of this one's."""
        self._before = _stamp(self.metrics)

    def finish(self, result: Result) -> None:
        self._reserve.unlink(missing_ok=True)
        write_json(self.path / RESULT, result.as_dict())
        if result.status in FINISHED:
            for left in (PREVIOUS, "best_*.ckpt"):
                for file in (self.path / CHECKPOINTS).glob(left):
                    file.unlink(missing_ok=True)

    def best(self, metric: str, *, lower_is_better: bool) -> PrimaryMetric:
        """The best evaluation that this run has written down; `checkpoints/best.ckpt` holds its weights."""
        best = PrimaryMetric(name=metric)
        sign = -1 if lower_is_better else 1
        for line in self._evaluations():
            value = line.get(metric)
            if best.epoch is None or improves(_signed(value, sign), _signed(best.value, sign)):
                best = PrimaryMetric(name=metric, value=value, epoch=line["epoch"])
        return best

    def _evaluations(self) -> Iterator[Mapping[str, Any]]:
        """Nothing where the file is one that an earlier run left."""
        if _stamp(self.metrics) != self._before:
            yield from map(json.loads, self.metrics.read_text(encoding="utf-8").splitlines())

    def _status(self) -> str | None:
        try:
            result = json.loads((self.path / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return result.get("status") if isinstance(result, dict) else None


def _repeatable(overrides: Sequence[str]) -> str:
    """One a line, without the folder, which another run must not share."""
    return "".join(f"{override}\n" for override in overrides if not override.startswith("output_dir="))


def _stamp(path: Path) -> Stamp:
    """What tells a file from one that has taken its place."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _signed(value: float | None, sign: int) -> float:
    return NAN if value is None else sign * value


def check_output(output: str, name: str) -> None:
    """Refuse a verb's ``output`` that holds what would be overwritten, or is no folder."""
    if (Path(output) / name).exists():
        raise ConfigError(f"output={output} already holds {name}. Name another folder, or delete that file.")
    if Path(output).exists() and not Path(output).is_dir():
        raise ConfigError(f"output={output} is a file. Name a folder.")


def write(path: Path, text: str, key: str = "output_dir") -> None:
    """The whole file, or the one that was there before; ``key`` is the one that names another place."""
    with replacing(path, key) as part:
        part.write_text(text, encoding="utf-8")


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
