"""Where Hydra finds the typed nodes: each is made when asked for, not all of them before anything is composed."""

from __future__ import annotations

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from lightning_automl_vision.typed_nodes import typed_nodes

PATH = "lav://typed_nodes"


class NodeSource(ConfigSource):
    """A search path entry ``lav://…`` whose configs are the typed nodes, ``group/name``."""

    @staticmethod
    def scheme() -> str:
        return "lav"

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = self._normalize_file_name(config_path).removesuffix(".yaml").rpartition("/")
        if (group, name) not in typed_nodes():
            raise ConfigLoadError(f"Config not found: {config_path}")
        node = OmegaConf.structured(typed_nodes()[group, name])
        return ConfigResult(config=node, path=PATH, provider=self.provider, header={"package": None})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in {"", *(group for group, _ in typed_nodes())}

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.rstrip("/").removesuffix(".yaml").rpartition("/")
        return (group, name) in typed_nodes()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        within = config_path.rstrip("/")
        names = [] if results_filter == ObjectType.GROUP else [name for group, name in typed_nodes() if group == within]
        groups = [] if within or results_filter == ObjectType.CONFIG else [group for group, _ in typed_nodes()]
        return sorted({*names, *groups})
