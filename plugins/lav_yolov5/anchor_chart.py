"""A picture of objects by width and height, and of the anchors among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lav_yolov5.anchor_fitting import agreements
from lightning_automl_vision.drawing.captions import BACKGROUND, TEXT
from lightning_automl_vision.drawing.colours import Colour, colour_of
from lightning_automl_vision.drawing.lettering import font_for
from lightning_automl_vision.samples import FloatArray, Pixels

_FINE = 2
"""Everything is drawn so many times as large, then made smaller: that is what makes lines smooth."""
_WIDTH, _HEIGHT = 960, 720
_LEFT, _TOP, _SIDE = 76, 92, 560
_PANEL, _PANEL_SIDE = 676, 244
_LETTERS, _HEADING = 15, 21
_GRID, _REACH, _FAINT, _OLD = (46, 46, 52), (40, 41, 47), (150, 150, 158), (176, 176, 184)
_OBJECT, _LOST = (142, 170, 214), (250, 97, 100)
_DOT = 2.6
_PER_LEVEL = 3
# Of colours that stand well apart from each other and from those of the objects.
_LEVEL_COLOURS = (2, 6, 9, 15, 1)


@dataclass(frozen=True)
class _Axes:
    """Pixels along both axes, from 2 to the power of ``low`` to 2 to the power of ``high``, in equal factors."""

    low: int
    high: int

    def points(self, sizes: FloatArray) -> FloatArray:
        """x, y of each width, height; what is beyond the ends of an axis lies on them."""
        shares = (np.log2(np.maximum(sizes, 1e-9)) - self.low) / (self.high - self.low)
        across, down = np.clip(shares, 0, 1).T
        return _FINE * np.stack([_LEFT + _SIDE * across, _TOP + _SIDE * (1 - down)], axis=1)

    def point(self, width: float, height: float) -> tuple[float, float]:
        ((x, y),) = self.points(np.array([[width, height]])).tolist()
        return x, y


def chart_of(
    sizes: FloatArray,
    anchors: FloatArray,
    before: FloatArray | None,
    *,
    threshold: float,
    heading: str,
    lines: Sequence[str],
) -> Pixels:
    """Sizes and anchors are N x 2 pixels; ``before`` are anchors that are used no more.

    Lighter ground is what an anchor reaches with the factor ``threshold``, and objects beyond it are red.
    """
    axes = _axes_for(sizes, anchors if before is None else np.concatenate([anchors, before]))
    picture = Image.new("RGB", (_FINE * _WIDTH, _FINE * _HEIGHT), BACKGROUND)
    canvas = ImageDraw.Draw(picture)
    _draw_reach(canvas, axes, anchors, threshold)
    _draw_axes(canvas, axes)
    lost = np.max([agreements(sizes, anchor) for anchor in anchors], axis=0) <= 1 / threshold
    opacity = float(np.clip(14 / math.sqrt(len(sizes)), 0.05, 0.8))
    for colour, members, strength in ((_OBJECT, sizes[~lost], opacity), (_LOST, sizes[lost], max(opacity, 0.4))):
        picture = _with_cloud(picture, axes, members, colour, strength)
    canvas = ImageDraw.Draw(picture)
    for width, height in [] if before is None else before:
        _draw_cross(canvas, *axes.point(width, height))
    for number, (width, height) in enumerate(anchors):
        _draw_anchor(canvas, *axes.point(width, height), _level_colour(number))
    _draw_words(canvas, heading, lines)
    _draw_panel(canvas, anchors, before)
    small = picture.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)
    return np.asarray(small)


def _axes_for(sizes: FloatArray, anchors: FloatArray) -> _Axes:
    smallest = max(min(float(np.quantile(sizes, 0.001)), float(anchors.min())), 1.0)
    largest = max(float(sizes.max()), float(anchors.max()))
    return _Axes(low=math.floor(math.log2(smallest * 0.9)), high=math.ceil(math.log2(largest * 1.1)))


def _draw_reach(canvas: ImageDraw.ImageDraw, axes: _Axes, anchors: FloatArray, threshold: float) -> None:
    for anchor in anchors:
        left, bottom = axes.point(*(anchor / threshold))
        right, top = axes.point(*(anchor * threshold))
        canvas.rectangle((left, top, right, bottom), fill=_REACH)


def _draw_axes(canvas: ImageDraw.ImageDraw, axes: _Axes) -> None:
    left, bottom = axes.point(2.0**axes.low, 2.0**axes.low)
    right, top = axes.point(2.0**axes.high, 2.0**axes.high)
    for power in range(axes.low, axes.high + 1):
        x, y = axes.point(2.0**power, 2.0**power)
        canvas.line((x, top, x, bottom), fill=_GRID, width=_FINE)
        canvas.line((left, y, right, y), fill=_GRID, width=_FINE)
        _write(canvas, x, bottom + 14 * _FINE, f"{2**power}", _FAINT, anchor="mm")
        _write(canvas, left - 9 * _FINE, y, f"{2**power}", _FAINT, anchor="rm")
    _write(canvas, (left + right) / 2, bottom + 38 * _FINE, "width in pixels", TEXT, anchor="mm")
    _write(canvas, 12 * _FINE, top - 16 * _FINE, "height in pixels", TEXT, anchor="lm")


def _with_cloud(picture: Image.Image, axes: _Axes, sizes: FloatArray, colour: Colour, opacity: float) -> Image.Image:
    """A dot for each size; where several overlap they hide more of the ground."""
    if not len(sizes):
        return picture
    width, height = picture.size
    x, y = np.rint(axes.points(sizes)).astype(np.int64).T
    counts = np.bincount(y * width + x, minlength=width * height).reshape(height, width).astype(np.float32)
    dots = cv2.filter2D(counts, -1, _dot(), borderType=cv2.BORDER_CONSTANT)
    cover = (255 * (1 - (1 - opacity) ** dots)).round().astype(np.uint8)
    return Image.composite(Image.new("RGB", picture.size, colour), picture, Image.fromarray(cover))


def _dot() -> NDArray[np.float32]:
    radius = _DOT * _FINE
    steps = np.arange(-math.floor(radius), math.floor(radius) + 1)
    return (np.hypot(*np.meshgrid(steps, steps)) <= radius).astype(np.float32)


def _draw_cross(canvas: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """Where an anchor was."""
    reach = 5 * _FINE
    for ends in ((x - reach, y - reach, x + reach, y + reach), (x - reach, y + reach, x + reach, y - reach)):
        for colour, width in ((BACKGROUND, 5), (_OLD, 2)):
            canvas.line(ends, fill=colour, width=width * _FINE)


def _draw_anchor(canvas: ImageDraw.ImageDraw, x: float, y: float, colour: Colour) -> None:
    for radius, fill in ((9, BACKGROUND), (7.5, colour), (2.5, BACKGROUND)):
        reach = radius * _FINE
        canvas.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)


def _draw_words(canvas: ImageDraw.ImageDraw, heading: str, lines: Sequence[str]) -> None:
    _write(canvas, 12 * _FINE, 24 * _FINE, heading, TEXT, size=_HEADING, anchor="lm")
    for number, line in enumerate(lines):
        _write(canvas, _PANEL * _FINE, (_TOP + 10 + 22 * number) * _FINE, line, TEXT, anchor="lm")


def _draw_panel(canvas: ImageDraw.ImageDraw, anchors: FloatArray, before: FloatArray | None) -> None:
    """The anchors as boxes about one centre, true to scale, above their sizes in pixels."""
    side = _PANEL_SIDE * _FINE
    centre_x, centre_y = _PANEL * _FINE + side / 2, (_TOP + 76) * _FINE + side / 2
    everything = anchors if before is None else np.concatenate([anchors, before])
    scale = side / everything.max()
    drawn = [] if before is None else [(size, _FAINT, 1) for size in before]
    drawn += [(size, _level_colour(number), 2) for number, size in enumerate(anchors)]
    for (width, height), colour, line in sorted(drawn, key=lambda entry: -float(entry[0].prod())):
        half_width, half_height = scale * width / 2, scale * height / 2
        corners = (centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height)
        canvas.rectangle([float(value) for value in corners], outline=colour, width=line * _FINE)
    row = (_TOP + 76 + _PANEL_SIDE + 28) * _FINE
    for level, start in enumerate(range(0, len(anchors), _PER_LEVEL)):
        y = row + 24 * level * _FINE
        _draw_anchor(canvas, (_PANEL + 8) * _FINE, y, _level_colour(start))
        _write(canvas, (_PANEL + 26) * _FINE, y, listed(anchors[start : start + _PER_LEVEL]), TEXT, anchor="lm")
    if before is not None:
        y = row + (24 * -(-len(anchors) // _PER_LEVEL) + 8) * _FINE
        _draw_cross(canvas, (_PANEL + 8) * _FINE, y)
        _write(canvas, (_PANEL + 26) * _FINE, y, "before", _FAINT, anchor="lm")


def listed(anchors: FloatArray) -> str:
    """Whole pixels, and tenths of a side with less than ten."""
    return ", ".join(" x ".join(f"{side:.{int(side < 9.95)}f}" for side in anchor) for anchor in anchors)


def _level_colour(number: int) -> Colour:
    return colour_of(_LEVEL_COLOURS[number // _PER_LEVEL % len(_LEVEL_COLOURS)])


def _write(
    canvas: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: Colour, *, anchor: str, size: int = _LETTERS
) -> None:
    canvas.text((x, y), text, fill=colour, font=font_for(text, size * _FINE), anchor=anchor)
