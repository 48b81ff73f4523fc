"""Precision, layout and compiled networks: what trains, what is refused with the reason, and what stays the same."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from pictures import write_folders, write_multilabel, write_objects
from test_training import classifier, config, train

import lightning_automl_vision as lav
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.plugins import model_spec, model_specs
from lightning_automl_vision.settings import TrainerConfig
from lightning_automl_vision.tasks.classification import MulticlassTask
from lightning_automl_vision.training import devices
from lightning_automl_vision.training.devices import check_trainer
from lightning_automl_vision.training.speed import quickened

CPU = TrainerConfig(accelerator="cpu")
# The smallest model of each task, with pictures as small as it takes.
SMALL_PICTURES = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 32}
SMALLEST = {
    "image_classification": ({"name": "timm", "architecture": "resnet18", "pretrained": False}, SMALL_PICTURES),
    "image_classification_multilabel": (
        {"name": "timm", "architecture": "resnet18", "pretrained": False},
        SMALL_PICTURES,
    ),
    "image_object_detection": ({"name": "yolov5", "model_size": "nano", "image_size": 64}, {}),
    "image_instance_segmentation": (
        {
            "name": "maskrcnn_resnet50_fpn",
            "backbone": "resnet18",
            "pretrained": False,
            "min_size": 64,
            "max_size": 64,
        },
        {},
    ),
}


def data_of(task, folder):
    if task == "image_classification":
        return write_folders(folder, per_class=4)
    if task == "image_classification_multilabel":
        return write_multilabel(folder, count=10)
    return write_objects(folder, count=10, side=64, polygons=task == "image_instance_segmentation")


def trained(task, folder, *, model=None, **trainer):
    """Two steps of the smallest model of a task, or of a given one, and what its first evaluation was."""
    smallest, training = SMALLEST[task]
    model = model or smallest
    result = lav.train(
        task=task,
        data={"training": str(data_of(task, folder / "data")), "cache": str(folder)},
        model=model,
        training={
            **training,
            "training_batch_size": 4,
            "number_of_epochs": 1,
            "number_of_workers": 0,
            "random_seed": 1,
        },
        trainer={"accelerator": "cpu", "max_steps": 2, **trainer},
        output_dir=str(folder / "run"),
        quiet=True,
    )
    (line,) = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return result, json.loads(line)


@pytest.mark.parametrize("task", sorted(SMALLEST))
def test_bf16_that_is_forced_trains_every_task(task, tmp_path):
    result, line = trained(task, tmp_path, precision="bf16-mixed", force_precision=True)
    assert result.status == "completed"
    losses = {name: value for name, value in line.items() if name.startswith("loss")}
    assert losses
    assert all(value is not None and math.isfinite(value) for value in losses.values())


def test_a_processor_without_bf16_is_told_why_and_how_all_the_same(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_flags", lambda: "flags : fpu avx2 avx512f")
    asked = replace(CPU, precision="bf16-mixed")
    with pytest.raises(ConfigError, match=r"no bf16 units, .* 6 to 7 times slower .* trainer\.force_precision=true"):
        check_trainer(asked)
    check_trainer(replace(asked, force_precision=True))
    with pytest.raises(ConfigError, match=r"16-mixed: it needs a GPU"):
        check_trainer(replace(CPU, precision="16-mixed", force_precision=True))


def test_bf16_computes_in_bf16_and_keeps_its_weights(tmp_path):
    model, seen = classifier(), []
    model.network[0].register_forward_hook(lambda _, __, result: seen.append(result.dtype))
    task, _ = train(tmp_path, model=model, trainer=replace(CPU, precision="bf16-mixed", force_precision=True))
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in task.model.parameters()} == {torch.float32}


# Channels last


def test_channels_last_teaches_the_same_and_leaves_the_model_as_it_was(tmp_path):
    seen = []
    model = classifier()
    model.network[0].register_forward_hook(
        lambda module, *_: seen.append(module.weight.is_contiguous(memory_format=torch.channels_last))
    )
    plain, _ = train(tmp_path / "plain")
    other, _ = train(tmp_path / "other", model=model, trainer=replace(CPU, channels_last=True))
    assert all(seen[:-1])
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(other.model.state_dict()[name], value, atol=1e-5), name
    assert all(parameter.is_contiguous() for parameter in other.model.parameters())


@pytest.mark.parametrize(
    "task",
    [
        "image_classification",
        "image_object_detection",
        pytest.param("image_instance_segmentation", marks=pytest.mark.slow),
    ],
)
def test_channels_last_works_for_each_kind_of_model(task, tmp_path):
    _, plain = trained(task, tmp_path / "plain")
    _, other = trained(task, tmp_path / "other", channels_last=True)
    assert other["loss"] == pytest.approx(plain["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_every_detector_takes_bf16_and_channels_last(name, tmp_path):
    model = {"name": name, "backbone": "resnet18", "pretrained": False, "min_size": 64, "max_size": 64}
    asked = {"plain": {}, "last": {"channels_last": True}, "bf16": {"precision": "bf16-mixed", "force_precision": True}}
    losses = {
        kind: trained("image_object_detection", tmp_path / kind, model=model, **{"max_steps": 1, **trainer})[1]["loss"]
        for kind, trainer in asked.items()
    }
    assert losses["last"] == pytest.approx(losses["plain"], rel=1e-3)
    assert losses["bf16"] == pytest.approx(losses["plain"], rel=0.1)
    assert losses["bf16"] != losses["plain"]


# Compiled networks


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"compile=true: torch needs a C\+\+ compiler .* CXX=no-such-compiler is"):
        check_trainer(replace(CPU, compile=True))


def test_every_built_in_model_names_what_is_compiled():
    for name, options in {
        "timm": {"architecture": "resnet18", "pretrained": False},
        "yolov5": {"model_size": "nano"},
        "retinanet_resnet50_fpn": {"pretrained": False},
    }.items():
        spec = model_spec(name)
        model = spec.build(task=min(spec.tasks), num_classes=3, image_size=64, **options)
        parts = model.compilable()
        assert parts
        assert all(part in list(model.modules()) for part in parts)


def test_a_model_is_as_it_was_after_it_was_compiled():
    task = MulticlassTask(classifier(), config(), ("blue", "green", "red"))
    names = list(task.model.state_dict())
    with contextlib.suppress(KeyboardInterrupt), quickened(task, replace(CPU, compile=True)):
        assert task.model.network._compiled_call_impl is not None
        assert list(task.model.state_dict()) == names
        raise KeyboardInterrupt
    assert task.model.network._compiled_call_impl is None


@pytest.mark.parametrize(
    ("option", "cost"), [("compile", r"trainer\.compile: .* minutes of compiling"), ("channels_last", "0.93 and 1.06")]
)
def test_what_an_option_costs_is_told(option, cost, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning_automl_vision"), "propagate", True)
    task = MulticlassTask(classifier(), config(), ("blue", "green", "red"))
    with caplog.at_level("INFO"), quickened(task, replace(CPU, **{option: True})):
        pass
    assert re.search(cost, caplog.text)


@pytest.mark.parametrize(("asked", "taken"), [("32", "32-true"), ("16", "16-mixed"), ("bf16", "bf16-mixed")])
def test_precisions_have_short_names(asked, taken):
    assert TrainerConfig(precision=asked).precision == taken


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="there is no C++ compiler")
def test_a_compiled_network_learns_the_same(tmp_path):
    _, plain = trained("image_classification", tmp_path / "plain")
    _, other = trained("image_classification", tmp_path / "other", compile=True)
    assert other["loss"] == pytest.approx(plain["loss"], rel=1e-3)


# What a plugin refuses


def test_a_model_that_cannot_be_trained_so_says_why():
    spec = replace(model_spec("yolov5"), refuses={"precision=16-mixed": "its loss overflows", "compile=true": "loops"})
    spec.check_trainer(CPU)
    with pytest.raises(ConfigError, match=r"trainer\.precision=16-mixed: yolov5 cannot be trained so: its loss over"):
        spec.check_trainer(replace(CPU, precision="16-mixed"))
    with pytest.raises(ConfigError, match=r"trainer\.compile=true: yolov5 cannot be trained so: loops"):
        spec.check_trainer(replace(CPU, compile=True))


def test_refusals_are_of_choices_that_there_are():
    for spec in model_specs().values():
        spec.check_trainer(CPU)


@pytest.mark.parametrize("name", ["yolov5", "maskrcnn_resnet50_fpn"])
def test_detectors_are_not_compiled(name):
    with pytest.raises(ConfigError, match=rf"compile=true: {name} cannot be trained so: compiling its network"):
        model_spec(name).check_trainer(replace(CPU, compile=True))
