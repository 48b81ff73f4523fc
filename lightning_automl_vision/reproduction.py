"""Two runs side by side, digit for digit: every metric, every evaluation, every weight."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.result import Result
from lightning_automl_vision.tables import table

METRICS = "metrics.jsonl"
# What of an evaluation depends on the clock.
_OF_THE_CLOCK = ("seconds",)
_TEST = "test: "


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number, or null where it is undefined, before and now."""

    name: str
    was: Any
    now: Any

    @property
    def same(self) -> bool:
        return type(self.was) is type(self.now) and bool(self.was == self.now)

    def __str__(self) -> str:
        return f"{self.name} was {_digits(self.was)}, is {_digits(self.now)}"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One line of metrics.jsonl beside the other; ``differing`` are the figures that are not the same."""

    epoch: int
    differing: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """``largest`` is the largest difference of any number, in the tensor ``tensor``; None where shapes differ."""

    same: bool
    largest: float | None = 0.0
    tensor: str | None = None

    def __str__(self) -> str:
        if self.same:
            return "the same, byte for byte"
        if self.largest is None:
            return f"different: {self.tensor} is not in both, or not of one shape and type"
        return f"different by at most {self.largest:.3g} ({self.tensor})"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``evaluations`` is None where the first run has left no lines."""

    figures: Sequence[Figure]
    evaluations: Sequence[Evaluation] | None
    weights: Weights | None
    warnings: Sequence[str] = field(default=())

    @property
    def same(self) -> bool:
        parts = [
            *(figure.same for figure in self.figures),
            *(not evaluation.differing for evaluation in self.evaluations or ()),
            self.weights is None or self.weights.same,
        ]
        return all(parts)

    @property
    def first_different(self) -> Evaluation | None:
        return next((evaluation for evaluation in self.evaluations or () if evaluation.differing), None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "first_different_epoch": self.first_different.epoch if self.first_different else None,
            "metrics": {item.name: {"was": item.was, "is": item.now, "same": item.same} for item in self.figures},
            "epochs": None if self.evaluations is None else [_as_dict(item) for item in self.evaluations],
            "weights": None if self.weights is None else asdict(self.weights),
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        rows = [
            (item.name, _digits(item.was), _digits(item.now), "same" if item.same else "different")
            for item in self.figures
        ]
        return f"{table(('metric', 'was', 'is', ''), rows)}\n\n{self.in_words}"

    @property
    def in_words(self) -> str:
        lines = ["evaluations: " + self._evaluations_in_words, f"weights: {self.weights or 'there were none'}"]
        return "\n".join(lines)

    @property
    def _evaluations_in_words(self) -> str:
        if self.evaluations is None:
            return "the first run has left no lines"
        first = self.first_different
        if first is None:
            return f"all {len(self.evaluations)} the same" if self.evaluations[1:] else "the one is the same"
        return f"they differ from epoch {first.epoch} on: {'; '.join(map(str, first.differing[:3]))}"


def compare(folder: Path, was: Result, now: Result, *, warnings: Sequence[str] = ()) -> Comparison:
    """``folder`` is that of the first run, or the copy of a sweep's best."""
    lines, again = evaluations_in(folder), evaluations_in(Path(now.folder))
    return Comparison(
        figures=_figures(was, now),
        evaluations=None if lines is None else _evaluations(lines, again or []),
        weights=_weights(folder / "model", Path(now.folder) / "model"),
        warnings=tuple(warnings),
    )


def evaluations_in(folder: Path) -> list[Mapping[str, Any]] | None:
    """The lines of metrics.jsonl, None if there is no such file."""
    file = folder / METRICS
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{file} holds a line that is no JSON: {error}. Restore the file.") from None


def _figures(was: Result, now: Result) -> list[Figure]:
    primary = was.primary_metric.name
    names = [primary, *(name for name in {**was.metrics, **now.metrics} if name != primary)]
    tests = dict.fromkeys((*was.test_metrics, *now.test_metrics))
    return [
        Figure(name="epoch of the best", was=was.primary_metric.epoch, now=now.primary_metric.epoch),
        *(Figure(name=name, was=was.metrics.get(name), now=now.metrics.get(name)) for name in names),
        *(Figure(name=_TEST + name, was=was.test_metrics.get(name), now=now.test_metrics.get(name)) for name in tests),
    ]


def _evaluations(was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[Evaluation]:
    return [_evaluation(before or {}, after or {}) for before, after in zip_longest(was, now)]


def _evaluation(was: Mapping[str, Any], now: Mapping[str, Any]) -> Evaluation:
    names = [name for name in {**was, **now} if name not in _OF_THE_CLOCK]
    figures = (Figure(name=name, was=was.get(name), now=now.get(name)) for name in names)
    return Evaluation(
        epoch=int(was.get("epoch", now.get("epoch", 0))),
        differing=tuple(figure for figure in figures if not figure.same),
    )


def _weights(was: Path, now: Path) -> Weights | None:
    """Byte for byte, else by numbers; None where the first run kept none."""
    from lightning_automl_vision.model_folder import WEIGHTS

    files = was / WEIGHTS, now / WEIGHTS
    if not files[0].exists():
        return None
    if not files[1].exists():
        return Weights(same=False, largest=None, tensor="the whole file")
    if files[0].read_bytes() == files[1].read_bytes():
        return Weights(same=True)

    from safetensors.torch import load_file

    before, after = (load_file(file) for file in files)
    largest, tensor = 0.0, None
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            return Weights(same=False, largest=None, tensor=name)
        difference = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
        if tensor is None or not difference <= largest:
            largest, tensor = difference, name
    return Weights(same=False, largest=largest if math.isfinite(largest) else None, tensor=tensor)


def _as_dict(evaluation: Evaluation) -> dict[str, Any]:
    different = {figure.name: {"was": figure.was, "is": figure.now} for figure in evaluation.differing}
    return {"epoch": evaluation.epoch, "same": not different, "different": different}


def _digits(value: Any) -> str:
    return "undefined" if value is None else repr(value)
