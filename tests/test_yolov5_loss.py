"""Assignment and loss of yolov5 give the recorded values, row by row and to the ninth digit."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_recorded, recorded, rounded, shares, signed

from lav_yolov5.assignment import assign
from lav_yolov5.loss import LossOptions, YoloLoss, scaled

ANCHORS = (
    torch.tensor(
        [
            [[10, 13], [16, 30], [33, 23]],
            [[30, 61], [62, 45], [59, 119]],
            [[116, 90], [156, 198], [373, 326]],
        ],
        dtype=torch.float64,
    )
    / torch.tensor([8, 16, 32])[:, None, None]
)
SHAPES = [(16, 12), (8, 6), (4, 3)]
ASSIGNMENTS = sorted(name for name in recorded() if name.startswith("assign_edge"))
LOSSES = sorted(recorded()["loss"])
BALANCE = [4.0, 1.0, 0.4]


@contextmanager
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def made_targets(count, classes, *, name="targets", images=2):
    share = shares(name, 6 * count).reshape(count, 6)
    table = np.hstack(
        [
            np.floor(share[:, :1] * images),
            np.floor(share[:, 1:2] * classes),
            0.05 + 0.9 * share[:, 2:4],
            0.04 + 0.5 * share[:, 4:6] ** 2,
        ]
    )
    return torch.from_numpy(rounded(table))


def made_maps(classes, *, images=2):
    shapes = [(images, 3, rows, columns, 5 + classes) for rows, columns in SHAPES]
    return [
        torch.from_numpy(rounded(2 * signed(f"pred{level}", int(np.prod(shape))))).reshape(shape).requires_grad_()
        for level, shape in enumerate(shapes)
    ]


def rows_of(level):
    return torch.cat(
        [
            torch.stack([level.image, level.anchor, level.row, level.column, level.label], dim=1).to(level.boxes),
            level.boxes,
            level.anchors,
        ],
        dim=1,
    ).numpy()


def options_of(case):
    gains = case["hyp"]
    return LossOptions(
        box_gain=gains["box"],
        objectness_gain=gains["obj"],
        class_gain=gains["cls"],
        class_positive_weight=gains["cls_pw"],
        objectness_positive_weight=gains["obj_pw"],
        anchor_threshold=gains["anchor_t"],
        focal_gamma=gains["fl_gamma"],
        label_smoothing=case["label_smoothing"],
        balance_levels=case["balance_after"] != BALANCE,
    )


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_row_is_assigned_in_the_recorded_order(name):
    case = recorded()[name]
    height, width = case["image_hw"]
    shapes = [(height // stride, width // stride) for stride in (8, 16, 32)]
    targets = torch.tensor(case["targets"], dtype=torch.float64)
    assigned = assign(targets, shapes, ANCHORS, threshold=case["anchor_t"])
    for level, entry in zip(assigned, case["rows_in_upstream_order"], strict=True):
        assert len(level) == entry["n"]
        rows, expected = rows_of(level), np.array(entry["rows"]).reshape(-1, 11)
        np.testing.assert_array_equal(rows[:, :5], expected[:, :5])
        np.testing.assert_allclose(rows[:, 5:], expected[:, 5:], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_its_gradient_are_the_recorded_ones(name):
    case = recorded()["loss"][name]
    targets = made_targets(case["n_targets"], case["nc"])
    np.testing.assert_array_equal(targets[: len(case["first_targets"])], np.reshape(case["first_targets"], (-1, 6)))
    maps = made_maps(case["nc"])
    with double_precision():
        measure = YoloLoss(options_of(case), case["nc"])
    losses = measure(maps, targets, ANCHORS)
    total = len(maps[0]) * sum(losses.values())
    total.backward()
    items = [losses[part].item() if part in losses else 0.0 for part in ("box", "objectness", "class")]
    np.testing.assert_allclose(items, case["items_box_obj_cls"], rtol=1e-9, atol=1e-12)
    assert total.item() == pytest.approx(case["total"], rel=1e-9)
    for grid, entry in zip(maps, case["grad"], strict=True):
        assert_recorded(grid.grad, entry)
    np.testing.assert_allclose(measure.balance, case["balance_after"], rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_as_many_rows_are_assigned_and_share_a_cell_as_recorded(name):
    case = recorded()["loss"][name]
    assigned = assign(made_targets(case["n_targets"], case["nc"]), SHAPES, ANCHORS, threshold=case["hyp"]["anchor_t"])
    assert [len(level) for level in assigned] == case["n_assigned"]
    places = [rows_of(level)[:, :4] for level in assigned]
    assert [len(rows) - len(np.unique(rows, axis=0)) for rows in places] == case["duplicate_cells"]


@pytest.mark.parametrize("name", [name for name in LOSSES if "unscaled" not in name])
def test_gains_are_scaled_for_classes_and_picture_size(name):
    case = recorded()["loss"][name]
    options = scaled(LossOptions(), classes=case["nc"], image_size=case["imgsz"], levels=3)
    assert (options.box_gain, options.objectness_gain, options.class_gain) == pytest.approx(
        (case["hyp"]["box"], case["hyp"]["obj"], case["hyp"]["cls"])
    )


def test_gains_are_shared_among_the_levels():
    options = scaled(LossOptions(), classes=80, image_size=640, levels=4)
    assert (options.box_gain, options.objectness_gain, options.class_gain) == pytest.approx((0.0375, 0.75, 0.375))


targets_of_any_kind = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        *(st.floats(0, 1, width=32) for _ in range(2)),
        *(st.floats(0, 1, width=32) for _ in range(2)),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(targets_of_any_kind, st.sampled_from([SHAPES, [(3, 5), (2, 3), (1, 2)], [(1, 1), (1, 1), (1, 1)]]))
def test_no_object_is_given_to_a_cell_outside_the_map(targets, shapes):
    table = torch.tensor(targets, dtype=torch.float32).reshape(-1, 6)
    for (rows, columns), level in zip(shapes, assign(table, shapes, ANCHORS, threshold=4.0), strict=True):
        assert ((level.row >= 0) & (level.row < rows)).all()
        assert ((level.column >= 0) & (level.column < columns)).all()
        assert ((level.boxes[:, :2] >= -0.5 - 1e-5) & (level.boxes[:, :2] <= 1.5 + 1e-5)).all()


def losses_of(options, *, classes=3, maps=None, targets=None, evaluated=False):
    measure = YoloLoss(options, classes).train(not evaluated)
    maps = made_maps(classes) if maps is None else maps
    return measure(maps, made_targets(10, classes) if targets is None else targets, ANCHORS), measure


def test_a_single_class_has_no_loss_of_its_own():
    losses, _ = losses_of(LossOptions(), classes=1)
    assert list(losses) == ["box", "objectness"]


def test_weights_of_the_levels_follow_their_losses_in_training_alone():
    options = LossOptions(balance_levels=True)
    losses, trained = losses_of(options)
    sum(losses.values()).backward()
    _, evaluated = losses_of(options, evaluated=True)
    assert trained.balance[1] == 1
    assert trained.balance[0] != BALANCE[0]
    assert evaluated.balance.tolist() == pytest.approx(BALANCE)
    assert not trained.state_dict()


def test_focal_option_counts_only_what_is_unsure_and_positives_a_quarter():
    maps = [torch.zeros(1, 3, rows, columns, 8, dtype=torch.float64) for rows, columns in SHAPES]
    targets = made_targets(0, 3)
    plain, _ = losses_of(LossOptions(), maps=maps, targets=targets)
    focal, _ = losses_of(LossOptions(focal_gamma=1.5), maps=maps, targets=targets)
    assert focal["objectness"].item() == pytest.approx(plain["objectness"].item() * 0.75 * 0.5**1.5)


def test_smoothed_labels_are_right_by_less():
    maps, targets = made_maps(3), made_targets(10, 3)
    plain, _ = losses_of(LossOptions(), maps=maps, targets=targets)
    smoothed, _ = losses_of(LossOptions(label_smoothing=0.2), maps=maps, targets=targets)
    # Cross-entropy is linear in the truth: 1 becomes 0.9 and each 0 becomes 0.1.
    difference = 0
    for grid, level in zip(maps, assign(targets, SHAPES, ANCHORS, threshold=4.0), strict=True):
        logits = grid[level.image, level.anchor, level.row, level.column, 5:]
        right = logits.gather(1, level.label[:, None]).sum()
        difference += (0.1 * right - 0.1 * (logits.sum() - right)) / logits.numel()
    assert (smoothed["class"] - plain["class"]).item() == pytest.approx((0.5 * difference).item())
    assert smoothed["box"] == plain["box"]
    assert smoothed["objectness"] == plain["objectness"]


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_measured_in_single(precision):
    maps = [grid.detach().to(precision).requires_grad_() for grid in made_maps(3)]
    losses, _ = losses_of(LossOptions(), maps=maps, targets=made_targets(10, 3).float())
    exact, _ = losses_of(LossOptions(), maps=[grid.detach().float() for grid in maps])
    sum(losses.values()).backward()
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        {name: value.item() for name, value in exact.items()}, rel=1e-5
    )
    assert all(grid.grad.dtype == precision and grid.grad.isfinite().all() for grid in maps)


def test_gradient_is_that_of_finite_differences():
    maps = [torch.from_numpy(signed(f"small{level}", 3 * 8 * 4)).reshape(1, 3, 2, 2, 8) for level in range(3)]
    targets = torch.tensor([[0, 1, 0.4, 0.6, 0.5, 0.4], [0, 2, 0.41, 0.6, 0.45, 0.4]], dtype=torch.float64)
    measure = YoloLoss(LossOptions(focal_gamma=0.0), 3)

    def classes_and_objectness_of_nothing(*grids):
        return measure(grids, targets, ANCHORS)["class"], measure(grids, targets[:0], ANCHORS)["objectness"]

    assert torch.autograd.gradcheck(
        classes_and_objectness_of_nothing, [grid.requires_grad_() for grid in maps], fast_mode=True
    )
