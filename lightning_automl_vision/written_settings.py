"""A run's configuration as it stands in its folder: typed and checked again, whatever experiments say by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.plugins import model_specs
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.task_settings import ObjectTaskConfig
from lightning_automl_vision.typed_nodes import typed_nodes

# What belongs to one run alone, and is taken from the command that reads another one's configuration.
_OWN = ("output_dir", "checkpoint", "runs", "quiet", "resume", "logger")


def settings_in(file: Path, command: Settings, overrides: Sequence[str]) -> Settings:
    """``command`` says what belongs to the new run; ``overrides`` are those with which the configuration was made."""
    try:
        written = OmegaConf.load(file)
        values = {str(name): value for name, value in _plain(written).items() if name not in _OWN}
        nodes = {name: OmegaConf.structured(node) for name, node in _nodes(values).items()}
        merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.create(nodes), OmegaConf.create(values)))
    except OSError as error:
        raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}. Name the folder of a run.") from None
    except (KeyError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{file} is not a configuration of this version: {reason}. Install the run's own.") from None
    known = {item.name for item in fields(Settings)}
    taken = {name: value for name, value in merged.items() if name in known}
    settings = replace(command, **taken, checkpoint=None, runs=None, overrides=tuple(overrides))
    settings.check()
    return settings


def _plain(config: Any) -> Mapping[Any, Any]:
    plain: Any = OmegaConf.to_container(config)
    return dict(plain)


def _nodes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The typed node of each group, by the names that the configuration holds."""
    nodes, task, model = typed_nodes(), values["task"]["name"], values["model"]["name"]
    if model not in model_specs():
        raise ConfigError(f"No installed plugin has the model {model!r}. Install the one that has.")
    of_objects = issubclass(TASKS[task].config, ObjectTaskConfig)
    chosen = {
        **dict.fromkeys(("data", "training", "trainer", "limits"), "default"),
        "task": task,
        "model": model,
        "augment": "objects" if of_objects else "classification",
        "tiler": values["tiler"]["name"],
        "job": values["job"]["name"],
    }
    return {group: nodes[group, name] for group, name in chosen.items()}
