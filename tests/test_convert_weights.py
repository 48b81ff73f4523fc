"""``lav convert-weights``: tensors out of a pickled checkpoint, and nothing of it is executed."""

import os
import pickle
import sys
import types
import zipfile
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from test_storage import files_of_at_most
from torch import nn

from lav_yolov5.model import build
from lav_yolov5.network import Network
from lav_yolov5.sizes import SIZES
from lightning_automl_vision.errors import ConfigError, StorageError, WeightsError
from lightning_automl_vision.jobs.convert_weights import convert_weights
from lightning_automl_vision.main import main
from lightning_automl_vision.pickled_tensors import read_pickled
from lightning_automl_vision.training.start_weights import load_start_weights

CLASSES = 4


@contextmanager
def published_classes():
    """Empty classes under the names that published checkpoints ask for, while one is written."""
    made = {
        name: types.new_class(name, (nn.Module,), exec_body=lambda body, at=module: body.update(__module__=at))
        for module, names in {"models.yolo": ("DetectionModel", "Detect"), "models.common": ("Part",)}.items()
        for name in names
    }
    modules = {"models": types.ModuleType("models")}
    for made_class in made.values():
        modules.setdefault(made_class.__module__, types.ModuleType(made_class.__module__))
        setattr(modules[made_class.__module__], made_class.__name__, made_class)
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


def as_published(network, classes):
    """The same tree of parameters and buffers in modules of those classes."""

    def part_of(module, kind):
        part = classes[kind]()
        part._parameters.update(module._parameters)
        part._buffers.update(module._buffers)
        for name, child in module._modules.items():
            part.add_module(name, part_of(child, "Part"))
        return part

    whole = part_of(network, "DetectionModel")
    whole.model = nn.Sequential()
    for name, layer in network.model.items():
        whole.model.add_module(name, part_of(layer, "Detect" if name == "24" else "Part"))
    whole.names = [f"class {number}" for number in range(CLASSES)]
    whole.stride = torch.tensor([8.0, 16.0, 32.0])
    return whole


def tiny_network(seed=0):
    torch.manual_seed(seed)
    network = Network(SIZES["nano"], CLASSES)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.mul_(1.5)
    return network


def written(path, *, change=lambda whole: None, wrap=lambda whole: {"epoch": 3, "model": whole}, half=True, seed=0):
    """A checkpoint as published ones are: the whole model in 16 bits, pickled; gives its state dict in 32."""
    network = tiny_network(seed)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with published_classes() as classes:
        whole = as_published(network, classes)
        change(whole)
        torch.save(wrap(whole.half() if half else whole), path)
    return state


def test_the_tensors_of_a_checkpoint_arrive_under_their_public_names(tmp_path, capsys):
    expected = written(tmp_path / "best.pt")
    convert_weights(str(tmp_path / "best.pt"), str(tmp_path / "w.safetensors"))
    found = load_file(tmp_path / "w.safetensors")
    (tmp_path / "usual").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value.half().to(value.dtype) if value.is_floating_point() else value)
    said = capsys.readouterr().out
    numbers = sum(value.numel() for value in Network(SIZES["nano"], CLASSES).parameters())
    assert f"349 tensors, {numbers:,} parameters, {CLASSES} classes" in said
    assert "15 x 19.5, 24 x 45" in said  # the anchors were made half larger
    assert "model.model_size=nano" in said
    assert "models.yolo" not in sys.modules


def test_what_was_converted_is_what_training_starts_from(tmp_path):
    given = written(tmp_path / "best.pt", half=False)
    convert_weights(str(tmp_path / "best.pt"), str(tmp_path / "w.safetensors"))
    model = build(task="image_object_detection", num_classes=2, image_size=64, model_size="nano")
    head = model.network.head.m[0].weight.clone()
    load_start_weights(model, str(tmp_path / "w.safetensors"))
    own = model.network.state_dict()
    same = {name for name in own if torch.equal(own[name], given[name])}
    assert own.keys() - same == {f"model.24.m.{level}.{part}" for level in range(3) for part in ("weight", "bias")}
    assert torch.equal(model.network.head.m[0].weight, head)


def test_the_average_of_weights_goes_before_the_model(tmp_path):
    network = tiny_network(1)
    with published_classes() as classes:
        checkpoint = {"model": as_published(tiny_network(0), classes), "ema": as_published(network, classes)}
        torch.save(checkpoint, tmp_path / "last.pt")
    convert_weights(str(tmp_path / "last.pt"), str(tmp_path / "w.safetensors"))
    found = load_file(tmp_path / "w.safetensors")
    assert torch.equal(found["model.0.conv.weight"], network.state_dict()["model.0.conv.weight"])


def test_half_keeps_16_bits(tmp_path):
    written(tmp_path / "best.pt")
    convert_weights(str(tmp_path / "best.pt"), str(tmp_path / "w.safetensors"), half=True)
    found = load_file(tmp_path / "w.safetensors")
    assert {value.dtype for value in found.values()} == {torch.float16, torch.int64}


def test_half_refuses_what_is_too_large_for_it(tmp_path):
    def grow(whole):
        whole.model._modules["0"]._modules["bn"]._buffers["running_var"].fill_(1e6)

    written(tmp_path / "best.pt", change=grow, half=False)
    with pytest.raises(WeightsError, match=r"running_var has numbers that are not finite\. Leave out half"):
        convert_weights(str(tmp_path / "best.pt"), str(tmp_path / "w.safetensors"), half=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "best.pt"]


class Runs:
    """Has a command run by whoever unpickles it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    written(tmp_path / "best.pt", wrap=lambda whole: {"model": whole, "extra": Runs(mark)})
    pickle.loads(pickle.dumps(Runs(mark)))
    assert mark.exists(), "the command itself works"
    mark.unlink()
    convert_weights(str(tmp_path / "best.pt"), str(tmp_path / "w.safetensors"))
    assert not mark.exists()
    assert (tmp_path / "w.safetensors").exists()


def pickled_file(path, pickled, records=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/data.pkl", pickled)
        for name, content in records:
            archive.writestr(f"best/{name}", content)
    return path


@pytest.mark.parametrize(
    "name", [b"os\nsystem", b"builtins\neval", b"builtins\ngetattr", b"torch.serialization\n_load", b"nt\nsystem"]
)
def test_no_name_stands_for_something_that_acts(name, tmp_path):
    file = pickled_file(tmp_path / "best.pt", b"c" + name + b"\n(Vtouch ran\ntR.")
    assert type(read_pickled(file)).__name__ == "Inert"


def test_a_pickle_cannot_change_what_reads_it(tmp_path):
    """BUILD on a class would set the attributes of the class."""
    before = {"os.system": os.system}
    for name in (b"os\nsystem", b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict"):
        # A class, then (None, {"append": 1}) as its state.
        file = pickled_file(tmp_path / "best.pt", b"c" + name + b"\n(N(dVappend\nI1\nstb.")
        with pytest.raises(WeightsError, match="cannot be read"):
            read_pickled(file)
    assert os.system is before["os.system"]
    assert type(read_pickled(pickled_file(tmp_path / "list.pt", b"]."))) is list


def test_a_tensor_must_lie_within_its_storage(tmp_path):
    torch.save({"values": torch.zeros(4)}, tmp_path / "values.pt")
    with zipfile.ZipFile(tmp_path / "values.pt") as archive:
        pickled = archive.read("values/data.pkl")
    assert read_pickled(tmp_path / "values.pt")["values"].shape == (4,)
    short = pickled_file(tmp_path / "short.pt", pickled, [("data/0", b"\0" * 8), ("byteorder", sys.byteorder)])
    with pytest.raises(WeightsError, match="a storage is not as long as it should be"):
        read_pickled(short)
    other = pickled_file(tmp_path / "other.pt", pickled, [("data/0", b"\0" * 16), ("byteorder", "middle")])
    with pytest.raises(WeightsError, match="the other byte order"):
        read_pickled(other)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda whole: whole.model._modules["0"].add_module("conv", nn.Sequential()), r"no model\.0\.conv\.weight"),
        (
            lambda whole: whole.model._modules["0"]._modules["conv"].add_module("conv", nn.Conv2d(3, 16, 3)),
            r"release before v6\.0",
        ),
        (lambda whole: whole.model.add_module("33", nn.BatchNorm2d(3)), "weights in layer 33"),
        (lambda whole: whole.model._modules["24"].add_module("proto", nn.Conv2d(3, 3, 1)), "made for masks"),
        (
            lambda whole: (
                whole.model._modules["0"]._modules["conv"].register_parameter("bias", nn.Parameter(torch.zeros(3)))
            ),
            "norms were folded",
        ),
        (
            lambda whole: whole.model._modules["24"].register_buffer("anchors", torch.zeros(3, 5, 2)),
            "three anchors on each",
        ),
        (lambda whole: whole.model._modules.pop("9"), r"no model\.9\.cv2"),
    ],
)
def test_another_network_is_refused_with_the_reason(change, reason, tmp_path):
    written(tmp_path / "best.pt", change=change)
    with pytest.raises(WeightsError, match=reason):
        convert_weights(str(tmp_path / "best.pt"), str(tmp_path / "w.safetensors"))
    assert not (tmp_path / "w.safetensors").exists()


def test_other_files_are_refused_in_one_line(tmp_path):
    output = str(tmp_path / "w.safetensors")
    torch.save({"model": {"weight": torch.zeros(2, 2)}}, tmp_path / "state.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    written(tmp_path / "best.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "taken.safetensors").write_text("mine")
    for source, target, error, reason in (
        ("state.pt", output, WeightsError, "holds tensors by name already: model.weights="),
        ("empty.pt", output, WeightsError, "neither one under 'ema' nor under 'model'"),
        ("text.pt", output, WeightsError, "no checkpoint as torch has written them"),
        ("nowhere.pt", output, WeightsError, "no such file"),
        ("state.pt", str(tmp_path / "taken.safetensors"), ConfigError, "exists already"),
        ("state.pt", str(tmp_path / "w.pt"), ConfigError, "ends in .safetensors"),
        ("best.pt", str(tmp_path / "empty.pt" / "w.safetensors"), StorageError, "cannot be written"),
    ):
        with pytest.raises(error, match=reason) as caught:
            convert_weights(str(tmp_path / source), target)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "taken.safetensors").read_text() == "mine"


def test_a_file_that_finds_no_room_leaves_nothing(tmp_path):
    written(tmp_path / "best.pt")
    with (
        files_of_at_most(1 << 16),
        pytest.raises(StorageError, match=r"w\.safetensors cannot be written: file too large.*output=PATH"),
    ):
        convert_weights(str(tmp_path / "best.pt"), str(tmp_path / "w.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_pickled_model_as_start_weights_is_answered_with_the_way_out(tmp_path):
    written(tmp_path / "best.pt")
    model = build(task="image_object_detection", num_classes=2, image_size=64, model_size="nano")
    with pytest.raises(WeightsError, match=r"lav convert-weights input=.*best\.pt output=best\.safetensors"):
        load_start_weights(model, str(tmp_path / "best.pt"))


def test_the_verb_is_written_with_a_hyphen(tmp_path, monkeypatch, capsys):
    written(tmp_path / "best.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lav", "convert-weights", "input=best.pt", "output=w.safetensors", "half=true"])
    main()
    assert load_file("w.safetensors")["model.0.conv.weight"].dtype == torch.float16
    assert "349 tensors" in capsys.readouterr().out
