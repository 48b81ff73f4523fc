"""Whole optimiser steps of yolov5 with its average of weights, beside the recorded ones."""

import pytest
import torch
from parity import assert_recorded, recorded, rounded, shares
from test_training import config
from test_yolov5_loss import double_precision, made_targets
from test_yolov5_network import network_of

from lav_yolov5.loss import LossOptions, YoloLoss
from lightning_automl_vision.training.averaging import AveragedWeights, decay_at
from lightning_automl_vision.training.optimizers import make_optimizer

ENTRY = recorded()["train_step"]


def options():
    """The recorded gains are already scaled."""
    given = ENTRY["hyp"]
    return LossOptions(box_gain=given["box"], objectness_gain=given["obj"], class_gain=given["cls"])


def picture(step):
    height, width = ENTRY["image"]
    count = ENTRY["batch"] * 3 * height * width
    values = rounded(shares(f"step_input{step}", count))
    return torch.from_numpy(values).reshape(ENTRY["batch"], 3, height, width)


def test_three_steps_are_as_recorded():
    network = network_of(ENTRY["size"], ENTRY["nc"])
    network.train()
    training = config(
        learning_rate=ENTRY["lr"],
        momentum=ENTRY["momentum"],
        nesterov=ENTRY["nesterov"],
        weight_decay=ENTRY["weight_decay_convs"],
        decay_norms_and_biases=False,
        gradient_clip=ENTRY["clip"],
    )
    optimizer = make_optimizer(network, training)
    average = AveragedWeights(network, 0.9999, 2000)
    with double_precision():
        loss = YoloLoss(options(), ENTRY["nc"])
    targets = made_targets(len(ENTRY["targets"]), ENTRY["nc"], name="steptargets", images=ENTRY["batch"])
    torch.testing.assert_close(targets, torch.tensor(ENTRY["targets"], dtype=torch.float64), rtol=0, atol=1e-12)
    for number, expected in enumerate(ENTRY["steps"]):
        parts = loss(network(picture(number)), targets, network.head.anchors)
        total = sum(parts.values()) * ENTRY["batch"]
        assert list(parts) == ["box", "objectness", "class"]
        assert [value.item() for value in parts.values()] == pytest.approx(expected["items"], rel=1e-9)
        assert total.item() == pytest.approx(expected["loss"], rel=1e-9)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
        assert norm.item() == pytest.approx(expected["grad_norm_before_clip"], rel=1e-9)
        gradients = {name: value.grad for name, value in network.named_parameters()}
        for name, entry in expected["grads_after_clip"].items():
            assert_recorded(gradients[name], entry)
        optimizer.step()
        optimizer.zero_grad()
        average.update(network)
        assert decay_at(average.updates, 0.9999, 2000) == pytest.approx(expected["ema_decay"], rel=1e-12)
        for name, entry in expected["weights_after"].items():
            assert_recorded(network.state_dict()[name].detach(), entry)
        for name, entry in expected["ema_after"].items():
            assert_recorded(average.model.state_dict()[name], entry)


def test_weights_norms_and_biases_are_apart_as_recorded():
    """Biases, weights and norms: the tensors that each group of the recorded optimiser has."""
    counts = {"n": (60, 60, 57), "s": (60, 60, 57), "m": (82, 82, 79)}
    for size, (biases, weights, norms) in counts.items():
        groups = make_optimizer(network_of(size, 80), config()).param_groups
        found = {group["name"]: len(group["params"]) for group in groups}
        assert found == {"biases": biases, "weights": weights, "norms": norms}
