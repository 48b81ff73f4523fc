"""Training, judging and asking with tiles: the image as a whole is what counts, in every place alike."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_objects import DETECTION, MODELS, SEGMENTATION, lines, run

from lightning_automl_vision import load
from lightning_automl_vision.api import settings
from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages, read_labelled
from lightning_automl_vision.errors import ConfigError, VisionError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.jobs.checking import check
from lightning_automl_vision.judging import Judged, Verdicts
from lightning_automl_vision.masks import masks_of
from lightning_automl_vision.merging import METHODS, Merge, one_answer
from lightning_automl_vision.run import finite
from lightning_automl_vision.samples import Boxes, Place, Sample, ScoredBoxes, ScoredMasks
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.tiler_settings import MERGES
from lightning_automl_vision.tiling import GridTiler, SizeTiler, Tiler, WholeImage, custom_tiler
from lightning_automl_vision.tiling_plan import Tiling, tiling_from_settings, tiling_of

GRID = {"name": "grid", "grid_size": "2x2", "overlap_ratio": 0.3, "predictions_nms_threshold": 0.4}


class Halves(Tiler):
    """The whole image, its left and its right part; its arguments have other names than its attributes."""

    def __init__(self, share: float = 0.5) -> None:
        self.left = share

    def windows(self, width: int, height: int) -> list[Window]:
        cut = round(width * self.left)
        return [Window(0, 0, width, height), Window(0, 0, cut, height), Window(cut, 0, width, height)]


@pytest.fixture(scope="module", params=[DETECTION, SEGMENTATION])
def tiled_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiled")
    asked = {"validation_metric_type": "coco_voc"}
    test = {"test": str(folder / "data" / "train.jsonl")}
    low = {"box_score_threshold": 0.05}
    result = run(folder, request.param, settings=asked, data=test, tiler=GRID, model=low, count=12)
    return request.param, folder / "run", result


def test_judging_a_tiled_model_is_asking_it_and_judging_the_answers(tiled_run: Any) -> None:
    task, folder, result = tiled_run
    rows = lines(folder / "predictions.jsonl")
    predictor = load(folder)
    pictures = [folder.parent / "data" / row["filename"] for row in rows]
    answers = predictor.predict(pictures)
    images = read_labelled(str(folder.parent / "data" / "train.jsonl"), task, DataConfig())
    names = [images.name(index) for index in range(len(images))]
    judged = Judged.of(images, with_masks=task == SEGMENTATION)
    for row, answer in zip(rows, answers, strict=True):
        found = answer.as_dict()["boxes"]
        assert len(found) == len(row["boxes"])
        for mine, theirs in zip(found, row["boxes"], strict=True):
            assert (mine["label"], mine["score"]) == (theirs["label"], pytest.approx(theirs["score"], abs=1e-5))
            assert mine["box"] == pytest.approx(theirs["box"], abs=1e-4)
        judged.add(names.index(row["filename"]), answer, Place(0, 0, 96, 96))
    verdicts = Verdicts(classes=images.classes, metric_type="coco_voc", iou_threshold=0.5, box_score_threshold=0.05)
    metrics = verdicts.metrics(judged)
    assert finite(metrics) == {name: pytest.approx(result.metrics[name], abs=1e-3) for name in metrics}
    assert sum(len(answer) for answer in answers) > 0


def test_what_tiles_alone_and_whole_images_alone_say_is_told_beside(tiled_run: Any) -> None:
    _, folder, result = tiled_run
    apart = {"tiles_mean_average_precision", "whole_images_mean_average_precision"}
    assert apart <= set(result.metrics)
    assert apart <= set(result.test_metrics)
    told = json.loads((folder / "evaluation.json").read_text())["tiling"]
    assert told["measured"]["merged"] == pytest.approx(result.metrics["mean_average_precision"])
    assert told["measured"]["tiles"] == pytest.approx(result.metrics["tiles_mean_average_precision"])
    gain = told["measured"]["merged"] - told["measured"]["whole_images"]
    assert told["measured"]["gain"] == pytest.approx(gain)
    assert 0 <= told["predicted"]["score_without_tiles"] <= told["predicted"]["score"] <= 1


def test_a_model_folder_inherits_the_grid_and_may_be_given_another(tiled_run: Any) -> None:
    _, folder, _ = tiled_run
    file = folder / "model" / "settings.json"
    kept = json.loads(file.read_text())
    assert (kept["tile_grid_size"], kept["tile_overlap_ratio"]) == ("2x2", 0.3)
    assert kept["tile_predictions_nms_thresh"] == 0.4
    picture = folder.parent / "data" / "0.png"
    shown: dict[Any, int] = {}
    for grid in ("2x2", None, "(3, 2)"):
        file.write_text(json.dumps({**kept, "tile_grid_size": grid}))
        predictor = load(folder)
        seen: list[int] = []
        network = predictor.network
        counted = replace(predictor, network=lambda pictures: seen.append(len(pictures)) or network(pictures))  # noqa: B023
        counted.predict([picture])
        shown[grid] = sum(seen)
    file.write_text(json.dumps(kept))
    assert shown == {"2x2": 5, None: 1, "(3, 2)": 7}


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"tile_grid_size": "3by2"}, r"tile_grid_size='3by2': that is no grid"),
        ({"tile_overlap_ratio": 1}, r"tile_overlap_ratio=1 must be a number in \[0, 1\)"),
        ({"tile_predictions_nms_thresh": 2}, r"tile_predictions_nms_thresh=2 must be a number in \[0, 1\]"),
        ({"tile_predictions_nms_threshold": 0.5}, "are the same setting and differ"),
        ({"tile_grid_size": None, "tile_overlap_ratio": 5}, r"tile_overlap_ratio=5 must be a number in \[0, 1\)"),
        ({"tile_grid_size": None, "tiler": "mine.Rings"}, "'mine.Rings' has no _target_"),
        ({"tile_merge": "wbf"}, r'tile_merge="wbf" must be one of nms'),
        ({"tile_merge_largest": 50}, "tile_merge_largest=50: only tile_merge=greedy_merging lets boxes grow"),
        ({"tile_size": "64x64"}, "tile_size and tile_grid_size are two ways"),
        ({"tile_gird_size": "2x2"}, "no setting 'tile_gird_size'. Did you mean 'tile_grid_size'"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(tiled_run: Any, change: dict[str, Any], answer: str) -> None:
    _, folder, _ = tiled_run
    file = folder / "model" / "settings.json"
    kept = file.read_text()
    file.write_text(json.dumps({**json.loads(kept), **change}))
    try:
        with pytest.raises(ConfigError, match=rf"settings\.json: .*{answer}"):
            load(folder)
    finally:
        file.write_text(kept)


def test_auto_obeys_the_advisor_and_says_why(tmp_path: Path) -> None:
    """Objects of a third of the picture, made three times smaller: tiles would show them better."""
    tiny = {"min_size": 32, "max_size": 32}
    run(tmp_path, DETECTION, model=tiny, tiler="auto", training={"number_of_epochs": 1}, count=10)
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())["tiling"]
    log = (tmp_path / "run" / "run.log").read_text()
    line = next(line for line in log.splitlines() if f"tiler=auto: {told['tile_grid_size']} tiles" in line)
    assert "raises the score from" in line
    assert "With tiles mean_average_precision is" in log
    assert f"to {told['predicted']['score']:.3f}.\n" in log


def test_auto_may_decide_against_tiles(tmp_path: Path) -> None:
    enlarged = {"min_size": 192, "max_size": 192}
    result = run(tmp_path, DETECTION, model=enlarged, tiler="auto", training={"number_of_epochs": 1}, count=10)
    assert json.loads((tmp_path / "run" / "model" / "settings.json").read_text())["tile_grid_size"] is None
    assert "tiles_mean_average_precision" not in result.metrics


def test_a_tiler_of_ones_own_trains_and_answers(tmp_path: Path) -> None:
    tiler = {"name": "custom", "_target_": "test_tiled_runs.Halves", "arguments": {"share": 0.25}}
    run(tmp_path, DETECTION, tiler=tiler, training={"number_of_epochs": 1}, count=10)
    loaded = load(tmp_path / "run").tiling.tiler
    assert isinstance(loaded, Halves)
    assert loaded.left == 0.25


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ({}, "has no _target_"),
        ({"_target_": "no.such.Thing"}, "No module named 'no'. Install it, or name its folder"),
        ({"_target_": "test_tiled_runs.Nothing"}, "cannot be imported"),
        ({"_target_": "os.system", "command": "true"}, "is no subclass of"),
        ({"_target_": "test_tiled_runs.Halves", "shore": 1}, "cannot be made"),
    ],
)
def test_nothing_but_a_tiler_is_ever_called(target: dict[str, Any], answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        custom_tiler(target)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"tiler": {"grid_size": "2x2"}}, r"tiler\.grid_size.*it belongs to tiler=grid"),
        ({"tiler": {"name": "grid", "grid_size": "2y2"}}, r"tiler\.grid_size='2y2': that is no grid"),
        ({"tiler": {"name": "grid", "grid_size": "2x2", "tile_size": "64x64"}}, "two ways to cut an image"),
        ({"tiler": {"name": "grid", "tile_size": "8x8"}}, r"tiler\.tile_size=8x8: a tile of so few pixels"),
        ({"tiler": {"name": "grid", "tile_size": "big"}}, r"tiler\.tile_size='big': that is no size"),
        ({"tiler": {"name": "grid", "overlap_ratio": 1.0}}, r"overlap_ratio=1.0: must be in \[0, 1\)"),
        ({"tiler": {"name": "grid", "largest": 9.0}}, r"tiler\.largest=9: only tiler\.merge=greedy_merging"),
        ({"tiler": "grid", "task": "image_classification", "model": "resnet18"}, "finds none. Leave it out"),
        ({"tiler": {"name": "custom"}}, r"tiler\._target_ has no value"),
        ({"tiler": {"name": "custom", "_target_": "test_tiled_runs.Halves", "arguments": [3]}}, "must be a mapping"),
        (
            {"tiler": {"name": "custom", "_target_": "test_tiled_runs.Halves", "arguments": {"share": 3}}},
            "must lie in it",
        ),
        ({"tiler": {"name": "custom", "_target_": "os.system"}}, r"tiler\._target_=os\.system is no subclass"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_is_read(keys: dict[str, Any], answer: str) -> None:
    usual = {"task": DETECTION, "model": MODELS[DETECTION], "data": {"training": "x"}}
    with pytest.raises(VisionError, match=answer):
        check(settings(**{**usual, **keys}))


@pytest.mark.parametrize(
    ("asked", "tiler"),
    [
        ({"grid_size": "3x2"}, GridTiler((3, 2))),
        ({"grid_size": "(3, 2)"}, GridTiler((3, 2))),
        ({"grid_size": [3, 2], "overlap_ratio": 0.1}, GridTiler((3, 2), 0.1)),
        ({"grid_size": "none"}, WholeImage()),
        ({"grid_size": None}, WholeImage()),
        ({"grid_size": "1x1"}, WholeImage()),
        ({"tile_size": "none"}, GridTiler((3, 2))),
        ({"tile_size": "640x480"}, SizeTiler(640, 480)),
        ({"tile_size": [640, 480]}, SizeTiler(640, 480)),
    ],
)
def test_every_way_of_writing_a_grid_is_understood(asked: dict[str, Any], tiler: Tiler) -> None:
    composed = settings(task=DETECTION, model=MODELS[DETECTION], tiler={"name": "grid", **asked})
    tiling = tiling_of(composed.tiler, [f"tiler.{name}" for name in asked])
    assert tiling is not None
    assert tiling.tiler == tiler
    assert tiling_from_settings(tiling.as_settings(), source="it") == tiling


def test_every_way_of_merging_can_be_asked_for_and_is_kept() -> None:
    assert tuple(METHODS) == tuple(sorted(MERGES, key=list(METHODS).index))
    for method in MERGES:
        merge = Merge(method=method, class_agnostic=True, threshold=0.3)
        tiling = Tiling(tiler=GridTiler((2, 2)), merge=merge)
        assert tiling_from_settings(json.loads(json.dumps(tiling.as_settings())), source="it") == tiling
    grown = Tiling(merge=Merge(method="greedy_merging", largest=90.0))
    assert tiling_from_settings(json.loads(json.dumps(grown.as_settings())), source="it") == grown
    assert math.isinf(Merge().largest)


SQUARE = Window(0, 0, 100, 100)


def masks(boxes: list[list[float]], scores: list[float], shapes: Any = None) -> ScoredMasks:
    count = len(boxes)
    return ScoredMasks(
        labels=np.zeros(count, np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        width=100,
        height=100,
        shapes=np.ones((count, 28, 28), np.float32) if shapes is None else shapes,
    )


def test_an_object_seen_in_two_halves_has_the_mask_of_both() -> None:
    left, right = masks([[10, 40, 55, 60]], [0.9]), masks([[45, 40, 90, 60]], [0.8])
    merged = one_answer([left, right], Merge(method="greedy_merging", threshold=0.1))
    assert merged.boxes.tolist() == [[10, 40, 90, 60]]
    (mask,) = masks_of(merged)
    assert mask.area == pytest.approx(80 * 20, rel=0.06)
    kept = one_answer([left, right], Merge(threshold=0.1))
    assert kept.boxes.tolist() == [[10, 40, 55, 60]]
    assert (kept.shapes == left.shapes).all()


def test_a_merged_mask_shows_nothing_where_no_source_saw_anything() -> None:
    """Two bars of an L: the box around both has an empty corner."""
    upright, flat = masks([[10, 10, 20, 90]], [0.9]), masks([[10, 80, 90, 90]], [0.8])
    merged = one_answer([upright, flat], Merge(method="greedy_merging", threshold=0.1))
    (mask,) = masks_of(merged)
    assert merged.boxes.tolist() == [[10, 10, 90, 90]]
    assert mask.area == pytest.approx(10 * 80 + 80 * 10 - 100, rel=0.15)


def test_an_image_is_judged_when_all_its_windows_have_come_in_any_order() -> None:
    tiling = Tiling(tiler=GridTiler((2, 1), 0.2), merge=Merge(threshold=0.5))
    whole, left, right = tiling.tiler.windows(100, 50)
    truth = Boxes(labels=np.array([0]), boxes=np.array([[0.5, 0.2, 0.55, 0.4]]), crowd=np.array([False]))
    images = LabelledImages(
        samples=[Sample(image="a", target=truth)], classes=("cat",), source="it", headers=[ImageHeader(100, 50)]
    )
    boxes = {whole: [[10, 10, 14, 20]], left: [[50, 10, 55, 20]], right: [[10.0, 20, 15, 40]]}
    scores = {whole: 0.5, left: 0.9, right: 0.8}
    results = []
    for order in ((whole, left, right), (right, whole, left)):
        judged = Judged.of(images, with_masks=False, tiling=tiling)
        for window in order:
            assert not judged.found
            size = int(window.width), int(window.height)
            found = ScoredBoxes(
                labels=np.array([0]),
                boxes=np.array(boxes[window], dtype=np.float64) * 2,
                scores=np.array([scores[window]], np.float32),
                width=2 * size[0],
                height=2 * size[1],
            )
            judged.add(0, found, Place(0, 0, 2 * size[0], 2 * size[1]), window)
        assert not judged.waiting
        results.append(judged)
    objects = results[0].found[0].objects
    wanted = [[50, 10, 55, 20], [right.left + 10, 20, right.left + 15, 40], [10, 10, 14, 20]]
    np.testing.assert_allclose(objects.boxes, wanted)
    assert (objects.boxes == results[1].found[0].objects.boxes).all()
    np.testing.assert_allclose(results[0].apart["whole_images"][0].objects.boxes, [[10, 10, 14, 20]])
    assert len(results[0].apart["tiles"][0].objects) == 2
    verdicts = Verdicts(classes=("cat",), metric_type="voc", iou_threshold=0.5, box_score_threshold=0.1)
    apart = verdicts.apart(results[0])
    assert apart == {"whole_images_mean_average_precision": 0.0, "tiles_mean_average_precision": 1.0}


def test_an_object_beyond_its_window_is_cut_at_the_windows_border() -> None:
    found = ScoredBoxes(
        labels=np.array([0]),
        boxes=np.array([[-4.0, 2, 24, 30]]),
        scores=np.array([0.5], np.float32),
        width=20,
        height=20,
    )
    seen = found.seen_through(Place(0, 0, 20, 20), Window(30, 40, 50, 60), 100, 80)
    assert seen.boxes.tolist() == [[30, 42, 50, 60]]
    assert (seen.width, seen.height) == (100, 80)
