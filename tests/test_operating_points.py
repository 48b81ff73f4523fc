"""Operating points: thresholds by the user's rule, scores that are shares, and everyone who uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import write_folders, write_objects

from lightning_automl_vision.api import settings as composed
from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.choosing import why_none
from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.errors import ConfigError, RequirementError
from lightning_automl_vision.examination import ObjectsExamination, examination_of, metric_names
from lightning_automl_vision.jobs import evaluate as evaluating
from lightning_automl_vision.jobs import predict as predicting
from lightning_automl_vision.log import LOG
from lightning_automl_vision.metrics.calibration import (
    ScoreCurve,
    at_temperature,
    fitted_curve,
    fitted_temperature,
    reliability,
)
from lightning_automl_vision.metrics.thresholds import NOTHING, Candidates, best_rows, choose
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.operating_points import OperatingPoints, points_in
from lightning_automl_vision.operating_rules import OperatingPointsConfig, Rule, rule_of
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.predictor import load, open_model
from lightning_automl_vision.samples import ScoredBoxes, ScoredLabels
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.specs import TASKS

DETECTION = "image_object_detection"
RULES = [
    Rule(kind="max_f1"),
    Rule(kind="precision", at_least=0.7),
    Rule(kind="recall", at_least=0.6),
    Rule(kind="cost", false_positive=1, false_negative=4),
    Rule(kind="cost", false_positive=9, false_negative=1),
]


def candidates(seed: int, count: int = 60, digits: int = 2) -> Candidates:
    """Scores with many ties, some of them right."""
    random = np.random.default_rng(seed)
    scores = random.random(count).round(digits)
    right = random.random(count) < scores
    images = random.integers(0, 20, count)
    truths = np.bincount(images[right], minlength=20) + random.integers(0, 2, 20)
    return Candidates(scores=scores, right=right, images=images, truths=truths)


def worth(rule: Rule, hits: float, places: float, truths: float) -> tuple[float, ...] | None:
    """How good a threshold is, in the words of the rule; None where it does not do what is asked for."""
    if rule.kind == "max_f1":
        return (2 * hits / (places + truths),) if hits else None
    if rule.kind == "precision":
        return (hits,) if hits and hits / places >= rule.at_least - 1e-12 else None
    if rule.kind == "recall":
        return (hits / places,) if hits and hits / truths >= rule.at_least - 1e-12 else None
    return (-(rule.false_positive * (places - hits) + rule.false_negative * (truths - hits)),)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_no_other_threshold_is_better_by_the_rule(rule: Rule, seed: int) -> None:
    of_class = candidates(seed)
    (chosen,) = choose(rule, [of_class], samples=10)
    assert chosen is not None

    def outcome(threshold: float) -> tuple[float, ...] | None:
        found = of_class.scores >= threshold
        return worth(rule, float((found & of_class.right).sum()), float(found.sum()), float(of_class.truths.sum()))

    best = outcome(chosen.threshold)
    assert best is not None
    others = [outcome(threshold) for threshold in (*of_class.scores, 1.1)]
    if rule.kind == "recall":  # the highest threshold that reaches it, not the one with the best precision
        above = [threshold for threshold in of_class.scores if threshold > chosen.threshold]
        kept = [outcome(threshold) for threshold in above if not np.isclose(threshold, min(above))]
        assert not any(kept)
    else:
        assert best == pytest.approx(max(other for other in others if other is not None), abs=1e-12)
    found = of_class.scores >= chosen.threshold
    assert chosen.precision == pytest.approx((found & of_class.right).sum() / found.sum())
    assert chosen.recall == pytest.approx((found & of_class.right).sum() / of_class.truths.sum())


def test_a_threshold_lies_between_two_scores() -> None:
    of_class = candidates(1)
    (chosen,) = choose(Rule(kind="max_f1"), [of_class], samples=10)
    assert chosen is not None
    assert chosen.threshold not in of_class.scores


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_draws_are_judged_as_if_their_images_were_all_there_is(rule: Rule) -> None:
    of_class = candidates(3)
    random = np.random.default_rng(0)
    drawn = random.integers(0, 20, 20)
    counts = np.bincount(drawn, minlength=20).astype(np.float64)[:, None]
    (row,) = best_rows(rule, *of_class.sums(counts))
    picked = [np.flatnonzero(of_class.images == image) for image in drawn]
    again = Candidates(
        scores=of_class.scores[np.concatenate(picked)],
        right=of_class.right[np.concatenate(picked)],
        images=np.repeat(np.arange(20), [len(part) for part in picked]),
        truths=of_class.truths[drawn],
    )
    (same,) = best_rows(rule, *again.sums(np.ones((20, 1))))
    if row >= 0:
        highest = of_class.ranked.scores[of_class.rows[row]]
        assert highest == again.ranked.scores[again.rows[same]]
    else:
        assert row == same


def test_what_no_threshold_does_is_not_chosen() -> None:
    wrong = Candidates(
        scores=np.array([0.9, 0.8]),
        right=np.array([False, False]),
        images=np.array([0, 1]),
        truths=np.array([1, 1]),
    )
    for rule in RULES[:3]:
        assert [*choose(rule, [wrong], samples=5)] == [None]
    (nothing,) = choose(RULES[3], [wrong], samples=5)
    assert nothing is not None
    assert nothing.threshold > 0.9
    assert best_rows(RULES[3], *wrong.sums(np.ones((2, 1)))).tolist() == [NOTHING]


def test_an_interval_is_wide_where_images_are_few() -> None:
    random = np.random.default_rng(0)

    def width(images: int) -> float:
        scores = random.random(images)
        right = random.random(images) < scores
        one = Candidates(scores=scores, right=right, images=np.arange(images), truths=right.astype(np.int64))
        (chosen,) = choose(Rule(kind="max_f1"), [one])
        assert chosen is not None
        low, high = chosen.intervals["recall"] or (0, 0)
        assert low <= chosen.recall <= high
        return high - low

    assert width(1000) < width(30) / 2


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_scores_too_sure_is_found(multilabel: bool, temperature: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 5)).clip(-4, 4)  # beyond, a score of 32 bits is 1
    if multilabel:
        shares = 1 / (1 + np.exp(-logits))
        truth = random.random(shares.shape) < shares
        scores = (1 / (1 + np.exp(-temperature * logits))).astype(np.float32)
    else:
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = random.random((4000, 1)) < shares.cumsum(axis=1)
        truth &= ~np.roll(truth, 1, axis=1) | (np.arange(5) == 0)
        powers = np.exp(temperature * logits)
        scores = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    found = fitted_temperature(scores, truth, multilabel=multilabel)
    assert found == pytest.approx(temperature, rel=0.08)
    np.testing.assert_allclose(at_temperature(scores, temperature, multilabel=multilabel), shares, atol=2e-3)


def test_a_set_without_a_mistake_does_not_make_a_model_infinitely_sure() -> None:
    scores = np.tile(np.array([[0.7, 0.3], [0.4, 0.6]], np.float32), (20, 1))
    truth = np.tile(np.array([[True, False], [False, True]]), (20, 1))
    temperature = fitted_temperature(scores, truth, multilabel=False)
    assert 0.1 < temperature < 0.5


def test_scores_of_objects_become_shares() -> None:
    random = np.random.default_rng(0)
    shares = random.random(5000)
    right = random.random(5000) < shares
    scores = shares**2 / (shares**2 + 0.2 * (1 - shares))
    curve = fitted_curve(scores, right)
    assert curve is not None
    np.testing.assert_allclose(curve(scores), shares, atol=0.04)
    assert reliability(curve(scores), right).error < 0.03 < reliability(scores, right).error
    for share in (0.05, 0.5, 0.95):
        assert float(curve(np.array([curve.score_for(share)]))[0]) == pytest.approx(share, abs=1e-9)
    assert (np.diff(curve(np.linspace(0.001, 0.999, 500))) > 0).all()


def test_a_score_that_tells_nothing_is_left_as_it_is() -> None:
    scores = np.linspace(0.01, 0.99, 200)
    assert fitted_curve(scores, scores < 0.5) is None
    few = fitted_curve(np.array([0.6]), np.array([True]))
    assert few is not None
    assert few(np.array([0.6]))[0] == pytest.approx(0.65, abs=0.1)


def test_reliability_counts_every_score_once() -> None:
    told = reliability(np.array([0.0, 0.05, 0.55, 1.0]), np.array([False, True, True, True]))
    assert told.counts.tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert told.error == pytest.approx((2 * 0.475 + 0.45 + 0) / 4)


def boxes(scores: list[float], labels: list[int]) -> ScoredBoxes:
    return ScoredBoxes(
        labels=np.array(labels, np.int64),
        boxes=np.arange(4.0 * len(scores)).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        width=100,
        height=100,
        classes=("a", "b"),
    )


def test_each_class_of_objects_has_its_threshold_and_its_curve() -> None:
    curve = ScoreCurve(a=1.0, b=1.0, c=-2.0)
    points = OperatingPoints(classes=("a", "b"), usual=0.3, thresholds={"a": 0.2}, curves={"a": curve})
    answer = points.of_objects(boxes([0.9, 0.8, 0.4, 0.31, 0.3], [0, 1, 0, 1, 1]))
    assert answer.names == ["b", "a", "b"]
    np.testing.assert_allclose(answer.scores, [0.8, curve(np.array([0.9]))[0], 0.31], rtol=1e-6)
    assert answer.boxes[:, 0].tolist() == [4, 0, 12]
    assert points.lowest_score == pytest.approx(0.3)
    low = OperatingPoints(classes=("a", "b"), usual=0.3, thresholds={"a": 0.01}, curves={"a": curve})
    assert float(curve(np.array([low.lowest_score]))[0]) == pytest.approx(0.01, abs=1e-6)


def test_what_is_decided_for_is_the_best_of_the_classes_that_may() -> None:
    classes = ("a", "b", "c")
    scores = ScoredLabels(scores=np.array([0.6, 0.3, 0.1], np.float32), labels=classes)
    one = OperatingPoints(classes=classes, usual=0.0, thresholds={"a": 0.7, "c": 0.5})
    assert one.of_labels(scores).as_dict()["decided"] == ["b"]
    none = OperatingPoints(classes=classes, usual=0.0, thresholds=dict.fromkeys(classes, 0.9))
    assert none.of_labels(scores).as_dict()["decided"] == []
    several = OperatingPoints(classes=classes, usual=0.5, multilabel=True, thresholds={"c": 0.05})
    assert several.of_labels(scores).as_dict()["decided"] == ["a", "c"]
    assert "decided" not in scores.as_dict()


@pytest.mark.parametrize(
    ("rule", "kind", "bound"),
    [("max_f1", "max_f1", 0.0), ("precision>=0.9", "precision", 0.9), ("recall >= 1", "recall", 1.0)],
)
def test_rules_are_read(rule: str, kind: str, bound: float) -> None:
    assert rule_of(OperatingPointsConfig(rule=rule)) == Rule(kind=kind, at_least=bound)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"rule": "f1"}, "operating_points.rule=f1: it must be max_f1, 'precision>=0.9'"),
        ({"rule": "precision>=1.5"}, "more than 0 and at most 1"),
        ({"rule": "recall>=0"}, "more than 0 and at most 1"),
        ({"rule": "recall>=0.9.1"}, "more than 0 and at most 1"),
        ({"rule": "max_f1", "false_positive_cost": 2.0}, "only operating_points.rule=cost counts them"),
        ({"rule": "cost", "false_positive_cost": 0.0, "false_negative_cost": 0.0}, "both costs are 0"),
        ({"use": True}, "rule is not given, and the other keys need it"),
    ],
)
def test_what_is_no_rule_is_refused(keys: dict[str, Any], answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        rule_of(OperatingPointsConfig(**keys))


def test_a_rule_needs_no_quotes_of_hydras() -> None:
    words = rewrite(["evaluate", "run", "operating_points.rule=precision>=0.9", "output=x"])
    assert words[2] == "job.operating_points.rule='precision>=0.9'"


POINTS = {"thresholds": {"a": 0.5}, "rule": "max_f1", "kept_usual": {"b": "3 examples, fewer than 10"}}


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"use_operating_points": 1}, "use_operating_points=1 must be true or false"),
        (
            {"use_operating_points": True},
            r"there are no operating_points\. Say false, then choose some and switch them on: lav evaluate RUN",
        ),
        ({"operating_points": [1]}, r"operating_points=\[1\] must be a JSON object"),
        ({"operating_points": {"treshold": {}}}, "no key 'treshold'.* Did you mean 'thresholds'"),
        ({"operating_points": {"temperature": 2}}, "no key 'temperature' for image_object_detection"),
        ({"operating_points": {"thresholds": {"c": 0.5}}}, "the model knows no class 'c'"),
        ({"operating_points": {"thresholds": {"a": 1.5}}}, r"thresholds\.a=1\.5 must be a number in \[0, 1\]"),
        ({"operating_points": {"thresholds": {"a": True}}}, r"thresholds\.a=true must be a number"),
        ({"operating_points": {"thresholds": 0.5}}, r"thresholds=0\.5 must be a JSON object"),
        ({"operating_points": {"score_curves": {"a": [1, 2]}}}, r"score_curves\.a=\[1, 2\] must be three numbers"),
        ({"operating_points": {"score_curves": {"a": [0, 0, 1]}}}, "not both 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], answer: str) -> None:
    card = ModelCard(task=DETECTION, name="x", parameters={}, labels=["a", "b"], settings=settings)
    with pytest.raises(ConfigError, match=rf"^settings\.json: .*{answer}"):
        points_in(card, source="settings.json")


def test_points_are_out_of_use_until_they_are_switched_on() -> None:
    for switched, used in ((None, False), (False, False), (True, True)):
        settings = {"operating_points": POINTS, "box_score_thresh": 0.2}
        if switched is not None:
            settings["use_operating_points"] = switched
        card = ModelCard(task=DETECTION, name="x", parameters={}, labels=["a", "b"], settings=settings)
        points = points_in(
            ModelCard(**{**asdict(card), "parameters": {"box_score_threshold": 0.3}}), source="settings.json"
        )
        assert (points is not None) == used
        if points is not None:
            assert (points.thresholds, points.usual) == ({"a": 0.5}, 0.2)


def saved(folder: Path, name: str, task: str, labels: list[str], **parameters: Any) -> Path:
    """An untrained model as a run leaves it."""
    torch.manual_seed(0)
    spec = model_spec(name)
    chosen = {**asdict(spec.config(name=name)), "pretrained": False, **parameters}
    chosen = {key: value for key, value in chosen.items() if key not in ("name", "weights")}
    model = spec.build(task=task, num_classes=len(labels), **{"image_size": 64, **chosen})
    finds_objects = task == DETECTION
    card = ModelCard(
        task=task,
        name=name,
        parameters=chosen,
        image_size=None if finds_objects else 64,
        labels=labels,
        settings={**(model.resizing or CenterCrop(64, 64)).as_settings(), **inference_settings(chosen)},
    )
    save_model(folder / "model", card, model)
    return folder


COLOURS = ["blue", "green", "red"]


def evaluated(run: Path, source: Path, output: Path, **keys: Any) -> Any:
    job = {"name": "evaluate", "input": str(source), "output": str(output), **keys}
    evaluating.run(composed(checkpoint=str(run), job=job, trainer={"accelerator": "cpu"}, quiet=True))
    return json.loads((output / "result.json").read_text())


def predicted(run: Path, source: Path, output: Path, **keys: Any) -> list[Any]:
    job = {"name": "predict", "input": str(source), "output": str(output), **keys}
    predicting.run(composed(checkpoint=str(run), job=job, trainer={"accelerator": "cpu"}, quiet=True))
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def settings_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "model" / "settings.json").read_text())
    return found


def switched_on(run: Path) -> None:
    settings = {**settings_of(run), "use_operating_points": True}
    (run / "model" / "settings.json").write_text(json.dumps(settings))


def test_a_classifiers_points_are_kept_with_it_and_used_when_switched_on(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "timm", "image_classification", COLOURS, architecture="test_vit3")
    photos = write_folders(tmp_path / "photos", per_class=10)
    (photos / "red" / "9.png").unlink()
    plain = evaluated(run, photos, tmp_path / "plain")
    judged_by = TASKS["image_classification"].config(name="image_classification", primary_metric="accuracy")
    assert metric_names(open_model(run), judged_by, calibrated=True) == set(plain["metrics"])
    before = predicted(run, photos, tmp_path / "before")
    points = {"rule": "recall>=0.5"}
    told = evaluated(run, photos, tmp_path / "chosen", operating_points=points)
    assert told["metrics"] == pytest.approx(plain["metrics"], abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "chosen").glob("operating_points.*")) == [
        "operating_points.json",
        "operating_points.png",
    ]
    kept = settings_of(run)
    assert kept["use_operating_points"] is False
    assert kept["operating_points"]["kept_usual"] == {"red": "9 examples, fewer than 10"}
    assert [*kept["operating_points"]["thresholds"]] == ["blue", "green"]
    assert predicted(run, photos, tmp_path / "unused") == before

    switched_on(run)
    answers = predicted(run, photos, tmp_path / "used")
    reached = [row["probs"][0] >= kept["operating_points"]["thresholds"]["blue"] for row in answers]
    truly_blue = [row["filename"].startswith("blue") for row in answers]
    assert sum(a and b for a, b in zip(reached, truly_blue, strict=True)) >= 5
    assert all(len(row["decided"]) <= 1 for row in answers)
    judged = evaluated(run, photos, tmp_path / "judged")
    right = [row["decided"] == [row["filename"].split("/")[0]] for row in answers]
    assert judged["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    assert judged["operating_points_in_use"] is True


def test_a_choice_of_nothing_keeps_what_was_chosen_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = saved(tmp_path / "run", "timm", "image_classification", COLOURS, architecture="test_vit3")
    card, photos = run / "model" / "README.md", write_folders(tmp_path / "photos", per_class=3)
    card.write_text("# Mine\n\n## Settings\n\nnone\n\n## Versions\n\nmany\n")
    evaluated(run, photos, tmp_path / "first", operating_points={"rule": "recall>=0.5", "minimum_examples": 3})
    kept, text = settings_of(run), card.read_text()
    assert text.startswith("# Mine\n\n## Settings\n\n`settings.json` may be edited")
    assert text.endswith(" |\n\n## Versions\n\nmany\n")
    assert "Operating points for recall>=0.5, chosen on 9 images:" in text
    told = r"max_f1: no class has a threshold on 9 images of .*blue \(3 examples, fewer than 10\).* stays as it was"
    with pytest.raises(RequirementError, match=told):
        evaluated(run, photos, tmp_path / "none", operating_points={"rule": "max_f1", "use": True})
    assert (settings_of(run), card.read_text()) == (kept, text)
    assert (tmp_path / "none" / "result.json").is_file()
    with caplog.at_level("INFO", logger=LOG.name):
        evaluated(run, photos, tmp_path / "last", operating_points={"rule": "max_f1", "minimum_examples": 3})
    assert "; they replace the 3 for recall>=0.5, chosen on 9 images" in caplog.text


def test_why_a_class_has_no_threshold_is_told_without_a_number_that_the_rule_has_not() -> None:
    assert why_none(Rule(kind="max_f1"), 12) == "none of its 12 examples was found"
    assert why_none(Rule(kind="precision", at_least=0.9), 12) == "no threshold has precision>=0.9"


def test_a_detectors_points_decide_what_is_found(tmp_path: Path) -> None:
    small = {"min_size": 64, "max_size": 96, "proposals_per_image": 30}
    run = saved(tmp_path / "run", "fasterrcnn_resnet18_fpn", DETECTION, COLOURS, **small, box_score_threshold=0.28)
    source = write_objects(tmp_path / "data", 8)
    keys = {"rule": "cost", "false_negative_cost": 50.0, "minimum_examples": 1, "use": True}
    evaluated(run, source, tmp_path / "chosen", operating_points=keys)
    kept = settings_of(run)
    thresholds = kept["operating_points"]["thresholds"]
    assert kept["use_operating_points"] is True
    assert sorted({*thresholds, *kept["operating_points"]["kept_usual"]}) == COLOURS

    everything = load(run, above=0.005, calibrated=False)
    images = sorted((tmp_path / "data").glob("*.png"))
    answers = predicted(run, tmp_path / "data" / "*.png", tmp_path / "used")
    curves = kept["operating_points"].get("score_curves", {})
    for row, raw in zip(answers, everything.predict(images, batch_size=1), strict=True):
        expected = []
        for label, score in zip(raw.names, raw.scores, strict=True):
            worth = ScoreCurve(**dict(zip("abc", curves.get(label, (1, 1, 0)), strict=True)))(np.array([score]))[0]
            if np.float32(worth) >= np.float32(thresholds[label]) if label in thresholds else score > 0.28:
                expected.append((label, pytest.approx(float(worth), abs=1e-5)))
        found = [(item["label"], item["score"]) for item in row["boxes"]]
        assert sorted(found) == sorted(expected, key=lambda pair: (pair[0], pair[1].expected))
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    judged = evaluated(run, source, tmp_path / "judged")
    found = [len(row["boxes"]) for row in answers]
    counted = [json.loads(line) for line in (tmp_path / "judged" / "predictions.jsonl").read_text().splitlines()]
    assert sum(len(row["boxes"]) for row in counted) == sum(found)
    assert judged["operating_points_in_use"] is True


@pytest.mark.parametrize("tiles", [False, True])
def test_what_is_judged_through_the_predictor_is_judged_as_in_training(tmp_path: Path, tiles: bool) -> None:
    small = {"min_size": 64, "max_size": 96, "proposals_per_image": 30}
    run = saved(tmp_path / "run", "fasterrcnn_resnet18_fpn", DETECTION, COLOURS, **small, box_score_threshold=0.2)
    if tiles:
        settings = {**settings_of(run), "tile_grid_size": "2x1", "tile_overlap_ratio": 0.25}
        (run / "model" / "settings.json").write_text(json.dumps(settings))
    source = write_objects(tmp_path / "data", 6)
    plain = evaluated(run, source, tmp_path / "plain")
    judged_by = TASKS[DETECTION].config(name=DETECTION, primary_metric="mean_average_precision")
    images = read_labelled(str(source), DETECTION, DataConfig(), classes=tuple(COLOURS))
    examination = examination_of(load(run), images, judged_by)
    examination.ask(1)
    assert isinstance(examination, ObjectsExamination)
    assert examination.metrics() == pytest.approx(plain["metrics"], abs=1e-6)
    assert ("tiles_mean_average_precision" in plain["metrics"]) == tiles
    assert metric_names(open_model(run), judged_by, calibrated=True) == set(plain["metrics"])
    assert [row["filename"] for row in examination.answers()] == [f"{number}.png" for number in range(6)]


def test_what_is_refused_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "timm", "image_classification", COLOURS, architecture="test_vit3")
    for keys, answer in (
        ({"operating_points": {"rule": "best"}}, "it must be max_f1"),
        ({"tta": "spin"}, "views are flip, scale"),
    ):
        with pytest.raises(ConfigError, match=answer):
            evaluated(run, tmp_path / "nothing there", tmp_path / "out", **keys)
    assert not (tmp_path / "out").exists()


def test_a_model_is_judged_and_its_points_are_chosen_without_torch() -> None:
    modules = ("examination", "choosing", "drawing.operating_chart", "asking", "data.video", "model_card", "views")
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(f"lightning_automl_vision.{{name}}")
assert "torch" not in sys.modules
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
