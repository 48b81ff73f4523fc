"""``model.weights``: what is taken from a model folder of other classes, and what is not."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_model

from lightning_automl_vision.errors import WeightsError
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.training.start_weights import start_from

CLASSES = ("cat", "dog")


def build(classes):
    return model_spec("timm").build(
        task="image_classification", num_classes=classes, image_size=64, architecture="test_vit3", pretrained=False
    )


@pytest.fixture(scope="module")
def donor():
    torch.manual_seed(1)
    return build(len(CLASSES))


def started(folder, donor, labels, caplog):
    """A new model for cats and dogs after it has started from a folder that says these labels."""
    save_model(donor, str(folder / "weights.safetensors"))
    if labels is not None:
        (folder / "labels.json").write_text(labels if isinstance(labels, str) else json.dumps(labels))
    torch.manual_seed(2)
    model = build(len(CLASSES))
    state = torch.get_rng_state()
    with caplog.at_level(logging.INFO, "lightning_automl_vision"):
        start_from(model, str(folder / "weights.safetensors"), CLASSES, build)
    assert torch.equal(torch.get_rng_state(), state)
    return model


def taken(model, donor):
    """The tensors that are the donor's now; all of them are drawn at random, but for zeros and ones."""
    own, given = model.state_dict(), donor.state_dict()
    return {name for name in own if torch.equal(own[name], given[name]) and given[name].unique().numel() > 1}


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning_automl_vision"), "propagate", True)


@pytest.mark.parametrize("labels", [list(CLASSES), None, "no JSON", {"cat": 0}])
def test_a_file_for_the_same_classes_or_unknown_ones_is_taken_whole(labels, donor, tmp_path, caplog):
    model = started(tmp_path, donor, labels, caplog)
    assert "network.head.weight" in taken(model, donor)
    assert "made for the classes" not in caplog.text


@pytest.mark.parametrize("labels", [["dog", "cat"], ["horse", "sheep"]])
def test_heads_for_other_classes_start_anew_and_the_log_says_so(labels, donor, tmp_path, caplog):
    model = started(tmp_path, donor, labels, caplog)
    missing = taken(donor, donor) - taken(model, donor)
    assert missing == {"network.head.weight"}
    assert f"made for the classes {', '.join(labels)}, not for cat, dog" in caplog.text
    assert "these start anew: head.weight, head.bias" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "it is empty"), (b"PK\x03\x04 cut", "it is torn or no checkpoint")]
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_is_not_whole_is_told_with_the_way_out(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"model\.weights=.*{name}: {reason}.*Copy it again\."):
        start_from(build(2), str(tmp_path / name), CLASSES, build)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    state = build(2).state_dict()
    name = next(key for key, value in state.items() if value.ndim > 1)
    state[name][0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"has numbers that are not finite\. Take another file"):
        start_from(build(2), str(tmp_path / "w.pt"), CLASSES, build)
