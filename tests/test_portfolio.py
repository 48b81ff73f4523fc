"""What AutoMode may try, and how files of candidates are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.plugins import model_specs
from lightning_automl_vision.search.portfolio import EPOCHS, Candidate, Facts, read_portfolio
from lightning_automl_vision.specs import TASKS

CPU = Facts(device="cpu", images=200)
GPU = Facts(device="gpu", images=200, object_size=0.1)


def written(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


def one(folder: Path, text: str) -> Candidate:
    return read_portfolio("image_classification", written(folder, text))[0]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_task_has_candidates_with_and_without_published_weights(task: str, device: str) -> None:
    candidates = read_portfolio(task)
    there = [each for each in candidates if each.misses(Facts(device=device, images=5000, object_size=0.1)) is None]
    assert len({each.space.fixed["model"] for each in there}) >= 1
    assert any(each.space.fixed.get("model.pretrained") for each in there)
    assert all(each.space.fixed["model"] in model_specs() for each in candidates)
    assert all(each.space.contains({**each.first_values}) for each in candidates)


def test_the_first_trial_takes_its_own_values_and_the_middle_of_the_others(tmp_path: Path) -> None:
    candidate = one(
        tmp_path,
        "small:\n  epochs: [1, 2, 3]\n  first: {training.learning_rate: 0.02}\n  space:\n    model: resnet18\n"
        "    training.learning_rate: {type: loguniform, min: 0.001, max: 0.1}\n"
        "    training.weight_decay: {type: uniform, min: 0, max: 0.2}\n",
    )
    values = candidate.first_values
    assert values == {"model": "resnet18", "training.learning_rate": 0.02, "training.weight_decay": 0.1}


def test_what_the_user_has_decided_is_no_longer_the_candidates(tmp_path: Path) -> None:
    candidate = one(
        tmp_path,
        "small:\n  epochs: [1, 2, 3]\n  first: {training.learning_rate: 0.02}\n  space:\n    model: resnet18\n"
        "    training.optimizer: adamw\n    training.learning_rate: {type: loguniform, min: 0.001, max: 0.1}\n",
    )
    assert candidate.given({"training.learning_rate": 0.5, "training.optimizer": "sgd"}).first_values == {
        "model": "resnet18"
    }


def test_the_number_of_epochs_is_fixed_or_one_of_two(tmp_path: Path) -> None:
    candidate = one(tmp_path, "small:\n  epochs: [1, 2, 3]\n  space: {model: resnet18}\n")
    assert candidate.trained_for([5]).first_values[EPOCHS] == 5
    both = candidate.trained_for([5, 10])
    assert both.first_values[EPOCHS] == 5
    assert both.space.free[EPOCHS].grid() == [5, 10]


def test_conditions(tmp_path: Path) -> None:
    candidate = one(
        tmp_path,
        "small:\n  when: {device: gpu, images: [100, 1000], object_size: [0.05, 0.5], published: false}\n"
        "  epochs: [1, 2, 3]\n  space: {model: resnet18}\n",
    )
    assert candidate.where_none_is_published
    assert candidate.misses(GPU) is None
    assert candidate.misses(CPU) == "it is for a gpu"
    assert candidate.misses(Facts(device="gpu", images=99)) == "it is for images from 100 to 1000, here 99"
    assert "object size" in str(candidate.misses(Facts(device="gpu", images=100, object_size=0.01)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("small: {epochs: [1, 2, 3]}", "has no space"),
        ("small: {epochs: [1, 2, 3], space: {training.optimizer: sgd}}", "names no model"),
        ("small: {epochs: [3, 2, 1], space: {model: resnet18}}", "three numbers"),
        ("small: {space: {model: resnet18}}", "three numbers"),
        ("small: {epoch: [1, 2, 3], space: {model: resnet18}}", "Did you mean 'epochs'"),
        ("small: {epochs: [1, 2, 3], when: {devise: cpu}, space: {model: resnet18}}", "Did you mean 'device'"),
        ("small: {epochs: [1, 2, 3], when: {device: tpu}, space: {model: resnet18}}", "must be cpu or gpu"),
        ("small: {epochs: [1, 2, 3], when: {images: 5}, space: {model: resnet18}}", "the least and the most"),
        ("small: {epochs: [1, 2, 3], when: {published: 3}, space: {model: resnet18}}", "true or false"),
        ("small: {epochs: [1, 2, 3], first: {training.epochs: 1}, space: {model: resnet18}}", "is no free key"),
        (
            "a: {epochs: [1, 2, 3], first: {training.momentum: 9}, space: {model: resnet18,"
            " training.momentum: 'interval(0, 1)'}}",
            "9",
        ),
        ("a: {epochs: [1, 2, 3], when: {images: [null, 100]}, space: {model: resnet18}}", "the least and the most"),
        ("a: {epochs: [1, 2, 3], when: {images: [x, y]}, space: {model: resnet18}}", "the least and the most"),
        ("a: {epochs: [1, 2, 3], when: {device: [cpu]}, space: {model: resnet18}}", "must be cpu or gpu"),
        ("a: {epochs: [1, 2, 3], space: {model: resnet18, training.momentum: 'interval(1, 0)'}}", "min below max"),
        (
            "a: {epochs: [1, 2, 3], space: {model: resnet18, training.momentun: 0.9}}",
            "Did you mean 'training.momentum'",
        ),
        ("small: {epochs: [1, 2, 3], space: {model: resnet18, training.number_of_epochs: 3}}", "Leave it out"),
        ("small: [1", "no YAML"),
        ("", "holds no candidates"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_file(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml") as raised:
        one(tmp_path, text)
    assert told in str(raised.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"search\.portfolio=nowhere\.yaml: No such file"):
        read_portfolio("image_classification", "nowhere.yaml")
