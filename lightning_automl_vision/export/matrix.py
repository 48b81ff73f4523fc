"""Which model can be exported to which format; run as a module it prints docs/exports.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from lightning_automl_vision.export.formats import FORMATS, format_named
from lightning_automl_vision.export.packagings import MLFLOW, PACKAGINGS
from lightning_automl_vision.plugins import model_specs
from lightning_automl_vision.specs import ModelSpec

EVERY = (*FORMATS, *PACKAGINGS)
_INTRODUCTION = """\
# Exports

`lav export RUN format=FORMAT output=FOLDER`. Written by `make docs` from what the code does; tests export each pair.
A yolov5 is exported with `nms=outside` or `nms=inside`, but for `torch_export`, which follows the former alone.
"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model, for a task, in a format; ``refusal`` says why it cannot be, or is None."""

    model: str
    task: str
    format: str
    refusal: str | None


def matrix() -> Iterator[Pair]:
    """Every pair, of installed models."""
    for spec in _specs():
        for task in sorted(spec.tasks):
            for name in EVERY:
                yield Pair(model=spec.name, task=task, format=name, refusal=_refusal(spec, name, task))


def document() -> str:
    """docs/exports.md: the models, why some pairs are refused, and what each format takes."""
    return f"{_INTRODUCTION}\n{_of_models()}\n\n{_of_formats()}\n"


def _of_models() -> str:
    """A row for each model, and one for each of its tasks where they are not alike."""
    reasons = dict.fromkeys(pair.refusal for pair in matrix() if pair.refusal is not None)
    told: dict[str | None, str] = {
        None: "yes",
        **{reason: f"no ({number})" for number, reason in enumerate(reasons, 1)},
    }
    rows = [
        (f"`{spec.name}`", ", ".join(tasks), *(told[refusal] for refusal in refusals))
        for spec in _specs()
        for refusals, tasks in groupby(sorted(spec.tasks), partial(_refusals, spec))
    ]
    notes = [f"{number}. {reason}." for number, reason in enumerate(reasons, 1)]
    return "\n".join([*_table(("model", "tasks", *EVERY), rows), *(["", *notes] if notes else [])])


def _of_formats() -> str:
    rows = []
    for name in FORMATS:
        module = format_named(name)
        extra = f"`[{module.EXTRA}]`" if module.EXTRA else "none"
        asks, reads = (", ".join(f"`{word}`" for word in words) for words in (module.TO_ASK, sorted(module.READS)))
        rows.append((f"`{name}`", extra, asks, reads))
    return "\n".join(_table(("format", "extra", "is asked with", "options"), rows))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)]


def _specs() -> list[ModelSpec]:
    return sorted(model_specs().values(), key=lambda spec: (sorted(spec.tasks), spec.name))


def _refusals(spec: ModelSpec, task: str) -> list[str | None]:
    return [_refusal(spec, name, task) for name in EVERY]


def _refusal(spec: ModelSpec, format: str, task: str) -> str | None:
    """A repository for Triton is built around an ONNX file; MLflow is given the model as it is."""
    if format == MLFLOW:
        return None
    return spec.export_refusal("onnx" if format in PACKAGINGS else format, task)


if __name__ == "__main__":
    print(document(), end="")
