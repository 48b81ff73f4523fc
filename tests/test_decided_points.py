"""What operating points promise of a classifier with one label an image is what its decisions keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import MULTICLASS, MULTILABEL, TINY, write_model
from pictures import write_folders, write_multilabel
from test_operating_points import COLOURS, evaluated, predicted, saved, settings_of, switched_on

from lightning_automl_vision.choosing import Choice, chosen_points
from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.drawing.operating_chart import chart_of
from lightning_automl_vision.examination import LabelsExamination
from lightning_automl_vision.jobs.evaluate import summary
from lightning_automl_vision.log import LOG
from lightning_automl_vision.metrics.resampling import interval, resampled
from lightning_automl_vision.metrics.thresholds import FIGURES, Chosen, of_decisions
from lightning_automl_vision.operating_rules import OperatingPointsConfig, Rule
from lightning_automl_vision.predictor import load
from lightning_automl_vision.samples import IntArray, ScoredLabels
from lightning_automl_vision.settings import DataConfig

RULES = [
    {"rule": "recall>=0.8"},
    {"rule": "precision>=0.3"},
    {"rule": "max_f1", "calibrate": False},
    {"rule": "cost", "false_negative_cost": 4.0},
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blue has too few examples for a threshold of its own, and its usual one takes images from the others."""
    folder = write_folders(tmp_path_factory.mktemp("photos") / "photos", per_class=14)
    for number in range(9, 14):
        (folder / "blue" / f"{number}.png").unlink()
    return folder


def figures_of(decided: IntArray, truth: IntArray, index: int) -> tuple[float, ...]:
    said, true = decided == index, truth == index
    right, found, count = int((said & true).sum()), int(said.sum()), int(true.sum())
    pairs = ((right, found), (right, count), (2 * right, found + count))
    return tuple(part / whole if whole else np.nan for part, whole in pairs)


@pytest.mark.parametrize("name", ["timm", "test_vit3"])
@pytest.mark.parametrize("points", RULES, ids=lambda points: points["rule"])
def test_figures_are_those_of_what_predict_decides(
    tmp_path: Path, photos: Path, points: dict[str, Any], name: str
) -> None:
    run = tmp_path / "run"
    if name == "timm":
        write_model(run / "model", "timm", MULTICLASS, **TINY)
    else:
        saved(run, "timm", MULTICLASS, COLOURS, architecture=name)
    told = evaluated(run, photos, tmp_path / "chosen", operating_points=points)
    document = json.loads((tmp_path / "chosen" / "operating_points.json").read_text())
    assert document["classes"] == told["operating_points"]
    assert "blue" in document["kept_usual"]
    assert "falls_short" not in settings_of(run)["operating_points"]

    switched_on(run)
    answers = {row["filename"]: row["decided"] for row in predicted(run, photos, tmp_path / "used")}
    rows = [json.loads(line) for line in (tmp_path / "chosen" / "predictions.jsonl").read_text().splitlines()]
    truth = np.array([COLOURS.index(row["true_labels"][0]) for row in rows])
    decided = np.array([COLOURS.index((answers[row["filename"]] or ["blue"])[0]) for row in rows])
    decided[[not answers[row["filename"]] for row in rows]] = -1
    for label, one in document["classes"].items():
        index = COLOURS.index(label)
        draws = resampled(lambda drawn, index=index: figures_of(decided[drawn], truth[drawn], index), len(truth))
        for figure, value, column in zip(FIGURES, figures_of(decided, truth, index), draws.T, strict=True):
            assert one[figure] == (None if np.isnan(value) else pytest.approx(value))
            known = np.isfinite(column).any()
            assert one[f"{figure}_interval"] == (pytest.approx(interval(column)) if known else None)


def test_a_rule_that_decisions_do_not_keep_is_told(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    write_model(run / "model", "timm", MULTICLASS, **TINY)
    with caplog.at_level("WARNING", logger=LOG.name):
        told = evaluated(run, photos, tmp_path / "chosen", operating_points={"rule": "recall>=0.8"})
    assert [*told["falls_short"]] == ["green", "red"]
    assert told["falls_short"]["red"] == "never decided"
    document = json.loads((tmp_path / "chosen" / "operating_points.json").read_text())
    assert document["falls_short"] == told["falls_short"]
    (line,) = (record.getMessage() for record in caplog.records if "does not hold" in record.getMessage())
    assert line.startswith("recall>=0.8 does not hold for what is decided, as other classes score better: green (")
    assert line.endswith(", red (never decided).")
    never = told["operating_points"]["red"]
    assert [never[figure] for figure in ("precision", "recall", "f1", "precision_interval")] == [None, 0, 0, None]
    (row,) = (line for line in summary(told).splitlines() if line.startswith("red "))
    assert row.split()[-3:] == ["undefined", "0.0000", "14"]


def chosen_for(run: Path, photos: Path, rule: Rule, rows: Mapping[str, Sequence[float]]) -> Choice:
    """With the same scores said of each image of a class."""
    saved(run, "timm", MULTICLASS, COLOURS, architecture="test_vit3")
    images = read_labelled(str(photos), MULTICLASS, DataConfig(), classes=tuple(COLOURS))
    said = [
        ScoredLabels(scores=np.array(rows[COLOURS[sample.target.labels[0]]], np.float32)) for sample in images.samples
    ]
    examination = LabelsExamination(predictor=load(run), images=images, multilabel=False, said=said)
    return chosen_points(examination, rule, OperatingPointsConfig(calibrate=False))


def test_a_class_outranked_by_one_without_a_threshold_is_named(tmp_path: Path, photos: Path) -> None:
    rule = Rule(kind="precision", at_least=0.9)
    rows = {"blue": (0.5, 0.1, 0.4), "green": (0.1, 0.8, 0.1), "red": (0.5, 0.05, 0.45)}
    choice = chosen_for(tmp_path, photos, rule, rows)
    assert [*choice.kept_usual] == ["blue"]
    assert choice.chosen["red"].threshold == pytest.approx(0.425)
    assert (choice.chosen["green"].precision, choice.chosen["green"].recall) == (1, 1)
    assert choice.falls_short == {"red": "never decided"}
    assert chosen_for(tmp_path, photos, Rule(kind="max_f1"), rows).falls_short == {}


def test_the_picture_says_how_many_classes_fall_short(tmp_path: Path, photos: Path) -> None:
    rows = {"blue": (0.6, 0.2, 0.2), "green": (0.1, 0.8, 0.1), "red": (0.2, 0.35, 0.45)}
    choice = chosen_for(tmp_path, photos, Rule(kind="recall", at_least=0.9), rows)
    assert choice.falls_short == {}
    outranked = replace(choice.chosen["red"], recall=0.5)
    short = replace(choice, chosen={**choice.chosen, "red": outranked})
    assert short.falls_short == {"red": "recall 0.5000"}
    assert (chart_of(short)[:90] != chart_of(choice)[:90]).any()


def test_with_several_labels_an_image_each_class_counts_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_model(run / "model", "timm", MULTILABEL, **TINY)
    source = write_multilabel(tmp_path / "data", 24)
    points = {"rule": "recall>=0.8", "calibrate": False, "minimum_examples": 1}
    told = evaluated(run, source, tmp_path / "chosen", operating_points=points)
    assert told["falls_short"] == {}
    rows = [json.loads(line) for line in (tmp_path / "chosen" / "predictions.jsonl").read_text().splitlines()]
    for label, one in told["operating_points"].items():
        scores = np.array([row["probs"][COLOURS.index(label)] for row in rows])
        true = np.array([label in row["true_labels"] for row in rows])
        reached = scores >= np.float32(one["threshold"])
        assert one["recall"] == pytest.approx((reached & true).sum() / true.sum())
        assert one["precision"] == pytest.approx((reached & true).sum() / reached.sum())
        assert one["recall"] >= 0.8


def test_an_image_that_nothing_is_decided_for_counts_as_missed() -> None:
    alone = Chosen(threshold=0.3, precision=0.4, recall=0.8, f1=0.5, intervals={"threshold": None})
    decided, truth = np.array([0, -1, 1, 0]), np.array([0, 0, 0, 1])
    (one,) = of_decisions({0: alone}, decided, truth, samples=20)
    assert (one.threshold, one.precision, one.recall) == (0.3, 1 / 2, 1 / 3)
    assert one.f1 == pytest.approx(2 / 5)
    assert one.intervals["threshold"] is None
    low, high = one.intervals["recall"] or (1, 0)
    assert low <= one.recall <= high
