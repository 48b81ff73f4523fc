"""What a classifier says of a picture, in a strip below it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from lightning_automl_vision.drawing.colours import colour_of
from lightning_automl_vision.drawing.lettering import fitting, font_for, font_size, one_line
from lightning_automl_vision.samples import Pixels, ScoredLabels

BACKGROUND = (28, 28, 32)
TEXT = (240, 240, 242)
_FAINT, _TRACK = (140, 140, 148), (64, 64, 72)
_ROWS = 3
_NARROWEST, _WIDENED = 220, 320
_COLUMN = 0.45


def captioned(pixels: Pixels, scored: ScoredLabels) -> Pixels:
    """The picture above its three most likely classes, with a bar for the score of each.

    Where operating points decide, what they decided for comes first, and everything else is faint.
    """
    best = _shown(scored)
    width = max(pixels.shape[1], _NARROWEST)
    size = font_size(width, min(pixels.shape[0], width))
    row, margin = round(1.7 * size), round(0.8 * size)
    names = [one_line(scored.labels[index], index) for index in best]
    longest = max(font_for(name, size).getlength(name) for name in names)
    width = max(width, min(math.ceil(longest / _COLUMN), _WIDENED))
    strip = Image.new("RGB", (width, row * len(best) + margin), BACKGROUND)
    canvas = ImageDraw.Draw(strip)
    column = min(math.ceil(longest), round(_COLUMN * width))
    digits = font_for("100 %", size)
    start, end = 2 * margin + column, width - 2 * margin - math.ceil(digits.getlength("100 %"))
    for number, (index, name) in enumerate(zip(best, names, strict=True)):
        score = float(scored.scores[index])
        middle = margin / 2 + (number + 0.5) * row
        name = fitting(name, size, column)
        ink = TEXT if scored.decided is None or index in scored.decided else _FAINT
        canvas.text((margin, middle), name, fill=ink, font=font_for(name, size), anchor="lm")
        canvas.text((width - margin, middle), f"{100 * score:.0f} %", fill=ink, font=digits, anchor="rm")
        half = 0.3 * size
        canvas.rounded_rectangle((start, middle - half, end, middle + half), radius=half, fill=_TRACK)
        if (length := score * (end - start)) >= 1:
            bar = (start, middle - half, start + length, middle + half)
            canvas.rounded_rectangle(bar, radius=min(half, length / 2), fill=colour_of(index))
    return np.vstack([centred(pixels, width), np.asarray(strip)])


def _shown(scored: ScoredLabels) -> list[int]:
    """The classes of the rows; of equal scores the first."""
    ranked: list[int] = np.argsort(-scored.scores, kind="stable").tolist()
    return [*dict.fromkeys([*(scored.decided or ()), *ranked])][:_ROWS]


def centred(pixels: Pixels, width: int) -> Pixels:
    """At least so wide, with a dark margin on both sides."""
    spare = width - pixels.shape[1]
    if spare <= 0:
        return pixels
    whole = np.full((pixels.shape[0], width, 3), BACKGROUND, np.uint8)
    whole[:, spare // 2 : spare // 2 + pixels.shape[1]] = pixels
    return whole
