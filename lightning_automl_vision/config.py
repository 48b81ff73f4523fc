"""Registers the typed nodes, the plugins' search paths and the resolvers that the YAML in conf/ stands on."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from lightning_automl_vision.node_source import PATH, NodeSource
from lightning_automl_vision.plugins import model_specs, plugin_manager
from lightning_automl_vision.specs import TASKS

_HERE = Path(__file__).parent
# Wheels carry conf/ inside the package; a checkout keeps it at the repository root.
CONFIG_DIR = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if (path / "config.yaml").is_file())


class PluginSearchPath(SearchPathPlugin):
    """Adds every installed plugin's conf/ to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for hook in plugin_manager().hook.lav_config_path.get_hookimpls():
            search_path.append(provider=hook.plugin_name, path=str(hook.function()))
        search_path.append(provider="lightning_automl_vision", path=PATH)


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
        plugins.register(NodeSource)
    OmegaConf.register_new_resolver("lav.default", _model_default, replace=True)
    OmegaConf.register_new_resolver("lav.experiment", _experiment, replace=True)


def _model_default(name: str, fallback: Any = None, *, _root_: DictConfig) -> Any:
    """The model's default of a key for the task, else the task's, else the fallback."""
    task = TASKS[_root_.task.name]
    spec = model_specs().get(_root_.model.name)
    own = spec.defaults.get(task.name, {}) if spec else {}
    return own.get(name, task.defaults.get(name, fallback))


def _experiment(otherwise: str) -> str:
    """The name of the experiment that was asked for, as a folder name."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return str(choices.get("experiment") or otherwise)
