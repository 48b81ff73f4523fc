"""A repository for Triton: what its config says is what the ONNX file takes and gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_files import DETECTION, MULTICLASS
from pictures import write_picture
from untrained import save_untrained

from lightning_automl_vision.api import settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.triton import (
    Signature,
    Tensor,
    check_config,
    config_text,
    signature_of,
    write_triton,
)
from lightning_automl_vision.jobs import export as verb

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")

IMAGES = Tensor(name="images", type="TYPE_UINT8", dims=(-1, 3, 32, 32))
LOGITS = Tensor(name="logits", type="TYPE_FP32", dims=(-1, 2))
CLASSIFIER = Signature(inputs=(IMAGES,), outputs=(LOGITS,))


def network(file: Path, outputs: int = 1) -> Path:
    """An ONNX file with a free batch, and an input that has a value of its own."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["numbers"], ["means"], axes=[2, 3], keepdims=0),
            *(helper.make_node("Add", ["means", "shift"], [f"logits{number or ''}"]) for number in range(outputs)),
        ],
        "means",
        [
            value("images", TensorProto.UINT8, ["batch", 3, 32, 32]),
            value("shift", TensorProto.FLOAT, [1]),
        ],
        [value(f"logits{number or ''}", TensorProto.FLOAT, ["batch", 3]) for number in range(outputs)],
        [helper.make_tensor("shift", TensorProto.FLOAT, [1], [0.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(file))
    return file


def exported(folder: Path, **others: Any) -> Path:
    """A folder as `lav export format=onnx` leaves it."""
    run = save_untrained(folder / "run", MULTICLASS)
    description = json.loads((run / "model" / "model.json").read_text())
    del description["weights"]
    (run / "model" / "weights.safetensors").unlink()
    facts = {
        "format": "onnx",
        "files": ["model.onnx"],
        "inputs": ["images"],
        "outputs": ["logits"],
        "normalise": "inside",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "precision": 32,
        "quantise": None,
        "image_size": None,
        "fixed": {},
        "at_most": {},
    }
    described = {**description, "exported": {**facts, **others}}
    (run / "model" / "model.json").write_text(json.dumps(described))
    network(run / "model" / "model.onnx")
    return run / "model"


def parsed(text: str) -> Any:
    """As Triton reads it: protocol buffers, by those fields of its ModelConfig that are written here."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(("INVALID", "BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64")):
        types.value.add(name=f"TYPE_{name}", number=number)
    tensor = file.message_type.add(name="Tensor")
    tensor.field.add(name="name", number=1, type=kind.TYPE_STRING)
    tensor.field.add(name="data_type", number=2, type=kind.TYPE_ENUM, type_name=".inference.DataType")
    tensor.field.add(name="dims", number=3, type=kind.TYPE_INT64, label=kind.LABEL_REPEATED)
    tensor.field.add(name="label_filename", number=4, type=kind.TYPE_STRING)
    batching = file.message_type.add(name="Batching")
    batching.field.add(name="max_queue_delay_microseconds", number=1, type=kind.TYPE_UINT64)
    model = file.message_type.add(name="ModelConfig")
    model.field.add(name="name", number=1, type=kind.TYPE_STRING)
    model.field.add(name="backend", number=2, type=kind.TYPE_STRING)
    model.field.add(name="max_batch_size", number=3, type=kind.TYPE_INT32)
    for number, name in enumerate(("input", "output"), 4):
        options = {"type": kind.TYPE_MESSAGE, "type_name": ".inference.Tensor", "label": kind.LABEL_REPEATED}
        model.field.add(name=name, number=number, **options)
    model.field.add(name="dynamic_batching", number=6, type=kind.TYPE_MESSAGE, type_name=".inference.Batching")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return text_format.Parse(text, message())


def test_the_repository_holds_what_triton_looks_for(tmp_path: Path) -> None:
    write_triton(exported(tmp_path), tmp_path / "out", "blobs")
    model = tmp_path / "out" / "blobs"
    assert sorted(path.name for path in model.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
    assert {"model.onnx", "model.json", "settings.json", "labels.json"} <= {
        path.name for path in (model / "1").iterdir()
    }
    assert (model / "labels.txt").read_text() == "dark\nbright\n"
    config = parsed((model / "config.pbtxt").read_text())
    assert (config.name, config.backend) == ("blobs", "onnxruntime")
    assert config.max_batch_size > 1
    (images,), (logits,) = config.input, config.output
    assert (images.name, [*images.dims]) == ("images", [3, 32, 32])
    assert (logits.name, [*logits.dims], logits.label_filename) == ("logits", [3], "labels.txt")
    assert config.dynamic_batching.max_queue_delay_microseconds > 0


def test_what_has_a_value_of_its_own_need_not_be_given(tmp_path: Path) -> None:
    signature = signature_of(network(tmp_path / "a.onnx"))
    assert [tensor.name for tensor in signature.inputs] == ["images"]
    assert signature.is_batched


def test_without_a_free_batch_all_lengths_are_told(tmp_path: Path) -> None:
    picture = Tensor(name="images", type="TYPE_UINT8", dims=(1, 3, -1, -1))
    boxes = Tensor(name="boxes", type="TYPE_FP32", dims=(-1, 4))
    labels = Tensor(name="labels", type="TYPE_INT64", dims=(-1,))
    config = parsed(config_text("a", Signature(inputs=(picture,), outputs=(boxes, labels)), labelled=False))
    assert config.max_batch_size == 0
    assert [*config.input[0].dims] == [1, 3, -1, -1]
    assert [[*output.dims] for output in config.output] == [[-1, 4], [-1]]
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ('"logits"', '"scores"', r"output is scores TYPE_FP32\[3\], and model\.onnx has logits TYPE_FP32\[3\]"),
        ("TYPE_UINT8", "TYPE_FP32", r"input is images TYPE_FP32\[3, 32, 32\], and model\.onnx has images TYPE_UINT8"),
        ("dims: [3, 32, 32]", "dims: [3, 64, 64]", r"input is images TYPE_UINT8\[3, 64, 64\]"),
        (
            "max_batch_size: 16",
            "max_batch_size: 0",
            r"input is .*, and model\.onnx has images TYPE_UINT8\[-1, 3, 32, 32\]",
        ),
    ],
)
def test_a_config_that_does_not_fit_its_file_is_refused(old: str, new: str, answer: str, tmp_path: Path) -> None:
    write_triton(exported(tmp_path), tmp_path / "out", "blobs")
    config = tmp_path / "out" / "blobs" / "config.pbtxt"
    check_config(config.parent)
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=answer):
        check_config(config.parent)


@pytest.mark.parametrize("name", ["a/b", "..", "", "two words"])
def test_a_name_that_is_none_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^triton\.name="):
        write_triton(exported(tmp_path), tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def export(run: Path, output: Path, **keys: Any) -> None:
    job = {"name": "export", "format": "triton", "output": str(output), "parity": {"images": 0}, **keys}
    verb.run(settings(checkpoint=str(run), job=job, quiet=True))


def test_an_export_of_another_format_is_no_use_to_it(tmp_path: Path) -> None:
    model = exported(tmp_path, format="openvino", files=["model.xml", "model.bin"])
    with pytest.raises(ConfigError, match=r"was exported as openvino\. Name the run's folder"):
        export(model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_what_is_no_business_of_it_is_refused(tmp_path: Path) -> None:
    run = save_untrained(tmp_path / "run", MULTICLASS)
    with pytest.raises(ConfigError, match=r"^mlflow\.register: format=triton has no use for it"):
        export(run, tmp_path / "out", mlflow={"register": "a"})
    with pytest.raises(ConfigError, match=r"^triton\.name: format=onnx has no use for it"):
        export(run, tmp_path / "out", format="onnx", triton={"name": "a"})


@pytest.mark.parametrize("task", [MULTICLASS, pytest.param(DETECTION, marks=pytest.mark.slow)])
def test_a_run_becomes_a_repository_whose_network_says_what_the_config_says(task: str, tmp_path: Path) -> None:
    run = save_untrained(tmp_path / "run", task)
    export(run, tmp_path / "out", triton={"name": "blobs"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    config = parsed((tmp_path / "out" / "blobs" / "config.pbtxt").read_text())
    session = runtime.InferenceSession(str(tmp_path / "out" / "blobs" / "1" / "model.onnx"))
    batch = [2] if config.max_batch_size else []
    (images,) = config.input
    shape = [*batch, *(64 if length == -1 else length for length in images.dims)]
    kinds = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT64": np.int64}
    names = type(images).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    found = session.run(None, {images.name: np.full(shape, 127, kinds[names[images.data_type].name])})
    for told, actual in zip(config.output, found, strict=True):
        assert actual.dtype == kinds[names[told.data_type].name]
        wanted = [*batch, *told.dims]
        assert len(wanted) == actual.ndim
        assert all(length in (-1, real) for length, real in zip(wanted, actual.shape, strict=True))


def test_the_command_tells_how_near_the_network_is_and_where_that_stands(tmp_path: Path, capsys: Any) -> None:
    run = save_untrained(tmp_path / "run", MULTICLASS)
    write_picture(tmp_path / "photos" / "a.png", (10, 20, 200), np.random.default_rng(0))
    job = {"name": "export", "format": "triton", "output": str(tmp_path / "out"), "triton": {"name": "blobs"}}
    verb.run(settings(checkpoint=str(run), job={**job, "images": str(tmp_path / "photos")}))
    folder = tmp_path / "out" / "blobs" / "1"
    assert f"{folder}: the answers to 1 image of " in capsys.readouterr().out
    assert json.loads((folder / "parity.json").read_text())["passed"]


@pytest.mark.slow
def test_what_the_server_is_given_can_be_asked_here(tmp_path: Path) -> None:
    run = save_untrained(tmp_path / "run", MULTICLASS)
    write_picture(tmp_path / "a.png", (10, 20, 200), np.random.default_rng(0))
    lav = [sys.executable, "-m", "lightning_automl_vision"]
    for words in (
        ["export", str(run), "format=triton", "output=out", "triton.name=blobs", "parity.images=0"],
        ["predict", "out/blobs/1", "input=a.png", "output=found"],
        ["predict", str(run), "input=a.png", "output=known"],
    ):
        process = subprocess.run([*lav, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
    found, known = (json.loads((tmp_path / name / "predictions.jsonl").read_text()) for name in ("found", "known"))
    assert found["probs"] == pytest.approx(known["probs"], abs=1e-5)
