"""The hooks a plugin may implement. Keep plugin modules light: no torch at import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from lightning_automl_vision.specs import ModelSpec

hookspec = pluggy.HookspecMarker("lightning_automl_vision")
hookimpl = pluggy.HookimplMarker("lightning_automl_vision")


@hookspec
def lav_models() -> Iterable[ModelSpec]:  # type: ignore[empty-body]  # a hook is a signature
    """The models this plugin offers."""


@hookspec
def lav_config_path() -> str:  # type: ignore[empty-body]  # a hook is a signature
    """The plugin's Hydra configs, as a search path entry: ``"pkg://my_plugin.conf"``."""
