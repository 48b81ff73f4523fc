"""What a configuration, or a model's settings, say of tiling: how images are cut, and how answers become one again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.merging import METHODS, Merge
from lightning_automl_vision.tiler_settings import CustomTilerConfig, GridTilerConfig, TilerConfig, TilingConfig
from lightning_automl_vision.tiling import (
    TARGET,
    GridTiler,
    SizeTiler,
    Tiler,
    WholeImage,
    custom_tiler,
    parse_grid,
    parse_size,
    tiler_from_settings,
)

# What a model's settings call the way of merging, and of what type it is.
_MERGING = {
    "tile_predictions_nms_threshold": "threshold",
    "tile_merge": "method",
    "tile_merge_class_agnostic": "class_agnostic",
    "tile_merge_largest": "largest",
}
_OF_SETTINGS = ("tile_grid_size", "tile_size", "tile_overlap_ratio", "tiler", *_MERGING)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut, and how what is found in their windows is merged."""

    tiler: Tiler = field(default_factory=WholeImage)
    merge: Merge = field(default_factory=Merge)

    @property
    def cuts(self) -> bool:
        """Whether there are tiles at all."""
        return not isinstance(self.tiler, WholeImage)

    def as_settings(self) -> dict[str, Any]:
        """What ``tiling_from_settings`` takes; of the merge what is not as usual, and always its threshold."""
        usual, merge = Merge(), self.merge
        changed = {
            name: getattr(merge, attribute)
            for name, attribute in _MERGING.items()
            if attribute == "threshold" or getattr(merge, attribute) != getattr(usual, attribute)
        }
        return {**self.tiler.as_settings(), **changed}


def tiling_of(config: TilerConfig, given: Sequence[str] = ()) -> Tiling | None:
    """What the configuration asks for, with the names of the keys that were given; None where the data decide."""
    if not isinstance(config, TilingConfig):
        return Tiling()
    merge = _merge_of(config)
    if isinstance(config, GridTilerConfig):
        return Tiling(tiler=_grid_of(config, given), merge=merge)
    if isinstance(config, CustomTilerConfig):
        return Tiling(tiler=custom_tiler({**(config.arguments or {}), TARGET: config._target_}), merge=merge)
    return None


def _merge_of(config: TilingConfig) -> Merge:
    if config.largest is not None and config.merge != "greedy_merging":
        raise ConfigError(
            f"tiler.largest={config.largest:g}: only tiler.merge=greedy_merging lets boxes grow, not {config.merge}."
            " Leave it out."
        )
    return Merge(
        method=config.merge,
        threshold=config.predictions_nms_threshold,
        class_agnostic=config.class_agnostic,
        largest=math.inf if config.largest is None else config.largest,
    )


def merge_of(config: TilerConfig) -> Merge:
    """How the windows of any tiler are merged."""
    return _merge_of(config) if isinstance(config, TilingConfig) else Merge()


def _grid_of(config: GridTilerConfig, given: Sequence[str]) -> Tiler:
    if config.tile_size is None:
        grid = parse_grid(config.grid_size)
        return WholeImage() if grid is None else GridTiler(grid, config.overlap_ratio)
    if "tiler.grid_size" in given:
        raise ConfigError(
            f"tiler.grid_size={config.grid_size} and tiler.tile_size={config.tile_size} are two ways to cut an image."
            " Keep one."
        )
    return SizeTiler(*parse_size(config.tile_size), config.overlap_ratio)


def tiling_from_settings(settings: Mapping[str, Any], *, source: str) -> Tiling:
    """The tiling among a model's settings; ``source`` is the file that an error names."""
    merging = {attribute: settings[name] for name, attribute in _MERGING.items() if name in settings}
    for name, attribute in _MERGING.items():
        if name in settings and (fault := _fault(attribute, settings[name])):
            raise ConfigError(f"{source}: {name}={settings[name]!r} {fault}.")
    try:
        merge = Merge(**merging)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}.") from None
    return Tiling(tiler=tiler_from_settings(settings, source=source), merge=merge)


def tiling_names() -> dict[str, str]:
    """What a detector's settings may say of tiling."""
    return {name: name for name in _OF_SETTINGS}


def _fault(attribute: str, value: Any) -> str | None:
    if attribute == "method":
        return None if value in METHODS else f"must be one of {', '.join(METHODS)}"
    if attribute == "class_agnostic":
        return None if isinstance(value, bool) else "must be true or false"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if attribute == "threshold":
        return None if number and 0 <= value <= 1 else "must be a number in [0, 1]"
    return None if number and value > 0 else "must be a number above 0"
