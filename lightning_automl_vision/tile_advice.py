"""What tiling would do for labelled objects, told from boxes and image sizes alone: no picture is read.

An object's size is the square root of its box's area, as the model gets it: after the resizing of the window in which
the object is whole and largest. The whole image is a window too, so tiling makes no object smaller. Crowds are left
out.

The score is the mean of how well each object can be seen: 0 up to 8 pixels, 1 from 32 on, and between them a half more
with each doubling. At 8 pixels an object fills one cell of the finest grid that the usual detectors predict from; 32
is where COCO's small objects end, beyond which more pixels add little. As enlarging shows nothing new, an object counts
as at most twice as large as it is in the image file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.resizing import Letterbox, Resizing
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.samples import BoolArray, Boxes, FloatArray, IntArray
from lightning_automl_vision.tables import table
from lightning_automl_vision.tiling import MINIMUM_VISIBILITY, OVERLAP_RATIO, Grid, Spans, grid_name, grid_spans

UNSEEN, CLEAR = 8, 32
"""Pixels after the resizing: objects up to the first cannot be seen, from the second on they are seen well."""
LIMITS = (UNSEEN, 16, CLEAR)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ENLARGED = 2.0
"""How many times as large as in the file an object counts at most."""
TOLERANCE = 0.02
"""What adds less than this to the score is not worth its cost."""
MOST_COST = 32
"""What takes more than so many times the pixels is shown and never recommended."""
OVERLAPS = (0.1, 0.25, 0.4)
NO_TILING: Grid = (1, 1)

_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
_LEAST_BOUND = 5
_MOST_TILES = 100
_SLACK = 0.01  # pixels that an object may reach beyond a tile and still be whole in it
_BEYOND = 1 << 40  # where a tile starts that there is not
_ROUNDING = 1e-9


DEFINITIONS = {
    "score": f"mean over objects of 0 up to {UNSEEN} pixels, 1 from {CLEAR} on, linear in the logarithm between; an"
    f" object counts as at most {ENLARGED:g} times as large as in the image file",
    "cost": "pixels through the network relative to no tiling, mean over images",
    "sizes": "quantiles of the square root of the box's area after the resize, in the window in which the object is"
    " whole and largest; the whole image is such a window",
    "below": "share of objects of less than so many pixels",
    "cut": "share of objects that the border of some tile cuts",
    "whole_in_no_tile": "share of objects that no tile shows whole; the whole image does",
    "empty_tiles": f"share of tiles in which no object keeps {MINIMUM_VISIBILITY:.0%} of its box",
    "pareto": "candidates that no other beats in cost without being worse in score",
    "recommended": f"the cheapest with a score within {TOLERANCE} of the best that takes at most {MOST_COST} times the"
    " pixels",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The objects of a data set: N boxes in pixels of their image, its index, and the M images' width and height."""

    sizes: IntArray
    boxes: FloatArray
    images: IntArray

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one way of tiling does; shares are of all objects, and ``empty_tiles`` of all tiles, whole images apart.

    Without tiling the image is its only tile. ``cost`` is the pixels through the network relative to no tiling, as a
    mean over the images.
    """

    grid: Grid
    overlap_ratio: float
    score: float
    cost: float
    sizes: tuple[float, ...]
    below: tuple[float, ...]
    cut: float
    whole_in_no_tile: float
    empty_tiles: float

    @property
    def is_tiling(self) -> bool:
        return self.grid != NO_TILING

    @property
    def name(self) -> str:
        return f"{grid_name(self.grid)} {self.overlap_ratio:g}" if self.is_tiling else "no tiling"

    @property
    def words(self) -> str:
        return f"{grid_name(self.grid)} tiles with overlap {self.overlap_ratio:g}" if self.is_tiling else self.name

    @property
    def keys(self) -> str:
        """What to add to a command."""
        if not self.is_tiling:
            return "tiler=none"
        return f"tiler=grid tiler.grid_size={grid_name(self.grid)} tiler.overlap_ratio={self.overlap_ratio:g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, rounded to what can be meant."""
        shares = ("score", "cost", "cut", "whole_in_no_tile", "empty_tiles")
        return {
            "name": self.name,
            "grid_size": grid_name(self.grid) if self.is_tiling else None,
            "overlap_ratio": self.overlap_ratio if self.is_tiling else None,
            **{name: round(value, 6) for name, value in asdict(self).items() if name in shares},
            "sizes": {f"{share:.2f}": round(size, 3) for share, size in zip(QUANTILES, self.sizes, strict=True)},
            "below": {str(limit): round(share, 6) for limit, share in zip(LIMITS, self.below, strict=True)},
        }


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Candidates, the smallest grids first; ``pareto`` are those that none beats, the cheapest first."""

    candidates: tuple[Effect, ...]
    pareto: tuple[Effect, ...]
    recommended: Effect

    @property
    def plain(self) -> Effect:
        """Without tiling."""
        return self.candidates[0]

    @property
    def best(self) -> Effect:
        """What shows objects best among what is affordable."""
        return max((effect for effect in self.pareto if effect.cost <= MOST_COST), key=lambda effect: effect.score)

    @property
    def reason(self) -> str:
        """Why it is this one, in words that follow its name."""
        chosen, before, best = self.recommended, self.plain.score, self.best.score
        more = self.pareto[-1]
        beyond = f"; {more.name} would reach {more.score:.3f} for {more.cost:.0f} times the pixels"
        told = beyond if more.score - best >= TOLERANCE else ""
        if not chosen.is_tiling:
            gain = f"by {best - before:.3f} at most" if best > before else "by nothing"
            return f"tiling raises the score of {before:.3f} {gain}, which is not worth its cost{told}"
        return (
            f"the cheapest with a score within {TOLERANCE} of the best, {best:.3f}: it raises the score from"
            f" {before:.3f} to {chosen.score:.3f} and takes {chosen.cost:.1f} times the pixels{told}"
        )


def advice_table(advice: Advice) -> str:
    """No tiling and the Pareto set, with an arrow at what is recommended."""
    sizes = f"size {' '.join(f'{share:.0%}' for share in QUANTILES)}"
    limits = [f"< {limit} px" for limit in LIMITS]
    header = ("", "tiles", "score", "cost", sizes, *limits, "cut", "whole in no tile", "empty tiles")
    return table(header, [_row(effect, chosen=effect == advice.recommended) for effect in advice.pareto])


def _row(effect: Effect, *, chosen: bool) -> tuple[str, ...]:
    sizes = " ".join(f"{size:.0f}" for size in effect.sizes)
    shares = (*effect.below, effect.cut, effect.whole_in_no_tile, effect.empty_tiles)
    percent = [f"{100 * share:.1f} %" for share in shares]
    return (">" if chosen else "", effect.name, f"{effect.score:.3f}", f"{effect.cost:.1f}", sizes, *percent)


def layout_of(images: LabelledImages[Boxes]) -> Layout:
    """The objects of labelled images whose headers were read."""
    sizes = np.array([(header.width, header.height) for header in images.headers], np.int64).reshape(-1, 2)
    boxes = [sample.target.boxes[~sample.target.crowd] for sample in images.samples]
    owners = np.repeat(np.arange(len(boxes)), [len(some) for some in boxes])
    if not len(owners):
        raise DataError(f"{images.source}: no object is labelled, so nothing can be said of tiling. Label some.")
    return Layout(sizes=sizes, boxes=np.concatenate(boxes) * np.tile(sizes[owners], 2), images=owners)


def advise(survey: Survey) -> Advice:
    """Every candidate measured; recommended is the cheapest within TOLERANCE of the best that is affordable."""
    grids = candidate_grids(_bound(survey))
    tried = [(NO_TILING, 0.0), *((grid, overlap) for grid in grids[1:] for overlap in OVERLAPS)]
    return chosen(tuple(survey.effect(*one) for one in tried))


def chosen(candidates: tuple[Effect, ...]) -> Advice:
    """The first candidate is no tiling."""
    pareto = pareto_set(candidates)
    best = max(effect.score for effect in pareto if effect.cost <= MOST_COST)
    recommended = next(effect for effect in pareto if effect.score >= best - TOLERANCE - _ROUNDING)
    return Advice(candidates=candidates, pareto=pareto, recommended=recommended)


def visibility(sizes: FloatArray) -> FloatArray:
    """How well objects of these sizes can be seen, from 0 to 1."""
    doublings = math.log2(CLEAR / UNSEEN)
    seen: FloatArray = np.log2(np.maximum(sizes, UNSEEN) / UNSEEN) / doublings
    return seen.clip(0, 1)


def candidate_grids(most: int) -> list[Grid]:
    """Up to ``most`` tiles across or down, at most twice as many one way as the other; the smallest first."""
    grids = [(across, down) for across in _COUNTS for down in _COUNTS if max(across, down) <= most]
    grids = [grid for grid in grids if max(grid) <= 2 * min(grid) and grid[0] * grid[1] <= _MOST_TILES]
    return sorted(grids, key=lambda grid: (grid[0] * grid[1], -grid[0]))


def pareto_set(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Those that no other beats in cost without being worse in score, the cheapest first; of equal ones the first."""
    chosen: list[Effect] = []
    for effect in sorted(effects, key=lambda effect: (effect.cost, -effect.score)):
        if not chosen or effect.score > chosen[-1].score:
            chosen.append(effect)
    return tuple(chosen)


def _bound(survey: Survey) -> int:
    """So many tiles across that smaller ones would show no object better, as far as that is not too many.

    That is where all but the smallest twentieth have CLEAR pixels, or where images are ENLARGED.
    """
    smallest = float(np.quantile(survey.sizes(NO_TILING, 0.0), QUANTILES[0]))
    wanted = min(CLEAR / max(smallest, 1e-3), ENLARGED / float(np.median(survey.whole.scales)))
    enough = math.ceil((wanted - OVERLAP_RATIO) / (1 - OVERLAP_RATIO))
    return min(max(enough, _LEAST_BOUND), _COUNTS[-1])


class _Axis(NamedTuple):
    """How objects lie among the tiles of one side of their images.

    ``starts`` and ``lengths`` are those of every side that occurs, ``counts`` its tiles. For each object: its side, in
    how many tiles it is whole, how many show some of it, and the first of those.
    """

    starts: IntArray
    lengths: IntArray
    counts: IntArray
    side: IntArray
    whole: IntArray
    touched: IntArray
    first: IntArray


class _Shown(NamedTuple):
    """Windows after the resizing: how many times as large as in the file, and the pixels the network computes on."""

    scales: FloatArray
    pixels: FloatArray


class Survey:
    """A data set's objects under a model's resizing; what several candidates need is computed once."""

    def __init__(self, layout: Layout, resizing: Resizing, minimum_visibility: float = MINIMUM_VISIBILITY) -> None:
        self.layout = layout
        self.native = np.sqrt((layout.boxes[:, 2:] - layout.boxes[:, :2]).prod(axis=1))
        self._resizing = resizing
        self._minimum_visibility = minimum_visibility
        self._axes: dict[tuple[int, int, float], _Axis] = {}
        # The sizes of image that occur, and which of them each image has; the same for widths and heights alone.
        self._kinds, self._kind = _distinct(layout.sizes)
        self._sides = [_distinct(layout.sizes[:, axis]) for axis in (0, 1)]
        self._sides_of_kinds = [np.searchsorted(self._sides[axis][0], self._kinds[:, axis]) for axis in (0, 1)]
        self.whole = _resized(resizing, self._kinds)

    def sizes(self, grid: Grid, overlap_ratio: float) -> FloatArray:
        """Of every object, in the window in which it is whole and largest."""
        across, down = self._axis(0, grid[0], overlap_ratio), self._axis(1, grid[1], overlap_ratio)
        tiles = _resized(self._resizing, self._tiles(across, down))
        sizes: FloatArray = self.native * self._scales(across.whole * down.whole > 0, tiles)
        return sizes

    def effect(self, grid: Grid, overlap_ratio: float) -> Effect:
        across, down = self._axis(0, grid[0], overlap_ratio), self._axis(1, grid[1], overlap_ratio)
        tiles = self._tiles(across, down)
        shown = _resized(self._resizing, tiles)
        whole = across.whole * down.whole
        scales = self._scales(whole > 0, shown)
        sizes = self.native * scales
        # A tile that shows all of the image is no window beside it.
        each = shown.pixels / self.whole.pixels * (tiles < self._kinds).any(axis=1)
        counts = across.counts[self._sides[0][1]] * down.counts[self._sides[1][1]]
        return Effect(
            grid=grid,
            overlap_ratio=overlap_ratio,
            score=round(float(visibility(np.minimum(sizes, ENLARGED * self.native)).mean()), 3),
            cost=float((1 + counts * each[self._kind]).mean()),
            sizes=tuple(np.quantile(sizes, QUANTILES).tolist()),
            below=tuple(float((sizes < limit).mean()) for limit in LIMITS),
            cut=float((across.touched * down.touched > whole).mean()),
            whole_in_no_tile=float((whole == 0).mean()),
            empty_tiles=self._empty(across, down, counts),
        )

    def _axis(self, axis: int, count: int, overlap_ratio: float) -> _Axis:
        key = axis, count, overlap_ratio
        if key not in self._axes:
            sides, side = self._sides[axis]
            spans = [grid_spans(length, count, overlap_ratio) for length in sides.tolist()]
            low, high = self.layout.boxes[:, axis], self.layout.boxes[:, axis + 2]
            self._axes[key] = _axis_of(spans, side[self.layout.images], low, high)
        return self._axes[key]

    def _tiles(self, across: _Axis, down: _Axis) -> IntArray:
        """Width and height of the tiles of each kind of image."""
        axes = zip((across, down), self._sides_of_kinds, strict=True)
        return np.stack([axis.lengths[sides] for axis, sides in axes], axis=1)

    def _scales(self, in_tile: BoolArray, tiles: _Shown) -> FloatArray:
        """How many times as large as in the file each object is shown."""
        kind, best = self._kind[self.layout.images], np.maximum(tiles.scales, self.whole.scales)
        scales: FloatArray = np.where(in_tile, best[kind], self.whole.scales[kind])
        return scales

    def _empty(self, across: _Axis, down: _Axis, counts: IntArray) -> float:
        """The share of tiles in which nothing stays when boxes are cut at their borders; ``counts`` are the images'."""
        begins = np.cumsum(counts) - counts
        used = np.zeros(int(counts.sum()), np.bool_)
        owners, column, row = _pairs(across, down)
        stays = _seen(self.layout.boxes[owners, 0::2], across, column, owners)
        stays *= _seen(self.layout.boxes[owners, 1::2], down, row, owners)
        tile = begins[self.layout.images[owners]] + row * across.counts[across.side[owners]] + column
        used[tile[stays >= self._minimum_visibility - _ROUNDING]] = True
        return float(1 - used.mean())


def _distinct(sizes: IntArray) -> tuple[IntArray, IntArray]:
    """What occurs, in order, and where in it each row is found."""
    kinds, kind = np.unique(sizes, axis=0, return_inverse=True)
    return kinds, kind.reshape(-1)


def _axis_of(spans: Sequence[Spans], side: IntArray, low: FloatArray, high: FloatArray) -> _Axis:
    counts = np.array([len(one.starts) for one in spans])
    starts = np.full((len(spans), counts.max()), _BEYOND)
    for number, one in enumerate(spans):
        starts[number, : len(one.starts)] = one.starts
    lengths = np.array([one.length for one in spans])
    whole, touched, first = (np.zeros(len(side), np.int64) for _ in range(3))
    for column in starts.T[:, side]:
        ends = column + lengths[side]
        inside = (low >= column - _SLACK) & (high <= ends + _SLACK)
        some = inside | ((low < ends - _SLACK) & (high > column + _SLACK))
        first += ~some & (touched == 0)
        whole += inside
        touched += some
    return _Axis(starts, lengths, counts, side, whole, touched, first)


def _resized(resizing: Resizing, sizes: IntArray) -> _Shown:
    """Windows of these widths and heights; a letterbox is always a full square."""
    places = [resizing.place(width, height)[2:] for width, height in sizes.tolist()]
    areas = np.array(places).prod(axis=1)
    pixels = np.full(len(areas), float(resizing.size**2)) if isinstance(resizing, Letterbox) else areas
    return _Shown(np.sqrt(areas / sizes.prod(axis=1)), pixels)


def _pairs(across: _Axis, down: _Axis) -> tuple[IntArray, IntArray, IntArray]:
    """Every object with every tile that shows some of it: the object, and the tile's column and row."""
    together = across.touched * down.touched
    owners = np.repeat(np.arange(len(together)), together)
    number = np.arange(len(owners)) - np.repeat(np.cumsum(together) - together, together)
    row, column = np.divmod(number, across.touched[owners])
    return owners, across.first[owners] + column, down.first[owners] + row


def _seen(ends: FloatArray, axis: _Axis, number: IntArray, owners: IntArray) -> FloatArray:
    """Which share of each object's length lies in its tile."""
    side = axis.side[owners]
    start = axis.starts[side, number]
    low, high = ends.T
    shares: FloatArray = (np.minimum(high, start + axis.lengths[side]) - np.maximum(low, start)) / (high - low)
    return shares
