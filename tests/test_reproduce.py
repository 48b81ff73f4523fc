"""What was trained once comes out the same when it is trained again, and what has changed since is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from commands import lav
from omegaconf import OmegaConf
from pictures import write_folders, write_objects
from safetensors.torch import load_file, save_file
from test_objects import SMALL

from lightning_automl_vision.api import settings, train
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.data import manifest
from lightning_automl_vision.data.labelled import LabelledImages, read_labelled
from lightning_automl_vision.data.manifest import difference, manifest_of
from lightning_automl_vision.errors import ConfigError, DataError, PluginError, ReproductionError
from lightning_automl_vision.jobs import reproduce as verb
from lightning_automl_vision.lock import LOCK, differences, read_lock
from lightning_automl_vision.reproduction import Comparison, compare
from lightning_automl_vision.result import read_result
from lightning_automl_vision.samples import Sample
from lightning_automl_vision.search.watching import STOP, TRIAL_FOLDER
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.written_settings import settings_in

DETECTION = "image_object_detection"
TINY: dict[str, Any] = {
    "model": {"name": "resnet18", "pretrained": False},
    "training": {
        "number_of_epochs": 2,
        "training_batch_size": 4,
        "training_crop_size": 32,
        "validation_crop_size": 32,
        "validation_resize_size": 32,
        "number_of_workers": 0,
    },
    "trainer": {"accelerator": "cpu"},
    "quiet": True,
}


def tiny(folder: Path, **keys: Any) -> Path:
    """A run over the colours of pictures."""
    data = {"training": str(write_folders(folder / "photos")), "split": "stratified", "cache": str(folder / "cache")}
    training = {**TINY["training"], **keys.pop("training", {})}
    train(**{**TINY, "data": data, "training": training, "output_dir": str(folder / "run"), **keys})
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def again(run: Path, output: Path, **keys: Any) -> Comparison:
    asked = settings(job="reproduce", checkpoint=str(run), output_dir=str(output), quiet=True, **keys)
    return verb.reproduce(asked)


def changed(file: Path, change: Any) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_a_classifier_comes_out_the_same(finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    found = again(finished, tmp_path / "again")
    assert found.same
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert len(found.evaluations or ()) == 2
    assert str(found.weights) == "the same, byte for byte"
    report = json.loads((tmp_path / "again" / verb.REPORT).read_text())
    assert (report["same"], report["first_different_epoch"], report["warnings"]) == (True, None, [])
    assert report["metrics"]["accuracy"]["was"] == read_result(finished).metrics["accuracy"]
    assert again(tmp_path / "again", tmp_path / "once more").same


def test_a_detector_comes_out_the_same(tmp_path: Path) -> None:
    train(
        task=DETECTION,
        model={"name": "fasterrcnn_resnet18_fpn", **SMALL},
        data={"training": str(write_objects(tmp_path / "data", 12)), "cache": str(tmp_path / "cache")},
        training={"number_of_epochs": 1, "training_batch_size": 4, "number_of_workers": 0},
        trainer={"accelerator": "cpu"},
        output_dir=str(tmp_path / "run"),
        quiet=True,
    )
    assert again(tmp_path / "run", tmp_path / "again").same


def test_a_run_whose_time_was_over_is_repeated_as_far_as_it_came(tmp_path: Path) -> None:
    run = tiny(tmp_path, limits={"timeout_minutes": 1e-4})
    assert read_result(run).status == "timeout"
    found = again(run, tmp_path / "again")
    assert found.same
    assert [evaluation.epoch for evaluation in found.evaluations or ()] == [1]


def test_a_trial_of_other_images_than_the_sweeps_first_is_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fixed.yaml").touch()
    monkeypatch.setenv(TRIAL_FOLDER, str(tmp_path / "run"))
    tiny(tmp_path, training={"number_of_epochs": 1, "random_seed": 1})
    next((tmp_path / "photos").glob("*/0.png")).rename(tmp_path / "photos" / "red" / "new.png")
    monkeypatch.setenv(TRIAL_FOLDER, str(tmp_path / "second"))
    data = {"training": str(tmp_path / "photos"), "split": "stratified", "cache": str(tmp_path / "other cache")}
    with pytest.raises(ConfigError, match="have changed since"):
        train(
            **{
                **TINY,
                "data": data,
                "output_dir": str(tmp_path / "second"),
                "training": {**TINY["training"], "random_seed": 1},
            }
        )


def test_a_pruned_trial_is_repeated_as_far_as_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / STOP).write_text("behind the others")
    with monkeypatch.context() as within:
        within.setenv(TRIAL_FOLDER, str(tmp_path))
        run = tiny(tmp_path, training={"number_of_epochs": 3})
    assert read_result(run).status == "pruned"
    found = again(run, tmp_path / "again")
    assert found.same
    assert len(found.evaluations or ()) == 1


def test_what_differs_is_told_with_its_epoch_and_an_exit_code(copied: Path, tmp_path: Path) -> None:
    changed(copied / "result.json", lambda values: values["metrics"].update(log_loss=0.5))
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "log_loss": 0.5})
    (copied / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    weights = load_file(copied / "model" / "weights.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("weight"))
    save_file({**weights, name: weights[name] + 0.25}, copied / "model" / "weights.safetensors")
    told = lav("reproduce", copied, "output_dir=again", cwd=tmp_path)
    assert told.returncode == ReproductionError.exit_code == 8, told.stderr
    assert "did not come out the same: from epoch 2 on, where log_loss was 0.5, is " in told.stderr
    assert "different by at most 0.25" in told.stdout
    [row] = [line for line in told.stdout.splitlines() if line.startswith("log_loss")]
    assert row.split()[-1] == "different"
    report = json.loads((tmp_path / "again" / verb.REPORT).read_text())
    assert (report["same"], report["first_different_epoch"]) == (False, 2)
    assert report["metrics"]["log_loss"]["was"] == 0.5
    assert report["weights"]["tensor"] == name


def test_relative_paths_start_where_the_run_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    write_folders(Path("photos"))
    train(**{**TINY, "data": {"training": "photos", "cache": "cache"}, "output_dir": "run"})
    monkeypatch.chdir(tmp_path)
    assert again(Path("there/run"), Path("again")).same
    assert (tmp_path / "again" / verb.REPORT).exists()
    assert (tmp_path / "again" / "csv" / "metrics.csv").exists()
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["cache", "photos", "run"]
    (tmp_path / "there" / "photos").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="photos"):
        again(Path("there/run"), Path("other"))
    assert again(Path("there/run"), Path("other"), data={"training": "moved"}).same


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError(), RuntimeError("can't start new thread")])
def test_a_run_whose_images_cannot_be_read_once_more_has_no_lock(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("lightning_automl_vision.lock.manifests_of", fail)
    run = tiny(tmp_path, training={"number_of_epochs": 1})
    assert json.loads((run / "result.json").read_text())["status"] == "completed"
    assert not (run / "lock.json").exists()
    assert (run / "model" / "README.md").exists()
    assert "so that this run cannot be reproduced: " in (run / "run.log").read_text()


def test_a_changed_picture_is_refused_by_name(tmp_path: Path) -> None:
    run = tiny(tmp_path, training={"number_of_epochs": 1})
    picture = tmp_path / "photos" / "green" / "3.png"
    pixels = cv2.imread(str(picture))
    pixels[0, 0, 0] ^= 1
    cv2.imwrite(str(picture), pixels)
    with pytest.raises(DataError, match=r"images, from .*photos, have changed: the picture green/3\.png has changed"):
        again(run, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    picture.unlink()
    with pytest.raises(DataError, match="have changed: "):
        again(run, tmp_path / "again")


@pytest.mark.parametrize(
    ("damage", "answer"),
    [
        (lambda run: (run / LOCK).unlink(), r"lock\.json: no such file or directory\. Only a finished run has one"),
        (lambda run: (run / LOCK).write_text("{}"), r"lock\.json is not a lock of this version: 'format_version'"),
        (lambda run: (run / "result.json").unlink(), "no end that could be reached again: it has not ended"),
        (lambda run: (run / "config.yaml").write_text("# x\n"), r"config\.yaml was changed after the run"),
        (
            lambda run: changed(run / "result.json", lambda values: values.update(status="interrupted")),
            "no end that could be reached again: it was interrupted",
        ),
        (
            lambda run: changed(run / LOCK, lambda values: values.update(format_version=99)),
            "is of format 99, and this version reads format 1",
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused_in_a_line(copied: Path, tmp_path: Path, damage: Any, answer: str) -> None:
    damage(copied)
    with pytest.raises(ConfigError, match=answer):
        again(copied, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (
            {"state": "failed", "reason": "killed (out of memory?)"},
            r"it failed: killed \(out of memory\?\)\. Name another",
        ),
        ({"state": "waiting", "reason": ""}, r"it is waiting\. Repeat the command of its sweep"),
        (None, r"it has not ended\. Repeat its command"),
    ],
)
def test_a_trial_that_has_not_ended_says_why(tmp_path: Path, row: dict[str, str] | None, answer: str) -> None:
    trial = tmp_path / "trial_0001"
    trial.mkdir()
    (trial / "config.yaml").touch()
    if row is not None:
        (tmp_path / "leaderboard.json").write_text(json.dumps({"trials": [{"folder": trial.name, **row}]}))
    with pytest.raises(ConfigError, match=f"no end that could be reached again: {answer}"):
        again(trial, tmp_path / "again")


def test_a_model_whose_plugin_is_gone_is_refused(copied: Path, tmp_path: Path) -> None:
    changed(copied / LOCK, lambda values: values.update(model="ours", plugin="ours"))
    with pytest.raises(PluginError, match="whose plugin 'ours' is not there"):
        again(copied, tmp_path / "again")


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"training": {"learning_rate": 0.1}}, r"training\.learning_rate=0\.1: a run is reproduced as it was"),
        ({"data": {"split": "random"}}, r"data\.split=.?random.?: a run is reproduced as it was"),
    ],
)
def test_nothing_may_be_said_anew_that_digits_depend_on(
    finished: Path, tmp_path: Path, keys: dict[str, Any], answer: str
) -> None:
    with pytest.raises(ConfigError, match=answer):
        again(finished, tmp_path / "again", **keys)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        again(tmp_path / "nowhere", tmp_path / "again")
    (tmp_path / "study.txt").touch()
    with pytest.raises(ConfigError, match=r"is a sweep\. Name one of its trials"):
        again(tmp_path, tmp_path / "again")
    with pytest.raises(ConfigError, match="lav reproduce takes one run"):
        verb.run(settings(job="reproduce", runs="[a,b]"))


def test_a_folder_with_a_finished_run_is_not_written_to(finished: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a finished run"):
        again(finished, finished)


def test_threads_are_those_of_the_lock_and_given_back(copied: Path) -> None:
    numbers = {"torch": torch.get_num_threads() + 1, "opencv": 1}
    before = torch.get_num_threads(), cv2.getNumThreads()
    with verb._threads(numbers):
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (numbers["torch"], 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_another_version_or_machine_is_told_with_both_values(copied: Path) -> None:
    assert differences(read_lock(copied)) == []
    was = torch.backends.cpu.get_cpu_capability()
    changed(copied / LOCK, lambda values: values["versions"].update(torch="1.0"))
    changed(copied / LOCK, lambda values: values["machine"].update(capability="MMX"))
    assert differences(read_lock(copied)) == [
        f"torch was 1.0, here it is {torch.__version__.partition('+')[0]}",
        f"capability was MMX, here it is {was}",
    ]


def test_a_changed_file_of_weights_is_refused(copied: Path, tmp_path: Path) -> None:
    changed(copied / LOCK, lambda values: values["files"].update({"model.weights": "00"}))
    with pytest.raises(ConfigError, match=r"model\.weights=None is not there any more"):
        again(copied, tmp_path / "again")


@pytest.mark.parametrize(
    "keys",
    [
        {"model": "resnet18", "augment": "letterbox"},
        {"task": "image_classification_multilabel", "model": {"name": "timm", "architecture": "resnet10t"}},
        {"task": DETECTION, "model": {"name": "yolov5", "model_size": "nano"}, "tiler": {"name": "grid"}},
        {"task": DETECTION, "model": "fasterrcnn_resnet50_fpn", "augment": "none", "tiler": "auto"},
        {"task": "image_instance_segmentation", "training": {"gradient_clip": 1.5, "random_seed": 3}},
    ],
)
def test_a_configuration_is_read_back_as_it_was_written(tmp_path: Path, keys: dict[str, Any]) -> None:
    asked = settings(data={"training": "x", "url_prefixes": ["a=b"]}, output_dir=str(tmp_path / "run"), **keys)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asked.as_dict())))
    command = settings(output_dir="other", quiet=True)
    found = settings_in(tmp_path / "config.yaml", command, asked.overrides)
    assert isinstance(found, Settings)
    assert found.as_dict() == {**asked.as_dict(), "output_dir": "other", "quiet": True, "logger": command.logger}
    assert type(found.model) is type(asked.model)
    assert type(found.tiler) is type(asked.tiler)
    assert found.overrides == asked.overrides


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[]", "is not a configuration of this version"),
        ("task: {name: image_classification}", "is not a configuration of this version"),
        ("task: {name: image_classification}\nmodel: {name: nope}", "No installed plugin has the model 'nope'"),
        ("training: {learning_rate: [", "is not a configuration of this version"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str, answer: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=answer):
        settings_in(tmp_path / "config.yaml", settings(), ())


def objects(folder: Path, polygons: bool = False) -> LabelledImages[Any]:
    task = "image_instance_segmentation" if polygons else DETECTION
    return read_labelled(str(write_objects(folder, 6, polygons=polygons)), task, DataConfig(cache=str(folder / "c")))


@pytest.mark.parametrize("polygons", [False, True])
def test_every_digit_of_a_label_counts(tmp_path: Path, polygons: bool) -> None:
    images = objects(tmp_path, polygons)
    was = manifest_of(images)
    assert difference(was, manifest_of(images), images) is None
    target = next(sample.target for sample in images.samples if len(sample.target.labels))
    numbers = target.polygons[0][0] if polygons else target.boxes
    numbers[0, 0] = np.nextafter(numbers[0, 0], 1)
    assert difference(was, manifest_of(images), images) == "the labels of 0.png have changed (line 1)"


def test_images_in_another_order_or_number_are_told(tmp_path: Path) -> None:
    images = objects(tmp_path)
    was = manifest_of(images)
    turned = LabelledImages(
        samples=images.samples[::-1], classes=images.classes, source=images.source, folder=images.folder
    )
    expected = "another image stood where 5.png stands, number 1 of 6"
    assert difference(was, manifest_of(turned), turned) == expected
    fewer = LabelledImages(
        samples=images.samples[:4], classes=images.classes, source=images.source, folder=images.folder
    )
    assert difference(was, manifest_of(fewer), fewer) == "it had 6 images, and has 4"


def test_of_large_sets_what_changed_is_told_and_not_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "LARGEST_NAMED", 3)
    images = objects(tmp_path)
    was = manifest_of(images)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes())
    assert was.each == ""
    assert difference(was, manifest_of(images), images) == "not all of its pictures are those that they were"


def test_pictures_at_urls_are_not_fetched_and_counted(tmp_path: Path) -> None:
    images = objects(tmp_path)
    away = [Sample(image="s3://nowhere/a.png", target=images.samples[0].target, line=1, group=None)]
    found = manifest_of(LabelledImages(samples=away, classes=images.classes, source="x"))
    assert (found.images, found.at_urls) == (1, 1)


def test_runs_without_lines_or_weights_are_compared_by_what_there_is(copied: Path) -> None:
    was = read_result(copied)
    (copied / "metrics.jsonl").unlink()
    shutil.rmtree(copied / "model")
    found = compare(copied, was, was)
    assert (found.evaluations, found.weights, found.same) == (None, None, True)
