"""Polygons that leave: few points, and drawn again they are the mask."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_automl_vision.masks import Crop, draw_polygons, draw_shape, encode, masks_of
from lightning_automl_vision.outlines import crop_of, polygons_of, prediction_dict
from lightning_automl_vision.samples import ScoredBoxes, ScoredLabels, ScoredMasks

SIZES = st.integers(32, 600)


def centres(size):
    y, x = np.mgrid[:size, :size] + 0.5
    return x - size / 2, y - size / 2


def disc(size):
    return np.hypot(*centres(size)) < 0.49 * size


def ring(size):
    return np.abs(np.hypot(*centres(size)) - 0.4 * size) < 0.07 * size


def star(size, points=7, turn=0.3):
    x, y = centres(size)
    wave = np.abs(((np.arctan2(y, x) + turn) * points / np.pi) % 2 - 1)
    return np.hypot(x, y) < size * (0.2 + 0.29 * wave)


def slanted_bar(size):
    x, y = centres(size)
    return (np.abs(x * 0.94 + y * 0.34) < 0.45 * size) & (np.abs(y * 0.94 - x * 0.34) < 0.12 * size)


def smooth_blob(size, seed):
    """A round thing with bulges and dents."""
    random = np.random.default_rng(seed)
    x, y = centres(size)
    angle, radius = np.arctan2(y, x), np.full((size, size), 0.34)
    for wave in range(1, 9):
        radius += 0.07 * random.normal() / wave * np.cos(wave * angle + random.uniform(0, 7))
    return np.hypot(x, y) < size * radius


def model_shape(size, seed):
    """What comes of a grid of 28 x 28 shares: possibly several parts, and holes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    noise = cv2.GaussianBlur(random.normal(size=(28, 28)), (0, 0), 3)
    shape = np.clip(0.75 - 0.6 * (x**2 + y**2) + noise, 0, 1).astype(np.float32)
    return draw_shape(shape, np.array([0.0, 0, size, size]), 0.5, size, size).pixels


SHAPES = st.one_of(
    st.builds(disc, SIZES),
    st.builds(ring, SIZES),
    st.builds(star, SIZES, st.integers(3, 9), st.floats(0, 1)),
    st.builds(slanted_bar, SIZES),
    st.builds(smooth_blob, SIZES, st.integers(0, 999)),
    st.builds(model_shape, SIZES, st.integers(0, 999)),
)


def overlap(crop, polygons):
    """IoU of the polygons, drawn, with the mask."""
    width, height = crop.left + crop.pixels.shape[1] + 9, crop.top + crop.pixels.shape[0] + 9
    mask = encode(crop, width, height).pixels
    again = encode(draw_polygons(polygons, width, height), width, height).pixels
    return (mask & again).sum() / (mask | again).sum()


@given(SHAPES)
@settings(max_examples=120, deadline=None)
def test_polygons_of_a_hundred_points_are_the_mask(pixels):
    crop = Crop(left=13, top=7, pixels=pixels)
    polygons = polygons_of(crop, 100)
    assert all(3 <= len(part) <= 100 for part in polygons)
    assert overlap(crop, polygons) >= 0.98


@given(arrays(np.bool_, st.tuples(st.integers(1, 16), st.integers(1, 16))))
@settings(max_examples=200, deadline=None)
def test_what_fits_is_exact(pixels):
    crop = Crop(left=3, top=5, pixels=pixels)
    polygons = polygons_of(crop, 10_000)
    if pixels.any():
        kept = pixels.sum() - overlap(crop, polygons) * pixels.sum()
        assert kept <= 0.005 * pixels.sum() + 1e-9
    else:
        assert polygons == []


@given(SHAPES, st.integers(3, 30))
@settings(max_examples=60, deadline=None)
def test_few_points_are_obeyed_and_stay_within_the_object(pixels, most_points):
    for part in polygons_of(Crop(left=0, top=0, pixels=pixels), most_points):
        assert 3 <= len(part) <= most_points
        assert part.min() >= 0
        assert part.max() <= len(pixels)


def test_a_rectangle_keeps_its_four_corners():
    (part,) = polygons_of(Crop(left=20, top=10, pixels=np.ones((30, 40), np.bool_)), 100)
    assert sorted(map(tuple, part.tolist())) == [(20, 10), (20, 40), (60, 10), (60, 40)]


def test_a_hole_is_a_part():
    assert len(polygons_of(Crop(left=0, top=0, pixels=ring(100)), 100)) == 2


def test_specks_go_and_parts_stay():
    pixels = np.zeros((100, 100), np.bool_)
    pixels[10:60, 10:60] = True
    pixels[80, 80] = pixels[90, 20] = True
    pixels[30, 30] = False
    assert len(polygons_of(Crop(left=0, top=0, pixels=pixels), 100)) == 1
    pixels[70:75, 70:75] = True
    assert len(polygons_of(Crop(left=0, top=0, pixels=pixels), 100)) == 2


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_run_lengths_give_their_crop_back(pixels):
    height, width = pixels.shape
    mask = encode(Crop(left=0, top=0, pixels=pixels), width, height)
    crop = crop_of(mask)
    np.testing.assert_array_equal(encode(crop, width, height).runs, mask.runs)


def found_masks(count=2):
    shapes = np.zeros((count, 28, 28), np.float32)
    shapes[:, 4:24, 4:24] = 0.9
    return ScoredMasks(
        labels=np.arange(count) % 2,
        boxes=np.array([[20.0, 10.0, 76.0, 66.0], [100.0, 50.0, 200.0, 100.0]])[:count],
        scores=np.array([0.9, 0.5], np.float32)[:count],
        width=200,
        height=100,
        classes=("cat", "dog"),
        shapes=shapes,
    )


def test_a_segmentation_is_answered_with_polygons_as_shares():
    found = found_masks()
    answer = prediction_dict(found, 100)["boxes"]
    assert [item["label"] for item in answer] == ["cat", "dog"]
    assert answer[0]["box"] == {"topX": 0.1, "topY": 0.1, "bottomX": 0.38, "bottomY": 0.66}
    for item, mask in zip(answer, masks_of(found), strict=True):
        parts = [np.array(part).reshape(-1, 2) * (200, 100) for part in item["polygon"]]
        again = encode(draw_polygons(parts, 200, 100), 200, 100).pixels
        assert (again == mask.pixels).all()


def test_an_object_without_a_sure_pixel_has_no_polygon():
    found = found_masks(1)
    found.shapes[:] = 0.1
    assert prediction_dict(found)["boxes"][0]["polygon"] == []


@pytest.mark.parametrize("count", [0, 2])
def test_boxes_are_answered_without_polygons(count):
    found = found_masks(count).without_shapes()
    assert isinstance(found, ScoredBoxes)
    assert prediction_dict(found) == found.as_dict()


def test_labels_are_answered_with_all_scores():
    scores = np.array([0.25, 0.75], np.float32)
    assert prediction_dict(ScoredLabels(scores=scores, labels=("a", "b"))) == {
        "probs": [0.25, 0.75],
        "labels": ["a", "b"],
    }
