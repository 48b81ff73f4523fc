"""The windows an image is looked at through, the whole of it and overlapping tiles, and what is labelled in each.

Needs no torch. A tiler knows no image; it answers for any size.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, NamedTuple

from lightning_automl_vision.errors import ConfigError, PluginError
from lightning_automl_vision.geometry import B, Window, clipped, shifted, still_seen, visible_shares

Grid = tuple[int, int]
"""How many tiles across, and how many down."""

OVERLAP_RATIO = 0.25
MINIMUM_VISIBILITY = 0.25
SMALLEST_TILE = 16
"""Pixels; where a grid's tiles would be narrower or lower there are fewer of them."""
MOST_TILES = 100
"""Across or down."""

_PAIR = re.compile(r"(\d+)\s*[xX\u00d7,]\s*(\d+)")
_BRACKETS = {"(": ")", "[": "]"}
_WAY_OUT = f"Write tiles across x tiles down, such as 3x2, each from 1 to {MOST_TILES}; none is no tiling"
_ROUNDING = 1e-9
TARGET = "_target_"


def parse_grid(value: Any) -> Grid | None:
    """Tiles across and down from ``3x2`` (the canonical form), a pair, or a text of a pair; None where there are none.

    Old configurations write ``(3, 2)``, which reaches this as a text, a list or a tuple.
    """
    if value is None or (isinstance(value, str) and _bare(value).lower() in ("none", "null")):
        return None
    pair = _pair_in(value) if isinstance(value, str) else value
    if isinstance(pair, Sequence) and not isinstance(pair, bytes) and len(pair) == 2 and all(map(_is_count, pair)):
        return pair[0], pair[1]
    raise ConfigError(f"tiler.grid_size={value!r}: that is no grid. {_WAY_OUT}.")


def grid_name(grid: Grid | None) -> str:
    """The form that ``parse_grid`` calls canonical."""
    return "none" if grid is None else f"{grid[0]}x{grid[1]}"


def _bare(text: str) -> str:
    """Without the quotes that a shell or a YAML file may have left."""
    return text.strip().strip("'\"").strip()


def _pair_in(text: str) -> tuple[int, int] | None:
    bare = _bare(text)
    if bare[:1] in _BRACKETS and bare[-1:] == _BRACKETS[bare[0]]:
        bare = bare[1:-1].strip()
    found = _PAIR.fullmatch(bare)
    return None if found is None else (int(found[1]), int(found[2]))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_TILES


class Tiler(ABC):
    """Which parts of an image a model is shown."""

    @abstractmethod
    def windows(self, width: int, height: int) -> list[Window]:
        """In whole pixels, each window once: the whole image, then the tiles row by row."""


class DocumentedTiler(Tiler):
    """One that a model's settings know by documented names."""

    @abstractmethod
    def as_settings(self) -> dict[str, Any]:
        """What ``tiler_from_settings`` takes."""


@dataclass(frozen=True)
class WholeImage(DocumentedTiler):
    """No tiling."""

    def windows(self, width: int, height: int) -> list[Window]:
        return [Window(0, 0, width, height)]

    def as_settings(self) -> dict[str, Any]:
        return {"tile_grid_size": None}


class Spans(NamedTuple):
    """Tiles of equal length along one side of an image, by where they start; the last ends where the side does."""

    starts: tuple[int, ...]
    length: int


class RegularTiler(DocumentedTiler):
    """Rows and columns of tiles that are all of one size, beside the whole image."""

    @abstractmethod
    def columns(self, width: int) -> Spans: ...

    @abstractmethod
    def rows(self, height: int) -> Spans: ...

    def windows(self, width: int, height: int) -> list[Window]:
        columns, rows = self.columns(width), self.rows(height)
        if len(columns.starts) * len(rows.starts) > MOST_TILES**2:
            raise ConfigError(
                f"{self.as_settings()} cuts an image of {width}x{height} pixels into"
                f" {len(columns.starts) * len(rows.starts)} tiles. The most are {MOST_TILES**2}: take larger tiles, or"
                " let them overlap less."
            )
        tiles = (Window(x, y, x + columns.length, y + rows.length) for y in rows.starts for x in columns.starts)
        return list(dict.fromkeys((Window(0, 0, width, height), *tiles)))


@dataclass(frozen=True)
class GridTiler(RegularTiler):
    """As many tiles in an image of any size, each W / (nx - (nx - 1) r) wide and likewise high, rounded up.

    ``overlap_ratio``, r, is the share of a tile that the next one shows too.
    """

    grid: Grid
    overlap_ratio: float = OVERLAP_RATIO

    def __post_init__(self) -> None:
        _check_overlap(self.overlap_ratio)

    def columns(self, width: int) -> Spans:
        return grid_spans(width, self.grid[0], self.overlap_ratio)

    def rows(self, height: int) -> Spans:
        return grid_spans(height, self.grid[1], self.overlap_ratio)

    def as_settings(self) -> dict[str, Any]:
        return {"tile_grid_size": grid_name(self.grid), "tile_overlap_ratio": self.overlap_ratio}


@dataclass(frozen=True)
class SizeTiler(RegularTiler):
    """Tiles of this many pixels, as many as an image needs, evenly spread; they overlap by the ratio or more."""

    width: int
    height: int
    overlap_ratio: float = OVERLAP_RATIO

    def __post_init__(self) -> None:
        _check_overlap(self.overlap_ratio)
        if min(self.width, self.height) < SMALLEST_TILE:
            raise ConfigError(
                f"tile_size={self.width}x{self.height}: a tile of so few pixels shows nothing."
                f" Both sides need {SMALLEST_TILE} or more."
            )

    def columns(self, width: int) -> Spans:
        return sized_spans(width, self.width, self.overlap_ratio)

    def rows(self, height: int) -> Spans:
        return sized_spans(height, self.height, self.overlap_ratio)

    def as_settings(self) -> dict[str, Any]:
        return {"tile_size": f"{self.width}x{self.height}", "tile_overlap_ratio": self.overlap_ratio}


def grid_spans(side: int, count: int, overlap_ratio: float) -> Spans:
    """``count`` tiles, or as many of them as can have SMALLEST_TILE pixels."""
    most = int((side / SMALLEST_TILE - overlap_ratio) / (1 - overlap_ratio))
    count = max(min(count, most), 1)
    length = math.ceil(side / (count - (count - 1) * overlap_ratio) - _ROUNDING)
    return _spread(side, min(length, side), count)


def sized_spans(side: int, length: int, overlap_ratio: float) -> Spans:
    """Tiles of ``length`` pixels, or one as long as the side where that is shorter."""
    if side <= length:
        return Spans((0,), side)
    steps = math.ceil((side - length) / (length * (1 - overlap_ratio)) - _ROUNDING)
    return _spread(side, length, steps + 1)


def _spread(side: int, length: int, count: int) -> Spans:
    """Starts are rounded to the nearest pixel; those that coincide count once."""
    steps, room = max(count - 1, 1), side - length
    starts = ((2 * number * room + steps) // (2 * steps) for number in range(count))
    return Spans(tuple(dict.fromkeys(starts)), length)


def tiler_from_settings(settings: Mapping[str, Any], *, source: str) -> Tiler:
    """The tiler among a model's settings; ``source`` is the file that an error names."""
    overlap = settings.get("tile_overlap_ratio")
    overlap = OVERLAP_RATIO if overlap is None else overlap
    try:
        _check_overlap(overlap)
        grid, size = parse_grid(settings.get("tile_grid_size")), parse_size(settings.get("tile_size"))
        given = [name for name, value in (("tiler", settings.get("tiler")), ("tile_size", size)) if value is not None]
        given += ["tile_grid_size"] if grid is not None else []
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} are two ways to cut an image. Keep one.")
        if size is not None:
            return SizeTiler(*size, overlap)
        if given == ["tiler"]:
            return custom_tiler(settings["tiler"])
        return tiler_of(grid, overlap)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}".replace("tiler.grid_size", "tile_grid_size")) from None


def tiler_of(grid: Grid | None, overlap_ratio: float) -> DocumentedTiler:
    """One tile is no tiling."""
    return WholeImage() if grid in (None, (1, 1)) else GridTiler(grid, overlap_ratio)


def custom_tiler(target: Any) -> Tiler:
    """What ``_target_`` names, made from the arguments beside it; nothing but a Tiler is ever called."""
    arguments = dict(target) if isinstance(target, Mapping) else {}
    path = arguments.pop(TARGET, None)
    if not isinstance(path, str):
        raise ConfigError(
            f"tiler: {target!r} has no {TARGET}. Name a subclass of Tiler by it, such as mine.tilers.Rings, and its"
            " arguments beside it."
        )
    try:
        kind = resolve_name(path)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tiler._target_={path}: {error}. Install it, or name its folder in the variable PYTHONPATH."
        ) from None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"tiler._target_={path} cannot be imported: {error}.") from None
    if not (isinstance(kind, type) and issubclass(kind, Tiler)):
        raise ConfigError(f"tiler._target_={path} is no subclass of lightning_automl_vision.tiling.Tiler.")
    try:
        return kind(**arguments)
    except Exception as error:  # whatever a class of the user's own may raise
        raise ConfigError(f"tiler.arguments={arguments}: {path} cannot be made: {_line(error)}.") from None


def windows_of(tiler: Tiler, width: int, height: int) -> tuple[Window, ...]:
    """What a tiler says of images of this size; PluginError where that cannot be used."""
    if isinstance(tiler, DocumentedTiler):
        return tuple(tiler.windows(width, height))
    name = f"{type(tiler).__name__}.windows({width}, {height})"
    try:
        windows, again = (
            tuple(Window(*map(_whole, window)) for window in tiler.windows(width, height)) for _ in range(2)
        )
    except Exception as error:  # whatever a class of the user's own may raise
        raise PluginError(f"{name} must give windows of left, top, right, bottom; it fails: {_line(error)}.") from None
    picture = Window(0, 0, width, height)
    bad = any(window.overlap(picture) != window for window in windows)
    if bad or windows[:1] != (picture,) or len({*windows}) < len(windows) or windows != again:
        raise PluginError(
            f"{name} gives {[tuple(window) for window in windows[:4]]}…: the first window must be the whole image, each"
            " must lie in it, none may come twice, and they must be the same each time."
        )
    return windows


def _whole(value: Any) -> int:
    if value != int(value):
        raise ValueError(f"{value} is no whole pixel")
    return int(value)


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def parse_size(value: Any) -> tuple[int, int] | None:
    """Pixels across and down, from ``640x480`` or a pair; None where none are given."""
    if value is None or (isinstance(value, str) and _bare(value).lower() in ("none", "null")):
        return None
    pair = _pair_in(value) if isinstance(value, str) else value
    if isinstance(pair, Sequence) and len(pair) == 2 and all(type(side) is int for side in pair):
        return pair[0], pair[1]
    raise ConfigError(f"tile_size={value!r}: that is no size. Write pixels across x pixels down, such as 640x640.")


def _check_overlap(ratio: Any) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise ConfigError(f"tile_overlap_ratio={ratio!r} must be a number in [0, 1), the share of a tile.")


def tiled_target(target: B, window: Window, minimum_visibility: float = MINIMUM_VISIBILITY) -> B:
    """What is labelled in a window, cut at its borders and in its pixels; ``target`` is in the image's.

    An object, or a crowd, stays when at least ``minimum_visibility`` of its area is in the window.
    """
    kept = target.chosen(still_seen(visible_shares(target, window), minimum_visibility))
    return shifted(clipped(kept, window), -window.left, -window.top)
