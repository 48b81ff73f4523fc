"""``training.checkpoint_run_id`` and ``training.checkpoint_path``: what a run takes over from an earlier one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures import write_folders

from lightning_automl_vision import api
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.training.carried_over import ClassRows, carry_over
from lightning_automl_vision.training.earlier_model import EarlierModel, earlier_model

OLD, NEW = ("cat", "dog", "horse"), ("bird", "horse", "cat", "mouse")
SHARED = ("horse", "cat")
DETECTION, SEGMENTATION = "image_object_detection", "image_instance_segmentation"


def builder(name, task, **parameters):
    spec = model_spec(name)
    config = {**{"pretrained": False}, **parameters}
    return lambda classes: spec.build(task=task, num_classes=classes, image_size=64, **config).eval()


def taken_over(tmp_path, build, old=OLD, new=NEW):
    """An old model whose tensors are all drawn at random, a new one that started from it, and what was told."""
    torch.manual_seed(1)
    donor = build(len(old))
    for tensor in donor.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim:
            tensor.normal_()
    torch.save({"state_dict": donor.state_dict(), "classes": list(old)}, tmp_path / "best.ckpt")
    torch.manual_seed(2)
    model = build(len(new))
    state = torch.get_rng_state()
    told = carry_over(model, EarlierModel(asked="KEY=FILE", file=tmp_path / "best.ckpt"), new, build)
    assert torch.equal(torch.get_rng_state(), state)
    return donor, model, told


def test_a_classifier_keeps_its_backbone_and_the_rows_of_shared_labels(tmp_path):
    build = builder("timm", "image_classification", architecture="test_vit3")
    donor, model, told = taken_over(tmp_path, build)
    old, new = donor.network.state_dict(), model.network.state_dict()
    heads = {"head.weight", "head.bias"}
    assert all(torch.equal(new[name], old[name]) for name in new if name not in heads)
    for name in SHARED:
        assert torch.equal(new["head.weight"][NEW.index(name)], old["head.weight"][OLD.index(name)])
    fresh = build(len(NEW)).network.state_dict()["head.weight"]
    assert new["head.weight"][NEW.index("bird")].abs().max() <= fresh.abs().max() * 2
    assert {*told.by_label} == heads
    assert told.loaded == len(new) - 2
    assert told.labels == {"carried over": ["horse", "cat"], "new": ["bird", "mouse"], "left behind": ["dog"]}


def test_a_box_predictor_keeps_background_and_the_boxes_of_shared_labels(tmp_path):
    build = builder("fasterrcnn_resnet18_fpn", DETECTION)
    donor, model, _ = taken_over(tmp_path, build)
    features = torch.randn(2, 1024)
    scores, boxes = (answer.detach() for answer in model.network.roi_heads.box_predictor(features))
    old_scores, old_boxes = (answer.detach() for answer in donor.network.roi_heads.box_predictor(features))
    assert torch.allclose(scores[:, 0], old_scores[:, 0])
    boxes, old_boxes = boxes.view(2, -1, 4), old_boxes.view(2, -1, 4)
    for name in SHARED:
        here, there = NEW.index(name) + 1, OLD.index(name) + 1
        assert torch.allclose(scores[:, here], old_scores[:, there])
        assert torch.allclose(boxes[:, here], old_boxes[:, there])
    assert not torch.allclose(boxes[:, NEW.index("bird") + 1], old_boxes[:, OLD.index("dog") + 1])


def test_masks_of_shared_labels_are_kept(tmp_path):
    donor, model, _ = taken_over(tmp_path, builder("maskrcnn_resnet18_fpn", SEGMENTATION))
    features = torch.randn(1, 256, 4, 4)
    masks, old = (each.network.roi_heads.mask_predictor(features).detach() for each in (model, donor))
    for name in SHARED:
        assert torch.allclose(masks[:, NEW.index(name) + 1], old[:, OLD.index(name) + 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_dense_heads_keep_every_anchor_of_shared_labels(name, tmp_path):
    donor, model, _ = taken_over(tmp_path, builder(name, DETECTION))
    layers = [each.network.head.classification_head.cls_logits for each in (model, donor)]
    features = torch.randn(1, 256, 2, 2)
    counts = [len(classes) + donor.background for classes in (NEW, OLD)]
    logits, old = (
        layer(features).detach().view(1, -1, count, 2, 2) for layer, count in zip(layers, counts, strict=True)
    )
    for label in SHARED:
        place, there = NEW.index(label) + donor.background, OLD.index(label) + donor.background
        assert torch.allclose(logits[:, :, place], old[:, :, there], rtol=1e-4, atol=1e-4)


def test_yolov5_keeps_boxes_objectness_and_the_channels_of_shared_labels(tmp_path):
    donor, model, told = taken_over(tmp_path, builder("yolov5", DETECTION, model_size="nano"))
    assert not told.new
    for here, there in zip(model.network.head.m, donor.network.head.m, strict=True):
        features = torch.randn(1, here.in_channels, 2, 2)
        answers = model.network.head.split(here(features).detach())
        old = donor.network.head.split(there(features).detach())
        assert torch.allclose(answers[..., :5], old[..., :5], rtol=1e-4, atol=1e-4)
        for name in SHARED:
            assert torch.allclose(
                answers[..., 5 + NEW.index(name)], old[..., 5 + OLD.index(name)], rtol=1e-4, atol=1e-4
            )


def test_the_same_classes_are_the_same_model(tmp_path):
    donor, model, told = taken_over(tmp_path, builder("yolov5", DETECTION, model_size="nano"), new=OLD)
    for name, tensor in donor.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert not told.new
    assert not told.by_label


def test_no_shared_label_leaves_the_head_anew_and_says_so(tmp_path):
    build = builder("timm", "image_classification", architecture="test_vit3")
    _, _, told = taken_over(tmp_path, build, new=("a", "b"))
    assert {*told.new} == {"head.weight", "head.bias"}
    assert "tensors that start anew" in told.table()
    assert "left behind" in told.table()


def test_rows_lie_behind_each_other_or_apart():
    own, larger = torch.zeros(2 * 5), torch.zeros(2 * 6)
    together = ClassRows.of(own, larger, 4, by_anchor=False)
    apart = ClassRows.of(own, larger, 4, by_anchor=True)
    numbers = torch.arange(10)
    assert together.rows(numbers, 4).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert apart.rows(numbers, 4).tolist() == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    assert together.rows(numbers, 3) is None
    assert ClassRows.of(torch.zeros(7), torch.zeros(10), 3, by_anchor=False) is None


def test_tensors_of_another_model_are_refused_with_the_first_that_differs(tmp_path):
    vit = builder("timm", "image_classification", architecture="test_vit3")
    taken_over(tmp_path, vit)
    other = builder("timm", "image_classification", architecture="test_vit2")
    earlier = EarlierModel(asked="training.checkpoint_path=best.ckpt", file=tmp_path / "best.ckpt")
    with pytest.raises(WeightsError, match=r"checkpoint_path=best\.ckpt: it is of another model: this one's .* is \("):
        carry_over(other(2), earlier, ("a", "b"), other)


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    torch.save({"state_dict": {"a": Harmful()}}, tmp_path / "best.ckpt")
    build = builder("timm", "image_classification", architecture="test_vit3")
    with pytest.raises(WeightsError, match="could run any code"):
        carry_over(build(2), EarlierModel(asked="KEY", file=tmp_path / "best.ckpt"), ("a", "b"), build)
    assert not (tmp_path / "touched").exists()


def settings(*overrides):
    keys = dict(override.removeprefix("training.").split("=", 1) for override in overrides)
    return api.settings(task="image_classification", model="resnet18", data={"training": "photos"}, training=keys)


def model_folder(folder, **changes):
    """What tells a model of cats and dogs, with weights that are none."""
    folder.mkdir(parents=True)
    description = {"format_version": 1, "task": "image_classification", "image_size": 64, "weights": "x"}
    model = {"name": changes.pop("name", "resnet18"), "parameters": {}}
    (folder / "model.json").write_text(json.dumps({**description, "model": model, **changes}))
    (folder / "labels.json").write_text('["cat", "dog"]')
    (folder / "settings.json").write_text("{}")
    (folder / "weights.safetensors").write_bytes(b"")
    return folder


def test_a_run_is_found_by_folder_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = model_folder(tmp_path / "outputs" / "image_classification" / "first" / "model")
    for name in (folder.parent, "image_classification/first", "first"):
        found = earlier_model(settings(f"training.checkpoint_run_id={name}"))
        assert found.file.resolve() == folder / "weights.safetensors"
        assert found.labels == ("cat", "dog")
    for path in (folder, folder.parent, folder / "weights.safetensors"):
        assert earlier_model(settings(f"training.checkpoint_path={path}")).labels == ("cat", "dog")
    model_folder(tmp_path / "outputs" / "quickstart" / "first" / "model")
    with pytest.raises(ConfigError, match=r"several runs are called so: .*image_classification/first, .*quickstart"):
        earlier_model(settings("training.checkpoint_run_id=first"))


@pytest.mark.parametrize("key", ["checkpoint_run_id", "checkpoint_path"])
def test_a_sweep_is_no_run_to_start_from(tmp_path, key):
    (tmp_path / "study.txt").touch()
    with pytest.raises(ConfigError, match=rf"{key}=.* is a sweep\. Name one of its trials, or {tmp_path}/best"):
        earlier_model(settings(f"training.{key}={tmp_path}"))


def test_a_run_that_was_ended_is_started_from_by_its_best_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("task: {name: image_classification}\nmodel: {name: resnet18}\n")
    with pytest.raises(WeightsError, match=r"no model came of .*, and no checkpoint is left"):
        earlier_model(settings(f"training.checkpoint_run_id={tmp_path}"))
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / "checkpoints" / name).write_bytes(b"")
        assert earlier_model(settings(f"training.checkpoint_run_id={tmp_path}")).file.name == name
    with pytest.raises(WeightsError, match=r"trained with model=resnet18, and this run has model=resnet34"):
        earlier_model(replace_model(settings(f"training.checkpoint_run_id={tmp_path}"), "resnet34"))


def replace_model(asked, name):
    return replace(asked, model=replace(asked.model, name=name))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "resnet34"}, r"trained with model=resnet34, and this run has model=resnet18: .* Train with"),
        ({"task": "image_classification_multilabel"}, "trained with task=image_classification_multilabel, and this"),
    ],
)
def test_another_model_and_another_task_are_refused_before_data_are_read(changes, reason, tmp_path):
    folder = model_folder(tmp_path / "model", **changes)
    with pytest.raises(WeightsError, match=reason):
        earlier_model(settings(f"training.checkpoint_path={folder}"))


@pytest.mark.parametrize("key", ["training.checkpoint_run_id", "training.checkpoint_path"])
def test_what_is_not_there_is_named(key, tmp_path):
    with pytest.raises((ConfigError, WeightsError), match=rf"{key}=.*gone: .*no such"):
        earlier_model(settings(f"{key}={tmp_path / 'gone'}"))


def test_one_start_is_enough(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint_run_id=a and training\.checkpoint_path=b both say what"):
        earlier_model(settings("training.checkpoint_run_id=a", "training.checkpoint_path=b"))


def test_published_weights_are_not_asked_for(tmp_path):
    folder = model_folder(tmp_path / "model")
    assert settings().model_parameters["pretrained"] is True
    assert settings(f"training.checkpoint_path={folder}").model_parameters["pretrained"] is False


def test_a_run_goes_on_from_another_with_other_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "photos", per_class=5)
    run("first", ema_decay=0.5)
    (tmp_path / "photos" / "blue").rename(tmp_path / "photos" / "violet")
    told = run("second", checkpoint_run_id="first").started_from
    assert told["labels"] == {"carried over": ["green", "red"], "new": ["violet"], "left behind": ["blue"]}
    assert told["loaded"] > 100
    assert told["new"] == []
    assert json.loads((tmp_path / "second" / "result.json").read_text())["started_from"] == told
    log = (tmp_path / "second" / "run.log").read_text()
    assert "labels carried over" in log
    assert "green, red" in log
    last = run("third", checkpoint_path="first/checkpoints/last.ckpt").started_from
    assert {**last, "file": ""} == {**told, "file": ""}


def run(folder, **training):
    small = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 36, "random_seed": 1}
    return api.train(
        experiment="quickstart",
        data={"training": "photos"},
        trainer={"max_steps": 1},
        training={**small, **training},
        output_dir=folder,
        quiet=True,
    )
