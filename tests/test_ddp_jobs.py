"""Whole runs of several processes: what they write, how they end and go on, and who starts them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from launched import Blow, launch, launched
from pictures import write_folders, write_multilabel, write_objects
from safetensors.numpy import load_file
from test_ddp import SEED, command, gone, prepared, second_process
from test_resuming import written
from trial_fakes import wait_until

from lightning_automl_vision.api import settings
from lightning_automl_vision.result import read_result
from lightning_automl_vision.run import RunFolder
from lightning_automl_vision.search.per_image import load as load_per_image

OFTEN = 1e-9  # minutes: a checkpoint after each step
OBJECTS = "image_object_detection"
NANO = {"name": "yolov5", "model_size": "nano", "image_size": 64, "pretrained": False}
SMALL = {"name": "timm", "architecture": "test_vit3", "pretrained": False}
COUNTS = {"training": 2, "validation": 1, "test": 1}
EXPLAINED = ("evaluation.json", "predictions.jsonl", "per_image.npz")


def write_shapes(folder: Path, count: int) -> Path:
    """Pictures with one object each, hardly any two of which have the same shape."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        width, height = (int(side) for side in random.integers(40, 160, 2))
        image = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
        cv2.rectangle(image, (width // 4, height // 4), (width // 2, height // 2), (40, 40, 220), -1)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        box = {"label": "red", "topX": 0.25, "topY": 0.25, "bottomX": 0.5, "bottomY": 0.5}
        lines.append(json.dumps({"image_url": f"{number}.png", "label": [box]}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def objects(folder: Path, training: Path, **keys: Any) -> dict[str, Any]:
    """Mosaics, an average of the weights, steps that become longer, a test set, pictures."""
    return {
        "task": {"name": OBJECTS, "pictures": 2, "log_validation_loss": True},
        "model": NANO,
        "data": {
            "training": str(training),
            "validation_data_size": 0.35,
            "test": str(training),
            "cache": str(folder / "cache"),
        },
        "training": {
            "number_of_epochs": 2,
            "training_batch_size": 2,
            "validation_batch_size": 2,
            "number_of_workers": 0,
            "random_seed": SEED,
            "checkpoint_minutes": OFTEN,
            "learning_rate_scheduler": "linear",
        },
        "trainer": {"log_every_n_steps": 2},
        **keys,
    }


def labels(folder: Path, training: Path, *, data: Any = None, **values: Any) -> dict[str, Any]:
    sizes = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 32}
    usual = {"number_of_epochs": 2, "training_batch_size": 2, "number_of_workers": 0, "random_seed": SEED}
    return {
        "model": SMALL,
        "data": {"training": str(training), "cache": str(folder / "cache"), **(data or {})},
        "training": {**usual, **sizes, **values},
    }


def files(folder: Path) -> list[str]:
    """All that a run has left."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def judged_alone(asked: dict[str, Any], run: Path, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """A run's model on its sets by one process, which writes what explains it."""
    session = prepared(settings(**{**asked, "output_dir": str(folder)}))
    weights = load_file(run / "model" / "weights.safetensors")
    session.task.model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    folder.mkdir(exist_ok=True)
    test = session.score(session.data.test)
    metrics = session.score(session.data.validation)
    session.save(RunFolder(folder), metrics)
    return metrics, test


def predictions(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("tiled")
    tiler = {"name": "grid", "grid_size": "2x1", "overlap_ratio": 0.25}
    asked = objects(folder, write_objects(folder / "objects", 14), tiler=tiler)
    launched(2, {**asked, "output_dir": str(folder / "run")}, folder)
    return asked, folder


def test_a_run_that_one_process_was_killed_of_goes_on_to_what_it_would_have_written(tiled: Any) -> None:
    """Tiles, mosaics, an average of the weights and a test set; killed in its second epoch."""
    asked, folder = tiled
    asked = {**asked, "output_dir": str(folder / "ended")}
    together = launch(2, asked, folder, blow=Blow(rank=1, batch=9))
    assert together.wait() == [6, -signal.SIGKILL]
    assert "Another process of this training has ended, or cannot be reached any more" in together.words[0]
    assert json.loads((folder / "ended" / "result.json").read_text())["status"] == "failed"
    assert len((folder / "ended" / "metrics.jsonl").read_text().splitlines()) == 1
    launched(2, asked, folder)
    assert written(folder / "ended") == written(folder / "run")
    assert files(folder / "ended") == files(folder / "run")


def test_the_first_process_alone_writes_and_what_one_process_would(tiled: Any, tmp_path: Path) -> None:
    asked, folder = tiled
    run = folder / "run"
    left = files(run)
    assert [name for name in left if name.startswith("pictures/")] == [
        "pictures/epoch_0001.jpg",
        "pictures/epoch_0002.jpg",
    ]
    assert not [name for name in left if name.startswith((".", "process_"))]
    metrics, test = judged_alone(asked, run, tmp_path / "alone")
    result = read_result(run)
    assert metrics == {name: pytest.approx(result.metrics[name], abs=1e-5, nan_ok=True) for name in metrics}
    assert test == {name: pytest.approx(result.test_metrics[name], abs=1e-5, nan_ok=True) for name in test}
    ours, alone = predictions(run), predictions(tmp_path / "alone")
    assert [(row["filename"], len(row["boxes"])) for row in ours] == [
        (row["filename"], len(row["boxes"])) for row in alone
    ]
    assert "validation_loss" in result.metrics


@pytest.mark.slow
def test_pictures_of_all_shapes_are_judged_in_the_batches_of_one_process(tmp_path: Path) -> None:
    """Padded alike, they have the same answers to the last digit."""
    asked = objects(tmp_path, write_shapes(tmp_path / "shapes", 15))
    launched(2, {**asked, "output_dir": str(tmp_path / "run")}, tmp_path)
    judged_alone(asked, tmp_path / "run", tmp_path / "alone")
    for name in EXPLAINED:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_there_may_be_more_processes_than_images(tmp_path: Path) -> None:
    """Two pictures to learn from, one to judge by, and one to test."""
    sets = {name: str(write_multilabel(tmp_path / name, count)) for name, count in COUNTS.items()}
    asked = {
        **labels(tmp_path, tmp_path, data={**sets, "minimum_images": 1}),
        "task": "image_classification_multilabel",
    }
    launched(3, {**asked, "output_dir": str(tmp_path / "run")}, tmp_path)
    result = read_result(tmp_path / "run")
    assert (result.status, result.epochs, result.data["training"]) == ("completed", 2, 2)
    assert len(load_per_image(tmp_path / "run" / "per_image.npz").judging.names) == 1
    assert 0 <= result.test_metrics["iou"] <= 1


def test_folds_are_trained_by_all_processes_and_judged_by_the_first(tmp_path: Path) -> None:
    photos = write_folders(tmp_path / "photos", per_class=4)
    asked = labels(tmp_path, photos, data={"folds": 2, "test": str(photos)}, number_of_epochs=1)
    asked = {**asked, "output_dir": str(tmp_path / "run")}
    launched(2, asked, tmp_path)
    whole = read_result(tmp_path / "run")
    assert (whole.status, whole.data["validation"], whole.folds["images"]) == ("completed", 12, [6, 6])
    assert {row["filename"] for row in predictions(tmp_path / "run")} == {
        str(path.relative_to(photos)) for path in photos.rglob("*.png")
    }
    state = torch.load(tmp_path / "run" / "fold_1" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(state["lightning_automl_vision"]["processes"]) == 2
    before = (tmp_path / "run" / "fold_0" / "result.json").stat().st_mtime_ns
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "fold_1")
    launched(2, asked, tmp_path)
    assert (tmp_path / "run" / "fold_0" / "result.json").stat().st_mtime_ns == before, "it was done"
    again = read_result(tmp_path / "run")
    assert (again.metrics, again.test_metrics, again.folds) == (whole.metrics, whole.test_metrics, whole.folds)


def test_whoever_is_asked_to_end_ends_all_of_them_and_says_so(tmp_path: Path) -> None:
    asked = labels(tmp_path, write_folders(tmp_path / "photos", per_class=4))
    together = launch(2, {**asked, "output_dir": str(tmp_path / "run")}, tmp_path, blow=Blow(1, 2, signal.SIGTERM))
    assert together.wait() == [130, 0]
    assert "Interrupted: no epoch was evaluated yet" in together.words[0]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"


# Started by the first process


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("data") / "photos", per_class=7)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_every_process_in_good_order(photos: Path, tmp_path: Path) -> None:
    """As a terminal sends it: to all of the group at once."""
    run = command(photos, tmp_path, "training.number_of_epochs=5000")
    second = second_process(run, tmp_path)
    os.killpg(run.pid, signal.SIGINT)
    said, _ = run.communicate(timeout=150)
    assert run.returncode == 130
    assert said.splitlines()[-1].startswith("Error: Interrupted: the best epoch so far is kept in")
    assert gone(second)
    assert not [*(tmp_path / "run").glob("process_*")]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("twice", [False, True])
def test_a_scheduler_that_asks_the_first_process_once_or_again_leaves_none(
    twice: bool, photos: Path, tmp_path: Path
) -> None:
    """The second request does not wait for the step."""
    run = command(photos, tmp_path, "training.number_of_epochs=5000")
    second = second_process(run, tmp_path)
    for _ in range(1 + twice):
        run.terminate()
    said, _ = run.communicate(timeout=150)
    assert run.returncode == 130, said
    assert said.splitlines()[-1].startswith("Error: Interrupted")
    assert gone(second)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_two_machines_that_start_their_own_processes_meet_where_they_are_told(photos: Path, tmp_path: Path) -> None:
    """Two processes each; the second command writes nothing, and hears when one of the first ones is gone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = ("trainer.devices=2", "trainer.num_nodes=2", "training.number_of_epochs=2")

    def started(*more: str) -> list[Any]:
        return [command(photos, tmp_path, *words, *more, NODE_RANK=str(node), **meeting) for node in range(2)]

    runs = started()
    said = [run.communicate(timeout=400)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert "status    completed" in said[0]
    assert "completed" not in said[1]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(state["lightning_automl_vision"]["processes"]) == 4
    first, second = started("output_dir=lost", "training.number_of_epochs=5000")
    wait_until(lambda: (tmp_path / "lost" / "metrics.jsonl").exists(), 400)
    first.kill()
    first.communicate()
    said_last = second.communicate(timeout=150)[0].splitlines()[-1]
    assert second.returncode == 6
    assert "Error: Another process of this training has ended, or cannot be reached any more" in said_last
