"""A picture of what tiling would do: each candidate's score over its cost, beside the objects' sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from PIL import Image, ImageDraw

from lightning_automl_vision.drawing.captions import BACKGROUND, TEXT
from lightning_automl_vision.drawing.charts import FINE, HEADING, LETTERS, SMALL, write_on
from lightning_automl_vision.drawing.colours import Colour
from lightning_automl_vision.drawing.lettering import fitting, font_for
from lightning_automl_vision.samples import FloatArray, Pixels
from lightning_automl_vision.tile_advice import LIMITS, MOST_COST, Advice, Effect, visibility

_WIDTH, _HEIGHT = 1400, 700
_TOP, _BOTTOM = 144, 626
_GRID, _EDGE, _FAINT, _QUIET, _OTHER = (46, 46, 52), (74, 74, 82), (150, 150, 158), (104, 104, 114), (92, 98, 110)
_PARETO, _PLAIN, _CHOSEN = (142, 170, 214), (176, 176, 184), (252, 181, 44)
_BINS_PER_DOUBLING = 4

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of all objects after the resizing, and what they are those of."""

    name: str
    pixels: FloatArray
    colour: Colour


@dataclass(frozen=True)
class _Axes:
    """A plot from ``low`` to ``high``, (x, y) both, between ``left`` and ``right``; x grows in equal factors."""

    left: float
    right: float
    low: tuple[float, float]
    high: tuple[float, float]

    def x(self, value: float) -> float:
        share = math.log2(value / self.low[0]) / math.log2(self.high[0] / self.low[0])
        return FINE * (self.left + (self.right - self.left) * min(max(share, 0), 1))

    def y(self, value: float) -> float:
        share = (value - self.low[1]) / (self.high[1] - self.low[1])
        return FINE * (_BOTTOM - (_BOTTOM - _TOP) * share)

    @property
    def frame(self) -> Box:
        return FINE * self.left, FINE * _TOP, FINE * self.right, FINE * _BOTTOM


def chart_of(advice: Advice, before: FloatArray, after: FloatArray, *, heading: str, lines: Sequence[str]) -> Pixels:
    """``before`` and ``after`` are the sizes of objects without tiling and as is recommended."""
    picture = Image.new("RGB", (FINE * _WIDTH, FINE * _HEIGHT), BACKGROUND)
    canvas = ImageDraw.Draw(picture)
    write_on(canvas, 24, 34, fitting(heading, HEADING, _WIDTH - 48), TEXT, size=HEADING)
    for number, line in enumerate(lines):
        write_on(canvas, 24, 68 + 22 * number, fitting(line, LETTERS, _WIDTH - 48), _FAINT)
    _draw_candidates(canvas, advice)
    shown = [Sizes(name="no tiling", pixels=before, colour=_PLAIN)]
    if advice.recommended.is_tiling:
        shown.append(Sizes(name=advice.recommended.name, pixels=after, colour=_CHOSEN))
    _draw_sizes(picture, shown)
    return np.asarray(picture.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX))


def _draw_candidates(canvas: ImageDraw.ImageDraw, advice: Advice) -> None:
    costs, scores = ([getattr(effect, name) for effect in advice.candidates] for name in ("cost", "score"))
    lowest = min(math.floor(20 * min(scores) - 1e-9) / 20, 0.9)
    highest = 2 ** math.ceil(math.log2(max(*costs, 2)))
    axes = _Axes(
        78, 872, (0.86, max(lowest, 0) - 0.03 * (1 - max(lowest, 0))), (1.06 * highest, 1 + 0.05 * (1 - max(lowest, 0)))
    )
    _draw_ground(canvas, axes, highest)
    for effects in _by_grid(advice.candidates):
        places = [_place(axes, effect) for effect in effects]
        if len(places) > 1:
            canvas.line(places, fill=_EDGE, width=FINE)
        for place in places:
            _draw_dot(canvas, place, 3, _OTHER)
    line = [_place(axes, effect) for effect in advice.pareto]
    if len(line) > 1:
        canvas.line(line, fill=_PARETO, width=2 * FINE, joint="curve")
    for place in line:
        _draw_dot(canvas, place, 5, _PARETO)
    x, y = _place(axes, advice.recommended)
    _draw_dot(canvas, (x, y), 13, _CHOSEN)
    _draw_dot(canvas, (x, y), 10.5, BACKGROUND)
    _draw_dot(canvas, (x, y), 6.5, _CHOSEN)
    _draw_labels(canvas, axes, advice)


def _draw_ground(canvas: ImageDraw.ImageDraw, axes: _Axes, highest: int) -> None:
    left, top, right, bottom = axes.frame
    if highest > MOST_COST:
        edge = axes.x(MOST_COST)
        canvas.rectangle((edge, top, right, bottom), fill=(34, 34, 38))
        write_on(canvas, (edge + right) / 2 / FINE, _TOP + 11, "never recommended", _QUIET, anchor="mm", size=SMALL)
    for power in range(round(math.log2(highest)) + 1):
        x = axes.x(2**power)
        canvas.line((x, top, x, bottom), fill=_GRID, width=FINE)
        write_on(canvas, x / FINE, _BOTTOM + 18, f"{2**power}", _FAINT, anchor="mm")
    step = 0.1 if axes.low[1] < 0.7 else 0.05
    for number in range(math.ceil((axes.low[1] + 1e-9) / step), round(1 / step) + 1):
        y = axes.y(number * step)
        canvas.line((left, y, right, y), fill=_GRID, width=FINE)
        write_on(canvas, axes.left - 10, y / FINE, f"{number * step:.{1 if step == 0.1 else 2}f}", _FAINT, anchor="rm")
    middle = (axes.left + axes.right) / 2
    write_on(canvas, middle, _BOTTOM + 44, "cost: pixels through the network, no tiling = 1", TEXT, anchor="mm")
    write_on(canvas, 24, _TOP - 20, "score: how well objects can be seen", TEXT)


def _by_grid(effects: Sequence[Effect]) -> list[list[Effect]]:
    """Those that differ only in their overlap together."""
    grids = dict.fromkeys(effect.grid for effect in effects)
    return [[effect for effect in effects if effect.grid == grid] for grid in grids]


def _place(axes: _Axes, effect: Effect) -> tuple[float, float]:
    return axes.x(effect.cost), axes.y(effect.score)


def _draw_labels(canvas: ImageDraw.ImageDraw, axes: _Axes, advice: Advice) -> None:
    """Every point that there is room for, the important ones first; what is beaten by its grid's name alone."""
    taken = [_around(_place(axes, effect), 3 * FINE) for effect in advice.candidates]
    taken += [_around(_place(axes, effect), 6 * FINE) for effect in advice.pareto]
    taken += [_around(place, 2 * FINE) for place in _along([_place(axes, effect) for effect in advice.pareto])]
    taken.append(_around(_place(axes, advice.recommended), 14 * FINE))
    first = [advice.recommended, advice.plain, *advice.pareto]
    for effect in dict.fromkeys(first):
        chosen = effect == advice.recommended
        gap, size = (17, 17) if chosen else (10, SMALL)
        _label(canvas, axes, _place(axes, effect), effect.name, _CHOSEN if chosen else TEXT, gap, size, taken)
    said = {effect.grid for effect in advice.pareto}
    for effects in _by_grid(advice.candidates):
        if effects[0].grid not in said:
            name = effects[0].name.partition(" ")[0]
            _label(canvas, axes, _place(axes, effects[0]), name, _QUIET, 7, 12, taken)


def _label(
    canvas: ImageDraw.ImageDraw,
    axes: _Axes,
    place: tuple[float, float],
    text: str,
    colour: Colour,
    gap: float,
    size: int,
    taken: list[Box],
) -> None:
    """Below to the right, or on another side of the point where that hides nothing; else nowhere."""
    font = font_for(text, size * FINE)
    left, top, right, bottom = axes.frame
    width, height = font.getlength(text), size * FINE
    for box in chain(*(_sides(place, width, height, far * gap * FINE) for far in (1, 1.7))):
        if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom:
            continue
        if not any(_meet(box, other) for other in taken):
            taken.append(box)
            middle = (box[1] + box[3]) / 2
            canvas.text(
                (box[0], middle), text, fill=colour, font=font, anchor="lm", stroke_width=2, stroke_fill=BACKGROUND
            )
            return


def _sides(place: tuple[float, float], width: float, height: float, gap: float) -> Iterator[Box]:
    x, y = place
    near = 0.7 * gap
    corners = [
        (x + near, y + near),
        (x - width / 2, y + gap),
        (x + gap, y - height / 2),
        (x - width / 2, y - gap - height),
        (x - near - width, y - near - height),
        (x + near, y - near - height),
        (x - near - width, y + near),
        (x - gap - width, y - height / 2),
    ]
    for left, top in corners:
        yield left, top, left + width, top + height


def _along(places: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Points of the line through these, close to each other."""
    for (left, top), (right, bottom) in pairwise(places):
        steps = math.ceil(math.hypot(right - left, bottom - top) / (4 * FINE)) + 1
        yield from zip(np.linspace(left, right, steps).tolist(), np.linspace(top, bottom, steps).tolist(), strict=True)


def _around(place: tuple[float, float], reach: float) -> Box:
    return place[0] - reach, place[1] - reach, place[0] + reach, place[1] + reach


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_sizes(picture: Image.Image, shown: Sequence[Sizes]) -> None:
    everything = np.concatenate([sizes.pixels for sizes in shown])
    low = 2.0 ** min(math.floor(math.log2(max(np.quantile(everything, 0.002), 1))), 2)
    high = 2.0 ** max(math.ceil(math.log2(max(np.quantile(everything, 0.998), 1)) + 1e-9), 6)
    edges = np.exp2(np.arange(math.log2(low), math.log2(high) + 1e-9, 1 / _BINS_PER_DOUBLING))
    shares = [np.histogram(sizes.pixels.clip(low, high), edges)[0] / len(sizes.pixels) for sizes in shown]
    axes = _Axes(948, 1376, (low, 0.0), (high, 1.24 * float(np.max(shares))))
    canvas = ImageDraw.Draw(picture)
    _draw_size_axes(canvas, axes)
    for sizes, heights in zip(shown, shares, strict=True):
        outline = list(_outline(axes, edges.tolist(), heights.tolist()))
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).polygon(outline, fill=72)
        picture.paste(sizes.colour, mask=mask)
        canvas.line(outline, fill=sizes.colour, width=2 * FINE, joint="curve")
    for number, sizes in enumerate(shown):
        y = _TOP + 18 + 24 * number
        canvas.rectangle([FINE * value for value in (axes.left + 12, y - 6, axes.left + 24, y + 6)], fill=sizes.colour)
        less = float((sizes.pixels < LIMITS[1]).mean())
        text = f"{sizes.name}: median {np.median(sizes.pixels):.0f} px, {less:.0%} below {LIMITS[1]} px"
        write_on(canvas, axes.left + 33, y, text, TEXT)


def _draw_size_axes(canvas: ImageDraw.ImageDraw, axes: _Axes) -> None:
    _, top, _, bottom = axes.frame
    for column in range(math.ceil(axes.frame[0]), math.floor(axes.frame[2]) + 1):
        share = (column / FINE - axes.left) / (axes.right - axes.left)
        size = axes.low[0] * (axes.high[0] / axes.low[0]) ** share
        seen = float(visibility(np.array([size]))[0])
        ground = tuple(round(base + 14 * seen) for base in BACKGROUND)
        canvas.line((column, top, column, bottom), fill=ground)
    power = round(math.log2(axes.low[0]))
    while 2**power <= axes.high[0]:
        x = axes.x(2.0**power)
        canvas.line((x, top, x, bottom), fill=_EDGE if 2**power in LIMITS else _GRID, width=FINE)
        colour = TEXT if 2**power in LIMITS else _FAINT
        write_on(canvas, x / FINE, _BOTTOM + 18, f"{2**power}", colour, anchor="mm")
        power += 1
    canvas.line((axes.frame[0], bottom, axes.frame[2], bottom), fill=_EDGE, width=FINE)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if step == 0.2 or axes.high[1] <= 6 * step)
    for number in range(math.floor(axes.high[1] / step) + 1):
        y = axes.y(number * step)
        canvas.line((axes.frame[0], y, axes.frame[2], y), fill=_GRID, width=FINE)
        write_on(canvas, axes.left - 8, y / FINE, f"{number * step:.0%}", _FAINT, anchor="rm")
    middle = (axes.left + axes.right) / 2
    write_on(canvas, middle, _BOTTOM + 44, "size of objects after the resize, in pixels", TEXT, anchor="mm")
    write_on(canvas, axes.left, _TOP - 20, "share of objects; on lighter ground they are seen better", TEXT)


def _outline(axes: _Axes, edges: Sequence[float], heights: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Steps, from the ground and back to it."""
    yield axes.x(edges[0]), axes.y(0)
    for (left, right), height in zip(pairwise(edges), heights, strict=True):
        yield axes.x(left), axes.y(height)
        yield axes.x(right), axes.y(height)
    yield axes.x(edges[-1]), axes.y(0)


def _draw_dot(canvas: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, colour: Colour) -> None:
    canvas.ellipse(_around(place, radius * FINE), fill=colour)
