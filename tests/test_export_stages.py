"""Where two sides of an export part is found out, and how far two answers are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import DETECTION, MULTICLASS, TINY, YOLO, edited, export, write_model, write_noise

from lightning_automl_vision.errors import RequirementError
from lightning_automl_vision.export.agreement import agreement
from lightning_automl_vision.export.formats import Options
from lightning_automl_vision.export.graph import eager
from lightning_automl_vision.export.parity import told_apart
from lightning_automl_vision.export.runtime import Arrays, ExportedNetwork, Run
from lightning_automl_vision.export.stages import NETWORK, NMS, NONE, RESIZE, TILES, stage_of
from lightning_automl_vision.export.writing import graph_of
from lightning_automl_vision.predictor import load, open_model
from lightning_automl_vision.samples import ScoredBoxes, ScoredLabels, ScoredMasks

TILED = {"tile_grid_size": "2x2", "tile_predictions_nms_thresh": 0.25}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled model, beside itself as ONNX and a picture."""
    folder = tmp_path_factory.mktemp("stages")
    write_model(folder / "model", "yolov5", DETECTION, **YOLO, tiling=TILED)
    export(folder / "model", folder / "onnx", write_noise(folder / "noise", ((120, 160),)))
    return folder


def stage(both: Path, exported: Path) -> str:
    graph = eager(graph_of(open_model(both / "model"), Options()))
    return stage_of(load(both / "model"), load(exported), graph, str(both / "noise" / "0.png"))


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"img_size": 96}, RESIZE),
        ({"tile_grid_size": "3x2"}, RESIZE),
        ({"nms_iou_thresh": 0.05}, NMS),
        ({"tile_predictions_nms_thresh": 0.01}, TILES),
    ],
)
def test_the_first_stage_that_differs_is_named(both: Path, tmp_path: Path, settings: Any, first: str) -> None:
    assert stage(both, edited(tmp_path / "other", both / "onnx", **settings)) == first


def test_a_network_that_computes_otherwise_is_named(both: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "model", "yolov5", DETECTION, **{**YOLO, "model_size": "small"}, tiling=TILED)
    export(other, tmp_path / "onnx", None, parity={"images": 0})
    mixed = edited(tmp_path / "mixed", both / "onnx")
    (mixed / "model.onnx").write_bytes((tmp_path / "onnx" / "model.onnx").read_bytes())
    assert stage(both, mixed) == NETWORK


def test_a_classifier_has_nothing_after_its_network(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "timm", MULTICLASS, **TINY)
    export(model, tmp_path / "onnx", None, parity={"images": 0})
    graph, picture = eager(graph_of(open_model(model), Options())), write_noise(tmp_path / "noise") / "0.png"
    exported = load(tmp_path / "onnx")
    network = exported.network
    assert isinstance(network, ExportedNetwork)

    def tripled(run: Run, inputs: Arrays) -> Arrays:
        return {name: 3 * value for name, value in run(inputs).items()}

    otherwise = replace(exported, network=replace(network, run=partial(tripled, network.run)))
    assert stage_of(load(model), otherwise, graph, str(picture)) == NETWORK
    assert stage_of(load(model), exported, graph, str(picture)) == NONE


@pytest.mark.parametrize("tiling", [TILED, {}])
def test_no_stage_is_blamed_for_rounding(both: Path, tmp_path: Path, tiling: dict[str, Any]) -> None:
    model = both / "model" if tiling else write_model(tmp_path / "model", "yolov5", DETECTION, **YOLO)
    with pytest.raises(RequirementError, match=r"No single stage stands out: in each .* 0\.001, as rounding does; the"):
        export(model, tmp_path / "onnx", both / "noise", parity={"tolerance": 0.0})
    (row,) = json.loads((tmp_path / "onnx.failed" / "parity.json").read_text())["worst"]
    assert (row["filename"], row["stage"]) == ("0.png", NONE)
    assert 0.999 < row["agreement"] < 1


@pytest.mark.parametrize(
    ("lower", "higher", "told"),
    [(0.98, 0.99, ("0.9800", "0.9900")), (1 - 2e-7, 1.0, ("0.9999998", "1.0000000"))],
)
def test_numbers_have_the_digits_that_tell_them_apart(lower: float, higher: float, told: tuple[str, str]) -> None:
    assert told_apart(lower, higher) == told


def boxes(*rows: tuple[float, ...], scores: tuple[float, ...], labels: tuple[int, ...] | None = None) -> ScoredBoxes:
    return ScoredBoxes(
        labels=np.array(labels or (0,) * len(rows)),
        boxes=np.array(rows, np.float64).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        width=100,
        height=100,
    )


ONE, TWO = (10, 10, 30, 30), (50, 50, 90, 90)


def same(first: Any, second: Any, **limits: Any) -> float:
    there, back = (agreement(*pair, **{"threshold": 0.3, **limits}) for pair in ((first, second), (second, first)))
    assert there == pytest.approx(back)
    return there


def test_equal_answers_agree() -> None:
    found = boxes(ONE, TWO, scores=(0.9, 0.8))
    assert same(found, found) == 1
    assert same(boxes(scores=()), boxes(scores=())) == 1


def test_an_object_of_one_answer_alone_counts_by_its_score() -> None:
    found = boxes(ONE, TWO, scores=(0.9, 0.9))
    assert same(found, found.chosen(np.array([0]))) == pytest.approx(1 - 0.45 / 1.35)
    assert same(boxes(ONE, scores=(0.02,)), boxes(scores=()), threshold=0.001) == pytest.approx(0.99)


def test_an_object_at_the_threshold_may_be_missing() -> None:
    found = boxes(ONE, TWO, scores=(0.9, 0.305))
    assert same(found, found.chosen(np.array([0]))) == 1
    assert same(found, found.chosen(np.array([0])), threshold=0.2) < 1


def test_an_object_may_be_missing_where_no_more_are_answered() -> None:
    found = boxes(ONE, TWO, scores=(0.5, 0.499))
    others = found.chosen(np.array([0])), found.chosen(np.array([1]))
    assert same(*others, most=1) == 1
    assert same(*others) == pytest.approx(0.5, abs=0.01)


def test_a_moved_box_another_score_and_another_class_are_told() -> None:
    found = boxes(ONE, TWO, scores=(0.9, 0.8))
    assert 0.8 < same(found, replace(found, boxes=found.boxes + 1)) < 0.97
    assert same(found, replace(found, scores=found.scores - np.float32(0.1))) == pytest.approx(0.9)
    assert same(found, replace(found, labels=found.labels + 1)) == 0


def test_a_box_that_is_almost_nothing_agrees_with_itself() -> None:
    assert same(boxes((10, 50, 30, 50.001), scores=(0.9,)), boxes((10, 50, 30, 50.002), scores=(0.9,))) > 0.998


def test_masks_count() -> None:
    plain = boxes(ONE, scores=(0.9,))
    fields = {name: getattr(plain, name) for name in ("labels", "boxes", "scores", "width", "height")}
    first, second = (ScoredMasks(**fields, shapes=np.full((1, 4, 4), share, np.float32)) for share in (1, 0.5))
    assert same(first, first) == 1
    assert same(first, second) < 0.6


def test_scores_of_classes_agree_by_their_largest_difference() -> None:
    first, second = (ScoredLabels(scores=np.array(scores, np.float32)) for scores in ((0.7, 0.3), (0.6, 0.4)))
    assert same(first, second) == pytest.approx(0.9)


def test_stages_are_written_beside_the_worst_images(both: Path, tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="is network"):
        export(both / "model", tmp_path / "onnx", both / "noise", precision=16, parity={"tolerance": 0.0})
    (row,) = json.loads((tmp_path / "onnx.failed" / "parity.json").read_text())["worst"]
    assert (row["filename"], row["stage"]) == ("0.png", NETWORK)
