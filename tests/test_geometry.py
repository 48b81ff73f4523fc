"""Boxes and polygons in windows: what is visible of them, and where it lies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_automl_vision.geometry import (
    Window,
    area,
    clipped,
    clipped_parts,
    clipped_polygon,
    disjoint,
    flipped_horizontally,
    flipped_vertically,
    scaled,
    shifted,
    visible_shares,
)
from lightning_automl_vision.masks import draw_polygons
from lightning_automl_vision.samples import Boxes, Masks

SIDE = 120  # of the pictures that shapes are drawn in to be counted
WHOLE = Window(0, 0, SIDE, SIDE)
POINTS = st.lists(st.tuples(*[st.floats(1, SIDE - 1)] * 2), min_size=3, max_size=9).map(np.array)
SHAPES = st.lists(POINTS, min_size=1, max_size=3)
SPANS = st.lists(st.integers(0, SIDE), min_size=2, max_size=2, unique=True).map(sorted)
WINDOWS = st.builds(lambda x, y: Window(x[0], y[0], x[1], y[1]), SPANS, SPANS)

RING = [(30, 60), (30, 30), (90, 30), (90, 90), (30, 90), (30, 64), (40, 64), (40, 80), (80, 80), (80, 40), (40, 40)]
C_SHAPE = np.array([*RING, (40, 60)], dtype=np.float64)


def boxes(*corners, crowd=None):
    return Boxes(
        labels=np.arange(len(corners)),
        boxes=np.array(corners, dtype=np.float64).reshape(-1, 4),
        crowd=np.array(crowd or [False] * len(corners), dtype=np.bool_),
    )


def masks(*objects):
    points = [np.concatenate(parts) for parts in objects]
    corners = [[*p.min(axis=0), *p.max(axis=0)] for p in points]
    plain = boxes(*corners)
    return Masks(
        labels=plain.labels, boxes=plain.boxes, crowd=plain.crowd, polygons=tuple(tuple(parts) for parts in objects)
    )


def rectangle(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def drawn(parts, fine=4):
    """The shape as pixels, four times as fine as the coordinates."""
    pixels = np.zeros((SIDE * fine, SIDE * fine), dtype=np.bool_)
    if parts:
        crop = draw_polygons([part * fine for part in parts], SIDE * fine, SIDE * fine)
        rows, columns = crop.pixels.shape
        pixels[crop.top : crop.top + rows, crop.left : crop.left + columns] = crop.pixels
    return pixels


def within(pixels, window, fine=4):
    left, top, right, bottom = (int(side) * fine for side in window)
    seen = np.zeros_like(pixels)
    seen[top:bottom, left:right] = pixels[top:bottom, left:right]
    return seen


def test_shifting_and_scaling_move_all_coordinates() -> None:
    target = scaled(shifted(masks([rectangle(10, 20, 30, 60)]), -5, 10), 2, 0.5)
    assert target.boxes.tolist() == [[10, 15, 50, 35]]
    assert target.polygons[0][0].tolist() == rectangle(10, 15, 50, 35).tolist()


def test_flips_keep_the_order_of_corners() -> None:
    target = masks([rectangle(10, 20, 30, 60)])
    across, down = flipped_horizontally(target, 100), flipped_vertically(target, 80)
    assert across.boxes.tolist() == [[70, 20, 90, 60]]
    assert down.boxes.tolist() == [[10, 20, 30, 60]]
    assert sorted(across.polygons[0][0].tolist()) == sorted(rectangle(70, 20, 90, 60).tolist())
    assert flipped_horizontally(across, 100).boxes.tolist() == target.boxes.tolist()


def test_visible_share_of_boxes() -> None:
    target = boxes([0, 0, 10, 10], [95, 95, 105, 105], [90, 0, 110, 10], [100, 0, 110, 10], [-10, -10, 110, 110])
    shares = visible_shares(target, Window(0, 0, 100, 100))
    assert shares.tolist() == pytest.approx([1, 0.25, 0.5, 0, 10000 / 14400])


def test_visible_share_of_a_polygon_is_not_that_of_its_box() -> None:
    triangle = np.array([[0, 0], [100, 0], [0, 100]], dtype=np.float64)
    assert visible_shares(masks([triangle]), Window(0, 0, 50, 50))[0] == pytest.approx(0.5)
    assert visible_shares(masks([triangle]), Window(50, 50, 100, 100))[0] == pytest.approx(0)


def test_holes_are_no_area() -> None:
    framed = [rectangle(0, 0, 100, 100), rectangle(25, 25, 75, 75)]
    assert area(framed) == pytest.approx(7500, rel=0.01)
    assert visible_shares(masks(framed), Window(30, 30, 70, 70))[0] == 0
    assert visible_shares(masks(framed), Window(0, 0, 50, 100))[0] == pytest.approx(0.5)


def test_a_figure_of_eight_has_both_its_halves() -> None:
    eight = np.array([[0, 0], [100, 100], [0, 100], [100, 0]], dtype=np.float64)
    assert area([eight]) == pytest.approx(5000, rel=1e-3)
    assert visible_shares(masks([eight]), Window(0, 0, 100, 50))[0] == pytest.approx(0.5, rel=1e-3)


@given(SHAPES, WINDOWS)
@settings(max_examples=80, deadline=None)
def test_the_area_is_the_number_of_pixels(parts: list[np.ndarray], window: Window) -> None:
    pixels = drawn(parts)
    outline = sum(np.abs(np.diff(part, axis=0, append=part[:1])).sum() for part in parts)
    tolerance = 0.02 * pixels.sum() / 16 + 0.2 * outline
    assert abs(area(parts) - pixels.sum() / 16) <= tolerance
    assert abs(area(parts, window) - within(pixels, window).sum() / 16) <= tolerance


@given(SHAPES, WINDOWS)
@example([C_SHAPE], Window(0, 50, 60, 120))
@settings(max_examples=150, deadline=None)
def test_what_is_clipped_covers_the_pixels_in_the_window(parts: list[np.ndarray], window: Window) -> None:
    expected = within(drawn(parts), window)
    found = drawn([part for part in map(clipped_polygon, parts, [window] * len(parts)) if len(part)])
    assert (found == expected).mean() > 1 - 1e-4


@given(SHAPES, WINDOWS)
@example([C_SHAPE], Window(20, 55, 100, 70))
@settings(max_examples=150, deadline=None)
def test_boxes_are_those_of_what_is_visible(parts: list[np.ndarray], window: Window) -> None:
    target = masks(parts)
    if area(parts) < 1 or visible_shares(target, window)[0] < 1e-3:
        return
    cut = clipped(target, window)
    rows, columns = np.nonzero(within(drawn(parts), window))
    if not len(rows):
        return
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 4
    left, top, right, bottom = cut.boxes[0]
    assert window.left <= left < right <= window.right
    assert window.top <= top < bottom <= window.bottom
    assert (cut.boxes[0, :2] <= seen[:2] + 0.13).all()
    assert (cut.boxes[0, 2:] >= seen[2:] - 0.13).all()


def test_borders_that_an_outline_only_runs_along_are_not_in_its_box() -> None:
    """A ring that is open at the left, seen through a slit across its middle."""
    cut = clipped(masks([C_SHAPE]), Window(50, 50, 120, 70))
    assert cut.boxes.tolist() == [[80, 50, 90, 70]]
    assert area(cut.polygons[0]) == pytest.approx(200)
    cut = clipped(masks([C_SHAPE]), Window(35, 0, 120, 120))
    assert cut.boxes.tolist() == [[35, 30, 90, 90]]


def test_a_window_within_an_object_is_filled_by_it() -> None:
    cut = clipped(masks([rectangle(0, 0, 100, 100)]), Window(10, 20, 30, 40))
    assert cut.boxes.tolist() == [[10, 20, 30, 40]]
    assert area(cut.polygons[0]) == 400


def test_objects_within_the_window_are_as_they_were() -> None:
    target = masks([C_SHAPE], [rectangle(100, 100, 119, 119)])
    cut = clipped(target, Window(30, 30, 119, 119))
    assert cut.boxes.tolist() == target.boxes.tolist()
    assert all(one is other for one, other in zip(cut.polygons, target.polygons, strict=True))


def test_parts_of_which_nothing_is_visible_are_left_out() -> None:
    parts = clipped_parts([rectangle(0, 0, 20, 20), rectangle(50, 50, 60, 60), C_SHAPE], Window(42, 42, 78, 78))
    assert [part.tolist() for part in parts] == [rectangle(50, 50, 60, 60).tolist()]


def test_windows() -> None:
    window = Window(0, 0, 10, 20)
    assert (window.width, window.height, window.area) == (10, 20, 200)
    assert window.overlap(Window(5, 5, 50, 50)) == (5, 5, 10, 20)
    assert window.overlap(Window(10, 0, 20, 20)) is None


@given(st.lists(WINDOWS, max_size=4))
@settings(max_examples=60, deadline=None)
def test_disjoint_windows_cover_the_same_and_nothing_twice(windows: list[Window]) -> None:
    covered, times = np.zeros((SIDE, SIDE), np.int64), np.zeros((SIDE, SIDE), np.int64)
    for found, given_ in ((covered, windows), (times, disjoint(windows))):
        for left, top, right, bottom in given_:
            found[int(top) : int(bottom), int(left) : int(right)] += 1
    assert ((covered > 0) == times).all()


def test_nothing_to_clip() -> None:
    for empty in (boxes(), boxes([0, 0, 1, 1]).chosen(np.array([], dtype=np.int64))):
        assert visible_shares(empty, WHOLE).tolist() == []
        assert clipped(empty, WHOLE).boxes.shape == (0, 4)
