"""Where a picture lies in the rectangle that a network sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Letterboxed(NamedTuple):
    """``ratio`` is what the picture was scaled by; ``padding`` is the mean of both sides, across and down."""

    ratio: float
    width: int
    height: int
    padding: tuple[float, float]
    left: int
    top: int
    right: int
    bottom: int


def letterbox(
    height: int,
    width: int,
    target: tuple[int, int],
    *,
    stride: int = 32,
    fill_target: bool = True,
    enlarge: bool = True,
) -> Letterboxed:
    """A picture scaled into a target of height and width, in its middle.

    Without ``fill_target`` no more is padded than makes the sides those of the target less whole strides.
    """
    ratio = min(target[0] / height, target[1] / width)
    if not enlarge:
        ratio = min(ratio, 1.0)
    inner_width, inner_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    across, down = target[1] - inner_width, target[0] - inner_height
    if not fill_target:
        across, down = across % stride, down % stride
    left, right = margins(inner_width, inner_width + across)
    top, bottom = margins(inner_height, inner_height + down)
    return Letterboxed(ratio, inner_width, inner_height, (across / 2, down / 2), left, top, right, bottom)


def margins(side: int, target: int) -> tuple[int, int]:
    """What lies before and after a side in the middle of a longer one; the odd pixel comes after."""
    before = (target - side) // 2
    return before, target - side - before


def rectangle(ratios: Sequence[float], size: int, *, stride: int = 32, margin: float = 0.0) -> tuple[int, int]:
    """Height and width of the smallest rectangle for pictures of these ratios of height to width, long side ``size``.

    Both are whole strides, with ``margin`` strides to spare.
    """
    height, width = min(max(ratios), 1.0), min(1 / min(ratios), 1.0)
    return math.ceil(height * size / stride + margin) * stride, math.ceil(width * size / stride + margin) * stride
