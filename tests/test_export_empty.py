"""An exported network that finds nothing answers with nothing, whatever it found before."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import DETECTION, SEGMENTATION, SMALL, YOLO, edited, export, write_labels, write_model, write_noise
from safetensors.torch import load_file, save_file

from lightning_automl_vision.api import settings
from lightning_automl_vision.errors import WeightsError
from lightning_automl_vision.export.runtime import Arrays, ExportedNetwork
from lightning_automl_vision.jobs import evaluate
from lightning_automl_vision.predictor import Predictor, load

slow = pytest.mark.slow
FASTER, MASK = "fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn"
RETINA, FCOS = "retinanet_resnet50_fpn", "fcos_resnet50_fpn"
UNCOMPARED: dict[str, Any] = {"parity": {"images": 0}}


def written(folder: Path, name: str) -> Path:
    task = SEGMENTATION if name == MASK else DETECTION
    return write_model(folder, name, task, **(YOLO if name == "yolov5" else SMALL))


def network_of(predictor: Predictor) -> ExportedNetwork:
    assert isinstance(predictor.network, ExportedNetwork)
    return predictor.network


def answering_above(predictor: Predictor, score: float) -> Predictor:
    """By the same network, with the memory that it has."""
    network: Any = network_of(predictor)
    return replace(predictor, network=replace(network, answers=replace(network.answers, score_threshold=score)))


def rows_above(predictor: Predictor, picture: Path, score: float) -> int:
    """Of what the network itself answers, before it is read."""
    asked, heard = answering_above(predictor, score), list[Arrays]()
    network = network_of(asked)

    def listening(inputs: Arrays) -> Arrays:
        heard.append(network.run(inputs))
        return heard[-1]

    replace(asked, network=replace(network, run=listening)).predict([picture])
    return max(len(array) for array in heard[-1].values())


@pytest.mark.parametrize(
    ("name", "format", "keys"),
    [
        pytest.param(FASTER, "onnx", {}),
        pytest.param(FASTER, "openvino", {}),
        pytest.param(FASTER, "openvino", {"quantise": "int8", "calibration_images": 1}, marks=slow),
        pytest.param(FASTER, "torchscript", {}, marks=slow),
        pytest.param(MASK, "onnx", {}, marks=slow),
        pytest.param(MASK, "openvino", {}, marks=slow),
        pytest.param(MASK, "torchscript", {}, marks=slow),
        *(pytest.param(name, format, {}, marks=slow) for name in (RETINA, FCOS) for format in ("onnx", "torchscript")),
        pytest.param(RETINA, "openvino", {}, marks=slow),
        pytest.param(FCOS, "openvino", {}, marks=slow),
        *(
            pytest.param("yolov5", format, {"nms": nms}, marks=() if format == "onnx" else slow)
            for format in ("onnx", "openvino", "torchscript")
            for nms in ("inside", "outside")
        ),
        pytest.param("yolov5", "torch_export", {"nms": "outside"}, marks=slow),
    ],
)
def test_where_nothing_is_found_nothing_is_answered(tmp_path: Path, name: str, format: str, keys: Any) -> None:
    model, noise = written(tmp_path / "model", name), write_noise(tmp_path / "noise")
    export(model, tmp_path / "there", noise if "quantise" in keys else None, format=format, **UNCOMPARED, **keys)
    exported, pictures = load(tmp_path / "there"), sorted(noise.iterdir())
    found = {picture: exported.predict([picture])[0] for picture in pictures}
    assert len({label for one in found.values() for label in one.labels.tolist()}) > 1
    highest = sorted(float(one.scores.max()) for one in found.values())
    asked = [(picture, score) for picture in pictures for score in (*np.add(highest, 1e-4), 1.0, 0.3)]
    orders = [asked, asked[::-1], *(asked[start::step] for start, step in permutations(range(2, 5), 2))]
    for picture, score in (one for order in orders for one in order):
        (answer,) = answering_above(exported, float(score)).predict([picture])
        known = found[picture]
        wanted = known.chosen(np.flatnonzero(known.scores > score))
        assert len(answer) == len(wanted)
        assert sorted(answer.labels.tolist()) == sorted(wanted.labels.tolist())
        if score == 1 and keys.get("nms", "inside") == "inside":
            assert rows_above(exported, picture, 1.0) == 0


@pytest.mark.parametrize("format", ["onnx", "openvino", pytest.param("torchscript", marks=slow)])
@pytest.mark.parametrize("name", [FASTER, pytest.param(MASK, marks=slow)])
def test_a_picture_in_which_nothing_is_proposed_is_answered(tmp_path: Path, name: str, format: str) -> None:
    model = written(tmp_path / "model", name)
    weights = load_file(model / "weights.safetensors")
    weights["network.rpn.head.bbox_pred.weight"] *= 0
    weights["network.rpn.head.bbox_pred.bias"][2::4] = -80  # boxes without extent
    save_file(weights, model / "weights.safetensors")
    told = export(model, tmp_path / "there", write_noise(tmp_path / "noise", ((64, 96),)), format=format)
    assert told["agreement"]["lowest"] == 1
    assert not len(load(tmp_path / "there").predict([tmp_path / "noise" / "0.png"])[0])


def test_a_set_in_part_of_which_nothing_is_found_is_compared_and_evaluated(tmp_path: Path) -> None:
    model = written(tmp_path / "model", FASTER)
    labels = write_labels(model, tmp_path / "labelled")
    predictor = load(model)
    found = [predictor.predict([picture])[0] for picture in sorted(labels.parent.glob("*.png"))]
    middle = float(np.median([one.scores.max() for one in found]))
    sure = edited(tmp_path / "sure", model, box_score_thresh=middle)
    told = export(sure, tmp_path / "there", labels, format="openvino")
    assert told["metric"]["exported"] == told["metric"]["torch"]
    assert told["agreement"]["lowest"] > 0.99
    job = {"name": "evaluate", "input": str(labels), "output": str(tmp_path / "evaluated")}
    evaluate.run(settings(checkpoint=str(tmp_path / "there"), job=job, quiet=True))
    rows = [*map(json.loads, (tmp_path / "evaluated" / "predictions.jsonl").read_text().splitlines())]
    assert [len(row["boxes"]) for row in rows] == [int((one.scores > middle).sum()) for one in found]
    assert {bool(row["boxes"]) for row in rows} == {True, False}


@pytest.mark.parametrize("label", [0, 4])
def test_a_class_that_there_is_not_is_never_printed(tmp_path: Path, label: int) -> None:
    model = written(tmp_path / "model", FASTER)
    export(model, tmp_path / "there", None, format="torchscript", **UNCOMPARED)
    exported = load(tmp_path / "there")

    def run(inputs: Arrays) -> Arrays:
        box = np.array([[1, 2, 3, 4]], np.float32)
        return {"boxes": box, "labels": np.array([label]), "scores": np.array([0.9], np.float32)}

    noise = write_noise(tmp_path / "noise")
    with pytest.raises(WeightsError, match=rf"there: .* answers with class {label - 1}, and labels\.json names 3, .*"):
        replace(exported, network=replace(network_of(exported), run=run)).predict([noise / "0.png"])
