"""Curves, confusion matrix and counts of objects found, against the same rules written as loops."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_object_metrics import found_boxes, masks_in, naive_verdicts, random_set, sets, share, true_boxes

from lightning_automl_vision.metrics.average_precision import voc
from lightning_automl_vision.metrics.object_curves import POINTS, confusion_matrix, image_counts, object_curves
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects

thresholds = st.sampled_from([0.1, 0.5, 0.75])


def naive_confusion_matrix(truth, found, classes, threshold, score_threshold, overlaps):
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for image, (target, answer) in enumerate(zip(truth, found, strict=True)):
        free = [index for index, crowd in enumerate(target.crowd) if not crowd]
        for index in np.argsort(-answer.scores, kind="stable"):
            if answer.scores[index] <= score_threshold:
                continue
            shares = {number: overlaps(image, index, number) for number in free}
            most = max(shares.values(), default=0)
            if most >= threshold:
                number = max(number for number, overlap in shares.items() if overlap == most)
                free.remove(number)
                matrix[target.labels[number], answer.labels[index]] += 1
                continue
            on_crowd = any(
                overlaps(image, index, number) >= threshold
                for number in np.flatnonzero(target.crowd & (target.labels == answer.labels[index]))
            )
            matrix[classes, answer.labels[index]] += not on_crowd
        for number in free:
            matrix[target.labels[number], classes] += 1
    return matrix


@settings(max_examples=150, deadline=None)
@given(parameters=sets, threshold=thresholds, score_threshold=st.sampled_from([0.0, 0.4, 0.5]))
def test_the_best_score_takes_the_free_object_that_it_overlaps_most(parameters, threshold, score_threshold):
    classes = parameters["classes"]
    truth, found = random_set(**parameters)

    def overlaps(image, index, number):
        target = truth[image]
        return share(found[image].boxes[index], target.boxes[number], target.crowd[number])

    ours = confusion_matrix(
        TrueObjects.of(truth),
        FoundObjects.of(found),
        classes,
        iou_threshold=threshold,
        score_threshold=score_threshold,
    )
    assert ours.tolist() == naive_confusion_matrix(truth, found, classes, threshold, score_threshold, overlaps).tolist()


@settings(max_examples=50, deadline=None)
@given(parameters=sets, threshold=thresholds)
def test_masks_are_confused_by_their_own_overlap(parameters, threshold):
    classes = parameters["classes"]
    truth, found = random_set(**parameters)
    random = np.random.default_rng(parameters["seed"])
    true_masks, found_masks = ([masks_in(random, image.boxes) for image in images] for images in (truth, found))

    def overlaps(image, index, number):
        mask, other = found_masks[image][index].pixels, true_masks[image][number].pixels
        whole = mask if truth[image].crowd[number] else mask | other
        return (mask & other).sum() / max(whole.sum(), 1)

    ours = confusion_matrix(
        TrueObjects.of(truth, true_masks),
        FoundObjects.of(found, found_masks),
        classes,
        iou_threshold=threshold,
        score_threshold=0.3,
    )
    assert ours.tolist() == naive_confusion_matrix(truth, found, classes, threshold, 0.3, overlaps).tolist()


def test_a_confusion_matrix_tells_the_ways_to_be_wrong_apart():
    boxes = [[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 90, 90], [100, 0, 150, 50]]
    truth = [true_boxes([0, 1, 1, 0], boxes, crowd=[False, False, False, True]), true_boxes([0], [[0, 0, 9, 9]])]
    spots = [boxes[0], boxes[1], boxes[1], [110, 10, 120, 20], [60, 0, 80, 20], [0, 0, 10, 10]]
    found = [found_boxes([0, 0, 1, 0, 1, 1], spots, [0.9, 0.8, 0.7, 0.6, 0.5, 0.2]), found_boxes([], [], [])]
    ours = confusion_matrix(TrueObjects.of(truth), FoundObjects.of(found), 2, iou_threshold=0.5, score_threshold=0.2)
    # One found as it is and one missed; one found as the other class and one missed; a double and one in the void.
    assert ours.tolist() == [[1, 0, 1], [1, 0, 1], [0, 2, 0]]


@settings(max_examples=100, deadline=None)
@given(parameters=sets, threshold=thresholds)
def test_a_point_of_a_curve_is_the_figures_of_everything_from_its_score_up(parameters, threshold):
    classes = parameters["classes"]
    truth, found = random_set(**parameters)
    objects = TrueObjects.of(truth)
    curves = list(object_curves(objects, FoundObjects.of(found), classes, iou_threshold=threshold))
    assert [curve.label for curve in curves] == np.flatnonzero(objects.counts(classes)).tolist()
    for curve in curves:
        for score, recall, precision, f1 in zip(curve.scores, curve.recall, curve.precision, curve.f1, strict=True):
            kept = [answer.chosen(answer.scores >= score) for answer in found]
            row = voc(objects, FoundObjects.of(kept), classes, iou_threshold=threshold).rows[curve.label]
            assert (recall, precision) == (row.recall, row.precision)
            assert f1 == pytest.approx(2 * recall * precision / (recall + precision) if recall else 0, abs=1e-12)
        assert (np.diff(curve.scores) < 0).all()


def test_the_best_f1_comes_with_its_score():
    boxes = [[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 90, 90]]
    truth = [true_boxes([0, 0], boxes[:2])]
    found = [found_boxes([0, 0, 0, 0], [boxes[0], boxes[2], boxes[1], boxes[2]], [0.9, 0.5, 0.5, 0.1])]
    (curve,) = object_curves(TrueObjects.of(truth), FoundObjects.of(found), 2, iou_threshold=0.5)
    assert curve.scores == pytest.approx([0.9, 0.5, 0.1])
    assert curve.recall.tolist() == [0.5, 1, 1]
    assert curve.precision == pytest.approx([1, 2 / 3, 0.5])
    assert (curve.best_f1, curve.best_score) == (0.8, 0.5)


def test_what_is_right_stays_in_the_curve_even_on_a_crowd_and_so_does_a_score_of_nothing():
    boxes = [[10, 10, 20, 20], [0, 0, 100, 100]]
    truth = [true_boxes([0, 0], boxes, crowd=[False, True])]
    found = [found_boxes([0, 0, 0], [boxes[0], [30, 30, 40, 40], [0, 110, 10, 120]], [0.9, 0.8, 0.0])]
    (curve,) = object_curves(TrueObjects.of(truth), FoundObjects.of(found), 1, iou_threshold=0.5)
    assert curve.scores == pytest.approx([0.9, 0.0])
    assert curve.recall.tolist() == [1, 1]
    assert curve.precision.tolist() == [1, 0.5]


def test_a_class_of_which_nothing_is_found_has_no_points():
    (curve,) = object_curves(
        TrueObjects.of([true_boxes([1], [[0, 0, 9, 9]])]),
        FoundObjects.of([found_boxes([], [], [])]),
        2,
        iou_threshold=0.5,
    )
    assert curve.best_f1 == 0
    assert math.isnan(curve.best_score)
    assert curve.as_dict()["recall"] == []


def test_a_long_curve_is_thinned_for_the_document():
    truth, found = random_set(1, images=4, classes=1, most_truths=9, most_found=900, levels=10**6)
    (curve,) = object_curves(TrueObjects.of(truth), FoundObjects.of(found), 1, iou_threshold=0.5)
    assert len(curve.scores) > POINTS
    document = json.loads(json.dumps(curve.as_dict(), allow_nan=False))
    assert {len(document[name]) for name in ("recall", "precision", "f1", "scores")} == {POINTS}
    assert document["scores"][0] == pytest.approx(curve.scores[0], abs=1e-6)
    assert document["recall"][-1] == pytest.approx(curve.recall[-1], abs=1e-6)
    assert document["best_f1"] == curve.f1.max()


@settings(max_examples=100, deadline=None)
@given(parameters=sets, threshold=thresholds)
def test_an_image_counts_what_is_right_wrong_and_missed_in_it(parameters, threshold):
    truth, found = random_set(**parameters)
    ours = image_counts(TrueObjects.of(truth), FoundObjects.of(found), iou_threshold=threshold)
    expected = np.zeros((3, len(truth)), dtype=np.int64)
    for label in range(parameters["classes"]):
        for image, right in naive_verdicts(truth, found, label, threshold):
            if right is not None:
                expected[0 if right else 1, image] += 1
    expected[2] = [(~target.crowd).sum() for target in truth] - expected[0]
    assert [each.tolist() for each in ours] == expected.tolist()


def test_counts_of_images_tell_empty_ones():
    truth = [true_boxes([0], [[0, 0, 9, 9]]), true_boxes([], []), true_boxes([0], [[0, 0, 9, 9]], crowd=[True])]
    found = [
        found_boxes([], [], []),
        found_boxes([0, 1], [[0, 0, 9, 9], [0, 0, 9, 9]], [0.9, 0.8]),
        found_boxes([0, 1], [[1, 1, 4, 4], [1, 1, 4, 4]], [0.9, 0.8]),
    ]
    counts = image_counts(TrueObjects.of(truth), FoundObjects.of(found), iou_threshold=0.5)
    assert [each.tolist() for each in counts] == [[0, 0, 0], [0, 2, 1], [1, 0, 0]]
