"""``lav models``: what is installed, at a glance; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key, nearest
from lightning_automl_vision.plugins import models_by_plugin
from lightning_automl_vision.settings import JobConfig
from lightning_automl_vision.specs import TASKS, ModelSpec
from lightning_automl_vision.tables import table

HEADER = ("model", "tasks", "plugin", "licence", "pretrained weights", "parameters")


@dataclass
class Config(JobConfig):
    """List every model that is installed."""

    for_task: str | None = key(None, "List only the models that serve this task.")


def run(settings: Settings) -> None:
    chosen = getattr(settings.job, "for_task", None)
    if chosen is not None and chosen not in TASKS:
        raise ConfigError(f"for_task={chosen}: no such task.{nearest(chosen, list(TASKS))} Tasks: {', '.join(TASKS)}.")
    rows = [
        _row(spec, plugin)
        for plugin, specs in sorted(models_by_plugin().items())
        for spec in specs
        if chosen is None or chosen in spec.tasks
    ]
    print(table(HEADER, rows))


def _row(spec: ModelSpec, plugin: str) -> tuple[str, ...]:
    name = f"{spec.name} ({', '.join(spec.aliases)})" if spec.aliases else spec.name
    parameters = f"{spec.parameters / 1e6:.1f} M" if spec.parameters else "by architecture"
    return name, ", ".join(sorted(spec.tasks)), plugin, spec.licence, spec.weights, parameters
