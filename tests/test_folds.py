"""``data.folds``: every image is judged once, by a model that has not seen it, and nothing is trained twice."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from label_files import MULTICLASS, config, hear, pictures, write_labels, write_lines
from pictures import write_folders, write_objects

from lightning_automl_vision import load, train
from lightning_automl_vision.api import settings
from lightning_automl_vision.data.labelled import load_data, load_folds, read_labelled
from lightning_automl_vision.errors import ConfigError, DataError, TrainingError
from lightning_automl_vision.jobs.checking import check
from lightning_automl_vision.judging import Judged, Verdicts
from lightning_automl_vision.metrics.classification import classification_metrics
from lightning_automl_vision.result import Result, read_result
from lightning_automl_vision.samples import SIDES, Place, ScoredBoxes
from lightning_automl_vision.search.per_image import load as load_per_image
from lightning_automl_vision.search.per_image import metric_of_all
from lightning_automl_vision.search.reports import Reports
from lightning_automl_vision.search.watching import STOP, TRIAL_FOLDER
from lightning_automl_vision.settings import DataConfig

DETECTION = "image_object_detection"


def run(folder: Path, photos: Path, *, data: Any = None, training: Any = None, **keys: Any) -> Result:
    usual: dict[str, Any] = {"number_of_epochs": 1, "training_batch_size": 4, "random_seed": 3, "number_of_workers": 0}
    sizes = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 32}
    return train(
        task=MULTICLASS,
        model={"name": "resnet18", "pretrained": False},
        data={"training": str(photos), "folds": 3, **(data or {})},
        training={**usual, **sizes, **(training or {})},
        trainer={"accelerator": "cpu"},
        output_dir=str(folder),
        quiet=True,
        **keys,
    )


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def file_names(images: Any) -> list[str]:
    return [images.name(index) for index in range(len(images))]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("data") / "photos", per_class=6)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("folds") / "run"
    limits = {"timeout_minutes": 60.0}
    return folder, run(folder, photos, data={"test": str(photos)}, training={"number_of_epochs": 2}, limits=limits)


def test_every_image_is_judged_once_by_a_model_that_has_not_seen_it(finished: Any, photos: Path) -> None:
    folder, result = finished
    data = load_folds(DataConfig(training=str(photos), folds=3), MULTICLASS, seed=3)
    rows = {row["filename"]: row for row in lines(folder / "predictions.jsonl")}
    assert list(rows) == file_names(data.images)
    for number in range(3):
        fold = data.fold(number)
        held = file_names(fold.validation)
        assert not {*held} & {*file_names(fold.training)}
        assert len(held) == 6
        answers = load(folder / f"fold_{number}").predict([photos / name for name in held])
        for name, answer in zip(held, answers, strict=True):
            assert rows[name]["probs"] == pytest.approx(answer.scores.tolist(), abs=1e-5)
            assert rows[name]["true_labels"] == [name.partition("/")[0]]
    assert result.data["training"] == result.data["validation"] == 18


def test_metrics_are_those_of_the_merged_predictions(finished: Any) -> None:
    folder, result = finished
    rows = lines(folder / "predictions.jsonl")
    scores = np.array([row["probs"] for row in rows], np.float32)
    classes = rows[0]["labels"]
    labels = np.array([classes.index(row["true_labels"][0]) for row in rows])
    merged = classification_metrics(scores, labels, multilabel=False, classes=classes)
    assert result.metrics == merged
    assert metric_of_all(load_per_image(folder / "per_image.npz")) == result.primary_metric.value == merged["accuracy"]
    assert json.loads((folder / "evaluation.json").read_text())["confusion_matrix"]
    low, high = result.folds["interval"]
    assert low <= result.primary_metric.value <= high


def test_what_each_fold_came_to_is_told_beside(finished: Any) -> None:
    folder, result = finished
    own = [read_result(folder / f"fold_{number}").primary_metric.value for number in range(3)]
    assert result.folds["values"] == own
    assert result.folds["mean"] == pytest.approx(statistics.fmean(own))
    assert result.folds["standard_deviation"] == pytest.approx(statistics.stdev(own))
    assert result.folds["images"] == [6, 6, 6]
    assert result.epochs == 6
    assert result.status == "completed"


def test_model_is_that_of_the_best_fold_and_is_tested_once(finished: Any) -> None:
    folder, result = finished
    best = max(range(3), key=lambda number: result.folds["values"][number])
    assert result.folds["best"] == best
    weights = Path("model") / "weights.safetensors"
    assert (folder / weights).read_bytes() == (folder / f"fold_{best}" / weights).read_bytes()
    assert set(result.test_metrics) == set(result.metrics)
    assert not read_result(folder / f"fold_{best}").test_metrics


def test_a_sweep_hears_the_metric_of_all_images_so_far_after_each_fold(finished: Any, tmp_path: Path) -> None:
    folder, result = finished
    told = lines(folder / "metrics.jsonl")
    assert [line["images"] for line in told] == [6, 12, 18]
    assert {name: told[-1][name] for name in result.metrics} == result.metrics
    assert told[0]["accuracy"] == told[0]["fold_accuracy"]
    heard = Reports(tmp_path / "metrics.jsonl", "accuracy")
    shutil.copy(folder / "metrics.jsonl", tmp_path)
    assert heard.new() == [(line["epoch"], line["accuracy"]) for line in told]
    heard.close()
    assert [line["epoch"] for line in told] == [1, 2, 3]


def test_folds_share_the_time_that_is_left_and_write_into_their_own_folders(finished: Any) -> None:
    folder, _ = finished
    minutes = [
        yaml.safe_load((folder / f"fold_{number}" / "config.yaml").read_text())["limits"]["timeout_minutes"]
        for number in range(3)
    ]
    assert 19 < minutes[0] <= 20
    assert 20 < minutes[1] <= 30
    assert 30 < minutes[2] < 60
    assert all((folder / f"fold_{number}" / "csv" / "metrics.csv").exists() for number in range(3))
    assert not (folder / "csv").exists()


def test_a_run_that_was_ended_goes_on_with_the_fold_it_was_in(finished: Any, photos: Path, tmp_path: Path) -> None:
    folder, result = tmp_path / "run", finished[1]
    shutil.copytree(finished[0], folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "fold_2")
    told = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(told[:2]) + told[2][:30])
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("fold_?/**/*") if path.is_file()}
    test = {"test": str(photos)}
    again = run(folder, photos, data=test, training={"number_of_epochs": 2}, limits={"timeout_minutes": 60.0})
    assert all(path.stat().st_mtime_ns == moment for path, moment in kept.items())
    assert again.metrics == result.metrics
    assert again.test_metrics == result.test_metrics
    assert again.folds == result.folds
    assert (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:2] == told[:2]
    assert [line["epoch"] for line in lines(folder / "metrics.jsonl")] == [1, 2, 3]


def test_folds_of_another_configuration_are_not_mixed_with(finished: Any, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "result.json").unlink()
    with pytest.raises(ConfigError, match=r"Fold 1 of 3: .*fold_0 was trained with training\.learning_rate=0\.01, and"):
        run(folder, photos, training={"number_of_epochs": 2, "learning_rate": 0.02})
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"


def test_never_begins_anew_in_the_folder(finished: Any, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "result.json").unlink()
    result = run(folder, photos, data={"folds": 2}, resume="never")
    assert result.folds["count"] == 2
    assert len(lines(folder / "metrics.jsonl")) == 2
    assert not (folder / "fold_2").exists()


def test_what_a_fold_cannot_do_is_said_with_its_number(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^Fold 1 of 3: A batch holds one picture"):
        run(tmp_path / "run", photos, training={"training_batch_size": 1})
    told = read_result(tmp_path / "run")
    assert (told.status, told.primary_metric.value, told.primary_metric.epoch) == ("failed", None, None)
    assert told.error is not None
    assert told.error.startswith("Fold 1 of 3")


def test_a_trial_is_asked_to_stop_between_two_folds(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRIAL_FOLDER, str(tmp_path))
    (tmp_path / STOP).write_text("not worth going on with\n")
    result = run(tmp_path / "run", photos)
    assert (result.status, result.reason) == ("pruned", "not worth going on with")
    told = lines(tmp_path / "run" / "metrics.jsonl")
    assert len(told) == 1
    assert result.primary_metric.value == told[0]["accuracy"]
    assert (tmp_path / "run" / "model" / "model.json").exists()
    assert not (tmp_path / "run" / "fold_1").exists()


@pytest.mark.parametrize("task", [DETECTION, "image_instance_segmentation"])
def test_objects_of_all_folds_are_judged_together(task: str, tmp_path: Path) -> None:
    tiled = {"name": "grid", "grid_size": "2x1", "overlap_ratio": 0.2} if task == DETECTION else "none"
    source = write_objects(tmp_path / "data", 8, polygons=task != DETECTION)
    model = {"name": "fasterrcnn_resnet18_fpn" if task == DETECTION else "maskrcnn_resnet18_fpn", "pretrained": False}
    small = {"min_size": 64, "max_size": 96, "box_samples_per_image": 16, "proposals_per_image": 30}
    result = train(
        task={"name": task, "pictures": 0},
        model={**model, **small, "box_detections_per_image": 10, "box_score_threshold": 0.05},
        data={"training": str(source), "folds": 2, "minimum_images": 4, "cache": str(tmp_path / "cache")},
        tiler=tiled,
        training={"number_of_epochs": 1, "training_batch_size": 2, "random_seed": 1, "number_of_workers": 0},
        trainer={"accelerator": "cpu"},
        output_dir=str(tmp_path / "run"),
        quiet=True,
    )
    folder = tmp_path / "run"
    rows = {row["filename"]: row for row in lines(folder / "predictions.jsonl")}
    parts = [lines(folder / f"fold_{number}" / "predictions.jsonl") for number in range(2)]
    assert {row["filename"]: row for part in parts for row in part} == rows
    assert len(rows) == 8
    value = result.primary_metric.value
    assert metric_of_all(load_per_image(folder / "per_image.npz")) == pytest.approx(value)
    assert result.folds["values"] == [
        read_result(folder / f"fold_{number}").primary_metric.value for number in range(2)
    ]
    if task == DETECTION:
        assert {"tiles_mean_average_precision", "whole_images_mean_average_precision"} <= set(result.metrics)
        assert _judged(source, rows) == pytest.approx({name: result.metrics[name] for name in _VOC}, abs=1e-6)


_VOC = ("mean_average_precision", "precision", "recall")


def _judged(source: Path, rows: dict[str, Any]) -> dict[str, float]:
    """The metrics of what stands in predictions.jsonl."""
    images = read_labelled(str(source), DETECTION, DataConfig())
    judged = Judged.of(images, with_masks=False)
    for index in range(len(images)):
        found = rows[images.name(index)]["boxes"]
        boxes = np.array([[item["box"][side] for side in SIDES] for item in found], np.float64).reshape(-1, 4) * 96
        answer = ScoredBoxes(
            labels=np.array([images.classes.index(item["label"]) for item in found], np.int64),
            boxes=boxes,
            scores=np.array([item["score"] for item in found], np.float32),
            width=96,
            height=96,
        )
        judged.add(index, answer, Place(0, 0, 96, 96))
    verdicts = Verdicts(classes=images.classes, metric_type="voc", iou_threshold=0.5, box_score_threshold=0.05)
    return verdicts.metrics(judged)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"data": {"validation": "y"}}, r"data\.folds=3: data\.validation=y is given too.*put them into one"),
        ({"data": {"split": "stratified"}}, r"data\.split='stratified': with data\.folds=3 every image is held out"),
        ({"data": {"validation_data_size": 0.3}}, r"data\.validation_data_size=0\.3: with data\.folds=3"),
        ({"data": {"folds": 1}}, r"data\.folds=1: must be in \[2, 20\]"),
        ({"data": {"folds": 21}}, r"data\.folds=21: must be in \[2, 20\]"),
        (
            {"task": {"name": DETECTION, "validation_metric_type": "none"}, "model": "fasterrcnn_resnet18_fpn"},
            "nothing is measured that could be told of all images together",
        ),
    ],
)
def test_what_folds_leave_no_room_for_is_refused(keys: dict[str, Any], answer: str) -> None:
    data = {"training": "x", "folds": 3, **keys.pop("data", {})}
    with pytest.raises(ConfigError, match=answer):
        check(settings(**{"task": MULTICLASS, "model": "resnet18", "data": data, **keys}))


def test_groups_are_in_one_part_and_the_seed_decides(tmp_path: Path) -> None:
    names = pictures(tmp_path / "set", 24)
    rows = [{"image_url": name, "label": "ab"[i % 2], "scene": i // 4} for i, name in enumerate(names)]
    path = write_lines(tmp_path / "set" / "train.jsonl", rows)
    asked = config(tmp_path, training=str(path), group_by="scene", folds=3)
    first, again, other = (load_folds(asked, MULTICLASS, seed=seed) for seed in (0, 0, 1))
    assert first.parts == again.parts != other.parts
    seen = [{first.images.samples[index].group for index in part} for part in first.parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 6
    assert [sample.line for sample in load_data(asked, MULTICLASS, seed=0).validation.samples] == [
        first.images.samples[index].line for index in first.parts[0]
    ]
    with pytest.raises(
        DataError, match=r"data\.folds=7: there are only 6 groups \(24 images\).*another data\.group_by"
    ):
        load_folds(config(tmp_path, training=str(path), group_by="scene", folds=7), MULTICLASS, seed=0)


def test_classes_with_fewer_images_than_folds_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(caplog, monkeypatch)
    training = str(write_labels(tmp_path / "set", ["cat"] * 10 + ["dog"] * 10 + ["emu"] * 2))
    load_folds(config(tmp_path, training=training, folds=4), MULTICLASS, seed=0)
    assert "fewer images than data.folds=4 of emu 2;" in caplog.text
