"""Which model can be exported to which format; run as a module it prints docs/exports.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import groupby

from lightning_automl_vision.export import mlflow
from lightning_automl_vision.export.formats import FORMATS, format_named
from lightning_automl_vision.export.packagings import MLFLOW, PACKAGINGS, TRITON, MlflowConfig, TritonConfig
from lightning_automl_vision.plugins import model_specs
from lightning_automl_vision.specs import ModelSpec

EVERY = (*FORMATS, *PACKAGINGS)
AROUND = "onnx"
"""What a repository for Triton is built around."""
_INTRODUCTION = """\
# Exports

`lav export RUN format=FORMAT output=FOLDER`. Written by `make docs` from what the code does; tests export each pair.
A yolov5 is exported with `nms=outside` or `nms=inside`, but for `torch_export`, which follows the former alone.
"""
_OF_PARITY = f"""\
`images`, `parity.images` and `parity.tolerance` go with each format but `{MLFLOW}`, which copies a model folder as it
is and refuses them. With `{TRITON}` the network that its repository is built around is compared, unless it was exported
already; `OUTPUT/NAME/1/parity.json` says how near it is."""


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
        rows.append(_row(name, module.EXTRA, module.TO_ASK, sorted(module.READS)))
    around = format_named(AROUND)
    rows.append(_row(MLFLOW, mlflow.EXTRA, mlflow.PACKAGES, _own(MLFLOW, MlflowConfig)))
    options = [*sorted(around.READS), *_own(TRITON, TritonConfig)]
    rows.append(_row(TRITON, around.EXTRA, ("tritonserver",), options))
    return "\n".join(_table(("format", "extra", "is asked with", "options"), rows)) + f"\n\n{_OF_PARITY}"


def _row(name: str, extra: str | None, asks: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
    words = (", ".join(f"`{word}`" for word in some) for some in (asks, options))
    return (f"`{name}`", f"`[{extra}]`" if extra else "none", *words)


def _own(name: str, config: type[MlflowConfig] | type[TritonConfig]) -> list[str]:
    return [f"{name}.{item.name}" for item in fields(config)]


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
    return spec.export_refusal(AROUND if format in PACKAGINGS else format, task)


if __name__ == "__main__":
    print(document(), end="")
