"""What a trial leaves of each image says the same as the product's own metrics, of all images and of any draw."""

from dataclasses import replace

import numpy as np
import pytest

from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.judging import Answer, Judged, Verdicts
from lightning_automl_vision.metrics.average_precision import coco, voc
from lightning_automl_vision.metrics.classification import classification_metrics
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects
from lightning_automl_vision.metrics.resampling import resampled, resampled_counts
from lightning_automl_vision.samples import Boxes, Sample, ScoredBoxes
from lightning_automl_vision.search.per_image import (
    ImageObjects,
    ImageValues,
    load,
    metric_of,
    metric_of_all,
    of_judged,
)

CLASSES = 4  # of which the last is never true, and the one before it never found
IMAGES = 30
NAMES = [f"bilder/{index} ä.jpg" for index in range(IMAGES)]


def truth_and_found(seed, *, per_image=5, ties=False, crowds=True):
    """Boxes of which many overlap, in a small image; what is found lies near what is true, or anywhere."""
    random = np.random.default_rng(seed)
    images = np.sort(random.integers(IMAGES, size=per_image * IMAGES))
    labels = random.integers(CLASSES - 1, size=len(images))
    corners = random.integers(0, 60, (len(images), 2)).astype(float)
    boxes = np.concatenate([corners, corners + random.integers(15, 40, (len(images), 2))], axis=1)
    truth = TrueObjects(
        image_count=IMAGES, images=images, labels=labels, boxes=boxes, crowd=crowds & (random.random(len(images)) < 0.1)
    )
    near = np.repeat(np.arange(len(images)), 3)
    found_labels = np.where(random.random(len(near)) < 0.8, labels[near], CLASSES - 1)
    keep = found_labels != CLASSES - 2
    scores = random.permutation(len(near)) / len(near)
    found = FoundObjects(
        image_count=IMAGES,
        images=images[near],
        labels=found_labels,
        boxes=boxes[near] + random.normal(0, 2, (len(near), 4)),
        scores=np.round(scores, 1) if ties else scores,
    )
    return truth, found.chosen(keep)


def draw(objects, drawn):
    """The same objects as if each image drawn were one of its own."""
    order = [np.flatnonzero(objects.images == image) for image in drawn]
    images = np.repeat(np.arange(len(drawn)), [len(part) for part in order])
    return replace(objects.chosen(np.concatenate(order)), images=images, image_count=len(drawn))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.75])
def test_average_precision_of_all_images_is_that_of_pascal_voc(seed, ties, iou_threshold):
    truth, found = truth_and_found(seed, ties=ties)
    left = ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=iou_threshold)
    expected = voc(truth, found, CLASSES, iou_threshold=iou_threshold).mean_average_precision
    assert 0.02 < expected < 0.9
    assert metric_of_all(left) == pytest.approx(expected, abs=1e-12)
    assert len(left.images) < len(found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_image", [5, 60])
def test_average_precision_of_all_images_is_that_of_coco(seed, per_image):
    """With 60 true objects an image, more than a hundred of a class are found in some."""
    truth, found = truth_and_found(seed, per_image=per_image, ties=seed > 2)
    left = ImageObjects.coco(NAMES, truth, found, CLASSES)
    assert metric_of_all(left) == pytest.approx(coco(truth, found, CLASSES).ap_50, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_of_a_draw_is_that_of_the_images_drawn(seed):
    truth, found = truth_and_found(seed)
    drawn = np.sort(np.random.default_rng(seed).integers(IMAGES, size=IMAGES))
    drawn_truth, drawn_found = draw(truth, drawn), draw(found, drawn)
    assert metric_of(ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=0.5), drawn) == pytest.approx(
        voc(drawn_truth, drawn_found, CLASSES, iou_threshold=0.5).mean_average_precision, abs=1e-12
    )
    assert metric_of(ImageObjects.coco(NAMES, truth, found, CLASSES), drawn) == pytest.approx(
        coco(drawn_truth, drawn_found, CLASSES).ap_50, abs=1e-12
    )


def test_many_draws_at_once_are_as_many_single_ones():
    truth, found = truth_and_found(7)
    left = ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=0.5)
    single = resampled(lambda drawn: (metric_of(left, drawn),), IMAGES, samples=50, seed=4)[:, 0]
    (counts,) = resampled_counts(IMAGES, samples=50, seed=4)
    np.testing.assert_allclose(left.metrics_of(counts), single, atol=1e-12)
    assert np.ptp(single) > 0.05


def test_draws_come_in_blocks_that_fit_in_memory_and_are_the_same(monkeypatch):
    (whole,) = resampled_counts(IMAGES, samples=50, seed=4)
    truth, found = truth_and_found(7)
    left = ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=0.5)
    expected = left.metrics_of(whole)
    monkeypatch.setattr("lightning_automl_vision.metrics.resampling._BLOCK", 100)
    blocks = list(resampled_counts(IMAGES, samples=50, seed=4))
    assert [block.shape[1] for block in blocks] == [3] * 16 + [2]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
    monkeypatch.setattr("lightning_automl_vision.search.per_image._BLOCK", 100)
    np.testing.assert_allclose(left.metrics_of(whole), expected, atol=1e-12)


def test_where_nothing_is_true_nothing_is_measured_and_where_nothing_is_found_it_is_nought():
    truth, found = truth_and_found(1, crowds=False)
    nothing = found.chosen(np.zeros(len(found), dtype=bool))
    assert metric_of_all(ImageObjects.voc(NAMES, truth, nothing, CLASSES, iou_threshold=0.5)) == 0
    empty = truth.chosen(np.zeros(len(truth), dtype=bool))
    assert np.isnan(metric_of_all(ImageObjects.voc(NAMES, empty, found, CLASSES, iou_threshold=0.5)))
    left = ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=0.5)
    without = np.setdiff1d(np.arange(IMAGES), truth.images)
    assert np.isnan(metric_of(left, np.append(without, without)))


def test_the_right_and_the_wrong_of_each_image_are_accuracy():
    random = np.random.default_rng(3)
    scores, labels = random.random((IMAGES, 3)).astype(np.float32), random.integers(3, size=IMAGES)
    scores[:5] = 0.5  # ties go to the first class
    left = ImageValues.accuracy(NAMES, scores, labels, "abc")
    metrics = classification_metrics(scores, labels, multilabel=False, classes="abc")
    assert metric_of_all(left) == pytest.approx(metrics["accuracy"])
    drawn = random.integers(IMAGES, size=IMAGES)
    metrics = classification_metrics(scores[drawn], labels[drawn], multilabel=False, classes="abc")
    assert metric_of(left, drawn) == pytest.approx(metrics["accuracy"])


def test_the_overlap_of_the_labels_of_each_image_is_iou():
    random = np.random.default_rng(3)
    scores, labels = random.random((IMAGES, 3)).astype(np.float32), random.integers(2, size=(IMAGES, 3))
    scores[:3], labels[:3] = 0.1, 0  # none true, none given
    left = ImageValues.iou(NAMES, scores, labels, "abc")
    for drawn in (np.arange(IMAGES), random.integers(IMAGES, size=IMAGES)):
        metrics = classification_metrics(scores[drawn], labels[drawn], multilabel=True, classes="abc")
        assert metric_of(left, drawn) == pytest.approx(metrics["iou"])


def test_scores_that_are_no_numbers_leave_no_metric():
    scores = np.full((IMAGES, 2), 0.5, np.float32)
    scores[3, 0] = np.nan
    assert np.isnan(metric_of_all(ImageValues.accuracy(NAMES, scores, np.zeros(IMAGES, np.int64), "ab")))
    assert np.isnan(metric_of_all(ImageValues.iou(NAMES, scores, np.zeros((IMAGES, 2)), "ab")))


def test_what_is_saved_is_loaded(tmp_path):
    truth, found = truth_and_found(2)
    for number, left in enumerate(
        (
            ImageValues(metric="accuracy", names=tuple(NAMES), values=np.linspace(0, 1, IMAGES)),
            ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=0.5),
            ImageObjects.coco(NAMES, truth, found, CLASSES),
        )
    ):
        path = tmp_path / f"{number}.npz"
        left.save(path)
        again = load(path)
        assert type(again) is type(left)
        assert again.differs_from(left) is None
        assert metric_of_all(again) == metric_of_all(left)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npz", "1.npz", "2.npz"]


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path):
    path = tmp_path / "per_image.npz"
    with pytest.raises(DataError, match=r"per_image.npz: No such file"):
        load(path)
    ImageValues(metric="accuracy", names=tuple(NAMES), values=np.linspace(0, 1, IMAGES)).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"nothing", whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"per_image.npz is not what a trial leaves of its images"):
            load(path)
    np.savez(path, values=np.zeros(3))
    with pytest.raises(DataError, match="is not what a trial leaves"):
        load(path)


def test_names_and_what_they_name_are_as_many():
    with pytest.raises(ValueError, match="got 30 names and 3 values"):
        ImageValues(metric="accuracy", names=tuple(NAMES), values=np.zeros(3))
    truth, found = truth_and_found(2)
    with pytest.raises(ValueError, match="truth is of 30 images, got 2 names"):
        ImageObjects.voc(NAMES[:2], truth, found, CLASSES, iou_threshold=0.5)


def test_trials_that_cannot_be_compared_say_why():
    values = ImageValues(metric="accuracy", names=("a", "b", "c"), values=np.zeros(3))
    assert values.differs_from(replace(values, values=np.ones(3))) is None
    assert values.differs_from(replace(values, metric="iou")) == "one is judged by accuracy, the other by iou"
    assert values.differs_from(replace(values, names=("a", "c", "b"))) == "their images are in another order"
    reason = values.differs_from(replace(values, names=("a", "b", "d")))
    assert reason == "their images are not the same: 2 are in one of them only, such as c"
    truth, found = truth_and_found(2)
    first, second, third, fourth = (
        ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=0.5),
        ImageObjects.voc(NAMES, truth.chosen(np.arange(len(truth)) > 0), found, CLASSES, iou_threshold=0.5),
        ImageObjects.voc(NAMES, truth, found, CLASSES, iou_threshold=0.6),
        ImageObjects.coco(NAMES, truth, found, CLASSES),
    )
    assert first.differs_from(second) == "their images are labelled differently"
    assert "of voc at 0.5, the other by mean_average_precision of voc at 0.6" in first.differs_from(third)
    assert "of coco at 0.5" in first.differs_from(fourth)


@pytest.mark.parametrize("metric_type", ["voc", "coco", "coco_voc", "none"])
def test_what_was_judged_leaves_its_primary_metric(metric_type):
    """Of the images looked at, and of objects above the lowest score that counts."""
    truth, found = truth_and_found(3)
    sizes = [ImageHeader(100, 100)] * IMAGES
    targets = [
        Boxes(labels=one.labels, boxes=one.boxes / 100, crowd=one.crowd)
        for one in (truth.chosen(truth.images == image) for image in range(IMAGES))
    ]
    samples = [Sample(image=f"/photos/{name}", target=target) for name, target in zip(NAMES, targets, strict=True)]
    judged = Judged.of(
        LabelledImages(samples=samples, classes=tuple("abcd"), source="", headers=sizes, folder="/photos"),
        with_masks=False,
    )
    for image in range(2, IMAGES):
        one = found.chosen(found.images == image)
        one = one.chosen(np.argsort(-one.scores))
        answer = ScoredBoxes(labels=one.labels, boxes=one.boxes, scores=one.scores, width=100, height=100)
        judged.found[image] = Answer(objects=answer)
    verdicts = Verdicts(classes=tuple("abcd"), metric_type=metric_type, iou_threshold=0.4, box_score_threshold=0.3)
    left = of_judged(judged, verdicts)
    if metric_type == "none":
        assert left is None
        return
    assert left is not None
    assert list(left.names) == NAMES[2:]
    assert metric_of_all(left) == pytest.approx(verdicts.metrics(judged)["mean_average_precision"], abs=1e-12)
