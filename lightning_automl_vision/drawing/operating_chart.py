"""A picture of operating points: whether scores are shares, and the threshold of each class with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lightning_automl_vision.choosing import Choice
from lightning_automl_vision.drawing.captions import BACKGROUND, TEXT
from lightning_automl_vision.drawing.charts import FINE, HEADING, LETTERS, SMALL, write_on
from lightning_automl_vision.drawing.colours import Colour
from lightning_automl_vision.drawing.lettering import fitting, one_line
from lightning_automl_vision.metrics.calibration import Reliability
from lightning_automl_vision.metrics.thresholds import Chosen
from lightning_automl_vision.samples import Pixels

_WIDTH = 1400
_LEFT, _TOP, _SIDE = 84, 150, 460
_ROW, _MOST_ROWS = 26, 40
_BARS, _BARS_END = 790, 1150
_GRID, _EDGE, _FAINT = (46, 46, 52), (74, 74, 82), (150, 150, 158)
_BEFORE, _AFTER = (142, 142, 152), (252, 181, 44)

Place = tuple[float, float]


def chart_of(choice: Choice) -> Pixels:
    rows = [(name, choice.chosen[name]) for name in sorted(choice.chosen, key=lambda name: -choice.examples[name])]
    height = max(_TOP + _SIDE + 110, _TOP + _ROW * (min(len(rows), _MOST_ROWS) + 2) + 60)
    picture = Image.new("RGB", (FINE * _WIDTH, FINE * height), BACKGROUND)
    canvas = ImageDraw.Draw(picture)
    write_on(canvas, 24, 34, f"Operating points for {choice.rule}", TEXT, size=HEADING)
    others = len(choice.kept_usual)
    kept = f"; {others} keep{'s' if others == 1 else ''} the usual threshold" if others else ""
    number = f"{len(rows)} class{'' if len(rows) == 1 else 'es'} with a threshold" if rows else "no class has one"
    short = len(choice.falls_short)
    told = f", {short} decided less well than the rule asks for" if short else ""
    write_on(canvas, 24, 68, f"{choice.images} images; {number}{told}{kept}", _FAINT)
    _draw_reliability(canvas, choice)
    _draw_classes(canvas, rows)
    return np.asarray(picture.resize((_WIDTH, height), Image.Resampling.BOX))


def _draw_reliability(canvas: ImageDraw.ImageDraw, choice: Choice) -> None:
    write_on(canvas, 24, _TOP - 26, "share that is right", TEXT)
    for number in range(6):
        value = number / 5
        (x, y), (end, top) = _place(value, value), _place(1, 1)
        start, bottom = _place(0, 0)
        canvas.line((x, bottom, x, top), fill=_GRID, width=FINE)
        canvas.line((start, y, end, y), fill=_GRID, width=FINE)
        write_on(canvas, x / FINE, _TOP + _SIDE + 18, f"{value:.1f}", _FAINT, anchor="mm")
        write_on(canvas, _LEFT - 10, y / FINE, f"{value:.1f}", _FAINT, anchor="rm")
    canvas.line((*_place(0, 0), *_place(1, 1)), fill=_EDGE, width=2 * FINE)
    write_on(canvas, _LEFT + _SIDE / 2, _TOP + _SIDE + 44, "score", TEXT, anchor="mm")
    calibrated = choice.calibrated
    shown = [(calibrated.before, _BEFORE, "as the model scores")]
    if calibrated.temperature is not None or calibrated.curves:
        shown.append((calibrated.after, _AFTER, "calibrated"))
    for number, (curve, colour, name) in enumerate(shown):
        _draw_curve(canvas, curve, colour)
        error = f"error {curve.error:.3f}" if np.isfinite(curve.error) else "nothing was scored"
        _key(canvas, number, colour, f"{name}: {error}")


def _draw_curve(canvas: ImageDraw.ImageDraw, curve: Reliability, colour: Colour) -> None:
    """The larger a dot, the more scores it stands for."""
    known = np.flatnonzero(curve.counts > 0)
    places = [_place(float(curve.scores[index]), float(curve.shares[index])) for index in known]
    if len(places) > 1:
        canvas.line([value for place in places for value in place], fill=colour, width=2 * FINE, joint="curve")
    most = float(np.log1p(curve.counts).max(initial=1))
    for index, (x, y) in zip(known, places, strict=True):
        radius = FINE * (3 + 5 * float(np.log1p(curve.counts[index])) / most)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _key(canvas: ImageDraw.ImageDraw, number: int, colour: Colour, text: str) -> None:
    y = _TOP + 20 + 24 * number
    canvas.rectangle([FINE * value for value in (_LEFT + 14, y - 6, _LEFT + 26, y + 6)], fill=colour)
    write_on(canvas, _LEFT + 34, y, text, TEXT)


def _draw_classes(canvas: ImageDraw.ImageDraw, rows: Sequence[tuple[str, Chosen]]) -> None:
    write_on(canvas, _BARS, _TOP - 26, "threshold, and where other images would put it", TEXT)
    for column, name in enumerate(("precision", "recall")):
        write_on(canvas, 1262 + 114 * column, _TOP - 26, name, TEXT, anchor="rm")
    shown = rows[:_MOST_ROWS]
    bottom = _TOP + _ROW * max(len(shown), 1)
    for number in range(6):
        x = _bar(number / 5)
        canvas.line((x, FINE * _TOP, x, FINE * bottom), fill=_GRID, width=FINE)
        write_on(canvas, x / FINE, bottom + 16, f"{number / 5:.1f}", _FAINT, anchor="mm")
    for number, (name, one) in enumerate(shown):
        y = _TOP + _ROW * (number + 0.5)
        text = fitting(one_line(name, number), LETTERS, 180)
        write_on(canvas, _BARS - 14, y, text, TEXT, anchor="rm")
        if between := one.intervals["threshold"]:
            canvas.line((_bar(between.low), FINE * y, _bar(between.high), FINE * y), fill=_EDGE, width=6 * FINE)
        x, radius = _bar(one.threshold), 6 * FINE
        canvas.ellipse((x - radius, FINE * y - radius, x + radius, FINE * y + radius), fill=_AFTER)
        for column, figure in enumerate(("precision", "recall")):
            write_on(canvas, 1262 + 114 * column, y, _figure(one, figure), _FAINT, anchor="rm", size=SMALL)
    if len(rows) > len(shown):
        write_on(canvas, _BARS, bottom + 40, f"and {len(rows) - len(shown)} more classes", _FAINT)
    if not rows:
        write_on(canvas, _BARS, _TOP + 16, "none", _FAINT)


def _figure(one: Chosen, name: str) -> str:
    value, between = getattr(one, name), one.intervals[name]
    if not np.isfinite(value):
        return "none found"
    return f"{value:.2f}" + (f" ({between.low:.2f}-{between.high:.2f})" if between else "")


def _place(score: float, share: float) -> Place:
    return FINE * (_LEFT + _SIDE * score), FINE * (_TOP + _SIDE * (1 - share))


def _bar(value: float) -> float:
    return FINE * (_BARS + (_BARS_END - _BARS) * value)
