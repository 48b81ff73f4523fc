"""Registers the typed nodes, the plugins' search paths and the resolvers that the YAML in conf/ stands on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from lightning_automl_vision.jobs import job_configs
from lightning_automl_vision.plugins import model_specs, plugin_manager
from lightning_automl_vision.settings import (
    AugmentConfig,
    DataConfig,
    LimitsConfig,
    ModelConfig,
    TaskConfig,
    TilerConfig,
    TrainerConfig,
    TrainingConfig,
)
from lightning_automl_vision.specs import TASKS, TaskSpec

_HERE = Path(__file__).parent
# Wheels carry conf/ inside the package; a checkout keeps it at the repository root.
CONFIG_DIR = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if (path / "config.yaml").is_file())


class PluginSearchPath(SearchPathPlugin):
    """Adds every installed plugin's conf/ to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for hook in plugin_manager().hook.lav_config_path.get_hookimpls():
            search_path.append(provider=hook.plugin_name, path=str(hook.function()))


def config_folders() -> list[Path]:
    """Where the YAML of this package and of every plugin lies, as far as it lies in plain folders."""
    paths = [str(hook.function()) for hook in plugin_manager().hook.lav_config_path.get_hookimpls()]
    packages = [files(path.removeprefix("pkg://")) for path in paths if path.startswith("pkg://")]
    return [CONFIG_DIR, *(Path(str(package)) for package in packages)]


def register() -> None:
    """Make Hydra know everything this package and its plugins add; must run before anything is composed."""
    plugins = Plugins.instance()
    if PluginSearchPath not in plugins.discover(SearchPathPlugin):
        plugins.register(PluginSearchPath)
    OmegaConf.register_new_resolver("lav.default", _model_default, replace=True)
    OmegaConf.register_new_resolver("lav.experiment", _experiment, replace=True)
    store = ConfigStore.instance()
    for (group, name), node in typed_nodes().items():
        store.store(group=group, name=name, node=node)


@cache
def typed_nodes() -> Mapping[tuple[str, str], Any]:
    """Every typed node by its config group and name."""
    nodes: dict[tuple[str, str], Any] = {
        ("augment", "classification"): AugmentConfig,
        ("data", "default"): DataConfig,
        ("limits", "default"): LimitsConfig,
        ("tiler", "none"): TilerConfig,
        ("trainer", "default"): TrainerConfig,
        ("training", "default"): TrainingConfig,
    }
    for verb, config in job_configs().items():
        nodes["job", verb] = config(name=verb)
    for task in TASKS.values():
        nodes["task", task.name] = TaskConfig(name=task.name, primary_metric=task.primary_metric)
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


def _model_default(name: str, fallback: Any = None, *, _root_: DictConfig) -> Any:
    """The model's default of a ``training.*`` key for the task, else the task's, else the fallback."""
    task = TASKS[_root_.task.name]
    spec = model_specs().get(_root_.model.name)
    own = spec.defaults.get(task.name, {}) if spec else {}
    return own.get(name, task.defaults.get(name, fallback))


def _experiment(otherwise: str) -> str:
    """The name of the experiment that was asked for, as a folder name."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return str(choices.get("experiment") or otherwise)
