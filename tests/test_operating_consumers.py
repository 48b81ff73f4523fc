"""Everyone who asks a model obeys its operating points when they are switched on, and nobody before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exported import DETECTION, MULTICLASS, SEGMENTATION, SMALL, TINY, YOLO, export, write_model, write_noise
from label_files import MULTILABEL
from served import served

from lightning_automl_vision.api import settings as composed
from lightning_automl_vision.drawing.captions import captioned
from lightning_automl_vision.jobs import evaluate as evaluating
from lightning_automl_vision.jobs import predict as predicting
from lightning_automl_vision.metrics.calibration import ScoreCurve, at_temperature
from lightning_automl_vision.outlines import prediction_dict
from lightning_automl_vision.predictor import load
from lightning_automl_vision.samples import ScoredLabels

CLASSES = ("blue", "green", "red")
CURVE, TEMPERATURE, USUAL = ScoreCurve(a=0.8, b=1.3, c=0.4), 8.0, 0.3
Answers = list[dict[str, Any]]
TILED = {"tile_grid_size": "2x1", "tile_overlap_ratio": 0.25}
MODELS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "classification": ("timm", MULTICLASS, TINY),
    "several labels": ("timm", MULTILABEL, TINY),
    "detection": ("yolov5", DETECTION, YOLO),
    "tiles": ("yolov5", DETECTION, {**YOLO, "tiling": TILED}),
    "segmentation": ("maskrcnn_resnet18_fpn", SEGMENTATION, {**SMALL, "box_detections_per_image": 12}),
}
each_model = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Mapping[str, Path]:
    """A model of each kind with operating points that say much, and are not in use; made when it is asked for."""

    class Runs(dict[str, Path]):
        def __missing__(self, kind: str) -> Path:
            name, task, parameters = MODELS[kind]
            run = tmp_path_factory.mktemp("run")
            write_model(run / "model", name, task, **dict(parameters))
            change(run, operating_points=points_for(run, kind, photos))
            return self.setdefault(kind, run)

    return Runs()


def change(run: Path, **settings: Any) -> None:
    file = run / "model" / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def in_use(run: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "in_use"
    for file in (run / "model").iterdir():
        (copy / "model").mkdir(parents=True, exist_ok=True)
        (copy / "model" / file.name).write_bytes(file.read_bytes())
    change(copy, use_operating_points=True)
    return copy


@cache
def plain(run: Path, photos: Path, above: float | None) -> list[Any]:
    """What a model says of itself, asked once."""
    return load(run, above=above, calibrated=False).predict(sorted(photos.iterdir()), batch_size=1)


def points_for(run: Path, kind: str, photos: Path) -> dict[str, Any]:
    """Of labels the surest is never sure enough; of objects thresholds are in the middle, one class has none."""
    raw = plain(run, photos, 0.01)
    if MODELS[kind][1] in (MULTICLASS, MULTILABEL):
        scores = np.max([changed(one.scores, multilabel=MODELS[kind][1] == MULTILABEL) for one in raw], axis=0)
        best = int(scores.argmax())
        return {"thresholds": {CLASSES[best]: min(float(scores[best]) + 1e-4, 1.0)}, "temperature": TEMPERATURE}
    ordered = np.unique(np.concatenate([found.scores for found in raw]))
    around = ordered[len(ordered) // 3 : -(len(ordered) // 3)]
    widest = int(np.diff(around).argmax())  # where another runtime's rounding decides nothing
    middle = float(around[widest : widest + 2].mean())
    of_blue = float(CURVE(np.array([middle]))[0])
    return {"thresholds": {"blue": of_blue, "green": middle}, "score_curves": {"blue": [CURVE.a, CURVE.b, CURVE.c]}}


def changed(scores: Any, *, multilabel: bool) -> Any:
    return at_temperature(scores[None], TEMPERATURE, multilabel=multilabel)[0]


def wanted(run: Path, kind: str, photos: Path) -> Answers:
    """The documented answers, by the rules of the reference: calibrated, and what reaches the class's threshold."""
    points = json.loads((run / "model" / "settings.json").read_text())["operating_points"]
    lowest = 0.01 if MODELS[kind][1] in (DETECTION, SEGMENTATION) else None
    rule = of_labels if lowest is None else of_objects
    return [rule(found, points["thresholds"], MODELS[kind][1]) for found in plain(run, photos, lowest)]


def of_labels(found: Any, thresholds: Mapping[str, float], task: str) -> dict[str, Any]:
    multilabel = task == MULTILABEL
    scores = changed(found.scores, multilabel=multilabel)
    usual = 0.5 if multilabel else 0.0
    order = sorted(range(len(CLASSES)), key=lambda index: -scores[index])
    decided = [CLASSES[index] for index in order if scores[index] >= thresholds.get(CLASSES[index], usual)]
    return {"probs": scores.tolist(), "labels": [*CLASSES], "decided": decided if multilabel else decided[:1]}


def of_objects(found: Any, thresholds: Mapping[str, float], _: str) -> dict[str, Any]:
    kept = []
    for item in prediction_dict(found, 100)["boxes"]:
        score, name = item["score"], item["label"]
        worth = float(CURVE(np.array([score]))[0]) if name == "blue" else score
        if worth >= thresholds[name] if name in thresholds else score > USUAL:
            kept.append({**item, "score": worth})
    return {"boxes": sorted(kept, key=lambda item: -item["score"])}


def same(found: Answers, expected: Answers, tolerance: float = 1e-4) -> None:
    """What scores as much as another may change places with it."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        if "boxes" not in other:
            assert one["probs"] == pytest.approx(other["probs"], abs=tolerance)
            assert one.get("decided") == other.get("decided")
            continue
        scores = [item["score"] for item in one["boxes"]]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([item["score"] for item in other["boxes"]], abs=tolerance)
        left = [*other["boxes"]]
        for item in one["boxes"]:
            left.remove(next(like for like in left if are_alike(item, like, tolerance)))


def are_alike(item: Mapping[str, Any], like: Mapping[str, Any], tolerance: float) -> bool:
    numbers = [[one["score"], *one["box"].values()] for one in (item, like)]
    is_near = numbers[0] == pytest.approx(numbers[1], abs=10 * tolerance)
    return bool(is_near and set(item) == set(like) and item["label"] == like["label"])


def predicted(run: Path, photos: Path, output: Path) -> Answers:
    job = {"name": "predict", "input": str(photos), "output": str(output)}
    predicting.run(composed(checkpoint=str(run), job=job, trainer={"accelerator": "cpu"}, quiet=True))
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "filename"} for row in rows]


def scored(run: Path, photos: Path, _: Path) -> Answers:
    """By the folder's own score.py."""
    spec = spec_from_file_location("score", run / "model" / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = [json.loads(row) for row in module.run(sorted(map(str, photos.iterdir())))]
    return [{name: value for name, value in row.items() if name != "filename"} for row in rows]


def answered(run: Path, photos: Path, _: Path) -> Answers:
    """By the server."""
    with served(lambda: load(run)) as client:
        return [client.post("/score", content=photo.read_bytes()).json()[0] for photo in sorted(photos.iterdir())]


def given_to_mlflow(run: Path, photos: Path, _: Path) -> Answers:
    pandas = pytest.importorskip("pandas")
    from lightning_automl_vision.delivery.mlflow_model import ImageModel

    context = SimpleNamespace(artifacts={"settings.json": str(run / "model" / "settings.json")})
    model = ImageModel()
    model.load_context(context)
    frame = pandas.DataFrame({"image": [photo.read_bytes() for photo in sorted(photos.iterdir())]})
    rows: Answers = model.predict(context, frame).to_dict("records")
    return rows


needs_mlflow = (
    pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed"),
    pytest.mark.filterwarnings("ignore"),  # MLflow warns of itself wherever it is imported
)
each_consumer = pytest.mark.parametrize(
    "asked", [predicted, scored, answered, pytest.param(given_to_mlflow, marks=needs_mlflow)]
)


@each_model
def test_the_points_of_these_tests_change_what_is_said(kind: str, runs: Mapping[str, Path], photos: Path) -> None:
    expected, usual = wanted(runs[kind], kind, photos), plain(runs[kind], photos, None)
    if "boxes" not in expected[0]:
        best = [[max(zip(found.scores, CLASSES, strict=True))[1]] for found in usual]
        assert [answer["decided"] for answer in expected] != best
        return
    found = sum(len(answer["boxes"]) for answer in expected)
    assert 0 < found < sum(len(found) for found in plain(runs[kind], photos, 0.01))
    assert [len(answer["boxes"]) for answer in expected] != [len(found) for found in usual]


@each_consumer
@each_model
def test_points_are_obeyed_when_they_are_in_use_and_not_before(
    asked: Any, kind: str, runs: Mapping[str, Path], photos: Path, tmp_path: Path
) -> None:
    before = asked(runs[kind], photos, tmp_path / "before")
    same(before, [prediction_dict(found) for found in plain(runs[kind], photos, None)])
    after = asked(in_use(runs[kind], tmp_path), photos, tmp_path / "after")
    same(after, wanted(runs[kind], kind, photos))


@each_model
def test_an_evaluation_judges_what_the_points_let_through(
    kind: str, runs: Mapping[str, Path], photos: Path, tmp_path: Path
) -> None:
    task, run = MODELS[kind][1], in_use(runs[kind], tmp_path)
    corners = {"topX": 0.1, "topY": 0.1, "bottomX": 0.6, "bottomY": 0.7}
    polygon = [[0.1, 0.1, 0.6, 0.1, 0.6, 0.7]]
    labels: Mapping[str, Any] = {
        MULTICLASS: "blue",
        MULTILABEL: ["blue", "red"],
        DETECTION: [{"label": "blue", **corners}],
        SEGMENTATION: [{"label": "blue", "polygon": polygon}],
    }
    names = sorted(photo.name for photo in photos.iterdir())
    lines = [json.dumps({"image_url": str(photos / name), "label": labels[task]}) for name in names]
    (tmp_path / "labelled.jsonl").write_text("\n".join(lines))
    job = {"name": "evaluate", "input": str(tmp_path / "labelled.jsonl"), "output": str(tmp_path / "out")}
    evaluating.run(composed(checkpoint=str(run), job=job, trainer={"accelerator": "cpu"}, quiet=True))
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    expected = wanted(runs[kind], kind, photos)
    if "boxes" not in expected[0]:
        assert [row["decided"] for row in rows] == [answer["decided"] for answer in expected]
    for row, answer in zip(rows, expected, strict=True):
        for item, like in zip(row.get("boxes", ()), answer.get("boxes", ()), strict=True):
            assert (item["label"], item["score"]) == (like["label"], pytest.approx(like["score"], abs=1e-4))
    told = json.loads((tmp_path / "out" / "result.json").read_text())
    assert told["operating_points_in_use"] is True


@pytest.mark.parametrize(
    "kind",
    [
        "classification",
        "tiles",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("several labels", "detection", "segmentation")),
    ],
)
def test_an_exported_network_obeys_them_through_every_way(
    kind: str, runs: Mapping[str, Path], photos: Path, tmp_path: Path
) -> None:
    run = in_use(runs[kind], tmp_path)
    export(run, tmp_path / "onnx" / "model", None, format="onnx", parity={"images": 0})
    expected = wanted(runs[kind], kind, photos)
    for asked in (predicted, answered, scored):
        same(asked(tmp_path / "onnx", photos, tmp_path / "out"), expected, 1e-3)
    change(tmp_path / "onnx", use_operating_points=False)
    plainly = [prediction_dict(found) for found in plain(runs[kind], photos, None)]
    same(answered(tmp_path / "onnx", photos, tmp_path), plainly, 1e-3)


def test_a_drawn_answer_names_first_what_is_decided_for() -> None:
    scores = np.array([0.6, 0.3, 0.1], np.float32)
    pixels = np.zeros((200, 300, 3), np.uint8)

    def strip(**more: Any) -> Any:
        return captioned(pixels, ScoredLabels(scores=scores, labels=CLASSES, **more))[200:]

    usual, chosen = strip(), strip(decided=(2,))
    assert usual.shape == chosen.shape
    row = usual.shape[0] // 3
    bright = [int((one[: row - 4] > 220).all(axis=2).sum()) for one in (usual, chosen, strip(decided=()))]
    assert bright[0] > 0
    assert bright[1] > 0
    assert bright[2] == 0
    assert not (chosen[row + 4 :] > 220).all(axis=2).any()
    assert (usual[row + 4 :] > 220).all(axis=2).any()
