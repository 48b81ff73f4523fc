"""Filling the traced polygons gives the mask back, and run lengths survive their encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightning_automl_vision.data import rle
from lightning_automl_vision.data.tracing import mask_to_polygons, outlines

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def filled(polygons: list[Any], height: int, width: int) -> Any:
    """Pixels whose centre lies within an odd number of the polygons."""
    mask = np.zeros((height, width), bool)
    y, x = np.mgrid[:height, :width] + 0.5
    for points in polygons:
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if y1 != y2:
                crosses = ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
                mask ^= crosses
    return mask


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_outlines_are_exact(mask: Any) -> None:
    found = outlines(mask)
    assert np.array_equal(filled(found, *mask.shape), mask)
    for points in found:
        turns = np.diff(np.vstack([points, points[:2]]), axis=0)
        assert len(points) >= 4
        assert (turns[:-1] * turns[1:] == 0).all(), "corners only"


def test_hole_is_an_outline_within_another() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    assert sorted(len(points) for points in mask_to_polygons(mask)) == [4, 4]
    mask = np.zeros((4, 4), bool)
    assert mask_to_polygons(mask) == []


def test_pixels_that_touch_at_a_corner_are_apart() -> None:
    assert [len(points) for points in outlines(np.eye(3, dtype=bool))] == [4, 4, 4]


@pytest.mark.parametrize("radius", [40, 200])
def test_long_outline_is_simplified_and_stays_near(radius: int) -> None:
    y, x = np.mgrid[: 2 * radius + 20, : 2 * radius + 20] - (radius + 10)
    mask = x**2 + y**2 < radius**2
    (points,) = mask_to_polygons(mask)
    assert 8 <= len(points) <= 100
    again = filled([points], *mask.shape)
    assert (again & mask).sum() / (again | mask).sum() > 0.97


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_run_lengths_survive_compression(counts: list[int]) -> None:
    assert rle.decompress(rle.compress(counts)) == counts


def test_run_lengths_go_down_the_columns() -> None:
    mask = rle.decode({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_compressed_run_lengths_worked_out_by_hand() -> None:
    """Worked out by hand: 6, 1 and 40 (8 and a second character 1) as they are, then 4 - 1."""
    assert rle.compress([6, 1, 40, 4]) == "61X13"
    assert rle.decompress("61X13") == [6, 1, 40, 4]
