"""The verbs. Each is a module here with a ``Config`` node and a ``run(settings)`` that imports what is heavy inside."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from lightning_automl_vision.settings import JobConfig

VERBS = (
    *("train", "predict", "evaluate", "export", "serve", "reproduce", "models"),
    *("convert", "convert-weights", "inspect", "plan"),
)


def job_configs() -> Mapping[str, type[JobConfig]]:
    return {verb: job_module(verb).Config for verb in VERBS}


def job_module(verb: str) -> ModuleType:
    return import_module(f"{__name__}.{verb.replace('-', '_')}")
