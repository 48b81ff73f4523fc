"""What every model of every plugin must do; a new model brings its own cases.

The smallest model of each family runs in the quick suite, the rest is marked slow. A family is a plugin's models that
freeze the same layers and serve the same tasks.
"""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.ops import box_iou

from lightning_automl_vision.config_errors import known_keys
from lightning_automl_vision.keys import check_ranges
from lightning_automl_vision.plugins import model_spec, model_specs, models_by_plugin
from lightning_automl_vision.specs import TASKS

CLASSES = 3
TOY_SIZE = 64
CLASS_TASKS = frozenset({"image_classification", "image_classification_multilabel"})
OBJECT_TASKS = frozenset({"image_object_detection", "image_instance_segmentation"})
# Models of a plugin that leave something to the user: what the tests choose.
CHOSEN = {"timm": {"architecture": "test_vit3"}}
# What makes detectors quick where they have it.
FRUGAL = {"box_samples_per_image": 64, "proposals_per_image": 100, "model_size": "nano"}


def smallest_of_each_family():
    families = {}
    for plugin, specs in models_by_plugin().items():
        for spec in specs:
            families.setdefault((plugin, spec.freezable, spec.tasks), []).append(spec)
    return {min(members, key=lambda spec: spec.parameters or 0).name for members in families.values()}


QUICK = smallest_of_each_family()


def cases(*, slow_when_fixed=False, only=frozenset(TASKS)):
    """(model, task) pairs; those too large for the quick suite are marked slow."""
    found = []
    for name, spec in sorted(model_specs().items()):
        heavy = name not in QUICK or (slow_when_fixed and spec.fixed_image_size)
        marks = [pytest.mark.slow] if heavy else []
        found += [pytest.param(name, task, id=f"{name}-{task}", marks=marks) for task in sorted(spec.tasks & only)]
    return found


def size_of(name):
    return model_spec(name).fixed_image_size or TOY_SIZE


def build(name, task):
    """With the model's default configuration, untrained."""
    torch.manual_seed(0)
    spec = model_spec(name)
    options = {key: value for key, value in asdict(spec.config(name=name)).items() if key not in ("name", "weights")}
    if "pretrained" in options:
        options["pretrained"] = False
    options |= CHOSEN.get(name, {}) | {key: value for key, value in FRUGAL.items() if key in options}
    model = spec.build(task=task, num_classes=CLASSES, **{"image_size": size_of(name), **options})
    if task in OBJECT_TASKS:
        model.box_score_threshold = 0.0
    return model


def total_loss(model, batch):
    return sum(model.losses(batch).values())


def settle(model, batch):
    """Give norms the statistics of a batch: without any, values grow beyond measure in a deep untrained network."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        total_loss(model.train(), batch)


def predictions(model, batch):
    model.eval()
    with torch.no_grad():
        return model.predict(batch)


@pytest.mark.parametrize(("name", "task"), cases())
def test_losses_are_named_finite_scalars_and_reach_every_parameter(name, task, toy_batch):
    model = build(name, task).train()
    losses = model.losses(toy_batch(task, size=size_of(name), classes=CLASSES))
    assert losses
    for key, loss in losses.items():
        assert loss.shape == ()
        assert math.isfinite(loss.item()), key
    sum(losses.values()).backward()
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert trained
    idle = [key for key, value in trained.items() if value.grad is None or not value.grad.isfinite().all()]
    assert not idle, f"no gradient for {idle}"


@pytest.mark.parametrize(("name", "task"), cases())
def test_one_step_changes_every_parameter(name, task, toy_batch):
    model = build(name, task).train()
    batch = toy_batch(task, size=size_of(name), classes=CLASSES)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    # Adam's step does not shrink with the gradient; two steps, for what a zero elsewhere keeps still in the first.
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        total_loss(model, batch).backward()
        optimiser.step()
    still = [key for key, value in model.named_parameters() if torch.equal(before[key], value)]
    assert not still, f"never learns: {still}"


@pytest.mark.parametrize(("name", "task"), cases())
def test_predictions_are_one_for_each_image_and_leave_the_batch_unchanged(name, task, toy_batch):
    batch = toy_batch(task, size=size_of(name), classes=CLASSES)
    images, labels = batch.images.clone(), batch.targets.labels.clone()
    predicted = predictions(build(name, task), batch)
    assert torch.equal(batch.images, images)
    assert torch.equal(batch.targets.labels, labels)
    assert len(predicted) == len(batch)
    for prediction in predicted:
        assert prediction.scores.dtype == np.float32
        assert ((prediction.scores >= 0) & (prediction.scores <= 1)).all()
    if task.startswith("image_classification"):
        assert {prediction.scores.shape for prediction in predicted} == {(CLASSES,)}
    if task == "image_classification":
        assert sum(prediction.scores.sum() for prediction in predicted) == pytest.approx(len(batch), abs=1e-4)


@pytest.mark.parametrize(("name", "task"), cases(only=OBJECT_TASKS))
def test_found_objects_are_sorted_within_the_picture_and_above_the_threshold(name, task, toy_batch):
    model = build(name, task)
    batch = toy_batch(task, size=size_of(name), classes=CLASSES)
    settle(model, batch)
    model.box_score_threshold = 0.0
    everything = predictions(model, batch)
    assert any(len(found) for found in everything)
    for found in everything:
        assert (found.width, found.height) == (size_of(name),) * 2
        assert found.boxes.dtype == np.float64
        assert found.boxes.shape == (len(found), 4)
        assert ((found.boxes >= 0) & (found.boxes <= size_of(name))).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert (np.diff(found.scores) <= 0).all()
        assert set(found.labels) <= set(range(CLASSES))
        if task == "image_instance_segmentation":
            assert len(found.shapes) == len(found)
            assert ((found.shapes >= 0) & (found.shapes <= 1)).all()
    threshold = float(np.median(np.concatenate([found.scores for found in everything])))
    model.box_score_threshold = threshold
    for found, before in zip(predictions(model, batch), everything, strict=True):
        assert (found.scores > threshold).all()
        # suppression looks at more boxes when the threshold is lower, so that only the best one must be the same
        if len(before) and before.scores[0] > threshold:
            np.testing.assert_allclose(found.boxes[0], before.boxes[0], atol=1e-3)


@pytest.mark.parametrize(("name", "task"), cases(only=OBJECT_TASKS))
def test_validation_losses_are_repeatable_and_change_nothing(name, task, toy_batch):
    model = build(name, task).eval()
    batch = toy_batch(task, size=size_of(name), classes=CLASSES)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {key: module.training for key, module in model.named_modules()}
    random = torch.get_rng_state()
    with torch.no_grad():
        first, second = model.losses(batch), model.losses(batch)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), random)
    assert {key: module.training for key, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "task"), cases(only=OBJECT_TASKS))
def test_pictures_of_different_sizes_are_found_as_alone(name, task, toy_batch):
    """What pads the smaller ones is no part of them."""
    model = build(name, task).eval()
    model.box_score_threshold = 0.0
    batch = toy_batch(task, images=2, size=TOY_SIZE, classes=CLASSES)
    images = torch.full((2, 3, TOY_SIZE, TOY_SIZE * 2), 255, dtype=torch.uint8)
    images[:, :, :, :TOY_SIZE] = batch.images
    padded = replace(batch, images=images, sizes=[(TOY_SIZE, TOY_SIZE)] * 2)
    for found, alone in zip(predictions(model, padded), predictions(model, batch), strict=True):
        assert found.width == TOY_SIZE
        assert found.boxes[:, 2].max(initial=0) <= TOY_SIZE
        assert len(alone) == 0 or len(found) > 0


@pytest.mark.parametrize(("name", "task"), cases(only=OBJECT_TASKS))
def test_pictures_without_any_object_teach_the_background(name, task, toy_batch):
    model = build(name, task).train()
    batch = toy_batch(task, images=2, size=size_of(name), classes=CLASSES)
    empty = batch.targets.map(lambda values: values[:0])
    fields = {"counts": (0, 0), **({"polygons": ()} if task == "image_instance_segmentation" else {})}
    losses = model.losses(replace(batch, targets=replace(empty, **fields)))
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    assert sum(losses.values()).item() > 0
    sum(losses.values()).backward()


@pytest.mark.parametrize(("name", "task"), cases())
def test_a_saved_model_predicts_the_same_when_loaded(name, task, toy_batch, tmp_path):
    model = build(name, task)
    batch = toy_batch(task, size=size_of(name), classes=CLASSES)
    total_loss(model.train(), batch)  # so that running statistics are no longer the initial ones
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    other = build(name, task)
    other.load_state_dict(
        {
            key: torch.randn_like(value) if value.is_floating_point() else value
            for key, value in other.state_dict().items()
        }
    )
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    for left, right in zip(predictions(model, batch), predictions(other, batch), strict=True):
        np.testing.assert_array_equal(left.scores, right.scores)
        if task in OBJECT_TASKS:
            np.testing.assert_array_equal(left.boxes, right.boxes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), cases(only=OBJECT_TASKS))
def test_the_objects_of_four_images_are_learnt_by_heart(name, task, toy_batch):
    torch.manual_seed(0)
    model = build(name, task)
    batch = toy_batch(task, images=4, size=TOY_SIZE * 2, classes=CLASSES)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(40):
        model.train()
        for _ in range(10):
            optimiser.zero_grad()
            total_loss(model, batch).backward()
            optimiser.step()
        if all(is_found(*pair) for pair in zip(predictions(model, batch), truth_of(batch), strict=True)):
            return
    pytest.fail("some objects are not found")


def truth_of(batch):
    targets = batch.targets
    return zip(targets.split(targets.labels), targets.split(targets.boxes), strict=True)


def is_found(found, truth):
    """Each true object by a box of its class and a score above a half, and no other box has such a score."""
    labels, boxes = truth
    sure = found.chosen(found.scores > 0.5)
    overlaps = box_iou(torch.from_numpy(sure.boxes), boxes.double()) * (
        torch.from_numpy(sure.labels)[:, None] == labels
    )
    return overlaps.shape[0] == overlaps.shape[1] and (overlaps > 0.5).any(0).all() and (overlaps > 0.5).any(1).all()


@pytest.mark.parametrize(("name", "task"), cases(slow_when_fixed=True, only=CLASS_TASKS))
def test_eight_images_are_learnt_by_heart(name, task, toy_batch):
    torch.manual_seed(0)
    model = build(name, task).train()
    batch = toy_batch(task, images=8, size=size_of(name), classes=CLASSES)
    # Transformers, which fix the size, are the larger ones and diverge at the rate that suits small networks.
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4 if model_spec(name).fixed_image_size else 1e-3)
    for _ in range(300):
        loss = total_loss(model, batch)
        if loss.item() < 0.1:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"the loss is still {loss.item():.3f}")


@pytest.mark.parametrize(("name", "task"), cases())
def test_layer_groups_match_parameters_are_disjoint_and_leave_the_head(name, task):
    model = build(name, task)
    declared = model_spec(name).freezable
    assert declared is None or declared == model.freezable
    names = [key for key, _ in model.named_parameters()]
    seen = []
    firsts = []
    for group in model.freezable:
        for prefix in group:
            assert any(key.startswith(prefix) for key in names), f"{prefix} matches no parameter"
        matched = [key for key in names if key.startswith(group)]
        seen += matched
        firsts.append(names.index(matched[0]))
    assert len(seen) == len(set(seen)), "a parameter is in two groups"
    assert firsts == sorted(firsts), "groups are counted from the input on"
    assert len(seen) < len(names), "the head can never be frozen"


@pytest.mark.parametrize("name", sorted(model_specs()))
def test_defaults_and_configuration_are_within_their_ranges(name):
    spec = model_spec(name)
    check_ranges(spec.config(name=name), f"model {name}")
    keys = dict(known_keys())
    assert set(spec.defaults) <= spec.tasks <= set(TASKS)
    for defaults in spec.defaults.values():
        for key, value in defaults.items():
            assert keys[key if "." in key else f"training.{key}"].fault(value) is None, (key, value)


@pytest.mark.parametrize("name", sorted(model_specs()))
def test_licence_and_weights_are_stated(name):
    spec = model_spec(name)
    assert spec.licence != "unknown"
    assert spec.find_weights is None or spec.weights != "none"
