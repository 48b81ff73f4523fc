"""Colours that tell classes apart, about equally light, so that none stands out and black text is readable on each."""

from __future__ import annotations

import math
from functools import cache

Colour = tuple[int, int, int]

# Each as far from those before it as can be, at a lightness of 0.70 to 0.82 in OKLCH.
_FIRST = bytes.fromhex(
    "3fc0f2 f87103 a6d936 d66fe0 edb2bd 93a777 fcb52c fa618c a096c6 54dfbe 0fbd59 f69efe"
    "c3ca96 b2c3f3 c68e85 ca932e 42b2ae 908ffe 92ac18 ed8ec0 7bc67b f6946d 49a2fe be9df7"
)
PALETTE = len(_FIRST) // 3
"""The colours that were chosen; further ones are made, and less easy to tell apart."""

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@cache
def colour_of(index: int) -> Colour:
    """Red, green, blue of a class or an object by its number."""
    if index < PALETTE:
        red, green, blue = _FIRST[3 * index : 3 * index + 3]
        return red, green, blue
    turn = index - PALETTE
    return _from_oklch(0.7 + 0.04 * (turn % 4), 0.09 + 0.03 * (turn % 3), turn * _GOLDEN_ANGLE)


def text_colour_on(background: Colour) -> Colour:
    """Black or white, whichever has the greater contrast (WCAG)."""
    red, green, blue = (_linear(value / 255) for value in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)


def _from_oklch(lightness: float, chroma: float, hue: float) -> Colour:
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _byte(4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short),
        _byte(-1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short),
        _byte(-0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short),
    )


def _byte(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)
