"""Random affine changes: the matrix and the boxes that the reference recorded, and what becomes of polygons."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from parity import recorded, shares

from lightning_automl_vision.affine import (
    Change,
    affine_matrix,
    change_at,
    changed,
    drawn_change,
    kept,
    moved,
    moved_points,
    seen,
)
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.samples import Boxes, Masks
from lightning_automl_vision.settings import AffineConfig

ORDER = ("persp_x", "persp_y", "angle", "scale", "shear_x", "shear_y", "translate_x", "translate_y")
CASES = recorded()["affine"]
STRONG = AffineConfig(p=1.0, degrees=20, translate=0.2, scale=0.4, shear=10, perspective=0.0006)


def boxes(corners: Any) -> Boxes:
    corners = np.asarray(corners, np.float64).reshape(-1, 4)
    return Boxes(labels=np.arange(len(corners)), boxes=corners, crowd=np.zeros(len(corners), np.bool_))


def rectangles(corners: Any) -> Masks:
    """Boxes as polygons with a point every tenth of a side."""
    plain = boxes(corners)
    along = np.arange(0, 1, 0.1)
    unit = np.concatenate(
        [
            np.stack([along, 0 * along], axis=1),
            np.stack([0 * along + 1, along], axis=1),
            np.stack([1 - along, 0 * along + 1], axis=1),
            np.stack([0 * along, 1 - along], axis=1),
        ]
    )
    polygons = tuple((unit * (box[2:] - box[:2]) + box[:2],) for box in plain.boxes)
    return Masks(labels=plain.labels, boxes=plain.boxes, crowd=plain.crowd, polygons=polygons)


def recorded_case(case: dict[str, Any]) -> tuple[Change, np.ndarray, tuple[int, int]]:
    affine = AffineConfig(p=1.0, **case["params"])
    change = change_at(affine, [case["uniforms_in_order"][name] for name in ORDER])
    (height, width), border = case["src_hw"], case["border"]
    size = width + 2 * border[1], height + 2 * border[0]
    return change, affine_matrix(change, (width, height), size), size


@pytest.mark.parametrize("name", sorted(CASES))
def test_matrix_and_boxes_are_the_recorded_ones(name: str) -> None:
    case = CASES[name]
    change, matrix, size = recorded_case(case)
    assert list(size) == case["out_wh"]
    np.testing.assert_allclose(matrix, case["matrix"], rtol=0, atol=1e-9)
    table = np.array(case["boxes_in_cls_xyxy"])
    if case["polygon_points"] is not None:
        pytest.skip("the reference samples polygons at 1000 points; here their bounds are exact")
    left = changed(boxes(table[:, 1:]), matrix, change.scale, Window(0, 0, *size))
    expected = np.array(case["boxes_out_cls_xyxy"])
    assert left.labels.tolist() == expected[:, 0].tolist()
    np.testing.assert_allclose(left.boxes, expected[:, 1:], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("key", "share"), [("keep_area0p1", 0.1), ("keep_area0p01", 0.01)])
def test_boxes_worth_keeping_are_the_recorded_ones(key: str, share: float) -> None:
    case = recorded()["box_candidates"]
    before, after = (np.array(case[name]).T for name in ("box1_T", "box2_T"))
    assert kept(before, after, share).tolist() == case[key]


def test_a_box_is_kept_by_strict_limits() -> None:
    before = np.tile([0.0, 0.0, 1000.0, 3.0], (6, 1))
    after = np.array(
        [
            [0, 0, 200, 3],
            [0, 0, 200, 2],
            [0, 0, 2, 3],
            [0, 0, 300, 3],
            [0, 0, 299.9, 3],
            [0, 0, 99.9, 3],
        ]
    )
    assert kept(before, after).tolist() == [True, False, False, False, True, False]
    assert kept(before[:0], after[:0]).tolist() == []


def test_nothing_allowed_is_nothing_changed() -> None:
    still = AffineConfig(p=1.0, translate=0.0, scale=0.0)
    change = drawn_change(still, np.random.default_rng(0))
    assert change == Change()
    np.testing.assert_allclose(affine_matrix(change, (64, 48), (64, 48)), np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("degrees", ["turn"]),
        ("translate", ["centre_across", "centre_down"]),
        ("scale", ["scale"]),
        ("shear", ["shear_across", "shear_down"]),
        ("perspective", ["perspective_across", "perspective_down"]),
    ],
)
def test_each_setting_bounds_its_own_parts(name: str, parts: list[str]) -> None:
    value = {"degrees": 30.0, "perspective": 0.0005}.get(name, 0.3)
    still = {field.name: 0.0 for field in fields(AffineConfig)}
    affine = AffineConfig(**{**still, name: value})
    changes = [drawn_change(affine, np.random.default_rng(seed)) for seed in range(200)]
    for part in Change._fields:
        off = np.array([getattr(change, part) for change in changes]) - getattr(Change(), part)
        if part in parts:
            assert 0.9 * value < off.max() <= value
            assert -value <= off.min() < -0.9 * value
        else:
            assert not off.any()


def test_a_turn_is_counter_clockwise_as_it_is_seen() -> None:
    matrix = affine_matrix(Change(turn=90.0), (100, 100), (100, 100))
    np.testing.assert_allclose(moved_points(np.array([[100.0, 50.0]]), matrix), [[50, 0]], atol=1e-9)


def test_polygons_go_where_their_boxes_go() -> None:
    corners = 200 * shares("polygons", 24).reshape(6, 4)
    corners = np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    for seed in range(10):
        matrix = affine_matrix(drawn_change(STRONG, np.random.default_rng(seed)), (200, 200), (120, 160))
        plain, outlined = moved(boxes(corners), matrix), moved(rectangles(corners), matrix)
        np.testing.assert_allclose(plain.boxes, outlined.boxes, atol=1e-9)


def test_the_box_of_a_polygon_is_that_of_its_visible_part() -> None:
    diamond = np.array([[50.0, 0.0], [100.0, 50.0], [50.0, 100.0], [0.0, 50.0]])
    target = Masks(
        labels=np.array([0]), boxes=np.array([[0.0, 0, 100, 100]]), crowd=np.array([False]), polygons=((diamond,),)
    )
    matrix = affine_matrix(Change(centre_across=0.2), (100, 100), (100, 100))
    assert changed(target, matrix, 1.0, Window(0, 0, 100, 100)).boxes.tolist() == [[0, 0, 70, 100]]
    matrix = affine_matrix(Change(centre_across=-0.2), (100, 100), (100, 100))
    np.testing.assert_allclose(changed(target, matrix, 1.0, Window(0, 0, 100, 100)).boxes, [[0, 20, 30, 80]])


def test_an_object_with_polygons_is_kept_down_to_a_hundredth() -> None:
    corners = [[0.0, 0.0, 100.0, 100.0]]
    matrix = affine_matrix(Change(centre_across=-0.45), (100, 100), (100, 100))
    picture = Window(0, 0, 100, 100)
    assert len(changed(boxes(corners), matrix, 1.0, picture).labels) == 0
    assert len(changed(rectangles(corners), matrix, 1.0, picture).labels) == 1


def test_an_object_made_small_is_held_against_its_new_size() -> None:
    matrix = affine_matrix(Change(scale=0.2), (100, 100), (100, 100))
    target, picture = boxes([[20.0, 20.0, 80.0, 80.0]]), Window(0, 0, 100, 100)
    assert len(changed(target, matrix, 0.2, picture).labels) == 1
    assert len(changed(target, matrix, 1.0, picture).labels) == 0


def test_no_perspective_turns_a_picture_inside_out() -> None:
    change = Change(perspective_across=0.001, perspective_down=-0.001)
    matrix = affine_matrix(change, (2000, 1600), (800, 800))
    corners = np.array([[0, 0, 1], [2000, 0, 1], [2000, 1600, 1], [0, 1600, 1]]) @ matrix.T
    assert corners[:, 2].min() == pytest.approx(0.1)


def test_what_is_outside_is_not_seen() -> None:
    target = boxes([[0.0, 0.0, 10.0, 10.0], [90.0, 90.0, 130.0, 130.0], [100.0, 0.0, 120.0, 20.0]])
    left = seen(target, Window(0, 0, 100, 100))
    assert (left.labels.tolist(), left.boxes[1].tolist()) == ([0, 1], [90, 90, 100, 100])
