"""What happens to boxes and polygons when a picture is moved, scaled, mirrored or cut; all in pixels, numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.samples import BoolArray, Boxes, FloatArray, Masks, Place

B = TypeVar("B", bound=Boxes)
Parts = Sequence[FloatArray]

# An area is measured along so many rows; a triangle's is then right to a ten-thousandth.
_ROWS = 64
# A part of an object that keeps less than this share of its area is a trace of cutting, not a part.
_TRACE = 1e-6
_NUDGE = 1e-6  # pixels
# Of an object that is there at all, at least this share is to be seen, whatever is asked for.
_LEAST_SEEN = 1e-4
_ROUNDING = 1e-9


class Window(NamedTuple):
    """A part of a picture, or more than it: the window may reach beyond its borders."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return self.width * self.height

    def overlap(self, other: Window) -> Window | None:
        """What both show; None if that is nothing."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Window(left, top, right, bottom) if left < right and top < bottom else None


def shifted(target: B, x: float, y: float) -> B:
    return target.placed(Place(x, y, 1, 1))


def scaled(target: B, across: float, down: float) -> B:
    return target.placed(Place(0, 0, across, down))


def flipped_horizontally(target: B, width: float) -> B:
    """Left and right change places in a picture of this width."""
    mirrored = target.placed(Place(width, 0, -1, 1))
    return replace(mirrored, boxes=mirrored.boxes[:, [2, 1, 0, 3]])


def flipped_vertically(target: B, height: float) -> B:
    """Top and bottom change places in a picture of this height."""
    mirrored = target.placed(Place(0, height, 1, -1))
    return replace(mirrored, boxes=mirrored.boxes[:, [0, 3, 2, 1]])


def bounds(points: FloatArray) -> FloatArray:
    """The box around points."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def disjoint(windows: Sequence[Window]) -> list[Window]:
    """Windows that do not overlap and cover what these cover."""
    pieces: list[Window] = []
    for window in windows:
        fresh = [window]
        for piece in pieces:
            fresh = [rest for part in fresh for rest in _without(part, piece)]
        pieces += fresh
    return pieces


def _without(window: Window, hole: Window) -> list[Window]:
    seen = window.overlap(hole)
    if seen is None:
        return [window]
    around = (
        Window(window.left, window.top, window.right, seen.top),
        Window(window.left, seen.bottom, window.right, window.bottom),
        Window(window.left, seen.top, seen.left, seen.bottom),
        Window(seen.right, seen.top, window.right, seen.bottom),
    )
    return [part for part in around if part.left < part.right and part.top < part.bottom]


def visible_shares(target: Boxes, window: Window) -> FloatArray:
    """How much of each object's area is in the window: of its box, or of its polygons where it has any."""
    low = np.maximum(target.boxes[:, :2], window[:2])
    high = np.minimum(target.boxes[:, 2:], window[2:])
    shares: FloatArray = (high - low).clip(0).prod(axis=1) / (target.boxes[:, 2:] - target.boxes[:, :2]).prod(axis=1)
    if isinstance(target, Masks):
        for index in np.flatnonzero(_cut(target, window) & (shares > 0)):
            shares[index] = _visible_share(target.polygons[index], target.boxes[index], window, float(shares[index]))
    return shares


def still_seen(shares: FloatArray, minimum: float = 0.0) -> BoolArray:
    """Whether at least the minimum of an object is in a window, and never nothing of it."""
    return np.asarray(shares >= max(minimum - _ROUNDING, _LEAST_SEEN))


def clipped(target: B, window: Window) -> B:
    """What is in the window of objects that are all, at least in part, in it; still in the picture's pixels."""
    boxes = target.boxes.clip(window[:2] * 2, window[2:] * 2)
    if not isinstance(target, Masks):
        return replace(target, boxes=boxes)
    polygons = list(target.polygons)
    for index in np.flatnonzero(_cut(target, window)):
        parts = target.polygons[index]
        polygons[index] = clipped_parts(parts, window)
        boxes[index] = _bounds(parts, polygons[index], window)
    return replace(target, boxes=boxes, polygons=tuple(polygons))


def clipped_parts(parts: Parts, window: Window) -> tuple[FloatArray, ...]:
    """The parts of one object within the window; drawn with holes, they cover what the whole ones cover there."""
    cut = [points for part in parts if len(points := clipped_polygon(part, window)) >= 3]
    least = _TRACE * area(parts)
    return tuple(points for points in cut if area([points]) > least) or tuple(cut)


def clipped_polygon(points: FloatArray, window: Window) -> FloatArray:
    """The polygon within the window; where it leaves and comes back, it runs along the border (Sutherland, Hodgman)."""
    for axis, border, side in ((0, window.left, 1), (0, window.right, -1), (1, window.top, 1), (1, window.bottom, -1)):
        depths = (points[:, axis] - border) * side
        inside = depths >= 0
        if not inside.all():
            points = _cut_at(points, depths, inside, axis, border)
    return points


def _cut_at(points: FloatArray, depths: FloatArray, inside: BoolArray, axis: int, border: float) -> FloatArray:
    following, depths_after = np.roll(points, -1, axis=0), np.roll(depths, -1)
    crossing = inside != np.roll(inside, -1)
    way = np.divide(depths, depths - depths_after, out=np.zeros_like(depths), where=crossing)
    met = points + (following - points) * way[:, None]
    met[:, axis] = border
    both: FloatArray = np.stack([points, met], axis=1)
    kept: FloatArray = both[np.stack([inside, crossing], axis=1)]
    return kept


def area(parts: Parts, window: Window | None = None) -> float:
    """What an odd number of the parts cover, so that a part within another is a hole; of it what is in the window."""
    starts = np.concatenate(parts)
    ends = np.concatenate([np.roll(part, -1, axis=0) for part in parts])
    left, top = starts.min(axis=0)
    right, bottom = starts.max(axis=0)
    seen = Window(left, top, right, bottom).overlap(window or Window(left, top, right, bottom))
    if seen is None:
        return 0.0
    step = seen.height / _ROWS
    rows: FloatArray = seen.top + (np.arange(_ROWS, dtype=np.float64) + 0.5) * step
    crossings = _crossings(starts, ends, rows).clip(seen.left, seen.right)
    return float((crossings[1::2] - crossings[::2]).sum() * step)


def _crossings(starts: FloatArray, ends: FloatArray, rows: FloatArray) -> FloatArray:
    """Where edges cross the rows, from left to right in each column; an even number, made up with infinity."""
    meets = (starts[:, 1:] <= rows) != (ends[:, 1:] <= rows)
    meets = meets if len(meets) % 2 == 0 else np.vstack([meets, np.zeros_like(meets[:1])])
    found = np.full(meets.shape, np.inf)
    edge, row = np.nonzero(meets)
    rise = ends[edge] - starts[edge]
    found[edge, row] = starts[edge, 0] + (rows[row] - starts[edge, 1]) * rise[:, 0] / rise[:, 1]
    found.sort(axis=0)
    return found


def _cut(target: Boxes, window: Window) -> BoolArray:
    """Whether an object reaches beyond the window."""
    beyond = np.hstack([target.boxes[:, :2] < window[:2], target.boxes[:, 2:] > window[2:]])
    return np.asarray(beyond.any(axis=1))


def _visible_share(parts: Parts, box: FloatArray, window: Window, otherwise: float) -> float:
    whole = area(parts)
    return area(parts, window) / whole if whole > 0 else otherwise


def _bounds(whole: Parts, cut: Parts, window: Window) -> FloatArray:
    """The box of what is visible: edges that only run along the border are no part of the object's outline."""
    touching = [points[_outlines(points, window)] for points in cut]
    corners = np.array([[x, y] for x in (window.left, window.right) for y in (window.top, window.bottom)])
    points = np.concatenate([*touching, corners[_covers(whole, corners, window)]])
    points = points if len(points) else np.concatenate(cut)
    return bounds(points)


def _outlines(points: FloatArray, window: Window) -> BoolArray:
    """Whether a point is the end of an edge that does not lie in the window's border."""
    on_border = np.stack([points == window[:2], points == window[2:]], axis=1).reshape(len(points), 4)
    leaves = np.asarray(~(on_border & np.roll(on_border, -1, axis=0)).any(axis=1))
    return leaves | np.roll(leaves, 1)


def _covers(parts: Parts, corners: FloatArray, window: Window) -> NDArray[np.bool_]:
    """Whether an odd number of the parts covers each corner of the window, looked at from a little inside of it."""
    middle = np.array([(window.left + window.right) / 2, (window.top + window.bottom) / 2])
    places = corners + np.sign(middle - corners) * _NUDGE
    starts = np.concatenate(parts)
    ends = np.concatenate([np.roll(part, -1, axis=0) for part in parts])
    crossings = _crossings(starts, ends, places[:, 1])
    return np.asarray((crossings < places[:, 0]).sum(axis=0) % 2 == 1)
