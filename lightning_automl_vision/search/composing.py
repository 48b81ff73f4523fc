"""What a command line composes to, within a process that hydra has been started in; or in one line why it cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.config_errors import explain
from lightning_automl_vision.errors import ConfigError


def composed(arguments: Sequence[str]) -> DictConfig:
    try:
        return compose("config", [*arguments])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from None


def settings_of(config: DictConfig, overrides: Sequence[str]) -> Settings:
    """Those of one training: without what is the sweep's."""
    plain = OmegaConf.masked_copy(config, [str(name) for name in config if name not in ("hydra", "search")])
    return Settings.from_config(plain, tuple(overrides))
