"""Whether scores are shares: of what scores 0.8, are four of five right? What makes them so, and the curve that tells.

Everything here keeps the order of scores within a class: what changes is what a score is worth.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lightning_automl_vision.metrics.outcomes import NAN
from lightning_automl_vision.metrics.ranking import AnyScores
from lightning_automl_vision.samples import BoolArray, FloatArray, Scores

BINS = 10
COLDEST, HOTTEST = 0.05, 20.0
"""What a temperature is kept between: the fewer images are wrong, the less they tell of it."""
_STEPS, _CONVERGED = 50, 1e-10
# How many made-up examples the usual scores weigh where a curve is fitted to few real ones.
_PRIOR = 1.0
_TINY = 1e-7


def fitted_temperature(scores: AnyScores, truth: BoolArray, *, multilabel: bool) -> float:
    """What logits are divided by for the truth to be most likely: above 1 the model was too sure of itself.

    The likelihood has one highest point, which Newton's steps find; ``scores`` and ``truth`` are images x classes. One
    made-up image of which nothing is known keeps a set without a mistake from making the model infinitely sure.
    """
    logits = _logits(scores) if multilabel else _log(scores)
    unknown = 0.5 if multilabel else 1 / max(scores.shape[1], 1)
    wanted = (len(truth) * truth + unknown) / (len(truth) + 1)
    inverse = 1.0
    for _ in range(_STEPS):
        slope, bend = _derivatives(logits, wanted, inverse, multilabel=multilabel)
        newton = inverse - slope / bend if bend > 0 else inverse * (2 if slope < 0 else 0.5)
        near = min(max(newton, inverse / 2), inverse * 2)
        last, inverse = inverse, min(max(near, 1 / HOTTEST), 1 / COLDEST)
        if abs(inverse - last) < _CONVERGED * inverse:
            break
    return 1 / inverse


def _derivatives(logits: FloatArray, wanted: FloatArray, inverse: float, *, multilabel: bool) -> tuple[float, float]:
    """The first and the second of the mean loss, by what logits are multiplied with."""
    if multilabel:
        shares = _sigmoid(inverse * logits)
        return float((logits * (shares - wanted)).mean()), float((logits**2 * shares * (1 - shares)).mean())
    shares = _softmax(inverse * logits)
    expected = (shares * logits).sum(axis=1)
    spread = (shares * logits**2).sum(axis=1) - expected**2
    return float((expected - (logits * wanted).sum(axis=1)).mean()), float(spread.mean())


def at_temperature(scores: AnyScores, temperature: float, *, multilabel: bool) -> Scores:
    """Scores as they would be of logits divided by it, image by image."""
    if temperature == 1:
        return np.asarray(scores, dtype=np.float32)
    if multilabel:
        return _sigmoid(_logits(scores) / temperature).astype(np.float32)
    return _softmax(_log(scores) / temperature).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ScoreCurve:
    """A share that grows with the score: the logistic function of a ln(s) - b ln(1 - s) + c, a and b at least 0.

    This is beta calibration (Kull et al. 2017); with a = b = 1 and c = 0 scores stay as they are.
    """

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def __call__(self, scores: AnyScores) -> FloatArray:
        values = np.asarray(scores, dtype=np.float64)
        if self == ScoreCurve():
            return values
        return _sigmoid(_features(values) @ np.array((self.a, self.b, self.c)))

    def score_for(self, share: float) -> float:
        """The lowest score that is worth the share, to the last digits but a few."""
        if self == ScoreCurve():
            return share
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if float(self(np.array([middle]))[0]) >= share else (middle, high)
        return low


def fitted_curve(scores: AnyScores, right: BoolArray) -> ScoreCurve | None:
    """The most likely curve, near the usual one where examples are few; None where a higher score is no better."""
    wanted = _softened(right)
    for free in ((0, 1, 2), (0, 2), (1, 2)):
        found = _fitted(_features(np.asarray(scores, dtype=np.float64)), wanted, free)
        if found[0] >= 0 and found[1] >= 0 and found[:2].sum() > _TINY:
            return ScoreCurve(a=float(found[0]), b=float(found[1]), c=float(found[2]))
    return None


def _softened(right: BoolArray) -> FloatArray:
    """Never quite 0 or 1, as Platt has it: else a class without a mistake would be infinitely sure."""
    count = int(right.sum())
    return np.where(right, (count + 1) / (count + 2), 1 / (len(right) - count + 2))


def _fitted(features: FloatArray, wanted: FloatArray, free: tuple[int, ...]) -> FloatArray:
    """Newton's steps, halved where they would lead too far."""
    usual = np.array((1.0, 1.0, 0.0))
    values = np.where(np.isin(np.arange(3), free), usual, 0.0)
    centre, columns = values.copy(), list(free)

    def loss(values: FloatArray) -> float:
        logits = features @ values
        fit = np.logaddexp(0, logits) - wanted * logits
        return float(fit.sum() + _PRIOR / 2 * ((values - centre) ** 2).sum())

    for _ in range(_STEPS):
        shares = _sigmoid(features @ values)
        some = features[:, columns]
        slope = some.T @ (shares - wanted) + _PRIOR * (values - centre)[columns]
        bend = (some * (shares * (1 - shares))[:, None]).T @ some + _PRIOR * np.eye(len(columns))
        step = np.zeros(3)
        step[columns] = np.linalg.solve(bend, slope)
        before, share = loss(values), 1.0
        while loss(values - share * step) > before and share > _TINY:
            share /= 2
        values = values - share * step
        if np.abs(share * step).max() < _CONVERGED:
            break
    return values


def _features(scores: FloatArray) -> FloatArray:
    inside = scores.clip(_TINY, 1 - _TINY)
    return np.stack([np.log(inside), -np.log1p(-inside), np.ones_like(inside)], axis=-1)


def _log(scores: AnyScores) -> FloatArray:
    return np.log(np.maximum(scores.astype(np.float64), np.finfo(np.float32).tiny))


def _logits(scores: AnyScores) -> FloatArray:
    inside = scores.astype(np.float64).clip(_TINY, 1 - _TINY)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def _softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Bins of scores from 0 to 1: their mean, the share that is right, and how many there are; NaN of an empty bin."""

    scores: FloatArray
    shares: FloatArray
    counts: FloatArray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance between score and share, weighted by counts."""
        known = self.counts > 0
        total = self.counts.sum()
        if not total:
            return NAN
        return float((np.abs(self.scores - self.shares)[known] * self.counts[known]).sum() / total)

    def as_dict(self) -> dict[str, Any]:
        return {name: values.tolist() for name, values in asdict(self).items()} | {
            "expected_calibration_error": self.error
        }


def reliability(scores: AnyScores, right: BoolArray, *, bins: int = BINS) -> Reliability:
    values = np.asarray(scores, dtype=np.float64)
    places = (values * bins).astype(np.int64).clip(0, bins - 1)
    counts = np.bincount(places, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = np.bincount(places, weights=values, minlength=bins) / counts
        shares = np.bincount(places, weights=right.astype(np.float64), minlength=bins) / counts
    return Reliability(scores=means, shares=shares, counts=counts)
