"""Text for pictures: how large, in which font, and what becomes of letters that no font has."""

from __future__ import annotations

import math
import unicodedata
from contextlib import suppress
from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_LONGEST = 32
SMALLEST = 10
# The font that comes with Pillow has no letters beyond ASCII; these are looked for where a system keeps its fonts.
_WIDER = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "LiberationSans-Regular.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "PingFang.ttc",
    "msyh.ttc",
    "msgothic.ttc",
)
_NO_LETTER = "\U0010fffe"


def font_size(width: int, height: int) -> int:
    """Readable when the picture is seen as a whole, whatever its size."""
    return max(round(0.019 * math.sqrt(width * height)), SMALLEST)


@cache
def font_for(text: str, size: int) -> Font:
    file = None if text.isascii() else _wider_font(text)
    return _built_in(size) if file is None else _loaded(file, size)


@cache
def one_line(text: str, number: int) -> str:
    """A class' name without line breaks and not too long for a picture.

    Where no font has its letters it is in ASCII, and where that cannot say it all with the class' number, from 1 on.
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 3].rstrip() + "..."
    if line.isascii() or _wider_font(line):
        return line
    plain = plain_letters(line)
    if plain.count("?") == line.count("?"):
        return plain
    left = " ".join(plain.replace("?", " ").split())
    return f"{left}, class {number + 1}" if any(map(str.isalnum, left)) else f"class {number + 1}"


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


def shortened(text: str, size: int, width: int) -> str:
    """The text without its last words, as far as that makes it fit; a first word too long is cut."""
    while font_for(text, size).getlength(text) > width and " " in text:
        text = text.rpartition(" ")[0]
    return fitting(text, size, width)


@cache
def _wider_font(text: str) -> str | None:
    """The file of the first font that has all of the letters."""
    return next((file for file in _wider_files() if all(_has(file, letter) for letter in text)), None)


@cache
def _wider_files() -> tuple[str, ...]:
    files = []
    for name in _WIDER:
        with suppress(OSError):
            files.append(str(ImageFont.truetype(name, SMALLEST).path))
    return tuple(files)


@cache
def _has(file: str, letter: str) -> bool:
    """A letter that a font lacks looks like any other that it lacks."""
    return letter.isspace() or _look(file, letter) != _look(file, _NO_LETTER)


def _look(file: str, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = _loaded(file, SMALLEST).getmask(letter)
    return mask.size, bytes(mask)


@cache
def _loaded(file: str, size: int) -> Font:
    return ImageFont.truetype(file, size)
