"""Mosaics: the recorded regions, and the pixels and objects of a recipe that really paints the canvas."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from parity import recorded

from lightning_automl_vision.affine import Change, affine_matrix, drawn_change, moved_points
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.masks import draw_polygons
from lightning_automl_vision.mosaic import (
    aligned,
    composed,
    drawn_centre,
    fitted_tile,
    four_tiles,
    joined,
    loaded_size,
    square_tile,
    whole_tile,
)
from lightning_automl_vision.samples import Boxes, Masks
from lightning_automl_vision.settings import AffineConfig

SIDE = 96
SIZES = [(200, 150), (90, 120), (64, 64), (700, 300)]
UPRIGHT = AffineConfig(p=1.0)
TURNED = AffineConfig(p=1.0, degrees=25, shear=12)
TILTED = AffineConfig(p=1.0, degrees=10, perspective=0.001)


def smooth(width: int, height: int, number: int) -> np.ndarray:
    """Colours that change slowly, so that it matters little between which pixels they are interpolated."""
    coarse = np.random.default_rng(number).integers(20, 235, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def boxes(*corners: Any) -> Boxes:
    return Boxes(
        labels=np.arange(len(corners)),
        boxes=np.array(corners, np.float64).reshape(-1, 4),
        crowd=np.zeros(len(corners), np.bool_),
    )


def photos() -> list[tuple[np.ndarray, Boxes]]:
    return [
        (smooth(*size, number), boxes([0.25, 0.25, 0.75, 0.75], [0.05, 0.1, 0.2, 0.3], [0.6, 0.6, 1, 1]))
        for number, size in enumerate(SIZES)
    ]


def painted(pictures: Any, tiles: Any, matrix: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain recipe: each photo resized, cut and pasted on the whole canvas, which is then warped.

    Beside the pixels, those next to a border between photos, where interpolation mixes both.
    """
    canvas = np.full((2 * side, 2 * side, 3), 114, np.uint8)
    borders = np.zeros((2 * side, 2 * side), np.uint8)
    for (pixels, _), tile in zip(pictures, tiles, strict=True):
        left, top, width, height = (int(value) for value in tile.place)
        shrinks = width < pixels.shape[1] / 2
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        x0, y0, x1, y1 = (int(value) for value in tile.region)
        canvas[y0:y1, x0:x1] = resized[y0 - top : y1 - top, x0 - left : x1 - left]
        cv2.rectangle(borders, (x0, y0), (x1 - 1, y1 - 1), 255, 3)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    change = np.linalg.inv(half) @ matrix @ half
    size = (side, side)
    warped = cv2.warpPerspective(canvas, change, size, borderValue=(114,) * 3)
    return warped, cv2.warpPerspective(borders, change, size, borderValue=0) > 0


def scene(affine: AffineConfig | None, seed: int) -> tuple[Any, Any, Any, Change]:
    generator = np.random.default_rng(seed)
    pictures = photos()
    sizes = [loaded_size(pixels.shape[1], pixels.shape[0], SIDE) for pixels, _ in pictures]
    tiles = four_tiles(sizes, drawn_centre(SIDE, generator), SIDE)
    change = drawn_change(affine, generator) if affine else Change()
    return pictures, tiles, affine_matrix(change, (2 * SIDE, 2 * SIDE), (SIDE, SIDE)), change


@pytest.mark.parametrize("case", recorded()["mosaic"])
def test_regions_and_labels_are_the_recorded_ones(case: dict[str, Any]) -> None:
    side = case["img_size"]
    down, across = (int(side / 2 + side * case[name]) for name in ("u_yc", "u_xc"))
    order = case["tile_order_tl_tr_bl_br"]
    sizes = [case["image_hw"][index][::-1] for index in order]
    tiles = four_tiles([loaded_size(*size, side) for size in sizes], (across, down), side)
    pictures, expected = [], []
    for index, size in zip(order, sizes, strict=True):
        target = boxes([0.25, 0.25, 0.75, 0.75], [0.05, 0.15, 0.15, 0.25])
        pictures.append((np.full((size[1], size[0], 3), 10 * (index + 1), np.uint8), target))
        expected += [row[1:] for row in case["labels_cls_xyxy"] if row[0] == index]
    assert [[*tile.region] for tile in tiles] == [case["regions_xyxy"][str(index)] for index in order]
    pixels, objects = composed(pictures, tiles, np.eye(3), (2 * side, 2 * side))
    assert (pixels == 114).all(axis=2).sum() == case["fill_pixels"]
    for index, tile in zip(order, tiles, strict=True):
        left, top, right, bottom = (int(value) for value in tile.region)
        assert (pixels[top:bottom, left:right] == 10 * (index + 1)).all()
    np.testing.assert_allclose(objects.boxes, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("affine", "mean", "most"), [(None, 0.5, 2.0), (UPRIGHT, 3.5, 12.0), (TURNED, 1.0, 4.0), (TILTED, 1.0, 4.0)]
)
def test_pixels_are_those_of_the_painted_canvas(affine: AffineConfig | None, mean: float, most: float) -> None:
    """An upright photo is moved by up to half a pixel, where colours change by up to 12 a pixel here."""
    for seed in range(25):
        pictures, tiles, matrix, change = scene(affine, seed)
        pixels, _ = composed(pictures, tiles, matrix, (SIDE, SIDE), scale=change.scale)
        expected, near = painted(pictures, tiles, matrix, SIDE)
        off = np.abs(pixels.astype(int) - expected).max(axis=2)[~near]
        assert off.mean() <= mean
        assert np.quantile(off, 0.99) <= most


def test_an_upright_mosaic_lies_on_whole_pixels_less_than_half_a_pixel_off() -> None:
    for seed in range(50):
        _, tiles, matrix, _ = scene(UPRIGHT, seed)
        for tile in tiles:
            corners = []
            for one in (tile, aligned(tile, matrix)):
                left, top, width, height = one.place
                corners.append(moved_points(np.array([[left, top], [left + width, top + height]]), matrix))
            assert np.abs(corners[0] - corners[1]).max() <= 0.5 + 1e-9
            np.testing.assert_allclose(corners[1], corners[1].round(), atol=1e-9)


@pytest.mark.parametrize("affine", [UPRIGHT, TURNED, TILTED])
def test_photos_meet_without_a_seam(affine: AffineConfig) -> None:
    """Four white photos around a centre that is seen: no gray between them."""
    seen = 0
    for seed in range(40):
        _, tiles, matrix, _ = scene(affine, seed)
        middle = moved_points(np.array([[tiles[3].place.left, tiles[3].place.top]]), matrix)[0]
        white = [(np.full((40, 50, 3), 255, np.uint8), boxes()) for _ in tiles]
        pixels, _ = composed(white, tiles, matrix, (SIDE, SIDE))
        x, y = middle.astype(int)
        if 3 <= x < SIDE - 3 and 3 <= y < SIDE - 3:
            seen += 1
            assert (pixels[y - 2 : y + 3, x - 2 : x + 3] == 255).all()
    assert seen > 10


@pytest.mark.parametrize("affine", [None, UPRIGHT, TURNED, TILTED])
@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_objects_lie_where_their_pixels_are(affine: AffineConfig | None, kind: str) -> None:
    """A white disc in each photo, in a box or in a polygon around it."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = 0.5 + 0.3 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    complete = 0
    for seed in range(40):
        _, tiles, matrix, change = scene(affine, seed)
        pictures: list[Any] = []
        for number, (width, height) in enumerate(SIZES):
            pixels = np.zeros((height, width, 3), np.uint8)
            cv2.fillPoly(pixels, [np.round(circle * (width, height) - 0.5).astype(np.int32)], (255, 255, 255))
            target = boxes([0.2, 0.2, 0.8, 0.8])
            target = Boxes(labels=np.array([number]), boxes=target.boxes, crowd=target.crowd)
            masks = Masks(labels=target.labels, boxes=target.boxes, crowd=target.crowd, polygons=((circle,),))
            pictures.append((pixels, masks if kind == "masks" else target))
        pixels, objects = composed(pictures, tiles, matrix, (SIDE, SIDE), scale=change.scale)
        bright = (pixels[..., 0] > 150) & (pixels[..., 1] > 150) & (pixels[..., 2] > 150)
        covered = np.zeros((SIDE, SIDE), np.uint8)
        for index, (left, top, right, bottom) in enumerate(objects.boxes):
            assert 0 <= left < right <= SIDE
            assert 0 <= top < bottom <= SIDE
            if isinstance(objects, Masks):
                crop = draw_polygons(objects.polygons[index], SIDE, SIDE)
                rows, columns = crop.pixels.shape
                covered[crop.top : crop.top + rows, crop.left : crop.left + columns] |= crop.pixels
            else:
                covered[int(top) : math.ceil(bottom), int(left) : math.ceil(right)] = 1
        if isinstance(objects, Masks):
            assert not (cv2.erode(covered, np.ones((5, 5))) & ~bright).any()
        if len(objects.labels) == 4:
            complete += 1
            assert not (bright & ~cv2.dilate(covered, np.ones((5, 5)))).any()
    assert complete >= 2


def test_a_large_photo_is_reduced_without_skipping_pixels() -> None:
    """Stripes of one pixel become gray, not other stripes."""
    stripes = np.zeros((600, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    for affine in (UPRIGHT, TURNED):
        for seed in range(6):
            _, tiles, matrix, change = scene(affine, seed)
            pixels, _ = composed([(stripes, boxes())] * 4, tiles, matrix, (SIDE, SIDE), scale=change.scale, fill=128)
            assert np.abs(pixels.astype(int) - 128).max() < 40


def test_photos_are_resized_as_a_whole_would_be() -> None:
    """Only a part is resized; it must not matter which."""
    photo = np.random.default_rng(0).integers(0, 256, (301, 403, 3), dtype=np.uint8)
    side = 320
    for scale in (0.71, 0.9973, 1.0, 1.31):
        matrix = affine_matrix(Change(scale=scale), (2 * side, 2 * side), (side, side))
        tiles = four_tiles([loaded_size(403, 301, side)] * 4, (side + 70, side - 60), side)
        pixels, _ = composed([(photo, boxes())] * 4, tiles, matrix, (side, side))
        for tile in tiles:
            place = aligned(tile, matrix).place
            corners = np.array([[place.left, place.top], [place.left + place.width, place.top + place.height]])
            (left, top), (right, bottom) = moved_points(corners, matrix).round().astype(int).tolist()
            shown = Window(left, top, right, bottom).overlap(Window(0, 0, side, side))
            assert shown is not None
            x0, y0, x1, y1 = (int(value) for value in shown)
            resized = cv2.resize(photo, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR).astype(int)
            off = np.abs(resized[y0 - top : y1 - top, x0 - left : x1 - left] - pixels[y0:y1, x0:x1])
            assert off.mean() < 6
            assert off.max() < 20


def test_a_photo_alone_is_fitted_as_a_letterbox_does_it() -> None:
    tile = square_tile(200, 101, 64)
    assert (tile.place, tile.region) == ((0, 16, 64, 32), (0, 16, 64, 48))
    assert fitted_tile(200, 101, (64, 64)) == tile
    assert fitted_tile(10, 20, (30, 20)).place == (10, 0, 10, 20)
    assert whole_tile(7, 5).region == (0, 0, 7, 5)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3000), (3000, 1), (5, 4)])
@pytest.mark.parametrize("affine", [UPRIGHT, TURNED])
def test_tiny_and_narrow_photos_pass(width: int, height: int, affine: AffineConfig) -> None:
    photo = np.full((height, width, 3), 7, np.uint8), boxes([0, 0, 1, 1])
    for seed in range(10):
        _, _, matrix, change = scene(affine, seed)
        tiles = four_tiles([loaded_size(width, height, SIDE)] * 4, (SIDE, SIDE), SIDE)
        pixels, objects = composed([photo] * 4, tiles, matrix, (SIDE, SIDE), scale=change.scale)
        assert pixels.shape == (SIDE, SIDE, 3)
        assert np.isfinite(objects.boxes).all()


def test_the_centre_stays_away_from_the_canvas_border() -> None:
    centres = np.array([drawn_centre(64, np.random.default_rng(seed)) for seed in range(400)])
    assert (centres.min(axis=0) < 36).all()
    assert (centres.min(axis=0) >= 32).all()
    assert (centres.max(axis=0) < 96).all()
    assert (centres.max(axis=0) > 92).all()


def test_joining_keeps_the_kind_and_the_order() -> None:
    first, second = boxes([0, 0, 1, 1]), boxes([1, 1, 2, 2], [2, 2, 3, 3])
    both = joined([first, second, boxes()])
    assert both.labels.tolist() == [0, 0, 1]
    assert both.boxes[2].tolist() == [2, 2, 3, 3]
    outlined = Masks(labels=first.labels, boxes=first.boxes, crowd=first.crowd, polygons=((np.eye(3, 2),),))
    assert len(joined([outlined, outlined]).polygons) == 2
