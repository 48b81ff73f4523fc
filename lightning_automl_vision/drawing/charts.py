"""What charts have in common: how finely they are drawn, and how words are written on them."""

from __future__ import annotations

from PIL import ImageDraw

from lightning_automl_vision.drawing.colours import Colour
from lightning_automl_vision.drawing.lettering import font_for

FINE = 2
"""Everything is drawn so many times as large, then made smaller: that is what makes lines smooth."""
LETTERS, HEADING, SMALL = 15, 23, 13


def write_on(
    canvas: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    colour: Colour,
    *,
    anchor: str = "lm",
    size: int = LETTERS,
) -> None:
    """At a place of the chart as it will be."""
    canvas.text((FINE * x, FINE * y), text, fill=colour, font=font_for(text, size * FINE), anchor=anchor)
