"""Boxes of yolov5: agreement, letterbox and suppression give the recorded values."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_recorded, recorded, shares, signed
from torchvision.ops import box_iou

from lav_yolov5.boxes import complete_iou, corners
from lav_yolov5.letterbox import letterbox, margins, rectangle
from lav_yolov5.suppression import suppressed

LETTERBOXES = recorded()["letterbox"]
SUPPRESSIONS = sorted(recorded()["nms"])


def test_agreement_and_its_gradient_are_the_recorded_ones():
    case = recorded()["ciou"]
    predicted, target = (
        torch.from_numpy(np.abs(signed(name, 40)) * 4 + 0.1).reshape(10, 4) for name in ("ciou1", "ciou2")
    )
    predicted.requires_grad_()
    agreement = complete_iou(predicted, target)
    agreement.sum().backward()
    np.testing.assert_allclose(agreement.detach(), case["ciou"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(predicted.grad, case["grad_box1"], rtol=1e-9, atol=1e-12)


side = st.floats(0.125, 50, width=32)
place = st.floats(-50, 50, width=32)
box = st.tuples(place, place, side, side)


@given(box, box)
def test_agreement_is_never_above_the_overlap(first, second):
    first, second = (torch.tensor([values], dtype=torch.float64) for values in (first, second))
    overlap = box_iou(corners(first), corners(second))[0, 0]
    assert complete_iou(first, second).item() <= overlap + 1e-9
    assert complete_iou(first, second).item() >= -2.5


@given(box)
def test_equal_boxes_agree_wholly(values):
    values = torch.tensor([values], dtype=torch.float64)
    assert complete_iou(values, values).item() == pytest.approx(1, abs=1e-4)


def test_boxes_without_extent_have_a_gradient():
    nothing = torch.zeros(1, 4, requires_grad=True)
    complete_iou(nothing, torch.ones(1, 4)).sum().backward()
    assert nothing.grad.isfinite().all()


def letterboxed(case):
    height, width = case["src_hw"]
    target = case["new"] if isinstance(case["new"], list) else [case["new"]] * 2
    return letterbox(height, width, tuple(target), fill_target=not case["auto"], enlarge=case["scaleup"])


@pytest.mark.parametrize("case", LETTERBOXES, ids=lambda case: "-".join(map(str, list(case.values())[:4])))
def test_pictures_lie_where_they_are_recorded_to_lie(case):
    found = letterboxed(case)
    assert found.ratio == case["ratio"]
    assert list(found.padding) == case["dw_dh"]
    assert [found.height, found.width] == case["content_hw"]
    assert [found.top, found.bottom, found.left, found.right] == case["top_bottom_left_right"]
    whole = [found.top + found.height + found.bottom, found.left + found.width + found.right]
    assert whole == case["out_hw"]


def test_letterboxed_pixels_are_the_recorded_ones():
    case = recorded()["letterbox_pixels"]
    pixels = np.floor(256 * shares("lbimg", 4500)).astype(np.uint8).reshape(30, 50, 3)
    found = letterbox(30, 50, (64, 64), fill_target=False)
    resized = cv2.resize(pixels, (found.width, found.height), interpolation=cv2.INTER_LINEAR)
    sides = (found.top, found.bottom, found.left, found.right)
    whole = cv2.copyMakeBorder(resized, *sides, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    assert (found.ratio, list(found.padding)) == (case["ratio"], case["pad"])
    assert_recorded(whole, case["out"], relative=1e-4, absolute=1)
    np.testing.assert_allclose(whole[10, :5], case["row10_first5"], atol=1)


lengths = st.integers(1, 3000)


@given(lengths, lengths, st.integers(1, 40), st.booleans())
def test_letterbox_pads_less_than_a_stride_or_fills_the_target(height, width, strides, enlarge):
    size = 32 * strides
    tight = letterbox(height, width, (size, size), fill_target=False, enlarge=enlarge)
    assert 0 <= tight.left + tight.right < 32
    assert 0 <= tight.top + tight.bottom < 32
    assert (tight.width + tight.left + tight.right) % 32 == 0
    full = letterbox(height, width, (size, size), enlarge=enlarge)
    assert full.width + full.left + full.right == size == full.height + full.top + full.bottom
    assert (full.width, full.height) == (tight.width, tight.height)
    assert 0 <= full.bottom - full.top <= 1
    assert 0 <= full.right - full.left <= 1


def test_odd_pixel_of_a_margin_comes_after():
    assert margins(237, 256) == (9, 10)
    assert margins(256, 256) == (0, 0)


@pytest.mark.parametrize(
    ("ratios", "size", "margin", "expected"),
    [
        ([1.0, 1.0], 640, 0.5, (672, 672)),
        ([1.0, 1.0], 640, 0.0, (640, 640)),
        ([0.5, 0.75], 640, 0.5, (512, 672)),
        ([2.0, 1.25], 640, 0.5, (672, 544)),
        ([0.5, 2.0], 320, 0.0, (320, 320)),
        ([0.3], 64, 0.0, (32, 64)),
    ],
)
def test_rectangle_holds_every_picture_of_a_batch(ratios, size, margin, expected):
    assert rectangle(ratios, size, margin=margin) == expected


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), st.integers(1, 40))
def test_rectangle_is_no_smaller_than_a_picture_and_no_larger_than_needed(ratios, strides):
    size = 32 * strides
    height, width = rectangle(ratios, size)
    tallest = max(min(ratio, 1.0) * size for ratio in ratios)
    widest = max(min(1 / ratio, 1.0) * size for ratio in ratios)
    assert tallest - 1e-6 <= height < tallest + 32 + 1e-6
    assert widest - 1e-6 <= width < widest + 32 + 1e-6


def recorded_guesses(classes):
    name = f"nms{classes}"
    share = shares(name, 2 * 60 * (5 + classes)).reshape(2, 60, 5 + classes)
    index = np.arange(60)
    guesses = share.copy()
    guesses[..., 0] = 60 + 80 * (index % 6) + 24 * (share[..., 0] - 0.5)
    guesses[..., 1] = 60 + 90 * (index // 6 % 4) + 24 * (share[..., 1] - 0.5)
    guesses[..., 2] = 50 + 40 * share[..., 2]
    guesses[..., 3] = 50 + 50 * share[..., 3]
    return torch.from_numpy(guesses).float()


@pytest.mark.parametrize("name", SUPPRESSIONS)
def test_as_many_boxes_are_left_as_recorded_and_the_same(name):
    case = recorded()["nms"][name]
    options = case["kw"]
    found = suppressed(
        recorded_guesses(int(name.split("_")[0].removeprefix("nc"))),
        score_threshold=options["conf_thres"],
        iou_threshold=options["iou_thres"],
        most=options.get("max_det", 300),
        several_labels=options.get("multi_label", False),
        agnostic=options.get("agnostic", False),
    )
    assert [len(scores) for _, scores, _ in found] == case["counts"]
    for number, (boxes, scores, labels) in enumerate(found):
        rows = torch.cat([boxes, scores[:, None], labels[:, None]], dim=1)
        expected = case["rows"][number]
        np.testing.assert_allclose(rows[: len(expected)], expected, rtol=0, atol=5e-5)
        assert scores.double().sum().item() == pytest.approx(case["conf_sum"][number], rel=1e-6)
        assert boxes.double().sum().item() == pytest.approx(case["box_sum"][number], rel=1e-6)


def random_guesses(seed, *, cells=200, classes=3, images=1):
    generator = torch.Generator().manual_seed(seed)
    centres = 100 * torch.rand(images, cells, 2, generator=generator)
    sizes = 10 + 30 * torch.rand(images, cells, 2, generator=generator)
    return torch.cat([centres, sizes, torch.rand(images, cells, 1 + classes, generator=generator)], dim=2)


def ask(rows, **changes):
    return suppressed(rows, **{"score_threshold": 0.05, "iou_threshold": 0.5, "most": 300, **changes})


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_answer_does_not_depend_on_the_order_of_the_guesses(seed, several, agnostic):
    rows = random_guesses(seed)
    order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed))
    ((boxes, scores, labels),) = ask(rows, several_labels=several, agnostic=agnostic)
    ((others, other_scores, other_labels),) = ask(rows[:, order], several_labels=several, agnostic=agnostic)
    assert torch.equal(scores, other_scores)
    assert torch.equal(boxes, others)
    assert torch.equal(labels, other_labels)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 20))
def test_fewer_answers_are_the_first_of_more(seed, most):
    rows = random_guesses(seed, cells=600)
    ((boxes, scores, labels),) = ask(rows)
    ((fewer, fewer_scores, fewer_labels),) = ask(rows, most=most)
    assert torch.equal(fewer, boxes[:most])
    assert torch.equal(fewer_scores, scores[:most])
    assert torch.equal(fewer_labels, labels[:most])


def test_box_outside_its_window_suppresses_and_is_not_answered():
    rows = torch.tensor([[[50, 50, 20, 20, 0.9, 1.0], [52, 50, 20, 20, 0.8, 1.0], [90, 90, 20, 20, 0.7, 1.0]]])
    windows = torch.tensor([[60, 0, 100, 100]])
    ((boxes, _, _),) = ask(rows, windows=windows, most=1)
    assert boxes.tolist() == [[80, 80, 100, 100]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 20))
def test_windows_leave_out_nothing_but_what_lies_outside(seed, most):
    rows, windows = random_guesses(seed, cells=400, images=2), torch.tensor([[30, 0, 60, 90], [0, 80, 20, 99]])
    for all_of_them, within, window in zip(ask(rows), ask(rows, windows=windows, most=most), windows, strict=True):
        boxes = all_of_them[0]
        seen = (torch.minimum(boxes[:, 2:], window[2:]) > torch.maximum(boxes[:, :2], window[:2])).all(dim=1)
        assert torch.equal(within[0], boxes[seen][:most])


def test_no_two_answers_of_a_class_overlap_more_than_allowed():
    for boxes, scores, labels in ask(random_guesses(3, images=3)):
        assert (scores.diff() <= 0).all()
        meeting = (box_iou(boxes, boxes) > 0.5) & (labels[:, None] == labels)
        assert torch.equal(meeting, torch.eye(len(boxes), dtype=torch.bool))


def test_boxes_of_different_classes_compete_only_when_asked_to():
    rows = torch.tensor([[[50, 50, 20, 20, 1, 0.9, 0], [50, 50, 20, 20, 1, 0, 0.8]]])
    assert [labels.tolist() for _, _, labels in ask(rows)] == [[0, 1]]
    assert [labels.tolist() for _, _, labels in ask(rows, agnostic=True)] == [[0]]


def test_box_is_found_once_for_each_class_only_when_asked_to():
    rows = torch.tensor([[[50, 50, 20, 20, 1, 0.6, 0.7]]])
    ((_, scores, labels),) = ask(rows, several_labels=True)
    assert labels.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([0.7, 0.6])
    assert [labels.tolist() for _, _, labels in ask(rows)] == [[1]]


def test_score_must_exceed_the_threshold():
    rows = torch.tensor([[[50, 50, 20, 20, 0.5, 1.0], [90, 90, 20, 20, 0.50001, 1.0], [20, 20, 9, 9, 0.9, 0.4]]])
    ((_, scores, _),) = ask(rows, score_threshold=0.5)
    assert scores.tolist() == pytest.approx([0.50001])


def test_only_the_best_candidates_are_compared():
    rows = torch.zeros(1, 40, 6)
    rows[0, :, 0] = 100 * torch.arange(40)
    rows[0, :, 2:4] = 10
    rows[0, :, 4] = 1
    rows[0, :, 5] = 1 - 0.01 * torch.arange(40).flip(0)
    ((_, scores, _),) = ask(rows, candidates=7)
    assert scores.tolist() == pytest.approx([1 - 0.01 * rank for rank in range(7)])


def test_picture_without_a_guess_has_an_empty_answer():
    ((boxes, scores, labels),) = ask(random_guesses(1), score_threshold=1.0)
    assert (boxes.shape, len(scores), len(labels)) == ((0, 4), 0, 0)


def test_guesses_of_half_precision_keep_their_classes_apart():
    rows = torch.zeros(1, 20, 5 + 20)
    rows[0, :, :4] = torch.tensor([50.0, 50.0, 20.0, 20.0])
    rows[0, :, 4] = 1
    rows[0, :, 5:] = torch.eye(20)
    ((_, _, labels),) = ask(rows.half())
    assert sorted(labels.tolist()) == list(range(20))
