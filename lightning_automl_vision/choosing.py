"""Operating points chosen on labelled images: calibration first, then a threshold for each class by the user's rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_automl_vision.examination import Examination, LabelsExamination, ObjectsExamination
from lightning_automl_vision.metrics.calibration import (
    Reliability,
    ScoreCurve,
    at_temperature,
    fitted_curve,
    fitted_temperature,
    reliability,
)
from lightning_automl_vision.metrics.matching import voc_verdict
from lightning_automl_vision.metrics.thresholds import FIGURES, Candidates, Chosen, choose, of_decisions
from lightning_automl_vision.operating_points import OperatingPoints, usual_threshold
from lightning_automl_vision.operating_rules import OperatingPointsConfig, Rule
from lightning_automl_vision.samples import BoolArray, Scores

FLOOR = 0.01
"""What an object must score to be considered; no threshold is lower."""
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Each class with what was scored of it after calibration, and how reliable scores are before it and after it."""

    candidates: Sequence[Candidates]
    before: Reliability
    after: Reliability
    temperature: float | None = None
    curves: Mapping[str, ScoreCurve] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for each class, and why some keep their usual threshold."""

    rule: Rule
    images: int
    examples: Mapping[str, int]
    calibrated: Calibrated
    chosen: Mapping[str, Chosen]
    kept_usual: Mapping[str, str]

    @property
    def falls_short(self) -> dict[str, str]:
        """Classes with less than the rule asks for, and with what: only where other classes can outrank them."""
        asked = self.rule.kind
        return {
            name: f"{asked} {getattr(one, asked):.4f}" if np.isfinite(one.precision) else "never decided"
            for name, one in self.chosen.items()
            if self.rule.at_least and not getattr(one, asked) >= self.rule.at_least - _ROUNDING
        }

    def as_settings(self) -> dict[str, Any]:
        """What ``settings.json`` holds of it: all that an answer depends on, and how far thresholds can be trusted."""
        curves = {name: [curve.a, curve.b, curve.c] for name, curve in self.calibrated.curves.items()}
        temperature = self.calibrated.temperature
        return {
            "rule": str(self.rule),
            "images": self.images,
            "thresholds": {name: one.threshold for name, one in self.chosen.items()},
            "intervals": {name: _pair(one, "threshold") for name, one in self.chosen.items()},
            "kept_usual": dict(self.kept_usual),
            **({} if temperature is None else {"temperature": temperature}),
            **({"score_curves": curves} if curves else {}),
        }

    def as_dict(self) -> dict[str, Any]:
        """In full, with the figures of each class at its threshold."""
        return {
            **self.as_settings(),
            "falls_short": self.falls_short,
            "classes": {
                name: {
                    "examples": self.examples[name],
                    "threshold": one.threshold,
                    "threshold_interval": _pair(one, "threshold"),
                    **{figure: getattr(one, figure) for figure in FIGURES},
                    **{f"{figure}_interval": _pair(one, figure) for figure in FIGURES},
                }
                for name, one in self.chosen.items()
            },
            "reliability": {"before": self.calibrated.before.as_dict(), "after": self.calibrated.after.as_dict()},
        }


def _pair(one: Chosen, name: str) -> list[float] | None:
    between = one.intervals[name]
    return None if between is None else list(between)


def chosen_points(examination: Examination, rule: Rule, config: OperatingPointsConfig) -> Choice:
    """From what a model without operating points, and with a low floor, said of the images."""
    names = examination.predictor.labels
    if isinstance(examination, LabelsExamination):
        calibrated = _labels(examination, config)
    else:
        assert isinstance(examination, ObjectsExamination)
        calibrated = _objects(examination, config)
    examples = {name: int(one.truths.sum()) for name, one in zip(names, calibrated.candidates, strict=True)}
    kept_usual = {
        name: f"{count} examples, fewer than {config.minimum_examples}"
        for name, count in examples.items()
        if count < config.minimum_examples
    }
    enough = {name: one for name, one in zip(names, calibrated.candidates, strict=True) if name not in kept_usual}
    found = dict(zip(enough, choose(rule, [*enough.values()]), strict=True))
    kept_usual |= {name: why_none(rule, examples[name]) for name, one in found.items() if one is None}
    chosen = {name: one for name, one in found.items() if one is not None}
    if isinstance(examination, LabelsExamination) and not examination.multilabel:
        chosen = _as_decided(examination, calibrated, chosen)
    return Choice(
        rule=rule,
        images=len(examination.images),
        examples=examples,
        calibrated=calibrated,
        chosen=chosen,
        kept_usual=kept_usual,
    )


def why_none(rule: Rule, examples: int) -> str:
    """Of a class with enough examples; ``max_f1`` finds a threshold wherever anything right was found."""
    if rule.at_least:
        return f"no threshold has {rule}"
    return f"none of its {examples} examples was found"


def _as_decided(
    examination: LabelsExamination, calibrated: Calibrated, chosen: Mapping[str, Chosen]
) -> dict[str, Chosen]:
    """With the figures of what all thresholds decide together: the best class takes an image from the others."""
    names = examination.predictor.labels
    points = OperatingPoints(
        classes=tuple(names),
        usual=usual_threshold(examination.predictor.card),
        thresholds={name: one.threshold for name, one in chosen.items()},
        temperature=calibrated.temperature or 1.0,
    )
    decided = [points.of_labels(answer).decided or (-1,) for answer in examination.said]
    indexed = {index: chosen[name] for index, name in enumerate(names) if name in chosen}
    told = of_decisions(indexed, np.array([first for first, *_ in decided]), examination.truth)
    return {names[index]: one for index, one in zip(indexed, told, strict=True)}


def _labels(examination: LabelsExamination, config: OperatingPointsConfig) -> Calibrated:
    """One temperature for all classes: the same images told it of each."""
    scores, multilabel = examination.scores, examination.multilabel
    labels = examination.truth
    truth: BoolArray = labels > 0.5 if multilabel else labels[:, None] == np.arange(scores.shape[1])
    temperature = None
    changed = scores
    if config.calibrate and len(scores) >= config.minimum_examples:
        temperature = fitted_temperature(scores, truth, multilabel=multilabel)
        changed = at_temperature(scores, temperature, multilabel=multilabel)
    images = np.arange(len(scores))
    return Calibrated(
        candidates=[
            Candidates(scores=column.astype(np.float64), right=right, images=images, truths=right.astype(np.int64))
            for column, right in zip(changed.T, truth.T, strict=True)
        ],
        before=_reliability_of_labels(scores, truth, multilabel=multilabel),
        after=_reliability_of_labels(changed, truth, multilabel=multilabel),
        temperature=temperature,
    )


def _reliability_of_labels(scores: Scores, truth: BoolArray, *, multilabel: bool) -> Reliability:
    """Of each image's best class, or where it may have several of every class."""
    if multilabel:
        return reliability(scores.ravel(), truth.ravel())
    best = scores.argmax(axis=1)
    rows = np.arange(len(scores))
    return reliability(scores[rows, best], truth[rows, best])


def _objects(examination: ObjectsExamination, config: OperatingPointsConfig) -> Calibrated:
    """By the rule of the curves in an evaluation; a class with too few examples keeps its scores as well."""
    judged, names = examination.judged, examination.predictor.labels
    truth, found = judged.true_objects(), judged.found_objects(0.0)
    verdict = voc_verdict(truth, found, iou_threshold=examination.verdicts.iou_threshold)
    counted = ~verdict.left_out
    scores = verdict.found.scores[counted].astype(np.float64)
    labels, right, images = verdict.found.labels[counted], verdict.right[counted], verdict.found.images[counted]
    true_labels, true_images = truth.labels[~truth.crowd], truth.images[~truth.crowd]
    changed = scores.copy()
    curves: dict[str, ScoreCurve] = {}
    candidates = []
    for index, name in enumerate(names):
        of_class = labels == index
        truths = np.bincount(true_images[true_labels == index], minlength=truth.image_count)
        if config.calibrate and truths.sum() >= config.minimum_examples and of_class.any():
            curve = fitted_curve(scores[of_class], right[of_class])
            if curve is not None:
                curves[name] = curve
                changed[of_class] = curve(scores[of_class])
        candidates.append(
            Candidates(
                scores=changed[of_class],
                right=right[of_class],
                images=images[of_class],
                truths=truths,
                lowest=float(curves.get(name, ScoreCurve())(np.array([FLOOR]))[0]),
            )
        )
    return Calibrated(
        candidates=candidates,
        before=reliability(scores, right),
        after=reliability(changed, right),
        curves=curves,
    )
