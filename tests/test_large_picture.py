"""A picture of 20,000 x 20,000 pixels, which would take 1.2 GB, is looked at tile by tile and never held."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest

from lightning_automl_vision.geometry import Window
from lightning_automl_vision.merging import Merge, StreamingMerge
from lightning_automl_vision.samples import FloatArray, IntArray, Pixels, Scores
from lightning_automl_vision.tiling import SizeTiler

SIDE, CELL = 20_000, 250
Found = tuple[FloatArray, Scores, IntArray]


def drawn(window: Window) -> Pixels:
    """The part of the picture in a window: in each cell a disc or a square whose place and size the cell decides."""
    pixels = np.full((int(window.height), int(window.width)), 30, np.uint8)
    for row in range(int(window.top) // CELL, -(-int(window.bottom) // CELL)):
        for column in range(int(window.left) // CELL, -(-int(window.right) // CELL)):
            left, top, size, square = _object(row, column)
            x, y = left - int(window.left), top - int(window.top)
            if square:
                cv2.rectangle(pixels, (x, y), (x + size - 1, y + size - 1), 200, -1)
            else:
                cv2.circle(pixels, (x + size // 2, y + size // 2), size // 2, 120, -1)
    return pixels


def _object(row: int, column: int) -> tuple[int, int, int, bool]:
    number = (row * 7919 + column * 104729) % 10007
    size = 21 + 2 * (number % 40)
    room = CELL - size - 4
    return column * CELL + 2 + number * 31 % room, row * CELL + 2 + number * 17 % room, size, number % 3 == 0


def looked_at(window: Window) -> Found:
    """Every object in a window by its brightness; whole ones score more, as cut ones show less."""
    pixels = drawn(window)
    boxes, scores, labels = [], [], []
    for label, level in enumerate((120, 200)):
        count, _, stats, _ = cv2.connectedComponentsWithStats((pixels == level).astype(np.uint8))
        for left, top, width, height, area in stats[1:count].tolist():
            boxes.append((window.left + left, window.top + top, window.left + left + width, window.top + top + height))
            scores.append(min(area / 10_000, 0.99))
            labels.append(label)
    return np.array(boxes).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)


@pytest.mark.parametrize(
    "merge", [Merge(method="ios_nms", threshold=0.5), Merge(method="greedy_merging", largest=160.0)]
)
def test_the_answer_is_whole_and_memory_stays_small(merge: Merge) -> None:
    tiles = SizeTiler(1000, 1000, 0.2).windows(SIDE, SIDE)[1:]
    tracemalloc.start()
    stream, found, most = StreamingMerge(tiles, merge), [], 0
    for number, tile in enumerate(tiles):
        stream.add(number, *looked_at(tile))
        if number % 25 == 24:
            found.append(stream.finished())
        most = max(most, len(stream.held))
    found.append(stream.close())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    boxes = np.concatenate([part.boxes for part in found])
    cells = SIDE // CELL
    assert len(boxes) == cells**2
    wanted = {_box(row, column) for row in range(cells) for column in range(cells)}
    assert {tuple(box) for box in boxes.astype(int).tolist()} == wanted
    assert most < cells**2 / 3
    assert peak < 60e6


def _box(row: int, column: int) -> tuple[int, int, int, int]:
    left, top, size, _ = _object(row, column)
    return left, top, left + size, top + size
