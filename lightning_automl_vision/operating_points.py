"""What a model's settings say of operating points: scores made shares, and from which on each class counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.metrics.calibration import COLDEST, HOTTEST, ScoreCurve, at_temperature
from lightning_automl_vision.metrics.outcomes import THRESHOLD
from lightning_automl_vision.model_folder import ModelCard, parameter
from lightning_automl_vision.samples import BoolArray, ScoredBoxes, ScoredLabels, Scores

POINTS, USE = "operating_points", "use_operating_points"
_KEYS = ("thresholds", "temperature", "score_curves", "rule", "intervals", "kept_usual", "images")
# A network answers what scores more than its threshold, and this little below it, for rounding to lose nothing.
_MARGIN = 1e-6
D = TypeVar("D", bound=ScoredBoxes)


@dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """``thresholds`` are of scores as they are answered, after calibration; a class without one has the ``usual`` one.

    ``usual`` is a detector's own threshold, 0.5 where images may have several labels, and 0 where each has one.
    """

    classes: tuple[str, ...]
    usual: float
    multilabel: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    curves: Mapping[str, ScoreCurve] = field(default_factory=dict)

    @property
    def lowest_score(self) -> float:
        """What a network must be asked for, above which it answers, so that no class lacks an object."""
        scores = [
            self._curve(name).score_for(self.thresholds[name]) - _MARGIN if name in self.thresholds else self.usual
            for name in self.classes
        ]
        return max(min(scores, default=self.usual), 0.0)

    def of_labels(self, answer: ScoredLabels) -> ScoredLabels:
        """With calibrated scores and what they decide for: with one label an image the best class that may, if any."""
        scores = at_temperature(answer.scores[None], self.temperature, multilabel=self.multilabel)[0]
        order = np.argsort(-scores, kind="stable")
        decided = order[self.reached(scores)[order]].tolist()
        return replace(answer, scores=scores, decided=tuple(decided if self.multilabel else decided[:1]))

    def of_objects(self, answer: D) -> D:
        """Calibrated, and only what reaches its class's threshold; best first."""
        scores = self.calibrated(answer.scores, answer.labels)
        least = self._least[answer.labels]
        usual = np.array([name not in self.thresholds for name in self.classes], dtype=bool)[answer.labels]
        kept = np.flatnonzero(np.where(usual, answer.scores > least, scores >= least))
        order = kept[np.argsort(-scores[kept], kind="stable")]
        return replace(answer, scores=scores).chosen(order)

    def calibrated(self, scores: Scores, labels: np.ndarray[Any, np.dtype[np.int64]]) -> Scores:
        """The scores of objects by their classes' curves."""
        changed = scores.copy()
        for index in np.unique(labels).tolist():
            of_class = labels == index
            changed[of_class] = self._curve(self.classes[index])(scores[of_class])
        return changed

    def reached(self, scores: Scores) -> BoolArray:
        """For calibrated scores, of one image or of several."""
        return np.asarray(scores >= self._least)

    @property
    def _least(self) -> Scores:
        return np.array([self.thresholds.get(name, self.usual) for name in self.classes], dtype=np.float32)

    def _curve(self, name: str) -> ScoreCurve:
        return self.curves.get(name, ScoreCurve())


def usual_threshold(card: ModelCard) -> float:
    """From which score on a class counts where nothing is said of it; 0 where an image has just one label."""
    if card.task == "image_classification":
        return 0.0
    if card.task == "image_classification_multilabel":
        return THRESHOLD
    return float(parameter(card, "box_score_threshold") or 0.0)


def points_in(card: ModelCard, *, source: str) -> OperatingPoints | None:
    """Those of a model's settings, checked, if they are switched on; ``source`` is the file that an error names."""
    switched, points = card.settings.get(USE, False), card.settings.get(POINTS)
    if not isinstance(switched, bool):
        raise ConfigError(f"{source}: {USE}={json.dumps(switched)} must be true or false.")
    if points is None:
        if switched:
            raise ConfigError(
                f"{source}: {USE}=true, and there are no {POINTS}. Say false, then choose some and switch them on: lav"
                " evaluate RUN output=DIR operating_points.rule=max_f1 operating_points.use=true."
            )
        return None
    found = _read(points, card, f"{source}: {POINTS}")
    return found if switched else None


def _read(points: Any, card: ModelCard, where: str) -> OperatingPoints:
    task, classes = card.task, card.labels
    if not isinstance(points, dict):
        raise ConfigError(f"{where}={points!r} must be a JSON object.")
    finds_objects = not task.startswith("image_classification")
    for name in points:
        if name not in _KEYS or name == ("temperature" if finds_objects else "score_curves"):
            raise ConfigError(f"{where} has no key {name!r} for {task}.{nearest(name, _KEYS)}")
    thresholds = _by_class(points, "thresholds", classes, where)
    for name, value in thresholds.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ConfigError(f"{where}.thresholds.{name}={json.dumps(value)} must be a number in [0, 1].")
    temperature = points.get("temperature", 1.0)
    if not _is_number(temperature) or not COLDEST <= temperature <= HOTTEST:
        raise ConfigError(
            f"{where}.temperature={json.dumps(temperature)} must be a number in [{COLDEST:g}, {HOTTEST:g}]."
        )
    curves = {
        name: _curve_of(value, f"{where}.score_curves.{name}")
        for name, value in _by_class(points, "score_curves", classes, where).items()
    }
    return OperatingPoints(
        classes=tuple(classes),
        usual=usual_threshold(card),
        multilabel=task == "image_classification_multilabel",
        thresholds={name: float(value) for name, value in thresholds.items()},
        temperature=float(temperature),
        curves=curves,
    )


def _by_class(points: Mapping[str, Any], key: str, classes: Sequence[str], where: str) -> Mapping[str, Any]:
    values = points.get(key, {})
    if not isinstance(values, dict):
        raise ConfigError(f"{where}.{key}={values!r} must be a JSON object with a value for each class.")
    for name in values:
        if name not in classes:
            raise ConfigError(f"{where}.{key}: the model knows no class {name!r}.{nearest(name, list(classes))}")
    return values


def _curve_of(value: Any, where: str) -> ScoreCurve:
    good = isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))
    if not good or min(value[:2]) < 0 or not sum(value[:2]):
        raise ConfigError(f"{where}={value!r} must be three numbers, the first two at least 0 and not both 0.")
    return ScoreCurve(a=float(value[0]), b=float(value[1]), c=float(value[2]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value).item()
