"""Text for pictures: how large, in which font, and what becomes of letters that no font has."""

from __future__ import annotations

import math
import unicodedata
from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_LONGEST = 32
SMALLEST = 10
# The font that comes with Pillow has no letters beyond ASCII; these are looked for where a system keeps its fonts.
_WIDER = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "LiberationSans-Regular.ttf", "arial.ttf")


def font_size(width: int, height: int) -> int:
    """Readable when the picture is seen as a whole, whatever its size."""
    return max(round(0.019 * math.sqrt(width * height)), SMALLEST)


@cache
def font_for(text: str, size: int) -> Font:
    return (None if text.isascii() else _wider_font(size)) or _built_in(size)


@cache
def one_line(text: str) -> str:
    """Without line breaks, not too long for a picture, and in ASCII where there is no font for more."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 3].rstrip() + "..."
    return line if line.isascii() or _wider_font(SMALLEST) else plain_letters(line)


def plain_letters(text: str) -> str:
    """Letters without their accents, and ? for what is no Latin letter."""
    apart = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in apart if not unicodedata.combining(letter)).encode("ascii", "replace").decode()


@cache
def capital_height(font: Font) -> int:
    return math.ceil(-font.getbbox("H", anchor="ls")[1])


def fitting(text: str, size: int, width: int) -> str:
    """As much of the text as is no wider than this."""
    font = font_for(text, size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1].rstrip()
    return text + "..."


@cache
def _built_in(size: int) -> Font:
    return ImageFont.load_default(size)


@cache
def _wider_font(size: int) -> Font | None:
    for name in _WIDER:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None
