"""Whether one trial is better than another, or only was luckier with the validation images.

Everything follows from one paired bootstrap: the same images are drawn, with repetition, for all trials, and the
metric of each trial is computed of each draw. What differs between two trials then is theirs, not the draw's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.metrics.resampling import LEVEL, SAMPLES, Interval, interval, resampled_counts
from lightning_automl_vision.samples import FloatArray
from lightning_automl_vision.search.per_image import Judging, PerImage, metric_of_all

ALPHA = 1 - LEVEL
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A trial's metric of all images, and of each draw of them; of no use where the trial has no metric."""

    judging: Judging
    value: float
    draws: FloatArray

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)


def resample(trials: Sequence[PerImage], *, samples: int = SAMPLES, seed: int = 0) -> list[Resampled]:
    """Each trial by itself or all at once come to the same: seed and number of images alone decide on the draws."""
    check_same_images([trial.judging for trial in trials])
    if not trials:
        return []
    blocks = [
        [trial.metrics_of(counts) for trial in trials]
        for counts in resampled_counts(len(trials[0].names), samples=samples, seed=seed)
    ]
    draws = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    return [
        Resampled(judging=trial.judging, value=metric_of_all(trial), draws=own)
        for trial, own in zip(trials, draws, strict=True)
    ]


def check_same_images(trials: Sequence[Judging]) -> None:
    """By name, order and metric."""
    for number, trial in enumerate(trials):
        reason = trial.differs_from(trials[0])
        if reason is not None:
            raise DataError(
                f"Two trials cannot be compared (the first and number {number + 1} of {len(trials)}): {reason}."
                " Trials of one sweep share their validation data and how they are judged; start a new sweep where"
                " either was changed."
            )


def interval_of(trial: Resampled) -> Interval:
    """Where the metric would lie with other images of the same kind, with LEVEL certainty."""
    return interval(trial.draws) if trial.known else Interval(math.nan, math.nan)


def p_value(trial: Resampled, leader: Resampled) -> float:
    """How often a leader that is no better than the trial would be this far ahead of it; one-sided, paired.

    The lead of each draw is moved by the lead of all images, so that its mean is none; p is the share of draws whose
    moved lead is at least the real one, (1 + how many) / (1 + draws). It speaks of these two alone, and knows nothing
    of the leader's having been picked from many; `ties` does.
    """
    check_same_images([trial.judging, leader.judging])
    return _alone(trial, leader) if trial.known and leader.known else math.nan


def _alone(trial: Resampled, leader: Resampled) -> float:
    lead = leader.value - trial.value
    noise = leader.draws - trial.draws - lead
    return _share(noise[np.isfinite(noise)], lead)


def _share(noise: FloatArray, real: float) -> float:
    """Of draws, and of what was really seen, that are at least as large; rounding makes none smaller."""
    return float((1 + np.count_nonzero(noise >= real - _ROUNDING)) / (1 + len(noise)))


def leader_of(trials: Sequence[Resampled]) -> int | None:
    """The index of the best metric, the first of equals."""
    known = [index for index, trial in enumerate(trials) if trial.known]
    return max(known, key=lambda index: trials[index].value) if known else None


@dataclass(frozen=True, kw_only=True)
class Race:
    """Candidates beside one trial that they have to beat, when the best of them has been picked because it led.

    The noise of a candidate is its lead in a draw less its lead in all images, as a multiple of its standard error;
    ``most`` is, draw by draw, the largest of any candidate: how far ahead the luckiest would be if none were better.
    The pick is better where its own lead, in the same unit, is seldom reached by that. This is the maximum statistic
    of White's reality check, studentized, and without those whom Hansen leaves out: a candidate further behind than
    sqrt(2 log log images) standard errors, which could not have been picked, keeps its real lead in its noise. So the
    chance to call the pick better when none is stays at ALPHA however many are tried, whichever way the pick was made,
    and hopeless trials do not hide a good one. The error of a real lead is the one it would have if the truth were
    none, which is larger by the lead itself over the square root of the images: with few images, that matters.
    """

    leads: FloatArray
    errors: FloatArray
    most: FloatArray

    @classmethod
    def of(cls, candidates: Sequence[Resampled], rival: Resampled) -> Race:
        """All must have a metric, and of the same images."""
        check_same_images([rival.judging, *(candidate.judging for candidate in candidates)])
        if not all(trial.known for trial in (rival, *candidates)):
            raise ValueError("a trial without a metric cannot be raced")
        return cls._of(candidates, rival)

    @classmethod
    def _of(cls, candidates: Sequence[Resampled], rival: Resampled) -> Race:
        leads = np.array([candidate.value - rival.value for candidate in candidates])
        draws = np.stack([candidate.draws - rival.draws for candidate in candidates])
        draws = draws[:, np.isfinite(draws).all(axis=0)]
        spreads = np.maximum(draws.std(axis=1), _ROUNDING)
        images = max(len(rival.judging.names), 2)
        hopeless = leads < -spreads * math.sqrt(2 * math.log(math.log(max(images, 16))))
        noise = (draws - np.where(hopeless, 0, leads)[:, None]) / spreads[:, None]
        errors = np.hypot(spreads, leads / math.sqrt(images)) * math.sqrt(images / (images - 1))
        return cls(leads=leads, errors=errors, most=noise.max(axis=0))

    def p_value(self, picked: int) -> float:
        """How often the luckiest of all would be as far ahead as the picked one is, if none were better."""
        return _share(self.most, float(self.leads[picked] / self.errors[picked]))

    def at_least(self, picked: int) -> float:
        """The lead that the picked one has with LEVEL certainty; above 0 exactly where the p-value is small enough."""
        place = math.floor(ALPHA * (1 + len(self.most)))
        if not 1 <= place <= len(self.most):
            return -math.inf
        noise = np.sort(self.most)[-place]
        return float((self.leads[picked] / self.errors[picked] - _ROUNDING - noise) * self.errors[picked])


def ties(trials: Sequence[Resampled]) -> list[bool]:
    """For each trial whether it may be as good as the leader, which was picked because it led; so is the leader itself.

    A trial is told apart from the leader where the leader beats it as the best of all others, as in `Race`: with LEVEL
    certainty the truly best trial is never told apart. One without a metric never ties.
    """
    check_same_images([trial.judging for trial in trials])
    leader = leader_of(trials)
    return [leader is not None and trial.known and _tie(trials, index, leader) for index, trial in enumerate(trials)]


def _tie(trials: Sequence[Resampled], index: int, leader: int) -> bool:
    """What cannot be told from the leader where the two are alone cannot where the leader was picked from many."""
    if index == leader or _alone(trials[index], trials[leader]) > ALPHA:
        return True
    others = [other for other in range(len(trials)) if other != index and trials[other].known]
    race = Race._of([trials[other] for other in others], trials[index])
    return race.p_value(others.index(leader)) > ALPHA


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of the best candidate against the default; ``best`` is its index among all, None if none has a metric."""

    proven: bool
    best: int | None
    value: float
    default: float
    at_least: float
    p_value: float
    candidates: int

    @property
    def gain(self) -> float:
        return self.value - self.default

    def __str__(self) -> str:
        if self.best is None:
            return f"no proven gain over the default, {self.default:.3f}: nothing else has a metric"
        figures = f"{self.value:.3f} against {self.default:.3f}"
        chance = f"p = {self.p_value:.3f}"
        if self.candidates > 1:
            chance += f", which allows for its having been picked from {self.candidates}"
        if self.proven:
            return f"a proven gain over the default: {figures}, at least {self.at_least:+.3f} ({chance})"
        return f"no proven gain over the default: {figures} ({chance})"


def proven_gain(candidates: Sequence[Resampled], default: Resampled) -> Verdict:
    """Whether the best candidate is better than the default, by `Race`, at a chance of ALPHA to be wrong.

    Candidates without a metric do not count. ``at_least`` is the gain with LEVEL certainty.
    """
    if not default.known:
        raise ValueError("the default has no metric, so that there is nothing to measure a gain against")
    check_same_images([default.judging, *(candidate.judging for candidate in candidates)])
    known = [index for index, candidate in enumerate(candidates) if candidate.known]
    best = leader_of(candidates)
    if best is None:
        nothing = math.nan
        return Verdict(
            proven=False, best=None, value=nothing, default=default.value, at_least=nothing, p_value=1, candidates=0
        )
    race = Race.of([candidates[index] for index in known], default)
    place = known.index(best)
    chance = race.p_value(place)
    return Verdict(
        proven=chance <= ALPHA,
        best=best,
        value=candidates[best].value,
        default=default.value,
        at_least=race.at_least(place),
        p_value=chance,
        candidates=len(known),
    )
