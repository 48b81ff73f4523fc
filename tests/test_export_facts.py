"""What model.json tells of an exported network is held against what can be, and against the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from exported import DETECTION, MULTICLASS, SMALL, TINY, YOLO, export, write_model, write_noise

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.formats import FORMATS
from lightning_automl_vision.predictor import load

UNCOMPARED: dict[str, Any] = {"parity": {"images": 0}}
LEFT_OUT = object()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier as each format, beside a picture."""
    folder = tmp_path_factory.mktemp("facts")
    write_model(folder / "model", "timm", MULTICLASS, **TINY)
    for format in FORMATS:
        export(folder / "model", folder / format, None, format=format, **UNCOMPARED)
    write_noise(folder / "noise", ((40, 40),))
    return folder


def told(folder: Path, source: Path, **facts: Any) -> Path:
    """The same export, whose model.json tells other things."""
    shutil.copytree(source, folder)
    description = json.loads((folder / "model.json").read_text())
    description["exported"] |= facts
    left = {name: value for name, value in description["exported"].items() if value is not LEFT_OUT}
    (folder / "model.json").write_text(json.dumps({**description, "exported": left}))
    return folder


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("files", "model.onnx", r'"model\.onnx" must be \["model\.onnx"\], beside it in its folder'),
        ("files", ["../other/model.onnx"], r'\["\.\./other/model\.onnx"\] must be \["model\.onnx"\]'),
        ("files", LEFT_OUT, "is missing"),
        ("inputs", ["wrong"], r'\["wrong"\] must be a list of names, "images" first'),
        ("inputs", 3, "3 must be a list of names"),
        ("outputs", [], r"\[\] must be a list of different names"),
        ("outputs", ["a", "a"], "must be a list of different names"),
        ("normalise", "elsewhere", '"elsewhere" must be "inside" or "outside"'),
        ("mean", "abc", '"abc" must be a list of three numbers'),
        ("mean", [1], r"\[1\] must be a list of three numbers"),
        ("mean", [1, 2, True], "must be a list of three numbers"),
        ("std", [0, 0, 0], r"\[0, 0, 0\] must be a list of three numbers above 0"),
        ("image_size", "big", '"big" must be null or a whole number above 0'),
        ("image_size", 0, "0 must be null or a whole number above 0"),
        ("precision", 8, "8 must be 16 or 32"),
        ("quantise", "int4", '"int4" must be null or "int8"'),
        ("fixed", [], r"\[\] must be an object of the model's parameters"),
        ("fixed", {"nothing": 1}, r"\{\"nothing\": 1\} must be an object of the model's parameters"),
        ("at_most", {"architecture": "a"}, "must be an object of the model's parameters, each with a number"),
        ("nms", "above", '"above" must be "inside" or "outside"'),
    ],
)
def test_what_cannot_be_is_told_with_what_can(place: Path, tmp_path: Path, name: str, value: Any, reason: str) -> None:
    folder = told(tmp_path / "told", place / "onnx", **{name: value})
    with pytest.raises(ConfigError, match=rf"^{folder / 'model.json'}: exported\.{name}.* ?{reason}") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [None, 3, [], "onnx"])
def test_what_tells_nothing_is_told(place: Path, tmp_path: Path, value: Any) -> None:
    shutil.copytree(place / "onnx", tmp_path / "told")
    file = tmp_path / "told" / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "exported": value}))
    for ask in (load, lambda folder: export(folder, tmp_path / "out", None, format="triton")):
        with pytest.raises(ConfigError, match=rf"^{file}: exported=.* must be the object that lav export wrote"):
            ask(tmp_path / "told")


def test_an_unknown_format_is_told(place: Path, tmp_path: Path) -> None:
    for number, format in enumerate(("tflite", ["onnx"])):
        with pytest.raises(ConfigError, match=r"model\.json: no format .* is known, only onnx, openvino, torchscript"):
            load(told(tmp_path / str(number), place / "onnx", format=format))


@pytest.mark.parametrize("format", FORMATS)
def test_what_the_network_is_not_is_told(place: Path, tmp_path: Path, format: str) -> None:
    with pytest.raises(ConfigError, match=r'exported\.normalise="outside" must be "inside", as the network was exp'):
        load(told(tmp_path / "normalise", place / format, normalise="outside"))
    with pytest.raises(ConfigError, match=r'exported\.outputs=\["a", "b"\] must be '):
        load(told(tmp_path / "outputs", place / format, outputs=["a", "b"]))
    with pytest.raises(ConfigError, match=r"exported\.inputs=\[.*\] must be "):
        load(told(tmp_path / "inputs", place / format, inputs=["images", "more"])).predict([place / "noise" / "0.png"])
    with pytest.raises(ConfigError, match=r'exported\.outputs=\["a"\] must '):
        load(told(tmp_path / "output", place / format, outputs=["a"])).predict([place / "noise" / "0.png"])


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_for_normalised_pictures_is_not_given_others(place: Path, tmp_path: Path, format: str) -> None:
    export(place / "model", tmp_path / "there", None, format=format, normalise="outside", **UNCOMPARED)
    load(tmp_path / "there").predict([place / "noise" / "0.png"])
    with pytest.raises(ConfigError, match=r'exported\.normalise="inside" must be "outside"'):
        load(told(tmp_path / "told", tmp_path / "there", normalise="inside"))


@pytest.mark.parametrize("format", ["openvino", "torchscript"])
def test_the_tensors_of_a_detector_are_known(tmp_path: Path, format: str) -> None:
    model = write_model(tmp_path / "model", "fasterrcnn_resnet18_fpn", DETECTION, **SMALL)
    export(model, tmp_path / "there", None, format=format, **UNCOMPARED)
    load(tmp_path / "there")
    with pytest.raises(ConfigError, match=r'exported\.outputs=\["boxes", "labels"\] must be '):
        load(told(tmp_path / "told", tmp_path / "there", outputs=["boxes", "labels"]))


def test_where_boxes_are_suppressed_is_known(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "yolov5", DETECTION, **YOLO)
    export(model, tmp_path / "there", None, nms="inside", **UNCOMPARED)
    with pytest.raises(ConfigError, match=r'exported\.outputs=\["boxes", .*\] must hold \'guesses\', which is read'):
        load(told(tmp_path / "told", tmp_path / "there", nms="outside")).predict(
            [write_noise(tmp_path / "noise") / "0.png"]
        )


@pytest.mark.parametrize("format", ["onnx", "mlflow", "triton"])
def test_nothing_is_written_into_the_model(place: Path, tmp_path: Path, format: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "model", run / "model")
    before = sorted(file.name for file in (run / "model").iterdir())
    (tmp_path / "link").symlink_to(run / "model")
    for output in (run / "model" / "there", run / "model" / "deep" / "there", tmp_path / "link" / "there"):
        with pytest.raises(ConfigError, match=rf"^output={output} lies in .*, the folder of the model itself\. Name"):
            export(run, output, None, format=format, **({} if format == "mlflow" else UNCOMPARED))
    assert sorted(file.name for file in (run / "model").iterdir()) == before


def test_labels_of_other_data_are_told_to_be_left_out(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "labels.jsonl").write_text(
        json.dumps({"image_url": str(place / "noise" / "0.png"), "label": "cat"}) + "\n"
    )
    document = export(place / "model", tmp_path / "there", tmp_path / "labels.jsonl")
    assert (document["labelled"], document["metric"]["torch"]) == (False, None)
    (said,) = [record.getMessage() for record in caplog.records if "taken without labels" in record.getMessage()]
    assert "the label 'cat' does not occur in the training set. Known labels: blue, green, red" in said
