"""What a configuration, or a model's settings, say of tiling: how images are cut, and how answers become one again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.merging import METHODS, Merge
from lightning_automl_vision.tiler_settings import CustomTilerConfig, GridTilerConfig, TilerConfig, TilingConfig
from lightning_automl_vision.tiling import (
    TARGET,
    DocumentedTiler,
    SizeTiler,
    Tiler,
    WholeImage,
    custom_tiler,
    parse_grid,
    parse_size,
    tiler_from_settings,
    tiler_of,
    windows_of,
)

# What a model's settings call the way of merging.
_THRESHOLD, _SPELLED_OUT = "tile_predictions_nms_thresh", "tile_predictions_nms_threshold"
_MERGING = {
    _THRESHOLD: "threshold",
    "tile_merge": "method",
    "tile_merge_class_agnostic": "class_agnostic",
    "tile_merge_largest": "largest",
}
_OF_SETTINGS = ("tile_grid_size", "tile_size", "tile_overlap_ratio", "tiler", *_MERGING)
# What a class of the user's own is tried with before anything is read.
_ANY_SIZE = (640, 480)
_OF_CONFIGURATION = {"tile_size": "tiler.tile_size", "tile_overlap_ratio": "tiler.overlap_ratio"}


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut, and how what is found in their windows is merged.

    ``made_from`` are the words by which a tiler of the user's own is made again.
    """

    tiler: Tiler = field(default_factory=WholeImage)
    merge: Merge = field(default_factory=Merge)
    made_from: Mapping[str, Any] | None = None

    @property
    def cuts(self) -> bool:
        """Whether there are tiles at all."""
        return not isinstance(self.tiler, WholeImage)

    def windows(self, width: int, height: int) -> tuple[Window, ...]:
        """The whole image first."""
        return windows_of(self.tiler, width, height)

    def as_settings(self) -> dict[str, Any]:
        """What ``tiling_from_settings`` takes; of the merge what is not as usual, and always its threshold."""
        usual, merge = Merge(), self.merge
        changed = {
            name: getattr(merge, attribute)
            for name, attribute in _MERGING.items()
            if attribute == "threshold" or getattr(merge, attribute) != getattr(usual, attribute)
        }
        cut = (
            self.tiler.as_settings()
            if isinstance(self.tiler, DocumentedTiler)
            else {"tiler": dict(self.made_from or {})}
        )
        return {**cut, **changed}


def tiling_of(config: TilerConfig, given: Sequence[str] = ()) -> Tiling | None:
    """What the configuration asks for, with the names of the keys that were given; None where the data decide."""
    if not isinstance(config, TilingConfig):
        return Tiling()
    merge = merge_of(config)
    if isinstance(config, GridTilerConfig):
        return Tiling(tiler=_grid_of(config, given), merge=merge)
    if isinstance(config, CustomTilerConfig):
        return _custom_of(config, merge)
    return None


def _custom_of(config: CustomTilerConfig, merge: Merge) -> Tiling:
    if not isinstance(config.arguments, (Mapping, type(None))):
        raise ConfigError(f"tiler.arguments={config.arguments!r} must be a mapping, such as '{{rings: 3}}'.")
    made_from = {TARGET: config._target_, **(config.arguments or {})}
    tiling = Tiling(tiler=custom_tiler(made_from), merge=merge, made_from=made_from)
    tiling.windows(*_ANY_SIZE)
    return tiling


def merge_of(config: TilingConfig) -> Merge:
    """How the windows of any tiler are merged."""
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


def _grid_of(config: GridTilerConfig, given: Sequence[str]) -> Tiler:
    try:
        size = parse_size(config.tile_size)
        if size is None:
            return tiler_of(parse_grid(config.grid_size), config.overlap_ratio)
        tiler = SizeTiler(*size, config.overlap_ratio)
    except ConfigError as error:
        text = str(error)
        for name, here in _OF_CONFIGURATION.items():
            text = text.replace(name, here)
        raise ConfigError(text) from None
    if "tiler.grid_size" in given:
        raise ConfigError(
            f"tiler.grid_size={config.grid_size} and tiler.tile_size={config.tile_size} are two ways to cut an image."
            " Keep one."
        )
    return tiler


def tiling_from_settings(settings: Mapping[str, Any], *, source: str) -> Tiling:
    """The tiling among a model's settings; ``source`` is the file that an error names."""
    given = {_THRESHOLD if name == _SPELLED_OUT else name: value for name, value in settings.items()}
    if _THRESHOLD in settings and _SPELLED_OUT in settings and given[_THRESHOLD] != settings[_THRESHOLD]:
        raise ConfigError(f"{source}: {_THRESHOLD} and {_SPELLED_OUT} are the same setting and differ. Keep one.")
    merging = {attribute: given[name] for name, attribute in _MERGING.items() if name in given}
    for name, attribute in _MERGING.items():
        if name in given and (fault := _fault(attribute, given[name])):
            raise ConfigError(f"{source}: {name}={json.dumps(given[name])} {fault}.")
    if "largest" in merging and merging.get("method") != "greedy_merging":
        raise ConfigError(
            f"{source}: tile_merge_largest={merging['largest']!r}: only tile_merge=greedy_merging lets boxes grow."
            " Leave it out."
        )
    tiler = tiler_from_settings(settings, source=source)
    return Tiling(tiler=tiler, merge=Merge(**merging), made_from=settings.get("tiler"))


def tiling_names() -> dict[str, str]:
    """What a detector's settings may say of tiling, in either spelling, with the documented one."""
    return {**{name: name for name in _OF_SETTINGS}, _SPELLED_OUT: _THRESHOLD}


def _fault(attribute: str, value: Any) -> str | None:
    if attribute == "method":
        return None if value in METHODS else f"must be one of {', '.join(METHODS)}"
    if attribute == "class_agnostic":
        return None if isinstance(value, bool) else "must be true or false"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if attribute == "threshold":
        return None if number and 0 <= value <= 1 else "must be a number in [0, 1]"
    return None if number and value > 0 else "must be a number above 0"
