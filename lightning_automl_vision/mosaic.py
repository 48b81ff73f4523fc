"""Photos put on one canvas that is then moved, turned and cut, as pixels and as objects.

The canvas is only imagined: each photo is brought straight to where it lies in the output, and nothing else of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from lightning_automl_vision.affine import changed, moved_points, seen
from lightning_automl_vision.data.resizing import Letterbox
from lightning_automl_vision.geometry import Window, clipped_polygon
from lightning_automl_vision.samples import Boxes, FloatArray, Masks, Pixels, Place

B = TypeVar("B", bound=Boxes)
Scene = tuple[Pixels, Boxes]

_SUBPIXEL = 8  # binary digits
# Pixels of the output by which a photo may lie beside its place: more cannot be seen, less costs more time.
_SLACK = 1 / 32
_SKIPPING = 0.5


class Tile(NamedTuple):
    """One photo on a canvas: where the whole of it lies, and the part of the canvas in which it is shown."""

    place: Place
    region: Window


def drawn_centre(side: int, generator: np.random.Generator) -> tuple[int, int]:
    """Where the four photos of a mosaic meet: on a canvas of twice the side, at least half a side from its border."""
    down, across = (int(generator.uniform(side / 2, 3 * side / 2)) for _ in range(2))
    return across, down


def loaded_size(width: int, height: int, side: int) -> tuple[int, int]:
    """A photo's size in a mosaic before the mosaic is scaled: its long side is the mosaic's."""
    long = max(width, height)
    return max(width * side // long, 1), max(height * side // long, 1)


def four_tiles(sizes: Sequence[tuple[int, int]], centre: tuple[int, int], side: int) -> list[Tile]:
    """Photos of these sizes to the left above the centre, right above, left below and right below it."""
    canvas = Window(0, 0, 2 * side, 2 * side)
    tiles = []
    for number, (width, height) in enumerate(sizes):
        left = centre[0] - (width if number % 2 == 0 else 0)
        top = centre[1] - (height if number < 2 else 0)
        region = Window(left, top, left + width, top + height).overlap(canvas)
        assert region is not None
        tiles.append(Tile(Place(left, top, width, height), region))
    return tiles


def whole_tile(width: int, height: int) -> Tile:
    """A photo that is its own canvas."""
    return Tile(Place(0, 0, width, height), Window(0, 0, width, height))


def fitted_tile(width: int, height: int, output: tuple[int, int]) -> Tile:
    """A photo in the middle of a canvas, as large as it fits."""
    scale = min(output[0] / width, output[1] / height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (output[0] - size[0]) // 2, (output[1] - size[1]) // 2
    return Tile(Place(left, top, *size), Window(left, top, left + size[0], top + size[1]))


def square_tile(width: int, height: int, side: int) -> Tile:
    """The same in a square, exactly as a letterbox does it."""
    place = Letterbox(size=side).place(width, height)
    return Tile(place, Window(place.left, place.top, place.left + place.width, place.top + place.height))


def composed(
    photos: Sequence[tuple[Pixels, Boxes]],
    tiles: Sequence[Tile],
    matrix: FloatArray,
    output: tuple[int, int],
    *,
    scale: float = 1.0,
    fill: int = 114,
) -> Scene:
    """The photos on their tiles of a canvas that the matrix brings to the output; targets are given as shares.

    ``scale`` is the matrix' own: the size that objects are held against to tell how much of them is left.
    """
    straight = upright(matrix)
    if straight:
        tiles = [aligned(tile, matrix) for tile in tiles]
    pixels = np.full((output[1], output[0], 3), fill, np.uint8)
    for (photo, _), tile in zip(photos, tiles, strict=True):
        if straight:
            _paste(photo, tile, matrix, pixels)
        else:
            _warp(photo, tile, matrix, scale, pixels)
    objects = joined(
        [seen(target.placed(tile.place), tile.region) for (_, target), tile in zip(photos, tiles, strict=True)]
    )
    return pixels, changed(objects, matrix, scale, Window(0, 0, *output))


def joined(targets: Sequence[B]) -> B:
    """The objects of several targets of one kind, in the same pixels."""
    first = targets[0]
    together = replace(
        first,
        labels=np.concatenate([target.labels for target in targets]),
        boxes=np.concatenate([target.boxes for target in targets]),
        crowd=np.concatenate([target.crowd for target in targets]),
    )
    if not isinstance(together, Masks):
        return together
    polygons = tuple(parts for target in targets if isinstance(target, Masks) for parts in target.polygons)
    return replace(together, polygons=polygons)


def upright(matrix: FloatArray) -> bool:
    """Whether rows stay rows and columns stay columns."""
    return not (matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1])


def aligned(tile: Tile, matrix: FloatArray) -> Tile:
    """The tile with its edges on whole pixels of the output, so that photos are resized and meet without a seam."""
    edges = np.floor(_corners(tile, matrix) + 0.5).astype(np.float64)
    edges[1] = np.maximum(edges[1], edges[0] + 1)
    whole = moved_points(edges, np.linalg.inv(matrix).astype(np.float64))
    return Tile(Place(*whole[0], *(whole[1] - whole[0])), Window(*whole[2], *whole[3]))


def _paste(photo: Pixels, tile: Tile, matrix: FloatArray, output: Pixels) -> None:
    """An aligned tile needs no more than a part of the photo resized."""
    (left, top), (right, bottom), *region = _corners(tile, matrix).round().astype(int).tolist()
    shown = Window(*region[0], *region[1]).overlap(Window(0, 0, output.shape[1], output.shape[0]))
    if shown is None or right <= left or bottom <= top:
        return
    photo = _halved(photo, (right - left) / photo.shape[1])
    across, down = (right - left) / photo.shape[1], (bottom - top) / photo.shape[0]
    columns, skipped_columns = _source(shown.left - left, shown.right - left, across, photo.shape[1])
    rows, skipped_rows = _source(shown.top - top, shown.bottom - top, down, photo.shape[0])
    resized = cv2.resize(photo[rows, columns], None, fx=across, fy=down, interpolation=cv2.INTER_LINEAR)
    width, height = int(shown.width), int(shown.height)
    part = output[int(shown.top) : int(shown.bottom), int(shown.left) : int(shown.right)]
    part[:] = resized[skipped_rows : skipped_rows + height, skipped_columns : skipped_columns + width]


def _corners(tile: Tile, matrix: FloatArray) -> FloatArray:
    """Of the photo and of its region, left top and right bottom each."""
    left, top, width, height = tile.place
    corners = [[left, top], [left + width, top + height], *np.reshape(tile.region, (2, 2))]
    return moved_points(np.array(corners), matrix)


def _source(first: float, last: float, scale: float, length: int) -> tuple[slice, int]:
    """Which pixels of a photo's side are needed for a span of the resized side, and how many resized come before it.

    A part resized on its own must begin where a resized pixel does; the photo's first pixel always is such a place.
    """
    needed = max(math.floor(first / scale) - 1, 0)
    starts = np.arange(needed, -1, -1)
    resized = starts * scale
    found = np.flatnonzero(np.abs(resized - resized.round()) <= _SLACK)[0]
    end = min(math.ceil(last / scale) + 2 + math.ceil(1 / scale), length)
    return slice(int(starts[found]), end), int(first - resized[found].round())


def _warp(photo: Pixels, tile: Tile, matrix: FloatArray, scale: float, output: Pixels) -> None:
    """Only what the tile's region covers of the output is touched."""
    outline = moved_points(_outline(tile.region), matrix)
    shown = clipped_polygon(outline, Window(0, 0, output.shape[1], output.shape[0]))
    if len(shown) < 3:
        return
    low, high = np.floor(shown.min(axis=0)).astype(int), np.ceil(shown.max(axis=0)).astype(int)
    if (low >= high).any():
        return
    photo = _halved(photo, scale * tile.place.width / photo.shape[1])
    width, height = (high - low).tolist()
    to_canvas = _scaling(tile.place.width / photo.shape[1], tile.place.height / photo.shape[0], *tile.place[:2])
    change = _scaling(1, 1, *-(low + 0.5)) @ matrix @ to_canvas @ _scaling(1, 1, 0.5, 0.5)
    if matrix[2, 0] or matrix[2, 1]:
        warped = cv2.warpPerspective(photo, change, (width, height), borderMode=cv2.BORDER_REPLICATE)
    else:
        warped = cv2.warpAffine(photo, change[:2], (width, height), borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros((height, width), np.uint8)
    corners = np.round((outline - low - 0.5) * 2**_SUBPIXEL).astype(np.int32)
    cv2.fillConvexPoly(mask, corners, 255, shift=_SUBPIXEL)
    cv2.copyTo(warped, mask, output[low[1] : high[1], low[0] : high[0]])


def _outline(window: Window) -> FloatArray:
    left, top, right, bottom = window
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _halved(photo: Pixels, scale: float) -> Pixels:
    """The photo without the pixels that linear interpolation would skip if it were brought to this scale."""
    while scale < _SKIPPING and min(photo.shape[:2]) > 1:
        scale *= 2
        size = photo.shape[1] // 2, photo.shape[0] // 2
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return photo


def _scaling(across: float, down: float, left: float, top: float) -> FloatArray:
    return np.array([[across, 0, left], [0, down, top], [0, 0, 1]])
