"""Finds plugins through entry points and collects what they offer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import cast

import pluggy

from lightning_automl_vision import hookspecs
from lightning_automl_vision.errors import ConfigError, PluginError
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.specs import ModelSpec

GROUP = "lightning_automl_vision"


@cache
def plugin_manager() -> pluggy.PluginManager:
    """Load every plugin once, in name order; LAV_BLOCK_PLUGINS names those to leave out."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for name in filter(None, os.environ.get("LAV_BLOCK_PLUGINS", "").split(",")):
        manager.set_blocked(name.strip())
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if manager.is_blocked(entry.name):
            continue
        try:
            manager.register(entry.load(), name=entry.name)
            manager.check_pending()
        except Exception as error:
            reason = " ".join(str(error).split())
            raise PluginError(
                f"Plugin {entry.name!r} ({entry.value}) failed to load: {type(error).__name__}: {reason}. "
                f"Fix or uninstall it, or set LAV_BLOCK_PLUGINS={entry.name} to go on without it."
            ) from error
    return manager


@cache
def models_by_plugin() -> dict[str, list[ModelSpec]]:
    """What each plugin offers; a name offered twice is an error that names both."""
    offers: dict[str, list[ModelSpec]] = {}
    owners: dict[str, str] = {}
    for hook in plugin_manager().hook.lav_models.get_hookimpls():
        offers[hook.plugin_name] = list(cast("Iterable[ModelSpec]", hook.function()))
        for spec in offers[hook.plugin_name]:
            for name in (spec.name, *spec.aliases):
                if name in owners:
                    raise PluginError(
                        f"Model {name!r} is offered by plugin {owners[name]!r} and by plugin {hook.plugin_name!r}; "
                        "uninstall one of them, or leave one out with LAV_BLOCK_PLUGINS=NAME."
                    )
                owners[name] = hook.plugin_name
    return offers


@cache
def model_specs() -> dict[str, ModelSpec]:
    """Every model on offer, by name."""
    return {spec.name: spec for specs in models_by_plugin().values() for spec in specs}


def model_spec(name: str) -> ModelSpec:
    specs = model_specs()
    if name not in specs:
        raise ConfigError(
            f"No model {name!r}.{nearest(name, list(specs))} Installed plugins offer: {', '.join(sorted(specs))}."
        )
    return specs[name]
