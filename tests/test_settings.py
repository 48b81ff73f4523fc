"""From keyword arguments to checked settings."""

import pytest

from lightning_automl_vision.api import settings
from lightning_automl_vision.errors import ConfigError


def test_python_and_the_command_line_use_the_same_words():
    found = settings(
        task="image_classification_multilabel",
        model={"name": "resnet50", "pretrained": False},
        data={"training": "it's (1), a=b.jsonl"},
        training={"learning_rate": 1e-5, "early_stopping": False},
        augment={"color_jitter": {"hue": 0.2}},
    )
    assert found.task.primary_metric == "iou"
    assert found.model.name == "resnet50"
    assert found.data.training == "it's (1), a=b.jsonl"
    assert found.training.learning_rate == 1e-5
    assert found.augment.color_jitter.hue == 0.2


@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        ("resnet18", "image_classification", (78, 0.01)),
        ("vits16r224", "image_classification", (128, 0.0125)),
        ("vitb16r224", "image_classification", (48, 0.0125)),
        ("vitl16r224", "image_classification", (10, 0.001)),
        ("seresnext", "image_classification_multilabel", (78, 0.035)),
        ("vits16r224", "image_classification_multilabel", (128, 0.025)),
        ("vitb16r224", "image_classification_multilabel", (48, 0.025)),
        ("vitl16r224", "image_classification_multilabel", (10, 0.002)),
    ],
)
def test_defaults_follow_model_and_task(model, task, expected):
    training = settings(model=model, task=task).training
    assert (training.training_batch_size, training.learning_rate) == expected
    assert training.validation_batch_size == expected[0]
    assert training.number_of_epochs == 15


def test_without_a_model_the_documented_default_is_taken():
    assert settings(task="image_classification").model.name == "vitb16r224"


def test_a_family_word_is_its_default_model():
    assert settings(model="vit").model.name == "vitb16r224"


def test_a_value_from_python_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"training.momentum=2.0: must be in \[0, 1\]"):
        settings(training={"momentum": 2})


def test_a_misspelt_group_from_python_is_refused():
    with pytest.raises(ConfigError, match=r"There is no key 'modle'\."):
        settings(modle={"name": "resnet18"})


def test_a_misspelt_key_from_python_is_refused():
    with pytest.raises(ConfigError, match=r"Did you mean 'training\.momentum'"):
        settings(training={"momentun": 0.5})
