"""``lav evaluate``: the same digits as in training, on whatever labelled images, and a gate that can say no."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from label_files import DETECTION, MULTICLASS
from pictures import COLOURS, write_folders, write_objects, write_picture

from lightning_automl_vision import train
from lightning_automl_vision.api import settings
from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.errors import ConfigError, DataError, RequirementError, StorageError
from lightning_automl_vision.jobs import evaluate as verb
from lightning_automl_vision.requirements import Requirement, check_known, failures, requirements_of
from lightning_automl_vision.result import read_result

TINY = {"number_of_epochs": 1, "training_batch_size": 4, "random_seed": 3, "number_of_workers": 0}
SMALL = {"min_size": 64, "max_size": 96, "box_samples_per_image": 16, "proposals_per_image": 30}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run beside its data, ``photos`` and ``others``."""
    folder = tmp_path_factory.mktemp("classifier")
    photos, others = write_folders(folder / "photos", per_class=4), write_folders(folder / "others", per_class=3)
    sizes = {"training_crop_size": 32, "validation_crop_size": 32, "validation_resize_size": 32}
    train(
        task=MULTICLASS,
        model={"name": "resnet18", "pretrained": False},
        data={"training": str(photos), "validation": str(others)},
        training={**TINY, **sizes, "validation_batch_size": 5},
        trainer={"accelerator": "cpu"},
        output_dir=str(folder / "run"),
        quiet=True,
    )
    return folder


def evaluate(folder: Path, source: Path | None, output: Path, *, data: Any = None, **keys: Any) -> Any:
    job = {"name": "evaluate", "input": source and str(source), "output": str(output), **keys.pop("job", {})}
    asked = settings(
        checkpoint=str(folder), job=job, data=data or {}, trainer={"accelerator": "cpu"}, quiet=True, **keys
    )
    verb.run(asked)
    return json.loads((output / "result.json").read_text())


def test_the_digits_are_those_of_the_trainings_own_validation(classifier: Path, tmp_path: Path) -> None:
    run = classifier / "run"
    told, was = evaluate(run, classifier / "others", tmp_path / "out"), read_result(run)
    assert told["metrics"] == was.metrics
    assert told["primary_metric"]["value"] == was.primary_metric.value
    low, high = told["primary_metric"]["interval"]
    assert low <= was.primary_metric.value <= high
    assert (tmp_path / "out" / "evaluation.json").read_text() == (run / "evaluation.json").read_text()
    assert (tmp_path / "out" / "per_image.npz").exists()
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [row["filename"] for row in rows][:2] == ["blue/0.png", "blue/1.png"]
    assert rows[0]["labels"] == sorted(COLOURS)
    assert rows[0]["true_labels"] == ["blue"]


def test_without_input_it_is_judged_on_what_it_was_validated_on(classifier: Path, tmp_path: Path) -> None:
    run = shutil.copytree(classifier / "run", tmp_path / "run")
    told = evaluate(run, None, tmp_path / "out")
    assert told["metrics"] == read_result(run).metrics
    assert told["input"] == f"what {run} was validated on"
    with pytest.raises(ConfigError, match=r"is no run's folder.*Name labelled images: input=PATH"):
        evaluate(shutil.copytree(run / "model", tmp_path / "alone" / "model"), None, tmp_path / "other")
    lock = json.loads((run / "lock.json").read_text())
    lock["data"]["validation"]["labels"], lock["data"]["validation"]["each"] = "0" * 32, ""
    (run / "lock.json").write_text(json.dumps(lock))
    with pytest.raises(DataError, match="no longer what they were: not all of its labels"):
        evaluate(run, None, tmp_path / "other")


def test_the_digits_are_the_same_with_tiles(tmp_path: Path) -> None:
    source = write_objects(tmp_path / "data", 8)
    others = write_objects(tmp_path / "others", 4, side=120)
    was = train(
        task={"name": DETECTION, "validation_metric_type": "coco_voc", "pictures": 0},
        model={"name": "fasterrcnn_resnet18_fpn", "pretrained": False, **SMALL, "box_score_threshold": 0.05},
        tiler={"name": "grid", "grid_size": "2x1"},
        data={"training": str(source), "validation": str(others), "minimum_images": 4},
        training={**TINY, "training_batch_size": 2, "validation_batch_size": 3},
        trainer={"accelerator": "cpu"},
        output_dir=str(tmp_path / "run"),
        quiet=True,
    )
    told = evaluate(tmp_path / "run", others, tmp_path / "out")
    assert told["metrics"] == was.metrics
    assert "tiles_mean_average_precision" in told["metrics"]
    assert _lines(tmp_path / "out") == _lines(tmp_path / "run")
    asked = {"name": DETECTION, "validation_metric_type": "voc"}
    other = evaluate(tmp_path / "run", others, tmp_path / "voc", task=asked)
    assert "ap_50" not in other["metrics"]
    assert other["metrics"].items() <= told["metrics"].items()


def _lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_model_folder_alone_is_enough(classifier: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(classifier / "run" / "model", tmp_path / "elsewhere")
    told = evaluate(moved, classifier / "others", tmp_path / "out", job={"batch_size": 2})
    assert told["metrics"] == pytest.approx(dict(read_result(classifier / "run").metrics), abs=1e-6)


def test_labels_that_the_model_does_not_know_are_refused_or_dropped_and_told(
    classifier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import numpy as np

    source = shutil.copytree(classifier / "others", tmp_path / "more")
    write_picture(source / "mauve" / "0.png", (200, 100, 200), np.random.default_rng(0))
    with pytest.raises(DataError, match=r"the label 'mauve' does not occur .*Known labels: blue, green, red"):
        evaluate(classifier / "run", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    told = evaluate(classifier / "run", source, tmp_path / "out", data={"ignore_data_errors": True})
    assert told["data"] == {"images": 9, "classes": 3, "dropped": {"unknown label": 1}}


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"training": {"learning_rate": 0.1}}, r"training\.learning_rate=0\.1: lav evaluate has no use for it"),
        ({"data": {"test": "x"}}, r"data\.test='x': lav evaluate reads one set, named by input=PATH"),
        ({"output_dir": "x"}, "lav evaluate writes to another place"),
        ({"task": DETECTION}, f"the task of .* is {MULTICLASS}. Leave task out"),
        ({"job": {"require": "good"}}, "'good' is no requirement. Write a metric"),
        ({"job": {"require": "loss<1"}}, "lav evaluate computes no losses"),
        ({"job": {"require": "acuracy>=0.6"}}, "no metric 'acuracy'. Did you mean 'accuracy'"),
        ({"job": {"require": "mean_average_precision>=0.6"}}, "no metric 'mean_average_precision'"),
        ({"job": {"require": "log_loss<1,accuracy>=60"}}, r"require=accuracy>=60: accuracy is always in \[0, 1\]"),
        ({"job": {"part": "training", "input": None}}, "part='?training'?: without input the run's own"),
        ({"job": {"batch_size": 0}}, r"^batch_size=0"),
        ({"checkpoint": None}, "checkpoint is not given"),
        ({"checkpoint": "nowhere"}, "nowhere holds no model"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(
    classifier: Path, tmp_path: Path, keys: dict[str, Any], answer: str
) -> None:
    usual = {"checkpoint": str(classifier / "run"), "quiet": True}
    job = {"name": "evaluate", "input": str(classifier / "others"), "output": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=answer):
        verb.run(settings(**{**usual, **keys, "job": {**job, **keys.get("job", {})}}))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/out cannot be written: not a directory\. Name .*: output=PATH"):
        evaluate(classifier / "run", classifier / "others", tmp_path / "file" / "out")


def test_a_requirement_that_is_not_met_is_one_line_and_an_exit_code(classifier: Path, tmp_path: Path) -> None:
    was = read_result(classifier / "run").metrics["log_loss"]
    words = ["lightning_automl_vision", "evaluate", "run", "input=others", f"output={tmp_path}/out", "quiet=true"]
    words += ["trainer.accelerator=cpu", "require=log_loss<=0,accuracy>=0"]
    process = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=classifier)
    assert process.returncode == RequirementError.exit_code == 7
    assert process.stderr == f"Error: log_loss<=0 is not met: log_loss is {was!r}, on 9 images of others.\n"
    told = json.loads((tmp_path / "out" / "result.json").read_text())
    assert told["requirements"] == {"log_loss<=0": False, "accuracy>=0": True}


def test_what_is_required_is_met_exactly_or_not_at_all() -> None:
    for text, met in (("a>=0.6", True), ("a>0.6", False), ("a<=0.6", True), ("a < 6e-1", False), ("b>=-1", False)):
        (requirement,) = requirements_of(text)
        assert requirement.met_by({"a": 0.6, "b": None}[requirement.metric]) is met
    several = requirements_of("a>=0.7, b>0")
    assert several == [
        Requirement(metric="a", sign=">=", bound=0.7),
        Requirement(metric="b", sign=">", bound=0.0),
    ]
    assert failures(several, {"a": 0.6999999, "b": None}) == [
        "a>=0.7 is not met: a is 0.6999999",
        "b>0 is not met: b is undefined",
    ]
    with pytest.raises(ConfigError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'"):
        failures(requirements_of("acuracy>=0.6"), {"accuracy": 0.7})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("accuracy>1", r"accuracy is always in \[0, 1\]\. Write what it can come to"),
        ("accuracy<0", r"accuracy is always in \[0, 1\]"),
        ("matthews_correlation<-1", r"matthews_correlation is always in \[-1, 1\]"),
        ("log_loss<0", "log_loss is always at least 0"),
    ],
)
def test_what_can_never_be_is_not_required(text: str, answer: str) -> None:
    known = ("accuracy", "log_loss", "matthews_correlation")
    with pytest.raises(ConfigError, match=answer):
        check_known(requirements_of(text), known)
    check_known(requirements_of("accuracy>=1,accuracy<=0,log_loss>=99,matthews_correlation<=-1,accuracy>=-5"), known)


def test_a_requirement_needs_no_quotes_of_hydras() -> None:
    words = rewrite(["evaluate", "run", "require=accuracy>=0.6,iou>0.5", "output=x"])
    assert words == ["job=evaluate", "checkpoint=run", "job.require='accuracy>=0.6,iou>0.5'", "job.output=x"]
    assert rewrite(["evaluate", "run", "require='a>=1'"])[-1] == "job.require='a>=1'"
