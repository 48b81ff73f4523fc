"""Average precision against pycocotools and against PASCAL VOC's rules written as loops."""

import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightning_automl_vision.masks import Crop, encode
from lightning_automl_vision.metrics.average_precision import MOST, TWELVE, coco, voc
from lightning_automl_vision.metrics.extents import PORTION, mask_extents, pixels_in_common
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects
from lightning_automl_vision.metrics.overlaps import overlapping
from lightning_automl_vision.samples import Boxes, ScoredBoxes

SIDE = 160


def boxes_of(corners):
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


def true_boxes(labels, corners, crowd=None):
    flags = np.zeros(len(labels), np.bool_) if crowd is None else np.array(crowd, dtype=np.bool_)
    return Boxes(labels=np.array(labels, dtype=np.int64), boxes=boxes_of(corners), crowd=flags)


def found_boxes(labels, corners, scores):
    return ScoredBoxes(
        labels=np.array(labels, dtype=np.int64),
        boxes=boxes_of(corners),
        scores=np.array(scores, dtype=np.float32),
        width=SIDE,
        height=SIDE,
    )


def random_boxes(random, count):
    """Corners in quarters of a pixel, of all three sizes, some of them empty."""
    corners = random.integers(0, 4 * SIDE, (count, 2)) / 4
    sides = random.choice([0, 8, 30, 32, 33, 60, 96, 130], (count, 2)) + random.integers(0, 9, (count, 2)) / 4
    return np.hstack([corners, corners + sides]).clip(0, SIDE)


def moved(random, boxes):
    """Near enough to overlap, often exactly as much as another or not moved at all."""
    shifted = boxes + random.choice([0, 0, 1, 2, 4, 8], (len(boxes), 1)) * random.integers(-1, 2, boxes.shape)
    shifted[:, 2:] = np.maximum(shifted[:, :2], shifted[:, 2:])
    return shifted.clip(0, SIDE)


def random_set(seed, *, images, classes, most_truths, most_found, crowds=0.2, levels=6):
    """Truth and answers of each image; some have none of either, and scores are few, so that ties abound."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(images):
        count = int(random.integers(0, most_truths + 1)) * int(random.random() < 0.85)
        labels = random.integers(0, classes, count)
        truth.append(true_boxes(labels, random_boxes(random, count), random.random(count) < crowds))
        number = int(random.integers(0, most_found + 1)) * int(random.random() < 0.85)
        if count:
            near = random.integers(0, count, number)
            corners = moved(random, truth[-1].boxes[near])
            same = random.random(number) < 0.8
            guesses = np.where(same, labels[near], random.integers(0, classes, number))
        else:
            corners, guesses = random_boxes(random, number), random.integers(0, classes, number)
        found.append(found_boxes(guesses, corners, random.integers(1, levels + 1, number) / levels))
    return truth, found


def masks_in(random, boxes):
    """Blobs within the boxes, now and then with a hole, an edge of the picture or nothing at all."""
    masks = []
    for left, top, right, bottom in boxes.astype(int).tolist():
        pixels = random.random((bottom - top, right - left)) < random.choice([0.0, 0.7, 1.0, 1.0])
        pixels[1 : pixels.shape[0] // 3] = True
        masks.append(encode(Crop(left=left, top=top, pixels=pixels), SIDE, SIDE))
    return masks


def reference(truth, found, classes, true_masks=None, found_masks=None):
    """pycocotools' evaluation of the same objects."""
    annotations, results = [], []
    for image, target in enumerate(truth):
        for index, (label, box, crowd) in enumerate(zip(target.labels, target.boxes, target.crowd, strict=True)):
            width, height = box[2] - box[0], box[3] - box[1]
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": int(label) + 1}
            entry |= {"bbox": [box[0], box[1], width, height], "area": width * height, "iscrowd": int(crowd)}
            if true_masks is not None:
                mask = true_masks[image][index]
                entry |= {"segmentation": mask.as_coco(), "area": mask.area}
            annotations.append(entry)
    for image, answer in enumerate(found):
        for index, (label, box, score) in enumerate(zip(answer.labels, answer.boxes, answer.scores, strict=True)):
            entry = {"image_id": image + 1, "category_id": int(label) + 1, "score": float(score)}
            if found_masks is not None:
                entry |= {"segmentation": found_masks[image][index].as_coco()}
            else:
                entry |= {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
            results.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        true_set, found_set = COCO(), COCO()
        true_set.dataset = {
            "info": {},
            "images": [{"id": image + 1, "width": SIDE, "height": SIDE} for image in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
        }
        true_set.createIndex()
        if results:
            found_set = true_set.loadRes(results)
        else:
            found_set.dataset = {**true_set.dataset, "annotations": []}
            found_set.createIndex()
        evaluation = COCOeval(true_set, found_set, "bbox" if true_masks is None else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def mean_of_defined(values):
    values = values[values > -1]
    return values.mean() if values.size else math.nan


def rows_of(evaluation, classes):
    """The twelve numbers of each class, from pycocotools' own arrays."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    for label in range(classes):
        of_class = precision[:, :, label, :, 2]
        averages = [of_class[:, :, 0], of_class[0, :, 0], of_class[5, :, 0], *np.moveaxis(of_class, 2, 0)[1:]]
        recalls = [*recall[:, label, 0].T, *recall[:, label, 1:, 2].T]
        yield [mean_of_defined(values) for values in (*averages, *recalls)]


def assert_same(ours, evaluation, classes):
    expected = np.where(evaluation.stats == -1, math.nan, evaluation.stats)
    np.testing.assert_allclose([getattr(ours, name) for name in TWELVE], expected, rtol=0, atol=1e-9)
    assert [row.label for row in ours.rows] == list(range(classes))
    for row, values in zip(ours.rows, rows_of(evaluation, classes), strict=True):
        np.testing.assert_allclose([getattr(row, name) for name in TWELVE], values, rtol=0, atol=1e-9)


sets = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "images": st.integers(1, 8),
        "classes": st.integers(1, 4),
        "most_truths": st.integers(0, 8),
        "most_found": st.integers(0, 15),
        "crowds": st.sampled_from([0.0, 0.2, 1.0]),
        "levels": st.sampled_from([1, 3, 1000]),
    }
)


@settings(max_examples=150, deadline=None)
@given(parameters=sets)
def test_boxes_are_judged_as_pycocotools_does(parameters):
    classes = parameters["classes"] + 1  # the last is neither true nor found
    truth, found = random_set(**parameters)
    ours = coco(TrueObjects.of(truth), FoundObjects.of(found), classes)
    assert_same(ours, reference(truth, found, classes), classes)


@settings(max_examples=80, deadline=None)
@given(parameters=sets)
def test_masks_are_judged_as_pycocotools_does(parameters):
    classes = parameters["classes"]
    truth, found = random_set(**parameters)
    random = np.random.default_rng(parameters["seed"])
    true_masks, found_masks = ([masks_in(random, image.boxes) for image in images] for images in (truth, found))
    ours = coco(TrueObjects.of(truth, true_masks), FoundObjects.of(found, found_masks), classes)
    assert_same(ours, reference(truth, found, classes, true_masks, found_masks), classes)


def test_of_more_than_a_hundred_objects_found_the_best_count():
    truth, found = random_set(3, images=3, classes=1, most_truths=20, most_found=400, levels=1000)
    assert max(len(answer) for answer in found) > MOST
    ours = coco(TrueObjects.of(truth), FoundObjects.of(found), 1)
    assert ours.ap > 0
    assert ours.rows[0].found == sum(len(answer) for answer in found)
    assert_same(ours, reference(truth, found, 1), 1)


def test_the_hundredth_counts_and_the_next_does_not():
    truth = [true_boxes([0], [[0, 0, 10, 10]])]
    for place, recall in ((MOST - 1, 1), (MOST, 0)):
        corners = np.tile([50, 50, 60, 60], (MOST + 1, 1))
        corners[place] = [0, 0, 10, 10]
        found = [found_boxes([0] * (MOST + 1), corners, np.linspace(1, 0.1, MOST + 1))]
        ours = coco(TrueObjects.of(truth), FoundObjects.of(found), 1)
        assert ours.ar_100 == recall
        assert_same(ours, reference(truth, found, 1), 1)


def test_of_equal_overlaps_coco_takes_the_last_and_voc_the_first():
    truth = [true_boxes([0, 0], [[0, 0, 10, 10], [0, 2, 10, 12]])]
    for second, precision in (([0, 0, 10, 10], 0.5), ([0, 2, 10, 12], 1)):
        found = [found_boxes([0, 0], [[0, 1, 10, 11], second], [0.9, 0.8])]
        assert_same(coco(TrueObjects.of(truth), FoundObjects.of(found), 1), reference(truth, found, 1), 1)
        assert voc(TrueObjects.of(truth), FoundObjects.of(found), 1, iou_threshold=0.5).precision == precision


def test_a_set_of_many_portions_is_judged_as_one():
    truth, found = random_set(4, images=6, classes=1, most_truths=150, most_found=1500, levels=1000)
    pairs = sum(len(target.labels) * len(answer) for target, answer in zip(truth, found, strict=True))
    assert pairs > 4 * PORTION
    assert_same(coco(TrueObjects.of(truth), FoundObjects.of(found), 1), reference(truth, found, 1), 1)


def test_nothing_true_and_nothing_found_leave_every_number_undefined():
    for truth, found in ([], []), ([true_boxes([], [])], [found_boxes([], [], [])]):
        ours = coco(TrueObjects.of(truth), FoundObjects.of(found), 2)
        assert all(math.isnan(getattr(ours, name)) for name in TWELVE)
        figures = voc(TrueObjects.of(truth), FoundObjects.of(found), 2, iou_threshold=0.5)
        assert math.isnan(figures.mean_average_precision)
        assert math.isnan(figures.precision)
        assert math.isnan(figures.recall)


def test_what_is_true_and_never_found_is_worth_nothing():
    truth, found = [true_boxes([1], [[0, 0, 9, 9]])], [found_boxes([], [], [])]
    ours = coco(TrueObjects.of(truth), FoundObjects.of(found), 2)
    assert (ours.ap, ours.ap_small, ours.ar_100) == (0, 0, 0)
    assert math.isnan(ours.ap_large)
    figures = voc(TrueObjects.of(truth), FoundObjects.of(found), 2, iou_threshold=0.5)
    assert (figures.mean_average_precision, figures.precision, figures.recall) == (0, 0, 0)


def test_a_row_says_all_twelve_numbers_and_how_many_objects_there_are():
    truth, found = [true_boxes([0], [[0, 0, 9, 9]])], [found_boxes([0], [[0, 0, 9, 9]], [0.5])]
    row = coco(TrueObjects.of(truth), FoundObjects.of(found), 1).rows[0]
    assert set(row.as_dict()) == {*TWELVE, "objects", "found"}
    assert (row.as_dict()["ap"], row.as_dict()["objects"], row.as_dict()["found"]) == (1, 1, 1)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_pixels_in_common_are_those_of_the_decoded_masks(seed):
    random = np.random.default_rng(seed)
    some, others = (masks_in(random, random_boxes(random, 4)) for _ in range(2))
    extents = mask_extents([*some, *others])
    for mask, box, area in zip([*some, *others], extents.boxes, extents.areas, strict=True):
        rows, columns = np.nonzero(mask.pixels)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if area else [0, 0, 0, 0]
        assert box.tolist() == expected
        assert area == mask.pixels.sum()
    filled = [(i, j) for i in range(4) for j in range(4) if some[i].area and others[j].area]
    first, second = np.array(filled, dtype=np.int64).reshape(-1, 2).T
    expected = [(some[i].pixels & others[j].pixels).sum() for i, j in zip(first, second, strict=True)]
    assert pixels_in_common(some, others, (first, second)).tolist() == expected


def share(box, other, crowd):
    """The overlap of two boxes, or how much of the first lies on a crowd."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (box[2] - box[0]) * (box[3] - box[1])
    union = area + (other[2] - other[0]) * (other[3] - other[1]) - width * height
    return width * height / (area if crowd else union)


def test_a_mask_that_goes_on_at_the_top_of_the_next_column_reaches_both_edges():
    pixels = np.zeros((9, 4), np.bool_)
    pixels[5:, 1] = pixels[:3, 2] = True
    mask = encode(Crop(left=0, top=0, pixels=pixels), 4, 9)
    assert len(mask.runs) == 2
    extents = mask_extents([mask])
    assert extents.boxes.tolist() == [[1, 0, 3, 9]]
    assert extents.areas.tolist() == [7]


def naive_verdicts(truth, found, label, threshold):
    """Image by image and best score first whether an object of one class is right, wrong or (None) on a crowd."""
    answers = [
        (-float(score), image, index)
        for image, answer in enumerate(found)
        for index, (score, of) in enumerate(zip(answer.scores, answer.labels, strict=True))
        if of == label
    ]
    taken = set()
    for _, image, index in sorted(answers):
        target, best, most, on_crowd = truth[image], None, 0.0, False
        for number in np.flatnonzero(target.labels == label):
            overlap = share(found[image].boxes[index], target.boxes[number], target.crowd[number])
            if target.crowd[number]:
                on_crowd = on_crowd or overlap >= threshold
            elif overlap > most:
                best, most = number, overlap
        if best is not None and most >= threshold and (image, best) not in taken:
            taken.add((image, best))
            yield image, True
        else:
            yield image, None if on_crowd else False


def naive_voc(truth, found, label, threshold):
    """Average precision, precision and recall of one class, with the area as a sum over all unique recalls."""
    truths = sum(int(((target.labels == label) & ~target.crowd).sum()) for target in truth)
    counted = [right for _, right in naive_verdicts(truth, found, label, threshold) if right is not None]
    if not truths:
        return math.nan, 0.0 if counted else math.nan, math.nan
    points = [(sum(counted[:end]) / truths, sum(counted[:end]) / end) for end in range(1, len(counted) + 1)]
    area, reached = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - reached) * max(precision for other, precision in points if other >= recall)
        reached = recall
    return area, sum(counted) / len(counted) if counted else 0.0, sum(counted) / truths


@settings(max_examples=200, deadline=None)
@given(parameters=sets, threshold=st.sampled_from([0.1, 0.5, 0.75, 1.0]))
def test_voc_follows_the_rules_of_pascal(parameters, threshold):
    classes = parameters["classes"] + 1
    truth, found = random_set(**parameters)
    ours = voc(TrueObjects.of(truth), FoundObjects.of(found), classes, iou_threshold=threshold)
    expected = np.array([naive_voc(truth, found, label, threshold) for label in range(classes)])
    rows = [(row.average_precision, row.precision, row.recall) for row in ours.rows]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-12)
    known = expected[~np.isnan(expected[:, 0])]
    means = known.mean(axis=0) if len(known) else [math.nan] * 3
    np.testing.assert_allclose((ours.mean_average_precision, ours.precision, ours.recall), means, rtol=0, atol=1e-12)
    assert sum(row.objects for row in ours.rows) == sum(int((~target.crowd).sum()) for target in truth)
    assert sum(row.found for row in ours.rows) == sum(len(answer) for answer in found)


def test_the_second_on_an_object_is_wrong_in_voc_even_beside_a_free_one_and_right_in_coco():
    truth = [true_boxes([0, 0], [[0, 0, 10, 10], [0, 0, 10, 7]])]
    found = [found_boxes([0, 0], [[0, 0, 10, 10], [0, 0, 10, 9]], [0.9, 0.8])]
    figures = voc(TrueObjects.of(truth), FoundObjects.of(found), 1, iou_threshold=0.5)
    assert (figures.precision, figures.recall) == (0.5, 0.5)
    assert coco(TrueObjects.of(truth), FoundObjects.of(found), 1).ap_50 == 1


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong():
    truth = [true_boxes([0, 0], [[0, 0, 100, 100], [120, 120, 140, 140]], crowd=[True, False])]
    corners = [[10, 10, 20, 20], [50, 50, 60, 60], [120, 120, 140, 140]]
    for label, precision in ((0, 1.0), (1, 1.0)):
        found = [found_boxes([label, label, 0], corners, [0.9, 0.8, 0.7])]
        figures = voc(TrueObjects.of(truth), FoundObjects.of(found), 2, iou_threshold=0.5)
        assert figures.precision == precision
        assert figures.mean_average_precision == 1
    assert figures.rows[1].precision == 0


def test_an_overlap_of_exactly_the_threshold_is_enough():
    truth, found = [true_boxes([0], [[0, 0, 10, 10]])], [found_boxes([0], [[0, 0, 10, 5]], [0.9])]
    assert voc(TrueObjects.of(truth), FoundObjects.of(found), 1, iou_threshold=0.5).recall == 1
    assert voc(TrueObjects.of(truth), FoundObjects.of(found), 1, iou_threshold=0.501).recall == 0


def test_masks_and_not_boxes_are_compared_where_both_are_given():
    pixels = np.ones((10, 10), np.bool_)
    left, right = np.tri(10, dtype=np.bool_), ~np.tri(10, dtype=np.bool_)
    truth, found = [true_boxes([0], [[0, 0, 10, 10]])], [found_boxes([0], [[0, 0, 10, 10]], [0.9])]
    masks = {
        name: [[encode(Crop(left=0, top=0, pixels=shape), SIDE, SIDE)]]
        for name, shape in (("all", pixels), ("left", left), ("right", right))
    }
    for shape, recall in (("left", 1), ("all", 1), ("right", 0)):
        figures = voc(TrueObjects.of(truth, masks["left"]), FoundObjects.of(found, masks[shape]), 1, iou_threshold=0.5)
        assert figures.recall == recall


def test_what_cannot_be_compared_is_refused():
    truth, found = [true_boxes([0], [[0, 0, 10, 10]])], [found_boxes([3], [[0, 0, 10, 5]], [0.9])]
    true_objects, found_objects = TrueObjects.of(truth), FoundObjects.of(found)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 3 to 3"):
        coco(true_objects, found_objects, 2)
    with pytest.raises(ValueError, match="truth is of 1 images, what was found is of 2"):
        voc(true_objects, FoundObjects.of(found * 2), 4, iou_threshold=0.5)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\] to count, got 0"):
        overlapping(true_objects, found_objects, at_least=0)
    small, large = (encode(Crop(left=0, top=0, pixels=np.ones((9, 9), np.bool_)), side, side) for side in (9, 10))
    with pytest.raises(ValueError, match="masks must be given for the truth and for what was found"):
        coco(TrueObjects.of(truth, [[small]]), found_objects, 4)
    found = [found_boxes([0], [[0, 0, 10, 5]], [0.9])]
    with pytest.raises(ValueError, match="masks of one image must have one width and height"):
        coco(TrueObjects.of(truth, [[small]]), FoundObjects.of(found, [[large]]), 4)
    with pytest.raises(ValueError, match=r"one image, label, box and mask each, got \[1, 2\]"):
        TrueObjects.of(truth, [[small, small]])
