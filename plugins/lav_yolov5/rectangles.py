"""Which rectangle of whole strides a picture is put in the middle of; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lav_yolov5.letterbox import letterbox

GRAY = 114
STRIDE = 32

Sizes = Sequence[tuple[int, int]]
Rectangle = tuple[int, int]
"""Height and width."""


def rectangle_around(sizes: Sizes) -> Rectangle:
    """The smallest with sides that 32 divides and that holds pictures of these widths and heights."""
    return whole(max(height for _, height in sizes)), whole(max(width for width, _ in sizes))


def alike(sizes: Sizes) -> dict[Rectangle, list[int]]:
    """Which pictures need the same rectangle when each has the smallest of its own."""
    groups: dict[Rectangle, list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(rectangle_around([size]), []).append(index)
    return groups


def corner(size: tuple[int, int], rectangle: Rectangle) -> tuple[int, int]:
    """Where the left and the top of a picture of this width and height lie."""
    place = letterbox(size[1], size[0], rectangle, enlarge=False)
    return place.left, place.top


def whole(side: float) -> int:
    return math.ceil(side / STRIDE) * STRIDE
