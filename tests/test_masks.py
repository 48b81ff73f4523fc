"""Masks: drawn from polygons and from a model's shapes, kept as run lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_automl_vision.data.rle import decode
from lightning_automl_vision.masks import Crop, Mask, draw_polygons, draw_shape, encode, masks_of, polygon_mask
from lightning_automl_vision.samples import Boxes, Masks, Place, ScoredBoxes, ScoredMasks

SIDES = st.integers(1, 12)


@st.composite
def crops(draw):
    """A crop somewhere in a picture, and the picture's size."""
    height, width = draw(SIDES), draw(SIDES)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    shape = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    return Crop(left=left, top=top, pixels=draw(arrays(np.bool_, shape))), width, height


def whole(crop, width, height):
    pixels = np.zeros((height, width), np.bool_)
    rows, columns = crop.pixels.shape
    pixels[crop.top : crop.top + rows, crop.left : crop.left + columns] = crop.pixels
    return pixels


@given(crops())
def test_runs_give_the_pixels_back(case):
    crop, width, height = case
    mask = encode(crop, width, height)
    expected = whole(crop, width, height)
    np.testing.assert_array_equal(mask.pixels, expected)
    np.testing.assert_array_equal(decode(mask.as_coco()), expected)
    assert mask.area == expected.sum()
    assert len(mask.runs) % 2 == 0
    assert (np.diff(mask.runs) > 0).all()


def polygons_in_words(parts, width, height):
    """Pixel by pixel: whether a line to the left of the pixel's centre crosses the outlines an odd number of times."""
    pixels = np.zeros((height, width), np.bool_)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            crossings = 0
            for part in parts:
                for (x0, y0), (x1, y1) in zip(part, np.roll(part, -1, axis=0), strict=True):
                    if (y0 < y) != (y1 < y):
                        crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x
            pixels[row, column] = crossings % 2
    return pixels


@given(
    st.lists(
        arrays(
            np.float64,
            st.tuples(st.integers(3, 6), st.just(2)),
            elements=st.integers(-30, 1030).map(lambda value: value / 100),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_filled_by_the_even_odd_rule_at_pixel_centres(parts):
    drawn = whole(draw_polygons(parts, 10, 9), 10, 9)
    shifts = [(x, y) for x in (-1e-9, 1e-9) for y in (-1e-9, 1e-9)]
    expected = np.stack([polygons_in_words([part + shift for part in parts], 10, 9) for shift in shifts])
    sure = expected.all(axis=0) | ~expected.any(axis=0)  # a centre on an outline may go either way
    np.testing.assert_array_equal(drawn[sure], expected[0][sure])


def square(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def test_a_part_within_another_is_a_hole():
    mask = polygon_mask([square(2, 2, 18, 18), square(6, 6, 10, 10)], 20, 20)
    assert mask.area == 16 * 16 - 4 * 4
    assert not mask.pixels[8, 8]


def test_an_object_outside_the_picture_has_no_pixels():
    for parts in ([square(30, 2, 40, 9)], [square(-9, -9, 0, 0)], [square(3, 3, 3, 9)]):
        assert polygon_mask(parts, 20, 20).area == 0


def test_a_sure_shape_fills_its_box_and_no_more():
    crop = draw_shape(np.ones((28, 28), np.float32), np.array([10.0, 20.0, 66.0, 90.0]), 0.5, 100, 100)
    expected = np.zeros((100, 100), np.bool_)
    expected[20:90, 10:66] = True
    np.testing.assert_array_equal(whole(crop, 100, 100), expected)


@pytest.mark.parametrize("box", [(-20, -10, 30, 25), (80, 85, 130, 120), (-5, -5, 110, 110), (40.2, 40.3, 40.9, 41.2)])
def test_shapes_are_cut_at_the_borders(box):
    crop = draw_shape(np.ones((14, 14), np.float32), np.array(box, np.float64), 0.5, 100, 100)
    mask = whole(crop, 100, 100)
    ys, xs = np.mgrid[0:100, 0:100] + 0.5
    inside = (xs > box[0]) & (xs < box[2]) & (ys > box[1]) & (ys < box[3])
    assert (mask & ~inside).sum() == 0
    assert mask.sum() >= 0.9 * inside.sum()


def test_a_disc_stays_a_disc_at_the_size_of_the_picture():
    y, x = (np.mgrid[0:28, 0:28] + 0.5) / 28 - 0.5
    shape = np.clip(0.5 + (0.5 - np.hypot(x, y)) * 14, 0, 1).astype(np.float32)
    found = ScoredMasks(
        labels=np.array([0]),
        boxes=np.array([[100.0, 50.0, 300.0, 250.0]]),
        scores=np.array([0.9], np.float32),
        width=400,
        height=300,
        shapes=shape[None],
    )
    mask = masks_of(found)[0].pixels
    ys, xs = np.mgrid[0:300, 0:400] + 0.5
    disc = np.hypot(xs - 200, ys - 150) < 100
    assert (mask & disc).sum() / (mask | disc).sum() > 0.98


def test_boxes_and_polygons_are_placed_and_taken_back():
    place = Place(10, 20, 200, 100)
    polygon = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]])
    masks = Masks(
        labels=np.array([1]),
        boxes=np.array([[0.0, 0.0, 0.5, 1.0]]),
        crowd=np.array([False]),
        polygons=((polygon,),),
    )
    placed = masks.placed(place)
    np.testing.assert_allclose(placed.boxes, [[10, 20, 110, 120]])
    np.testing.assert_allclose(placed.polygons[0][0], [[10, 20], [110, 20], [110, 120]])
    np.testing.assert_allclose(placed.shares(place).polygons[0][0], polygon)
    assert placed.chosen(np.array([], np.int64)).polygons == ()
    assert isinstance(placed.chosen(np.array([True])), Boxes)


def test_what_is_found_in_a_letterbox_lies_within_the_image():
    found = ScoredBoxes(
        labels=np.array([0, 1]),
        boxes=np.array([[0.0, 25.0, 50.0, 75.0], [-5.0, 0.0, 100.0, 100.0]]),
        scores=np.array([0.9, 0.5], np.float32),
        width=100,
        height=100,
        classes=("cat", "dog"),
    )
    restored = found.restored(Place(0, 25, 100, 50), 400, 200)
    np.testing.assert_allclose(restored.boxes, [[0, 0, 200, 200], [0, 0, 400, 200]])
    assert (restored.width, restored.height) == (400, 200)
    answer = restored.as_dict()["boxes"]
    assert answer[0]["box"] == {"topX": 0, "topY": 0, "bottomX": 0.5, "bottomY": 1}
    assert [item["label"] for item in answer] == ["cat", "dog"]


def test_an_empty_mask_has_no_runs():
    mask = encode(Crop(left=0, top=0, pixels=np.zeros((3, 4), np.bool_)), 4, 3)
    assert mask == Mask(runs=mask.runs, width=4, height=3)
    assert mask.area == 0
    assert mask.as_coco()["size"] == [3, 4]
    assert not decode(mask.as_coco()).any()


def test_a_shape_is_cut_with_its_box_at_the_border_of_the_image():
    y, x = (np.mgrid[0:28, 0:28] + 0.5) / 28 - 0.5
    shape = np.clip(0.5 + (0.5 - np.hypot(x, y)) * 14, 0, 1).astype(np.float32)
    found = ScoredMasks(
        labels=np.array([0]),
        boxes=np.array([[60.0, 0.0, 100.0, 40.0]]),  # 100 pixels of letterbox, of which the image has the first 80
        scores=np.array([0.9], np.float32),
        width=100,
        height=100,
        shapes=shape[None],
    )
    cut = found.restored(Place(0, 0, 80, 100), 800, 1000)
    np.testing.assert_allclose(cut.boxes, [[600, 0, 800, 400]])
    ys, xs = np.mgrid[0:1000, 0:800] + 0.5
    disc = np.hypot(xs - 800, ys - 200) < 200
    mask = masks_of(cut)[0].pixels
    assert (mask & disc).sum() / (mask | disc).sum() > 0.97
