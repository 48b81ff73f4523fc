"""Every model in every format: as the matrix has it. The smallest of each kind in test_export.py, all of them here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from exported import SMALL, YOLO, export, write_model, write_noise
from pictures import write_objects

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.matrix import EVERY, Pair, document, matrix
from lightning_automl_vision.export.packagings import MLFLOW, PACKAGINGS, TRITON
from lightning_automl_vision.export.triton import check_config
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.predictor import load

CHOSEN = {"timm": {"architecture": "test_vit3"}, "yolov5": YOLO}
PAIRS = list(matrix())
PUBLISHED = Path(__file__).parents[1] / "docs" / "exports.md"


def test_every_pair_is_told_once() -> None:
    assert len({(pair.model, pair.task, pair.format) for pair in PAIRS}) == len(PAIRS)
    assert {pair.format for pair in PAIRS} == {*EVERY}


def test_what_is_published_is_what_the_code_does() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_the_table_has_a_row_for_each_model_and_every_reason() -> None:
    rows = {line.split(" | ")[0]: line.removesuffix(" |").split(" | ")[2:] for line in document().splitlines()}
    for pair in PAIRS:
        cell = rows[f"| `{pair.model}`"][EVERY.index(pair.format)]
        assert cell == "yes" if pair.refusal is None else f"{cell[4:-1]}. {pair.refusal}." in document()


def test_every_format_says_what_brings_it_and_what_it_takes() -> None:
    table = document().partition("| format |")[2]
    rows = {name: line for name in EVERY for line in table.splitlines() if line.startswith(f"| `{name}` | ")}
    assert [*rows] == [*EVERY]
    assert "`[mlflow]`" in rows["mlflow"]
    assert "`mlflow.register`, `mlflow.tracking_uri` |" in rows["mlflow"]
    assert "`[export]`" in rows["triton"]
    assert "`quantise`, `triton.name` |" in rows["triton"]


def written(folder: Path, pair: Pair) -> Path:
    spec = model_spec(pair.model)
    finds_objects = "classification" not in pair.task
    given: dict[str, Any] = CHOSEN.get(pair.model, {**SMALL, "box_score_threshold": 0.1} if finds_objects else {})
    size = 160 if pair.model == "timm" else spec.fixed_image_size or 64
    return write_model(folder, pair.model, pair.task, size=size, **given)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.model}-{pair.task}-{pair.format}")
def test_a_pair_works_as_the_matrix_says(pair: Pair, tmp_path: Path) -> None:
    if pair.format == MLFLOW and (find_spec("mlflow") is None or find_spec("pandas") is None):
        pytest.skip("MLflow is not installed")
    model, noise = written(tmp_path / "model", pair), write_noise(tmp_path / "noise")
    images = None if pair.format == MLFLOW else noise
    if pair.refusal is not None:
        with pytest.raises(ConfigError, match=pair.refusal):
            export(model, tmp_path / "there", images, format=pair.format)
        return
    told = export(model, tmp_path / "there", images, format=pair.format)
    if pair.format == TRITON:
        check_config(tmp_path / "there" / pair.model)
    if pair.format in PACKAGINGS:
        return
    assert told["agreement"]["mean"] > 0.99
    if "classification" not in pair.task:
        assert any(len(load(model).predict([place])[0]) for place in noise.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript"])
def test_yolov5_with_its_suppression_inside_works_in_each_format(format: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "yolov5", "image_object_detection", **YOLO)
    told = export(model, tmp_path / "there", write_noise(tmp_path / "noise"), format=format, nms="inside")
    assert told["agreement"]["mean"] > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"precision": 16}, {"quantise": "int8", "calibration_images": 4}])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["resnet18", "fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn"])
def test_smaller_numbers_work_for_each_kind(name: str, format: str, keys: Any, tmp_path: Path) -> None:
    task = min(model_spec(name).tasks)
    model = write_model(tmp_path / "model", name, task, size=64, **({} if name == "resnet18" else SMALL))
    labels = write_objects(tmp_path / "objects", 6, polygons=True).parent
    told = export(model, tmp_path / "there", labels, format=format, parity={"tolerance": 1.0}, **keys)
    assert told["bytes"]["exported"] < 0.6 * told["bytes"]["torch"]
    assert told["agreement"]["mean"] > 0.3
