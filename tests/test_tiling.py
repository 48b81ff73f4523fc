"""The windows of an image, and what is labelled in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.geometry import Window, area
from lightning_automl_vision.samples import Boxes, Masks
from lightning_automl_vision.tiling import (
    MOST_TILES,
    SMALLEST_TILE,
    GridTiler,
    RegularTiler,
    SizeTiler,
    Spans,
    WholeImage,
    grid_name,
    grid_spans,
    parse_grid,
    sized_spans,
    tiled_target,
    tiler_from_settings,
)

SIDES = st.integers(1, 5000)
COUNTS = st.integers(1, 12)
OVERLAPS = st.floats(0, 0.95)
GRIDS = st.builds(GridTiler, st.tuples(COUNTS, COUNTS), OVERLAPS)
SIZES = st.builds(SizeTiler, st.integers(16, 900), st.integers(16, 900), st.floats(0, 0.8))


def covered(spans: Spans, side: int) -> bool:
    starts = np.array(spans.starts)
    return bool(starts[0] == 0 and starts[-1] + spans.length == side and (np.diff(starts) <= spans.length).all())


@given(SIDES, COUNTS, OVERLAPS)
def test_tiles_of_a_grid_cover_a_side_and_overlap_as_asked(side: int, count: int, overlap: float) -> None:
    spans = grid_spans(side, count, overlap)
    assert covered(spans, side)
    assert 1 <= len(spans.starts) <= count
    assert (np.diff(spans.starts) > 0).all()
    shared = spans.length - np.diff(spans.starts)
    assert (shared >= overlap * spans.length - 1).all()
    assert len(spans.starts) == 1 or spans.length >= SMALLEST_TILE


@given(SIDES, COUNTS, st.floats(0, 0.5))
def test_a_grid_is_as_fine_as_asked_where_there_is_room(side: int, count: int, overlap: float) -> None:
    exact = side / (count - (count - 1) * overlap)
    spans = grid_spans(side, count, overlap)
    if exact >= SMALLEST_TILE + 1e-6:
        assert len(spans.starts) == count
        assert exact - 1e-6 <= spans.length < exact + 1
        shared = spans.length - np.diff(spans.starts)
        assert shared.max(initial=0) - shared.min(initial=spans.length) <= 1


@given(SIDES, st.integers(16, 900), st.floats(0, 0.8))
def test_tiles_in_pixels_are_as_many_as_needed(side: int, length: int, overlap: float) -> None:
    spans = sized_spans(side, length, overlap)
    assert covered(spans, side)
    assert spans.length == min(side, length)
    assert (spans.length - np.diff(spans.starts) >= overlap * length - 1).all()
    fewer = len(spans.starts) - 1
    reach = length + (fewer - 1) * length * (1 - overlap)
    assert fewer == 0 or reach < side + 1e-6


@given(st.one_of(GRIDS, SIZES), SIDES, SIDES)
def test_the_whole_image_comes_first_and_tiles_follow_row_by_row(tiler: RegularTiler, width: int, height: int) -> None:
    assume(len(tiler.columns(width).starts) * len(tiler.rows(height).starts) <= MOST_TILES**2)
    windows = tiler.windows(width, height)
    whole, *tiles = windows
    assert whole == (0, 0, width, height)
    assert len(set(windows)) == len(windows)
    assert all(type(number) is int for window in windows for number in window)
    assert [(tile.top, tile.left) for tile in tiles] == sorted((tile.top, tile.left) for tile in tiles)
    assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in windows)
    assert len({(tile.width, tile.height) for tile in tiles}) <= 1
    if tiles:
        assert (tiles[-1].right, tiles[-1].bottom) == (width, height)


def test_a_grid_in_known_numbers() -> None:
    windows = GridTiler((3, 2)).windows(1000, 700)
    assert windows == [
        (0, 0, 1000, 700),
        (0, 0, 400, 400),
        (300, 0, 700, 400),
        (600, 0, 1000, 400),
        (0, 300, 400, 700),
        (300, 300, 700, 700),
        (600, 300, 1000, 700),
    ]


@pytest.mark.parametrize(
    "tiler", [WholeImage(), GridTiler((1, 1)), GridTiler((3, 2), 0.999), SizeTiler(640, 640), GridTiler((9, 9))]
)
def test_what_cannot_be_tiled_is_one_window(tiler: WholeImage) -> None:
    assert tiler.windows(20, 15) == [Window(0, 0, 20, 15)]


def test_an_image_with_room_for_a_row_has_one() -> None:
    assert SizeTiler(640, 640, 0.2).windows(1152, 400)[1:] == [(0, 0, 640, 400), (512, 0, 1152, 400)]
    assert GridTiler((2, 2), 0.0).windows(40, 20)[1:] == [(0, 0, 20, 20), (20, 0, 40, 20)]


@pytest.mark.parametrize(
    "value", ["3x2", " 3 X 2 ", "3\u00d72", "(3, 2)", "'(3, 2)'", '"3x2"', "[3,2]", "3,2", (3, 2), [3, 2]]
)
def test_a_grid_is_understood_in_every_form(value: Any) -> None:
    assert parse_grid(value) == (3, 2)
    assert grid_name((3, 2)) == "3x2"


@pytest.mark.parametrize("value", [None, "none", "None", "null", " 'none' "])
def test_none_is_no_grid(value: Any) -> None:
    assert parse_grid(value) is None
    assert grid_name(None) == "none"


@pytest.mark.parametrize(
    "value",
    [
        "3",
        "",
        3,
        "3x0",
        "-3x2",
        "3x2x1",
        "(3, 2]",
        "axb",
        (3,),
        (3, 2, 1),
        (3.0, 2),
        (True, 2),
        b"32",
        {},
        "3x101",
        "3\nx",
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^tiler\.grid_size=.*: that is no grid\. Write .* such as 3x2.*\.$"):
        parse_grid(value)


@pytest.mark.parametrize("tiler", [WholeImage(), GridTiler((5, 3), 0.4), SizeTiler(640, 480, 0.1)])
def test_settings_bring_a_tiler_back(tiler: WholeImage) -> None:
    assert tiler_from_settings(tiler.as_settings(), source="settings.json") == tiler


def test_settings_have_the_documented_names() -> None:
    assert GridTiler((3, 2)).as_settings() == {"tile_grid_size": "3x2", "tile_overlap_ratio": 0.25}
    assert tiler_from_settings({"tile_grid_size": "(3, 2)"}, source="settings.json") == GridTiler((3, 2), 0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile_grid_size": "3"}, r"^settings\.json: tile_grid_size='3': that is no grid"),
        ({"tile_size": "big"}, r"^settings\.json: tile_size='big': that is no size"),
        ({"tile_size": "8x640"}, r"tile_size=8x640: a tile of so few pixels"),
        ({"tile_size": "640x640", "tile_grid_size": "3x2"}, r"two ways to cut an image\. Keep one"),
        ({"tile_grid_size": "3x2", "tile_overlap_ratio": 1}, r"tile_overlap_ratio=1 must be a number in \[0, 1\)"),
        ({"tile_grid_size": "3x2", "tile_overlap_ratio": "1/4"}, r"tile_overlap_ratio='1/4' must be"),
    ],
)
def test_settings_that_make_no_tiler_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiler_from_settings(settings, source="settings.json")


def target(*corners: tuple[float, float, float, float], crowd: tuple[int, ...] = ()) -> Boxes:
    return Boxes(
        labels=np.arange(len(corners)),
        boxes=np.array(corners, np.float64).reshape(-1, 4),
        crowd=np.isin(np.arange(len(corners)), crowd),
    )


def test_a_box_cut_by_a_border_stays_when_enough_of_it_is_visible() -> None:
    """A quarter, a little less, all, a twentieth of a crowd, and nothing of a box."""
    objects = target(
        (90, 10, 110, 30), (89, 10, 109, 30), (120, 5, 130, 15), (0, 0, 111, 40), (0, 0, 50, 50), crowd=(3,)
    )
    window = Window(105, 5, 205, 105)
    shown = tiled_target(objects, window, 0.25)
    assert shown.labels.tolist() == [0, 2]
    assert shown.boxes.tolist() == [[0, 5, 5, 25], [15, 0, 25, 10]]
    assert tiled_target(objects, window, 0.04).labels.tolist() == [0, 1, 2, 3]
    assert tiled_target(objects, window, 0.04).crowd.tolist() == [False, False, False, True]
    assert tiled_target(objects, window, 1.0).labels.tolist() == [2]
    assert tiled_target(objects, window, 0.0).labels.tolist() == [0, 1, 2, 3]


def test_the_share_of_a_polygon_counts_not_that_of_its_box() -> None:
    """A triangle of which a quarter of the area, but half of the box, lies in the window."""
    plain = target((0, 0, 100, 100))
    triangle = np.array([[0.0, 0.0], [100.0, 100.0], [0.0, 100.0]])
    objects = Masks(labels=plain.labels, boxes=plain.boxes, crowd=plain.crowd, polygons=((triangle,),))
    window = Window(50, 0, 150, 120)
    assert len(tiled_target(objects, window, 0.3).labels) == 0
    shown = tiled_target(objects, window, 0.2)
    assert shown.boxes.tolist() == [[0, 50, 50, 100]]
    assert area(shown.polygons[0]) == pytest.approx(1250, rel=1e-3)
    assert shown.polygons[0][0].min() >= 0


@given(GRIDS, st.integers(32, 900), st.integers(32, 900), st.integers(0, 2**32 - 1))
def test_windows_show_what_is_labelled_where_it_is(tiler: GridTiler, width: int, height: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 0.9, (5, 2))
    high = low + random.uniform(0.01, 0.1, (5, 2))
    objects = target(*(np.hstack([low, high]) * np.array([width, height, width, height])).tolist())
    whole, *tiles = tiler.windows(width, height)
    everything = tiled_target(objects, whole, 1.0)
    assert everything.labels.tolist() == objects.labels.tolist()
    assert np.allclose(everything.boxes, objects.boxes)
    for tile in tiles:
        shown = tiled_target(objects, tile, 0.5)
        assert (shown.boxes >= 0).all()
        assert (shown.boxes <= (tile.width, tile.height) * 2).all()
        there = objects.boxes[shown.labels].clip(tile[:2] * 2, tile[2:] * 2)
        assert np.allclose(shown.boxes + (tile.left, tile.top) * 2, there)
