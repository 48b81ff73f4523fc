"""``model/README.md`` says what the run's files say, and its folder works wherever it is taken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import lav
from pictures import write_folders

from lightning_automl_vision import train
from lightning_automl_vision.model_card import CARD, card_of, facts_of, rewrite_settings, write_card
from lightning_automl_vision.search.comparing import interval_of, resample
from lightning_automl_vision.search.per_image import load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    photos = write_folders(folder / "photos", per_class=5)
    (photos / "red").rename(photos / "red | <b>*wine*")
    sizes = {"training_crop_size": 64, "validation_crop_size": 64, "validation_resize_size": 64}
    train(
        task="image_classification",
        model={"name": "timm", "architecture": "test_vit3", "pretrained": False},
        data={"training": str(photos), "test": str(photos), "split": "stratified"},
        training={"number_of_epochs": 2, "training_batch_size": 4, "random_seed": 3, "number_of_workers": 0, **sizes},
        trainer={"accelerator": "cpu"},
        output_dir=str(folder / "run"),
        quiet=True,
    )
    return folder / "run"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def cells(text: str, title: str) -> list[list[str]]:
    """The rows of the table in a section."""
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line[2:-2].split(" | ") for line in section.splitlines() if line[:2] == "| " and line[2] != "-"]


def test_every_figure_is_one_of_the_runs(run: Path) -> None:
    text, result = (run / "model" / CARD).read_text(), read(run / "result.json")
    header, *rows = cells(text, "Metrics")
    assert header == ["metric", "validation", "test"]
    assert rows[0][0] == "`accuracy`"
    assert {name.strip("`"): (one, two) for name, one, two in rows} == {
        name: (shown(value), shown(result["test_metrics"][name])) for name, value in result["metrics"].items()
    }
    low, high = interval_of(resample([load(run / "per_image.npz")])[0])
    assert f"is {low:.4f} to {high:.4f}." in text
    lock = read(run / "lock.json")["data"]
    assert cells(text, "Data")[1:] == [
        [role, str(lock[role]["images"]), *(f"`{lock[role][key]}`" for key in ("names", "labels", "pictures"))]
        for role in ("training", "validation", "test")
    ]
    assert "a share of 0.2, `stratified`, with the seed 3." in text
    settings = {name: json.dumps(value) for name, value in read(run / "model" / "settings.json").items()}
    assert {name.strip("`"): value.strip("`") for name, value in cells(text, "Settings")[1:]} == settings


def shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def test_classes_are_told_whatever_they_are_called(run: Path) -> None:
    text, report = (run / "model" / CARD).read_text(), read(run / "evaluation.json")["report"]
    lines = [line for line in text.splitlines() if line.startswith("| red")]
    assert lines[0].startswith(r"| red \| \<b\>\*wine\* | ")
    assert f"| blue | {report['blue']['support']} | {shown(report['blue']['precision'])} |" in text


@pytest.mark.parametrize(
    ("model", "training", "answer"),
    [
        ({"pretrained": True}, {}, "published ones: by architecture; see its licence on the hub; licence Apache-2.0"),
        ({"pretrained": False}, {}, "started from random numbers"),
        ({"weights": "/home/me/mine.pt"}, {}, "started from a file, `mine.pt`, whose licence holds"),
        ({"pretrained": True}, {"checkpoint_run_id": "other"}, "started from an earlier model"),
    ],
)
def test_the_licence_is_that_of_what_the_weights_started_from(
    run: Path, model: dict[str, Any], training: dict[str, Any], answer: str
) -> None:
    from dataclasses import replace

    facts = replace(facts_of(run), config={"model": model, "training": training})
    text = card_of(facts).split("## Licences")[1]
    assert "The code that trained it and runs it: Apache-2.0." in text
    assert answer in text


def test_what_no_file_says_is_left_out(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run / "model", alone / "model")
    (alone / "model" / CARD).unlink()
    write_card(alone)
    text = (alone / "model" / CARD).read_text()
    assert "## Use" in text
    assert "## Metrics" not in text
    assert "## Data" not in text
    assert "What its weights started from is not known" in text
    write_card(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_operating_points_are_told(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    points = {"rule": "max_f1", "images": 12, "thresholds": {"blue": 0.25}, "intervals": {"blue": [0.2, 0.75]}}
    settings = {**read(copied / "model" / "settings.json"), "operating_points": points}
    (copied / "model" / "settings.json").write_text(json.dumps(settings))
    write_card(copied)
    text = (copied / "model" / CARD).read_text()
    assert "Operating points for max_f1, chosen on 12 images:" in text
    assert "| blue | 0.2500 | 0.2000 to 0.7500 |" in text


def test_a_card_without_its_run_keeps_all_but_its_settings(run: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run / "model", tmp_path / "model")
    text = (model / CARD).read_text() + "\n## Export\n\nAs ONNX.\n"
    (model / CARD).write_text(text)
    (model / "settings.json").write_text(json.dumps({**read(model / "settings.json"), "fill": 3}))
    rewrite_settings(model)
    assert (model / CARD).read_text() == text.replace("\n\n## Licences", "\n| `fill` | `3` |\n\n## Licences")


def test_the_copy_of_a_sweeps_winner_tells_its_test_set(run: Path, tmp_path: Path) -> None:
    """Its test set is scored after the copy was made, and the figures of its images stay with the trial."""
    trial, best = shutil.copytree(run, tmp_path / "3"), tmp_path / "best"
    best.mkdir()
    for name in ("result.json", "evaluation.json", "config.yaml", "lock.json"):
        shutil.copy(trial / name, best / name)
    shutil.copytree(trial / "model", best / "model")
    result = {**read(best / "result.json"), "test_metrics": {}}
    (best / "result.json").write_text(json.dumps(result))
    test = {"trial": "3", "metrics": {"accuracy": 0.625}, "data": {"images": 77}}
    test["primary_metric"] = {"name": "accuracy", "value": 0.625, "interval": [0.5, 0.75]}
    (best / "test.json").write_text(json.dumps(test))
    write_card(best)
    text = (best / "model" / CARD).read_text()
    assert "The 77 test images selected nothing; the interval of accuracy on them is 0.5000 to 0.7500." in text
    assert cells(text, "Metrics")[1][2] == "0.6250"
    assert "by drawing these images again" in text


def test_the_folder_works_wherever_it_is_taken_without_its_run(run: Path, tmp_path: Path) -> None:
    """From another working folder, in another process, by the commands that the card gives."""
    moved = shutil.copytree(run / "model", tmp_path / "else where" / "it")
    photo = next((run.parent / "photos" / "blue").iterdir())
    code = """
import sys
import lightning_automl_vision as lav
predictor = lav.load(".")
for p in predictor.predict([sys.argv[1]]):
    print(p.label, p.score)
print([name for name in sys.modules if name.split(".")[0] in ("lightning", "albumentations", "optuna")])
"""
    process = subprocess.run(
        [sys.executable, "-c", code, str(photo)], capture_output=True, text=True, cwd=moved, check=False
    )
    assert process.returncode == 0, process.stderr
    said, modules = process.stdout.splitlines()
    assert float(said.split()[-1]) > 0.3
    assert modules == "[]"
    words = ["predict", ".", f"input={photo}", f"output={tmp_path / 'answers'}", "draw=true"]
    process = lav(*words, cwd=moved)
    assert process.returncode == 0, process.stderr
    assert f"lav {words[0]} {words[1]} input=" in (moved / CARD).read_text()
    (row,) = [json.loads(line) for line in (tmp_path / "answers" / "predictions.jsonl").read_text().splitlines()]
    assert row["labels"] == read(moved / "labels.json")
