"""What happens to a training image with objects: pixels and targets go together, from the configuration on."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_automl_vision import api
from lightning_automl_vision.augment import build_training_transform
from lightning_automl_vision.data.module import ImageDataset
from lightning_automl_vision.data.prepared import Composing, Evaluated, Prepared
from lightning_automl_vision.data.resizing import Letterbox, LongSide, ShortSide
from lightning_automl_vision.data.sampling import Draw
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.hsv import with_gains
from lightning_automl_vision.masks import draw_polygons
from lightning_automl_vision.object_augment import build_object_transform, object_resizing
from lightning_automl_vision.pasting import without_polygons
from lightning_automl_vision.samples import Boxes, Labels, Masks, Place, Sample
from lightning_automl_vision.settings import (
    AffineConfig,
    AugmentConfig,
    ColorJitterConfig,
    CopyPasteConfig,
    ExpandConfig,
    FlipConfig,
    HsvConfig,
    MixupConfig,
    MosaicConfig,
    ObjectAugmentConfig,
    ObjectCropConfig,
    OcclusionConfig,
)

WIDTH, HEIGHT = 160, 120
NEVER = {
    "crop": ObjectCropConfig(p=0.0),
    "expand": ExpandConfig(p=0.0),
    "horizontal_flip": FlipConfig(p=0.0),
}
CUT = {**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[0.3, 0.6])}
GROWN = {**NEVER, "expand": ExpandConfig(p=1.0, factor=3.0)}
OCCLUDED = {**NEVER, "occlusion": OcclusionConfig(p=1.0)}
MOSAIC = {**NEVER, "mosaic": MosaicConfig(p=1.0)}
SHIFTED = {"affine": AffineConfig(p=1.0)}
TURNED = {"affine": AffineConfig(p=1.0, degrees=15, shear=8, perspective=0.0004)}
TASKS = ("image_object_detection", "image_instance_segmentation")


def built(resizing=None, **keys):
    return build_object_transform(ObjectAugmentConfig(**keys), resizing)


def custom(tmp_path, text, **keys):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    return built(file=str(file), **keys)


def noise(width=WIDTH, height=HEIGHT):
    return np.random.default_rng(0).integers(0, 90, (height, width, 3), dtype=np.uint8)


def boxes(*corners, crowd=None) -> Boxes:
    return Boxes(
        labels=np.arange(len(corners)),
        boxes=np.array(corners, dtype=np.float64).reshape(-1, 4),
        crowd=np.array(crowd or [False] * len(corners), dtype=np.bool_),
    )


def masks(*polygons, crowd=None) -> Masks:
    points = [np.concatenate(parts) for parts in polygons]
    plain = boxes(*[[*p.min(axis=0), *p.max(axis=0)] for p in points], crowd=crowd)
    return Masks(labels=plain.labels, boxes=plain.boxes, crowd=plain.crowd, polygons=tuple(tuple(p) for p in polygons))


def star(middle, radius, tips=5):
    """A shape that is not convex."""
    turn = np.linspace(0, 2 * np.pi, 2 * tips, endpoint=False) + 0.3
    reach = np.where(np.arange(2 * tips) % 2, 0.45, 1.0)[:, None]
    return np.clip(np.array(middle) + np.stack([np.cos(turn), np.sin(turn)], axis=1) * reach * radius, 0, 1)


SCENE = masks(
    [star((0.3, 0.3), 0.25)],
    [star((0.75, 0.6), 0.24, tips=4), star((0.75, 0.6), 0.07)],
    [star((0.2, 0.8), 0.15), star((0.45, 0.85), 0.1)],
    crowd=[False, False, True],
)
EMPTY = SCENE.chosen(np.array([], dtype=np.int64))
PLAIN = boxes([0.1, 0.2, 0.4, 0.7], [0.5, 0.5, 0.9, 1.0], [0.0, 0.0, 0.1, 0.1])


def painted(target: Masks, width=WIDTH, height=HEIGHT) -> np.ndarray:
    """Dark noise in which each object is bright in a channel of its own."""
    pixels = noise(width, height)
    for label, parts in zip(target.labels, target.placed(Place(0, 0, width, height)).polygons, strict=True):
        crop = draw_polygons(parts, width, height)
        rows, columns = crop.pixels.shape
        part = pixels[crop.top : crop.top + rows, crop.left : crop.left + columns, label]
        part[crop.pixels] = 255
    return pixels


def drawn(parts, prepared: Prepared) -> np.ndarray:
    height, width = prepared.pixels.shape[:2]
    mask = np.zeros((height, width), dtype=np.bool_)
    crop = draw_polygons(parts, width, height)
    rows, columns = crop.pixels.shape
    mask[crop.top : crop.top + rows, crop.left : crop.left + columns] = crop.pixels
    return mask


def together(prepared: Prepared) -> None:
    """Bright pixels are where the polygons are, and boxes around them, in the picture."""
    target: Any = prepared.target
    height, width = prepared.pixels.shape[:2]
    for label, parts, box in zip(target.labels, target.polygons, target.boxes, strict=True):
        mask, bright = drawn(parts, prepared), prepared.pixels[..., label] > 150
        assert (mask & bright).sum() >= 0.9 * (mask | bright).sum()
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
        points = np.concatenate(parts)
        assert (points >= 0).all()
        assert (points <= (width, height)).all()
        assert (box[:2] >= points.min(axis=0)).all()
        assert (box[2:] <= points.max(axis=0)).all()
        rows, columns = np.nonzero(mask)
        assert (box[:2] <= (columns.min() + 0.5, rows.min() + 0.5)).all()
        assert (box[2:] >= (columns.max() + 0.5, rows.max() + 0.5)).all()


def equal(one: Prepared, other: Prepared) -> bool:
    first, second = one.target, other.target
    assert isinstance(first, Boxes)
    assert isinstance(second, Boxes)
    return bool(
        one.pixels.shape == other.pixels.shape
        and (one.pixels == other.pixels).all()
        and first.boxes.tolist() == second.boxes.tolist()
    )


# Pixels and targets go together


@pytest.mark.parametrize("resizing", [None, ShortSide(200, 240), ShortSide(480, 800), Letterbox(256)])
@pytest.mark.parametrize("keys", [{}, CUT, GROWN, {**CUT, "expand": GROWN["expand"], "vertical_flip": FlipConfig(0.5)}])
def test_polygons_lie_where_their_objects_are(resizing: Any, keys: dict[str, Any]) -> None:
    transform, pixels = built(resizing, **keys), painted(SCENE, 640, 480)
    for seed in range(12):
        together(transform(pixels, SCENE, (seed,)))


@given(
    st.lists(
        st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(0.25, 0.5), st.integers(3, 6)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([(320, 480), (480, 320), (400, 400)]),
    st.integers(0, 1 << 32),
)
@settings(max_examples=60, deadline=None)
def test_so_they_do_whatever_the_objects(shapes: list[Any], size: tuple[int, int], seed: int) -> None:
    target = masks(*[[star((x, y), radius, tips)] for x, y, radius, tips in shapes])
    transform = built(ShortSide(300, 520), vertical_flip=FlipConfig(0.5))
    together(transform(painted(target, *size), target, (seed,)))


@pytest.mark.parametrize(
    "pipeline",
    [
        "- HorizontalFlip: {p: 1.0}",
        "- Affine: {rotate: [-40, 40], scale: [0.8, 1.2], fill: 60, p: 1.0}",
        "- RandomCrop: {height: 300, width: 400}\n- RandomRotate90: {p: 0.5}",
        "- Perspective: {p: 1.0}\n- RandomBrightnessContrast: {p: 0.1, brightness_limit: 0.01}",
    ],
)
def test_in_a_pipeline_of_ones_own_they_do_as_well(tmp_path: Any, pipeline: str) -> None:
    transform, pixels = custom(tmp_path, pipeline), painted(SCENE, 640, 480)
    for seed in range(6):
        prepared = transform(pixels, SCENE, (seed,))
        together(prepared)
        assert equal(prepared, transform(pixels, SCENE, (seed,)))


def test_labels_and_crowds_go_along() -> None:
    transform = built(**CUT, minimum_visibility=0.3)
    seen = set()
    for seed in range(30):
        prepared = transform(painted(SCENE), SCENE, (seed,))
        target = prepared.target
        assert isinstance(target, Masks)
        assert target.crowd.tolist() == [label == 2 for label in target.labels]
        assert len(target.labels) + prepared.dropped == 3
        seen.add(tuple(target.labels))
    assert len(seen) > 2


@pytest.mark.parametrize("keys", [{}, CUT, GROWN, OCCLUDED])
def test_boxes_are_as_those_of_polygons_that_fill_them(keys: dict[str, Any]) -> None:
    filled = masks(*[[box[[[0, 1], [2, 1], [2, 3], [0, 3]]]] for box in PLAIN.boxes])
    transform = built(ShortSide(90, 200), **keys)
    for seed in range(12):
        plain, outlined = (transform(noise(), target, (seed,)) for target in (PLAIN, filled))
        assert plain.target.labels.tolist() == outlined.target.labels.tolist()
        np.testing.assert_allclose(plain.target.boxes, outlined.target.boxes, atol=1e-6)  # type: ignore[attr-defined]


# What each part does


def test_without_augmentation_there_is_only_the_resizing() -> None:
    for task in TASKS:
        augment = api.settings(task=task, augment="none").augment
        assert isinstance(augment, ObjectAugmentConfig)
        for resizing in (ShortSide(90, 200), object_resizing(augment, Letterbox(64))):
            transform = build_object_transform(augment, resizing)
            assert not transform.is_random
            prepared = transform(noise(), SCENE, (1,))
            expected = Evaluated(resizing)(noise(), SCENE, (1,))
            assert (prepared.pixels == expected.pixels).all()
            np.testing.assert_allclose(prepared.target.boxes, expected.target.boxes)  # type: ignore[attr-defined]
            assert prepared.dropped == 0


def test_a_flip_alone_gives_exact_coordinates() -> None:
    pixels = noise()
    across = built(**{**NEVER, "horizontal_flip": FlipConfig(1.0)})(pixels, PLAIN, (0,))
    assert (across.pixels == pixels[:, ::-1]).all()
    expected = [[96, 24, 144, 84], [16, 60, 80, 120], [144, 0, 160, 12]]
    assert across.target.boxes.tolist() == expected  # type: ignore[attr-defined]
    down = built(**NEVER, vertical_flip=FlipConfig(1.0))(pixels, PLAIN, (0,))
    assert (down.pixels == pixels[::-1]).all()
    assert down.target.boxes[0].tolist() == [16, 36, 64, 96]  # type: ignore[attr-defined]


def test_flips_come_as_often_as_asked() -> None:
    pixels = noise()
    transform = built(**{**NEVER, "horizontal_flip": FlipConfig(0.25)})
    flipped = [(transform(pixels, EMPTY, (seed,)).pixels[:, 0] == pixels[:, -1]).all() for seed in range(400)]
    assert 0.18 < np.mean(flipped) < 0.32


def test_a_crop_of_the_whole_changes_nothing() -> None:
    transform = built(**{**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[1.0, 1.0], ratio=[1.0, 1.0])})
    prepared = transform(noise(), SCENE, (0,))
    assert (prepared.pixels == noise()).all()
    assert equal(prepared, Evaluated(ShortSide(HEIGHT, WIDTH))(noise(), SCENE, (0,)))


def test_crops_have_the_area_and_shape_that_are_asked_for() -> None:
    crop = ObjectCropConfig(p=1.0, scale=[0.2, 0.4], ratio=[0.8, 1.25])
    transform = built(**{**NEVER, "crop": crop}, minimum_visibility=0.0)
    shapes = np.array([transform(noise(800, 600), PLAIN, (seed,)).pixels.shape[:2] for seed in range(60)])
    areas = shapes.prod(axis=1) / (800 * 600)
    ratios = shapes[:, 1] / shapes[:, 0] / (800 / 600)
    assert 0.198 < areas.min() < 0.24 < 0.36 < areas.max() < 0.402
    assert 0.795 < ratios.min() < 0.9 < 1.1 < ratios.max() < 1.26


def test_a_crop_keeps_an_object_with_its_middle() -> None:
    target = boxes([0.05, 0.05, 0.1, 0.1], [0.9, 0.85, 0.95, 0.9])
    transform = built(**{**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[0.05, 0.1])})
    kept = [transform(noise(), target, (seed,)) for seed in range(40)]
    assert {tuple(prepared.target.labels) for prepared in kept} == {(0,), (1,)}
    assert all(prepared.dropped == 1 for prepared in kept)


def test_where_no_crop_shows_enough_of_an_object_the_image_is_left_whole() -> None:
    large = boxes([0, 0, 1, 1])
    crop = {**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[0.1, 0.2])}
    assert built(**crop)(noise(), large, (0,)).pixels.shape == (HEIGHT, WIDTH, 3)
    assert built(**crop, minimum_visibility=0.05)(noise(), large, (0,)).pixels.shape < (HEIGHT, WIDTH, 3)
    narrow = {**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[0.9, 1.0], ratio=[3.0, 4.0])}
    assert built(**narrow)(noise(), large, (0,)).pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_crowd_is_nothing_to_crop_around() -> None:
    target = boxes([0.0, 0.0, 0.1, 0.1], [0.8, 0.8, 1.0, 1.0], crowd=[True, False])
    transform = built(**{**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[0.1, 0.1])})
    assert all(transform(noise(), target, (seed,)).target.labels.tolist() == [1] for seed in range(20))


def test_an_expanded_image_is_whole_and_surrounded_by_gray() -> None:
    pixels, corners = noise(), set()
    for seed in range(20):
        prepared = built(**GROWN, fill=200)(pixels, PLAIN, (seed,))
        (left, top), (right, bottom) = prepared.target.boxes[2, :2].astype(int), prepared.pixels.shape[1::-1]  # type: ignore[attr-defined]
        assert (prepared.pixels[top : top + HEIGHT, left : left + WIDTH] == pixels).all()
        outside = prepared.pixels.astype(int).sum() - pixels.astype(int).sum()
        assert outside == 600 * (right * bottom - WIDTH * HEIGHT)
        assert WIDTH <= right <= 3 * WIDTH
        corners.add((left, top))
    assert len(corners) > 15


def test_the_documented_flag_leaves_crop_expansion_and_flips_out() -> None:
    keys = {**CUT, "expand": GROWN["expand"], "horizontal_flip": FlipConfig(1.0), "vertical_flip": FlipConfig(1.0)}
    off = built(**keys, apply_automl_train_augmentations=False)
    assert equal(off(noise(), PLAIN, (0,)), built(**NEVER)(noise(), PLAIN, (0,)))
    assert (off.is_random, built(**keys).is_random) == (False, True)
    assert built(ShortSide(100, 200), **keys, apply_automl_train_augmentations=False).short_side == 100


def test_colours_are_changed_only_when_asked_for() -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    assert (built(**NEVER)(pixels, PLAIN, (0,)).pixels == 100).all()
    jitter = ColorJitterConfig(p=1.0, brightness=0.2, contrast=0, saturation=0, hue=0)
    values = {int(built(**NEVER, color_jitter=jitter)(pixels, PLAIN, (seed,)).pixels[0, 0, 0]) for seed in range(30)}
    assert len(values) > 10
    assert 79 <= min(values) <= max(values) <= 121


@pytest.mark.parametrize(("keep", "minimum"), [(True, 0.4), (False, 0.6)])
def test_an_object_of_which_too_little_is_visible_is_left_out_and_counted(keep: bool, minimum: float) -> None:
    """The crop is half the picture, and shows half of the second object."""
    target = boxes([0.4, 0.0, 0.6, 0.2], [0.0, 0.0, 1.0, 1.0])
    crop = {**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[0.5, 0.5], ratio=[0.5, 0.5])}
    prepared = built(**crop, minimum_visibility=minimum)(noise(), target, (0,))
    assert prepared.pixels.shape[1] == WIDTH // 2
    assert (1 in prepared.target.labels) == keep
    assert prepared.dropped == 2 - len(prepared.target.labels)


# Occlusion


@pytest.mark.parametrize("fill", ["noise", "gray", "mean"])
def test_occlusion_erases_a_share_of_an_object(fill: str) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 1] = 77
    target = boxes([0.25, 0.25, 0.75, 0.75])
    occlusion = OcclusionConfig(p=1.0, share=[0.2, 0.3], fill=fill)
    shares, places = [], set()
    for seed in range(40):
        prepared = built(**NEVER, occlusion=occlusion, fill=200)(pixels, target, (seed,))
        changed = (prepared.pixels != pixels).any(axis=2) if fill != "mean" else np.zeros((2, 2), np.bool_)
        assert prepared.target.labels.tolist() == [0]
        if fill == "mean":
            assert (prepared.pixels == pixels).all()
            continue
        rows, columns = np.nonzero(changed)
        assert (rows.min() >= 30, rows.max() < 90, columns.min() >= 40, columns.max() < 120) == (True,) * 4
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        shares.append(height * width / (60 * 80))
        places.add((rows.min(), columns.min()))
        inside = prepared.pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (inside == 200).all() if fill == "gray" else inside.std() > 50
    if fill != "mean":
        assert 0.18 < min(shares) < 0.23 < 0.27 < max(shares) < 0.32
        assert len(places) > 20
    assert not (pixels[..., 0]).any()  # what was given is not written to


def test_an_object_that_is_hidden_too_much_is_left_out_and_counted() -> None:
    target = boxes([0.25, 0.25, 0.75, 0.75])
    hidden = built(**NEVER, occlusion=OcclusionConfig(p=1.0, share=[0.85, 0.9]))(noise(), target, (0,))
    assert (len(hidden.target.labels), hidden.dropped) == (0, 1)
    seen = built(**NEVER, occlusion=OcclusionConfig(p=1.0, share=[0.6, 0.7]))(noise(), target, (0,))
    assert (len(seen.target.labels), seen.dropped) == (1, 0)


def test_an_object_behind_what_hides_another_one_is_hidden_too() -> None:
    target = boxes([0.1, 0.1, 0.9, 0.9], [0.45, 0.45, 0.5, 0.5])
    occlusion = OcclusionConfig(p=1.0, objects=1, share=[0.7, 0.72])
    transform = built(**NEVER, occlusion=occlusion)
    dropped = [transform(noise(), target, (seed,)).dropped for seed in range(30)]
    assert set(dropped) == {0, 1}


# Mosaics, affine changes, colours, blending, pasting


def composed(transform: Any, seed: int, *, pixels: Any = None, target: Any = SCENE) -> Prepared:
    """As the data set does it, with the same image again and again."""
    pixels = painted(SCENE, 320, 240) if pixels is None else pixels
    partners = transform.partners(7, (5, 0, seed, 0))
    result: Prepared = transform(pixels, target, (5, 0, seed, 0), [(pixels, target)] * len(partners))
    return result


@pytest.mark.parametrize("resizing", [LongSide(256), ShortSide(256, 400), Letterbox(256)])
@pytest.mark.parametrize("keys", [MOSAIC, {**MOSAIC, **SHIFTED}, {**MOSAIC, **TURNED}, {**NEVER, **SHIFTED}])
def test_polygons_of_composed_pictures_lie_where_their_objects_are(resizing: Any, keys: dict[str, Any]) -> None:
    transform = built(resizing, **keys, vertical_flip=FlipConfig(0.5))
    for seed in range(6):
        prepared = composed(transform, seed)
        assert prepared.pixels.shape == (256, 256, 3)
        target: Any = prepared.target
        shown = np.zeros((3, 256, 256), np.bool_)
        for label, parts in zip(target.labels, target.polygons, strict=True):
            shown[label] |= drawn(parts, prepared)
        for label in range(3):
            bright = prepared.pixels[..., label] > 170
            off = cv2.erode((shown[label] ^ bright).astype(np.uint8), np.ones((4, 4)))
            assert off.sum() <= 30  # of objects of which too little was left


def test_a_mosaic_shows_four_images_and_counts_what_it_drops() -> None:
    transform = built(LongSide(64), **MOSAIC)
    seen: set[int] = set()
    for seed in range(30):
        images = [(np.full((48, 64, 3), 20 * (number + 1), np.uint8), boxes([0, 0, 1, 1])) for number in range(4)]
        partners = transform.partners(100, (1, 0, seed, 0))
        assert len(partners) == 3
        prepared = transform(*images[0], (1, 0, seed, 0), images[1:])
        assert len(prepared.target.labels) + prepared.dropped == 4
        colours, counts = np.unique(prepared.pixels, return_counts=True)
        seen |= {int(colour) for colour, count in zip(colours, counts, strict=True) if count > 60}
    assert seen == {20, 40, 60, 80, 114}


def test_partners_are_drawn_from_the_seed_alone() -> None:
    transform = built(LongSide(64), **MOSAIC, mixup=MixupConfig(p=0.5))
    drawn = [tuple(transform.partners(50, (3, 1, index, 0))) for index in range(200)]
    assert drawn == [tuple(transform.partners(50, (3, 1, index, 0))) for index in range(200)]
    assert {len(partners) for partners in drawn} == {3, 7}
    assert {index for partners in drawn for index in partners} == set(range(50))
    assert isinstance(transform, Composing)
    assert {len(built(LongSide(64), mixup=MixupConfig(p=1.0)).partners(9, (1, 0, index, 0))) for index in range(9)} == {
        1
    }


@pytest.mark.parametrize(
    "transform",
    [
        built(LongSide(64)),
        built(None, **MOSAIC),
        built(LongSide(64), **MOSAIC, apply_mosaic_for_yolo=False),
    ],
)
def test_an_image_alone_has_no_partners(transform: Any) -> None:
    assert all(not transform.partners(50, (3, 0, index, 0)) for index in range(20))


def test_the_last_epochs_do_without_mosaics() -> None:
    augment = ObjectAugmentConfig(mosaic=MosaicConfig(p=1.0, plain_epochs=3))
    transform = build_object_transform(augment, LongSide(64), epochs=10)
    assert [bool(transform.partners(50, (3, epoch, 0, 0))) for epoch in range(10)] == [True] * 7 + [False] * 3
    short = build_object_transform(augment, LongSide(64), epochs=2)
    assert not short.partners(50, (3, 0, 0, 0))
    endless = build_object_transform(replace(augment, mosaic=MosaicConfig(p=1.0)), LongSide(64), epochs=10)
    assert endless.partners(50, (3, 9, 0, 0))


def test_documented_flags_leave_out_their_own() -> None:
    keys = {
        **MOSAIC,
        **SHIFTED,
        "hsv": HsvConfig(p=1.0),
        "mixup": MixupConfig(p=1.0),
        "copy_paste": CopyPasteConfig(1.0),
    }
    plain = built(LongSide(160), **keys, apply_automl_train_augmentations=False, apply_mosaic_for_yolo=False)
    assert not plain.is_random
    assert equal(composed(plain, 0, target=PLAIN), Evaluated(LongSide(160))(painted(SCENE, 320, 240), PLAIN, (0,)))
    only_mosaic = built(LongSide(160), **keys, apply_automl_train_augmentations=False)
    assert len(only_mosaic.partners(9, (1, 0, 0, 0))) == 3
    assert equal(composed(only_mosaic, 1), composed(built(LongSide(160), **MOSAIC), 1))
    no_mosaic = built(LongSide(160), **keys, apply_mosaic_for_yolo=False)
    assert len(no_mosaic.partners(9, (1, 0, 0, 0))) == 1


def test_what_is_composed_depends_on_the_seed_alone() -> None:
    keys = {**MOSAIC, **TURNED, "mixup": MixupConfig(0.5), "hsv": HsvConfig(0.5), "copy_paste": CopyPasteConfig(0.5)}
    transform = built(LongSide(96), **{**keys, "mosaic": MosaicConfig(p=0.5)})
    first = [composed(transform, seed) for seed in range(12)]
    again = pickle.loads(pickle.dumps(transform))
    assert all(equal(composed(again, seed), first[seed]) for seed in reversed(range(12)))
    assert len({prepared.pixels.tobytes() for prepared in first}) == 12


def test_an_affine_change_surrounds_a_photo_with_gray() -> None:
    transform = built(LongSide(96), **{**NEVER, "affine": AffineConfig(p=1.0, translate=0.0, scale=0.0)}, fill=200)
    prepared = transform(noise(), PLAIN, (0,))
    assert prepared.pixels.shape == (96, 96, 3)
    assert (prepared.pixels[:12] == 200).all()
    assert (prepared.pixels[84:] == 200).all()
    assert (prepared.pixels[13:83] < 120).all()
    np.testing.assert_allclose(
        prepared.target.boxes[0], np.array([0.1, 0.2, 0.4, 0.7]) * (96, 72, 96, 72) + (0, 12) * 2
    )  # type: ignore[attr-defined]


def test_an_affine_change_without_a_resizing_keeps_the_size() -> None:
    for seed in range(5):
        assert built(**{**NEVER, **TURNED})(noise(), PLAIN, (seed,)).pixels.shape == (HEIGHT, WIDTH, 3)


def test_an_affine_change_moves_only_what_a_crop_shows() -> None:
    """The objects beyond the crop are not in the picture, however much it is made smaller."""
    keys = {**NEVER, "crop": ObjectCropConfig(p=1.0, scale=[0.1, 0.1]), "affine": AffineConfig(p=1.0, scale=0.9)}
    target = boxes([0.05, 0.05, 0.1, 0.1], [0.9, 0.85, 0.95, 0.9])
    kept = [len(built(LongSide(96), **keys)(noise(), target, (seed,)).target.labels) for seed in range(30)]
    assert max(kept) == 1


def test_colours_change_here_or_later_but_not_twice() -> None:
    pixels = noise()
    here = built(**NEVER, hsv=HsvConfig(p=1.0))
    later = replace(here, hsv_later=True)
    now, then = here(pixels, PLAIN, (4,)), later(pixels, PLAIN, (4,))
    assert now.gains is None
    assert (then.pixels == pixels).all()
    assert then.gains is not None
    assert (now.pixels == with_gains(pixels, then.gains)).all()
    assert built(**NEVER)(pixels, PLAIN, (4,)).gains is None
    some = replace(built(**NEVER, hsv=HsvConfig(p=0.4)), hsv_later=True)
    assert 20 < sum(some(pixels, PLAIN, (seed,)).gains is not None for seed in range(80)) < 45


def test_a_blend_shows_both_pictures_and_has_the_objects_of_both() -> None:
    transform = built(None, **NEVER)
    light, dark = np.full((40, 60, 3), 200, np.uint8), np.full((40, 60, 3), 0, np.uint8)
    shares = []
    for seed in range(60):
        prepared = transform(light, PLAIN, (seed,), [(dark, PLAIN)])
        assert prepared.target.labels.tolist() == [0, 1, 2] * 2
        assert np.ptp(prepared.pixels) == 0
        shares.append(prepared.pixels[0, 0, 0] / 200)
    assert 0.47 < np.mean(shares) < 0.53
    assert 0.04 < np.std(shares) < 0.09  # of Beta(32, 32): 0.062


def test_a_picture_of_another_size_is_fitted_into_the_blend() -> None:
    tall = np.zeros((90, 30, 3), np.uint8)
    prepared = built(None, **NEVER)(np.full((40, 60, 3), 200, np.uint8), PLAIN, (0,), [(tall, boxes([0, 0, 1, 1]))])
    assert prepared.pixels.shape == (40, 60, 3)
    assert prepared.target.boxes[3].tolist() == [23, 0, 36, 40]  # type: ignore[attr-defined]
    assert prepared.pixels[20, 30, 0] < prepared.pixels[20, 5, 0]


def test_objects_are_pasted_mirrored_where_they_hide_little() -> None:
    left = masks(
        [star((0.2, 0.3), 0.15)], [star((0.75, 0.7), 0.12)], [star((0.3, 0.75), 0.1)], crowd=[False, False, True]
    )
    pixels = painted(left)
    prepared = built(**NEVER, copy_paste=CopyPasteConfig(p=1.0))(pixels, left, (0,))
    target: Any = prepared.target
    for label in range(3):
        shown = sum(drawn(target.polygons[index], prepared) for index in np.flatnonzero(target.labels == label)) > 0
        bright = prepared.pixels[..., label] > 150
        assert (shown & bright).sum() >= 0.85 * (shown | bright).sum()
    assert prepared.dropped == 0
    assert prepared.target.labels.tolist() in ([0, 1, 2, 0], [0, 1, 2, 0, 1], [0, 1, 2, 1, 0])
    added = prepared.target.boxes[3]  # type: ignore[attr-defined]
    width = prepared.pixels.shape[1]
    original = left.placed(Place(0, 0, WIDTH, HEIGHT)).boxes[prepared.target.labels[3]]
    np.testing.assert_allclose(added, [width - original[2], original[1], width - original[0], original[3]])


def test_nothing_is_pasted_onto_what_it_would_hide() -> None:
    middle = masks([star((0.5, 0.5), 0.2)])
    prepared = built(**NEVER, copy_paste=CopyPasteConfig(p=1.0))(painted(middle), middle, (0,))
    assert prepared.target.labels.tolist() == [0]
    assert (prepared.pixels == painted(middle)).all()


def test_pasting_needs_polygons() -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(str(without_polygons(0.5)))}$"):
        built(**NEVER, copy_paste=CopyPasteConfig(p=0.5))(noise(), PLAIN, (0,))


def test_the_data_set_reads_what_a_mosaic_needs(tmp_path: Any) -> None:
    samples = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((30, 40, 3), 30 * number + 10, np.uint8))
        samples.append(Sample(image=str(path), target=boxes([0.1, 0.1, 0.9, 0.9])))
    transform = built(LongSide(64), **MOSAIC)
    dataset = ImageDataset(samples, transform, seed=3, maximum_pixels=10**6)  # type: ignore[arg-type]
    item: Any = dataset[Draw(0, 2, 0)]
    shown = {2, *transform.partners(6, (3, 0, 2, 0))}
    assert {int(value) for value in np.unique(item.picture.pixels)} <= {114, *(30 * number + 10 for number in shown)}
    assert len(np.unique(item.picture.pixels)) > 2
    (tmp_path / f"{max(shown - {2})}.png").unlink()
    assert isinstance(dataset[Draw(0, 2, 0)], DataError)


# Seeds, settings, faults


def test_the_result_depends_on_the_seed_alone() -> None:
    transform = built(ShortSide(90, 200), color_jitter=ColorJitterConfig(p=0.5), occlusion=OcclusionConfig(p=0.5))
    first = [transform(noise(), SCENE, (3, 0, seed)) for seed in range(12)]
    again = pickle.loads(pickle.dumps(transform))
    assert all(equal(again(noise(), SCENE, (3, 0, seed)), first[seed]) for seed in reversed(range(12)))
    assert len({prepared.pixels.tobytes() for prepared in first}) == 12


@pytest.mark.parametrize("keys", [{}, CUT, GROWN, {**CUT, "expand": GROWN["expand"]}, OCCLUDED])
@pytest.mark.parametrize("target", [EMPTY, PLAIN.chosen(np.array([], dtype=np.int64))])
def test_an_image_without_objects_passes(keys: dict[str, Any], target: Boxes) -> None:
    for seed in range(8):
        prepared = built(ShortSide(90, 200), **keys)(noise(), target, (seed,))
        assert type(prepared.target) is type(target)
        assert prepared.target.boxes.shape == (0, 4)  # type: ignore[attr-defined]
        assert prepared.pixels.shape[2] == 3
        assert prepared.dropped == 0


def test_a_picture_of_one_pixel_passes() -> None:
    for seed in range(20):
        prepared = built(ShortSide(20, 40), occlusion=OcclusionConfig(p=1.0))(noise(1, 1), boxes([0, 0, 1, 1]), (seed,))
        assert min(prepared.pixels.shape[:2]) == 20


def test_small_pictures_for_small_models_take_no_large_canvas() -> None:
    """A picture that will be reduced is reduced before it is put on a canvas, and keeps its shape."""
    transform = built(ShortSide(240, 400), **GROWN)
    target = SCENE.chosen(np.array([1, 2]))
    for seed in range(10):
        prepared = transform(painted(target, 1280, 960), target, (seed,))
        assert min(prepared.pixels.shape[:2]) == 240
        together(prepared)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, 183), (NEVER, 100), ({"crop": ObjectCropConfig(scale=[0.01, 1.0])}, 200), ({"file": "x"}, None)],
)
def test_a_decode_is_reduced_only_as_far_as_crops_allow(
    keys: dict[str, Any], expected: int | None, tmp_path: Any
) -> None:
    if keys.get("file"):
        assert custom(tmp_path, "- HorizontalFlip").short_side is None
        keys = {}
    assert replace(built(**keys), resizing=ShortSide(100, 1000)).short_side == (expected or 183)
    assert built(**keys).short_side is None


def test_yolov5_augments_by_mosaics() -> None:
    augment = api.settings(task="image_object_detection", model="yolov5").augment
    assert isinstance(augment, ObjectAugmentConfig)
    shares = {name: getattr(augment, name).p for name in ("mosaic", "affine", "hsv", "crop", "expand")}
    assert shares == {"mosaic": 1, "affine": 1, "hsv": 1, "crop": 0, "expand": 0}


@pytest.mark.parametrize("model", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_the_default_for_a_task_with_objects(model: str) -> None:
    task = TASKS["mask" in model]
    augment = api.settings(task=task, model=model).augment
    assert augment == ObjectAugmentConfig()
    assert object_resizing(augment, ShortSide(7, 9)) == ShortSide(7, 9)
    boxed = api.settings(task=task, augment={"name": "letterbox", "letterbox_size": 96, "fill": 3}).augment
    assert object_resizing(boxed, ShortSide(7, 9)) == Letterbox(96, 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"augment=custom needs .* augment\.file=FILE"):
        build_object_transform(api.settings(task=task, augment="custom").augment, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"crop": ObjectCropConfig(scale=[0.9, 0.1])}, r"augment\.crop\.scale=\[0\.9, 0\.1\]: must be two numbers"),
        ({"crop": ObjectCropConfig(ratio=[1.0])}, r"augment\.crop\.ratio=\[1\.0\]: must be two numbers"),
        ({"occlusion": OcclusionConfig(share=[0.5, 0.4])}, r"augment\.occlusion\.share=.*smaller one first"),
    ],
)
def test_a_range_that_is_none_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(**keys)


def test_an_augmentation_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="for pictures with objects"):
        built()(noise(), Labels(labels=np.array([0])), (0,))
    training = api.settings(model="resnet18").training
    with pytest.raises(ConfigError, match="moves no boxes"):
        build_training_transform(AugmentConfig(), training)(noise(), PLAIN, (0,))


# Pipelines of one's own


def test_objects_that_a_pipeline_cuts_away_are_counted(tmp_path: Any) -> None:
    pixels = noise(320, 240)
    for target in (PLAIN, masks(*[[box[[[0, 1], [2, 1], [2, 3], [0, 3]]]] for box in PLAIN.boxes])):
        for minimum, labels in ((0.6, [0]), (0.3, [0]), (0.1, [0, 1])):
            crop = "- Crop: {x_min: 20, y_min: 30, x_max: 200, y_max: 200, p: 1}"
            left = custom(tmp_path, crop, minimum_visibility=minimum)(pixels, target, (0,))
            assert left.target.labels.tolist() == labels
            assert left.dropped == 3 - len(labels)
            np.testing.assert_allclose(left.target.boxes[0], [12, 18, 108, 138], atol=1e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- OverlayElements", r":1: OverlayElements moves pixels but no boxes and polygons"),
        ("- OneOf: [HorizontalFlip, RandomCrop3D: {size: [3, 4, 5]}]", r":1: RandomCrop3D moves pixels but no boxes"),
        ("- HorizontalFlip: {p: 7}", r":1: HorizontalFlip cannot be made: "),
        ("- Normalize", r"gives ndarray of float32 .*Leave out"),
        ("- RandomCrop: {height: 5000, width: 5000}", r"fails on a picture of 1280 x 1024 pixels"),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_one_line_before_training(tmp_path: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        custom(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "pipeline.yaml" in str(caught.value)
