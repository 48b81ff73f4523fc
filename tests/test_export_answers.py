"""One scoring path: whoever is asked about the same pictures, training to server, gives the same answers and metrics.

Evaluate has the digits of the training's own validation. What predict, the server and MLflow say is the same within
0.0001, for the last digits depend on the batch. Exported networks add up in another order: their scores are the same
within 0.001, their corners within a thousandth of the picture's side, the areas of their masks within a hundredth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import (
    DETECTION,
    MULTICLASS,
    MULTILABEL,
    SEGMENTATION,
    SMALL,
    TINY,
    YOLO,
    export,
    write_labels,
    write_model,
)
from served import served

from lightning_automl_vision import train
from lightning_automl_vision.api import settings
from lightning_automl_vision.export.formats import FORMATS
from lightning_automl_vision.jobs import evaluate, predict
from lightning_automl_vision.predictor import load
from lightning_automl_vision.result import read_result

Answers = dict[str, dict[str, Any]]
CLASSES = ["blue", "green", "red"]
TILES = {"name": "grid", "grid_size": "2x1", "overlap_ratio": 0.25}
DIFFERENCE, LAST_DIGIT, AREA = 0.001, 1e-4, 0.01


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model that finds something, and keys of its training beside the usual."""

    task: str
    model: str
    given: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def classifies(self) -> bool:
        return "classification" in self.task


CASES = {
    "one label": Case(task=MULTICLASS, model="timm", given=TINY),
    "labels": Case(task=MULTILABEL, model="timm", given=TINY),
    "boxes": Case(task=DETECTION, model="fasterrcnn_resnet18_fpn", given=SMALL),
    "tiles": Case(task=DETECTION, model="yolov5", given=YOLO, keys={"tiler": TILES}),
    "masks": Case(task=SEGMENTATION, model="maskrcnn_resnet18_fpn", given=SMALL),
}
QUICK = ("one label", "tiles")


@dataclass(frozen=True)
class Trained:
    """A run of the case, in a folder with the pictures it was validated on, and what each consumer says of them."""

    case: Case
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def labels(self) -> Path:
        return self.folder / "pictures" / "labels.jsonl"

    @cached_property
    def metrics(self) -> dict[str, float]:
        return dict(read_result(self.run).metrics)

    @cached_property
    def predicted(self) -> Answers:
        return self.predict(self.run, "predicted")

    def predict(self, model: Path, output: str) -> Answers:
        job = {"name": "predict", "input": str(self.labels.parent), "output": str(self.folder / output)}
        predict.run(settings(checkpoint=str(model), job=job, trainer={"accelerator": "cpu"}, quiet=True))
        return answers_in(self.folder / output)

    def evaluate(self, model: Path, output: str) -> dict[str, float]:
        job = {"name": "evaluate", "input": str(self.labels), "output": str(self.folder / output)}
        evaluate.run(settings(checkpoint=str(model), job=job, trainer={"accelerator": "cpu"}, quiet=True))
        found: dict[str, float] = json.loads((self.folder / output / "result.json").read_text())["metrics"]
        return found

    @property
    def contents(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(self.labels.parent.glob("*.png"))}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES],
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained so little that it finds what it found before, half of which is what there is to be found."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("trained")
    start = write_model(folder / "start" / "model", case.model, case.task, **case.given)
    labels = write_labels(start, folder / "pictures")
    sizes = {f"{side}_size": 32 for side in ("training_crop", "validation_crop", "validation_resize")}
    once = {"number_of_epochs": 1, "training_batch_size": 2, "learning_rate": 1e-9, "warmup_cosine_lr_warmup_epochs": 0}
    train(
        task=case.task,
        model={"name": case.model, **case.given},
        data={"training": str(labels), "validation": str(labels), "minimum_images": 1},
        training={
            **once,
            **(sizes if case.classifies else {}),
            "validation_batch_size": 16 if case.classifies else 1,
            "checkpoint_run_id": str(folder / "start"),
            "random_seed": 3,
            "number_of_workers": 0,
        },
        trainer={"accelerator": "cpu"},
        output_dir=str(folder / "run"),
        quiet=True,
        **case.keys,
    )
    return Trained(case, folder)


def answers_in(folder: Path) -> Answers:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return {row.pop("filename"): row for row in rows}


def test_there_is_something_to_compare(trained: Trained) -> None:
    primary = read_result(trained.run).primary_metric
    assert primary.value < 1
    if trained.case.task != SEGMENTATION:  # where untrained masks are noise, which no polygon follows
        assert primary.value > 0
    if not trained.case.classifies:
        assert sum(len(answer["boxes"]) for answer in trained.predicted.values()) > 10


def test_evaluate_has_the_digits_of_training_and_says_what_predict_says(trained: Trained) -> None:
    assert trained.evaluate(trained.run, "evaluated") == pytest.approx(trained.metrics, abs=0, nan_ok=True)
    assert_alike(answers_in(trained.folder / "evaluated"), trained.predicted, LAST_DIGIT)


def test_the_server_says_what_predict_says(trained: Trained) -> None:
    with served(load(trained.run)) as client:
        for name, content in trained.contents.items():
            (answer,) = client.post("/score", content=content).json()
            assert_alike({name: answer}, {name: trained.predicted[name]}, LAST_DIGIT)


@pytest.mark.filterwarnings("ignore")  # MLflow warns of itself
@pytest.mark.skipif(find_spec("mlflow") is None or find_spec("pandas") is None, reason="MLflow is not installed")
def test_the_model_of_mlflow_says_what_predict_says(trained: Trained) -> None:
    import mlflow
    import pandas

    export(trained.run, trained.folder / "mlflow", None, format="mlflow")
    frame = pandas.DataFrame({"image": list(trained.contents.values())})
    answers = mlflow.pyfunc.load_model(str(trained.folder / "mlflow")).predict(frame)
    found = dict(zip(trained.contents, answers.to_dict("records"), strict=True))
    assert_alike(found, trained.predicted, LAST_DIGIT)


@pytest.mark.parametrize(
    "format", [pytest.param(name, marks=() if name == "onnx" else pytest.mark.slow) for name in FORMATS]
)
def test_an_exported_model_says_what_predict_says(trained: Trained, format: str) -> None:
    if format == "torch_export" and trained.case.model.endswith("_fpn"):
        pytest.skip("it is refused")
    output = trained.folder / format
    told = export(trained.run, output, None, format=format)
    assert told["metric"]["torch"] == pytest.approx(trained.metrics[told["metric"]["name"]], abs=1e-9)
    assert_alike(trained.predict(output, f"predicted by {format}"), trained.predicted)
    there = trained.evaluate(output, f"evaluated by {format}")
    assert there == pytest.approx(trained.metrics, abs=DIFFERENCE, nan_ok=True)
    with served(load(output)) as client:
        served_answers = {name: client.post("/score", content=one).json()[0] for name, one in trained.contents.items()}
    assert_alike(served_answers, trained.predicted)


def assert_alike(found: Answers, wanted: Answers, difference: float = DIFFERENCE) -> None:
    assert found.keys() == wanted.keys()
    for name, answer in wanted.items():
        if "probs" in answer:
            assert found[name]["labels"] == answer["labels"]
            assert found[name]["probs"] == pytest.approx(answer["probs"], abs=difference)
            continue
        left = list(found[name]["boxes"])
        assert len(left) == len(answer["boxes"])
        for one in answer["boxes"]:
            left.remove(next(other for other in left if is_alike(one, other, difference)))


def is_alike(one: dict[str, Any], other: dict[str, Any], difference: float) -> bool:
    same = one["label"] == other["label"] and abs(one["score"] - other["score"]) <= difference
    corners = all(abs(one["box"][name] - other["box"][name]) <= difference for name in one["box"])
    if not (same and corners):
        return False
    return "polygon" not in one or "polygon" not in other or abs(area(one) - area(other)) <= AREA


def area(found: dict[str, Any]) -> float:
    """Of all parts of its mask, as a share of the picture; a hole counts as a part."""
    parts = [np.array(part).reshape(-1, 2).T for part in found["polygon"]]
    return sum(abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2 for x, y in parts)
