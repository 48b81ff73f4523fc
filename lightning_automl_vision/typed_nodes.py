"""Every typed node that can be composed, by its config group and name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from lightning_automl_vision.jobs import job_configs
from lightning_automl_vision.plugins import model_specs
from lightning_automl_vision.search_settings import SAMPLERS, AroundConfig, SearchConfig
from lightning_automl_vision.settings import (
    AugmentConfig,
    DataConfig,
    LimitsConfig,
    ModelConfig,
    ObjectAugmentConfig,
    TrainerConfig,
    TrainingConfig,
)
from lightning_automl_vision.specs import TASKS, TaskSpec
from lightning_automl_vision.tiler_settings import AutoTilerConfig, CustomTilerConfig, GridTilerConfig, TilerConfig


@cache
def typed_nodes() -> Mapping[tuple[str, str], Any]:
    """Every typed node by its config group and name."""
    nodes: dict[tuple[str, str], Any] = {
        ("augment", "classification"): AugmentConfig,
        ("augment", "objects"): ObjectAugmentConfig,
        ("data", "default"): DataConfig,
        ("limits", "default"): LimitsConfig,
        ("tiler", "none"): TilerConfig,
        ("tiler", "grid"): GridTilerConfig,
        ("tiler", "auto"): AutoTilerConfig,
        ("tiler", "custom"): CustomTilerConfig,
        ("trainer", "default"): TrainerConfig,
        ("training", "default"): TrainingConfig,
    }
    for sampler in SAMPLERS:
        nodes["search", sampler] = SearchConfig(sampler=sampler)
    nodes["search", "around"] = AroundConfig
    for verb, config in job_configs().items():
        nodes["job", verb] = config(name=verb)
    for task in TASKS.values():
        nodes["task", task.name] = task.config(name=task.name, primary_metric=task.primary_metric)
        nodes["model", f"default_for_{task.name}"] = _default_model(task)
    for spec in model_specs().values():
        for name in (spec.name, *spec.aliases):
            nodes["model", name] = spec.config(name=spec.name)
    return nodes


def _default_model(task: TaskSpec) -> ModelConfig:
    """The first of the task's documented models that is installed; a model without a name if none is."""
    installed = model_specs()
    for name in task.default_models:
        if name in installed:
            return installed[name].config(name=name)
    return ModelConfig(name="")
