"""What every model of every plugin must do; a new model brings its own cases.

The smallest model of each family runs in the quick suite, the rest is marked slow. A family is a plugin's models that
freeze the same layers.
"""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_automl_vision.keys import check_ranges, described
from lightning_automl_vision.plugins import model_spec, model_specs, models_by_plugin
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.typed_nodes import typed_nodes

CLASSES = 3
TOY_SIZE = 64
# Models of a plugin that leave something to the user: what the tests choose.
CHOSEN = {"timm": {"architecture": "test_vit3"}}


def smallest_of_each_family():
    families = {}
    for plugin, specs in models_by_plugin().items():
        for spec in specs:
            families.setdefault((plugin, spec.freezable), []).append(spec)
    return {min(members, key=lambda spec: spec.parameters or 0).name for members in families.values()}


QUICK = smallest_of_each_family()


def cases(*, slow_when_fixed=False):
    """(model, task) pairs; those too large for the quick suite are marked slow."""
    found = []
    for name, spec in sorted(model_specs().items()):
        heavy = name not in QUICK or (slow_when_fixed and spec.fixed_image_size)
        marks = [pytest.mark.slow] if heavy else []
        found += [pytest.param(name, task, id=f"{name}-{task}", marks=marks) for task in sorted(spec.tasks)]
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
    options |= CHOSEN.get(name, {})
    return spec.build(task=task, num_classes=CLASSES, image_size=size_of(name), **options)


def total_loss(model, batch):
    return sum(model.losses(batch).values())


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
    scores = np.stack([prediction.scores for prediction in predicted])
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    if task.startswith("image_classification"):
        assert scores.shape == (len(batch), CLASSES)
    if task == "image_classification":
        assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)


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


@pytest.mark.parametrize(("name", "task"), cases(slow_when_fixed=True))
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
    keys = {found.name: found.key for found in described(typed_nodes()["training", "default"], "training")}
    assert set(spec.defaults) <= spec.tasks <= set(TASKS)
    for defaults in spec.defaults.values():
        for key, value in defaults.items():
            assert keys[f"training.{key}"].fault(value) is None, (key, value)


@pytest.mark.parametrize("name", sorted(model_specs()))
def test_licence_and_weights_are_stated(name):
    spec = model_spec(name)
    assert spec.licence != "unknown"
    assert spec.find_weights is None or spec.weights != "none"
