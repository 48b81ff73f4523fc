"""The reference's figures for boxes found give the recorded values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity import recorded, shares

from lav_yolov5.scores import OVERLAPS, average_precision, confusion, matched, scored, smoothed

CASE = recorded()["metrics"]


@pytest.fixture(scope="module")
def figures():
    right = shares("aptp", 80)[:, None] < 0.7 - 0.06 * np.arange(10)
    return scored(
        right,
        shares("apconf", 80),
        np.floor(3 * shares("apcls", 80)).astype(int),
        np.floor(3 * shares("aptcls", 40)).astype(int),
    )


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("classes", "classes"),
        ("average_precisions", "ap"),
        ("precision", "p"),
        ("recall", "r"),
        ("f1", "f1"),
        ("true_positives", "tp"),
        ("false_positives", "fp"),
        ("map_50", "map50"),
        ("map_50_95", "map"),
        ("fitness", "fitness"),
    ],
)
def test_figures_are_the_recorded_ones(figures, figure, name):
    np.testing.assert_allclose(getattr(figures, figure), CASE[name], rtol=1e-9, atol=1e-12)


def test_average_precision_is_the_recorded_one():
    case = CASE["compute_ap"]
    found = average_precision(np.array(case["recall"]), np.array(case["precision"]))
    assert found == pytest.approx(case["ap"], rel=1e-9)


def test_smoothed_curve_is_the_recorded_one():
    case = CASE["smooth"]
    np.testing.assert_allclose(smoothed(np.array(case["y"]), case["f"]), case["out"], rtol=1e-9)


def recorded_image():
    truth, found = np.array(CASE["match"]["labels_cls_xyxy"]), np.array(CASE["match"]["dets_xyxy_conf_cls_sorted"])
    return truth[:, 0].astype(int), truth[:, 1:], found[:, 5].astype(int), found[:, :4], found[:, 4]


def test_boxes_match_the_recorded_objects():
    np.testing.assert_array_equal(matched(*recorded_image()[:4]), np.array(CASE["match"]["correct"], bool))


def test_confusion_is_the_recorded_one():
    case = CASE["confusion"]
    expected = np.array(case["matrix_pred_rows_true_cols"])
    found = confusion(
        *recorded_image(), classes=len(expected) - 1, score_threshold=case["conf"], iou_threshold=case["iou"]
    )
    np.testing.assert_array_equal(found, expected)


box = st.tuples(*(st.integers(0, 20) for _ in range(2)), *(st.integers(5, 20) for _ in range(2))).map(
    lambda sides: (sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3])
)
objects = st.lists(st.tuples(st.integers(0, 1), box), max_size=6)


def arrays(chosen):
    return (
        np.array([label for label, _ in chosen], dtype=int),
        np.array([box for _, box in chosen], dtype=float).reshape(-1, 4),
    )


@given(objects, objects)
def test_no_more_boxes_are_right_than_objects_are_true_and_fewer_when_more_is_asked(truth, found):
    right = matched(*arrays(truth), *arrays(found))
    assert right.shape == (len(found), len(OVERLAPS))
    for label in (0, 1):
        members = arrays(found)[0] == label
        assert (right[members].sum(axis=0) <= (arrays(truth)[0] == label).sum()).all()
    assert (np.diff(right.sum(axis=0)) <= 0).all()


@given(objects)
def test_the_truth_itself_is_all_right(truth):
    different = list(dict.fromkeys(truth))
    labels, boxes = arrays(different)
    assert matched(labels, boxes, labels, boxes).all()
    if different:
        figures = scored(np.ones((len(labels), 10), bool), np.linspace(1, 0.5, len(labels)), labels, labels)
        assert figures.map_50_95 > 0.99
        assert figures.false_positives.sum() == 0


@given(objects, objects)
def test_every_true_object_is_in_the_table_once(truth, found):
    table = confusion(*arrays(truth), *arrays(found), np.full(len(found), 0.9), classes=2)
    np.testing.assert_array_equal(table[:, :2].sum(axis=0), np.bincount(arrays(truth)[0], minlength=2))
    assert table[:2].sum() in (0, len(found))


def test_class_that_is_never_found_has_no_precision():
    figures = scored(np.ones((1, 10), bool), np.array([0.9]), np.array([0]), np.array([0, 1]))
    assert figures.average_precisions[1].tolist() == [0] * 10
    assert (figures.precision[1], figures.recall[1], figures.f1[1]) == (0, 0, 0)
