"""Which model can be exported to which format: `python -m lightning_automl_vision.export.matrix` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_automl_vision.export.formats import FORMATS
from lightning_automl_vision.plugins import model_specs
from lightning_automl_vision.specs import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model, for a task, in a format; ``refusal`` says why it cannot be, or is None."""

    model: str
    task: str
    format: str
    refusal: str | None


def matrix() -> Iterator[Pair]:
    """Every pair, of installed models."""
    for spec in sorted(model_specs().values(), key=lambda spec: spec.name):
        for task in sorted(spec.tasks):
            for name in FORMATS:
                yield Pair(model=spec.name, task=task, format=name, refusal=spec.export_refusal(name, task))


def markdown() -> str:
    """A row for each model, and under it why some pairs are refused."""
    specs = sorted(model_specs().values(), key=lambda spec: (sorted(spec.tasks), spec.name))
    head = [f"| model | {' | '.join(FORMATS)} |", f"| --- |{' --- |' * len(FORMATS)}"]
    reasons = dict.fromkeys(reason for spec in specs for reason in _refusals(spec) if reason is not None)
    numbers = {reason: number for number, reason in enumerate(reasons, 1)}
    rows = []
    for spec in specs:
        cells = ("yes" if reason is None else f"no ({numbers[reason]})" for reason in _refusals(spec))
        rows.append(f"| `{spec.name}` | {' | '.join(cells)} |")
    notes = [f"{number}. {reason[0].upper()}{reason[1:]}." for reason, number in numbers.items()]
    return "\n".join([*head, *rows, *(["", *notes] if notes else [])])


def _refusals(spec: ModelSpec) -> list[str | None]:
    """By format; a model's tasks are exported alike."""
    return [spec.export_refusal(name, min(spec.tasks)) for name in FORMATS]


if __name__ == "__main__":
    print(markdown())
