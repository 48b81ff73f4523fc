"""Keys that another one puts out of use are told; none of them stops a run."""

import pytest

from lightning_automl_vision import api
from lightning_automl_vision.unread_keys import unread_keys

DETECTION = {"task": "image_object_detection", "model": {"name": "yolov5", "model_size": "nano"}}


def told(overrides, **groups):
    settings = api.settings(data={"training": "a.jsonl"}, **{**DETECTION, **groups})
    object.__setattr__(settings, "overrides", tuple(overrides))
    return list(unread_keys(settings))


@pytest.mark.parametrize(
    ("training", "override", "reason"),
    [
        ({}, "training.warmup_epochs=1", "training.learning_rate_scheduler=warmup_cosine"),
        ({"learning_rate_scheduler": "step"}, "training.final_learning_rate_share=0.5", "=step"),
        ({"learning_rate_scheduler": "linear"}, "training.warmup_cosine_lr_warmup_epochs=1", "=linear"),
        ({"learning_rate_scheduler": "cosine"}, "training.step_lr_gamma=0.1", "=cosine"),
        ({"optimizer": "adamw"}, "training.momentum=0.5", "training.optimizer=adamw"),
        ({}, "training.beta1=0.5", "training.optimizer=sgd"),
        ({"ema_decay": 0.0}, "training.ema_ramp_steps=5", "training.ema_decay=0"),
    ],
)
def test_a_key_of_another_choice_is_told(training, override, reason):
    (line,) = told([override], training=training)
    assert line.startswith(f"{override} is not used beside ")
    assert line.endswith(f"{reason}.")


@pytest.mark.parametrize(
    ("training", "override"),
    [
        ({"learning_rate_scheduler": "cosine"}, "training.warmup_epochs=1"),
        ({"optimizer": "adamw"}, "training.beta1=0.5"),
        ({}, "training.ema_ramp_steps=5"),
        ({}, "augment.mosaic.plain_epochs=3"),
        ({}, "training.learning_rate=0.1"),
    ],
)
def test_a_key_that_is_used_is_not(training, override):
    assert told([override], training=training) == []


def test_mosaics_that_never_come_are_told():
    augment = {"name": "default_for_image_object_detection"}
    few = {"training": {"number_of_epochs": 2}, "augment": {**augment, "mosaic": {"plain_epochs": 2}}}
    assert told(["augment.mosaic.p=1"], **few) == [
        "augment.mosaic.p=1 is not used beside as many plain_epochs as the training has epochs (2)."
    ]
    off = {"augment": {**augment, "apply_mosaic_for_yolo": False}}
    assert told(["augment.mosaic.p=0.5"], **off) == [
        "augment.mosaic.p=0.5 is not used beside augment.apply_mosaic_for_yolo=false."
    ]


def test_published_weights_give_way_to_a_file():
    weights = {"model": {"name": "resnet18", "weights": "w.pt"}, "task": "image_classification"}
    assert told(["model.pretrained=true"], **weights) == ["model.pretrained=true is not used beside model.weights."]
    assert told(["model.pretrained=false"], **weights) == []
