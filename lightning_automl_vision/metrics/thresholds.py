"""From which score on a class counts as found: chosen by a rule, with intervals by drawing images again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.metrics.outcomes import NAN
from lightning_automl_vision.metrics.resampling import SAMPLES, Interval, interval, resampled_counts
from lightning_automl_vision.operating_rules import Rule
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

NOTHING, IMPOSSIBLE = -1, -2
"""In place of a row: that nothing shall count as found, and that no threshold does what was asked for."""
_ROUNDING = 1e-12
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What was scored of one class, and whether it is right; ``truths`` is by image how many are to be found.

    Nothing was looked for at the ``lowest`` score or below it.
    """

    scores: FloatArray
    right: BoolArray
    images: IntArray
    truths: IntArray
    lowest: float = 0.0

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def ranked(self) -> Candidates:
        order = np.argsort(-self.scores, kind="stable")
        return replace(self, scores=self.scores[order], right=self.right[order], images=self.images[order])

    @cached_property
    def rows(self) -> IntArray:
        """The last place of each score that something right has; below the last right one all thresholds are worse."""
        scores, right = self.ranked.scores, self.ranked.right
        ends = np.flatnonzero(np.diff(scores, append=-np.inf))
        some = np.diff(np.cumsum(right)[ends], prepend=0) > 0
        return ends[some]

    @cached_property
    def thresholds(self) -> FloatArray:
        """For each row a score halfway down to the next one."""
        scores = self.ranked.scores
        below = np.append(scores, self.lowest)[self.rows + 1]
        halfway: FloatArray = (scores[self.rows] + below) / 2
        return halfway

    @property
    def above_all(self) -> float:
        return float((self.ranked.scores[0] + 1) / 2) if len(self) else 1.0

    def sums(self, counts: NDArray[np.float64]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Rows x draws: how many right ones, and how many in all, count as found; and by draw how many are true."""
        whole = counts[self.ranked.images[: self.rows[-1] + 1]] if len(self.rows) else counts[:0]
        starts = np.append(0, self.rows[:-1] + 1)[: len(self.rows)]
        right = whole * self.ranked.right[: len(whole), None]
        places, hits = (
            np.cumsum(np.add.reduceat(values, starts, axis=0), axis=0) if len(starts) else values
            for values in (whole, right)
        )
        return hits, places, self.truths.astype(np.float64) @ counts


def best_rows(rule: Rule, hits: FloatArray, places: FloatArray, truths: FloatArray) -> IntArray:
    """For each draw the row to count from, NOTHING, or IMPOSSIBLE."""
    if not len(hits):
        lost = NOTHING if rule.kind == "cost" else IMPOSSIBLE
        return np.full(len(truths), lost)
    some = hits > 0
    if rule.kind == "max_f1":
        rows = np.argmax(2 * hits / np.maximum(places + truths, 1), axis=0)
        return np.where(some.any(axis=0), rows, IMPOSSIBLE)
    if rule.kind == "precision":
        good = some & (hits >= (rule.at_least - _ROUNDING) * places)
        return np.where(good.any(axis=0), np.argmax(np.where(good, hits, -1), axis=0), IMPOSSIBLE)
    if rule.kind == "recall":
        good = some & (hits >= (rule.at_least - _ROUNDING) * truths)
        return np.where(good.any(axis=0), np.argmax(good, axis=0), IMPOSSIBLE)
    costs = rule.false_positive * (places - hits) + rule.false_negative * (truths - hits)
    rows = np.argmin(costs, axis=0)
    cheapest = np.take_along_axis(costs, rows[None], axis=0)[0]
    return np.where(cheapest < rule.false_negative * truths, rows, NOTHING)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A threshold, and precision, recall and F1 of the images it was chosen on, each with its interval.

    That of the ``threshold`` says between which the rule would have chosen with other images of the same kind.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    intervals: dict[str, Interval | None]


FIGURES = ("precision", "recall", "f1")


def choose(
    rule: Rule, classes: Sequence[Candidates], *, samples: int = SAMPLES, seed: int = 0
) -> Iterator[Chosen | None]:
    """For each class its threshold, or None where no threshold does what the rule asks for."""
    rows = [_row_of_all(rule, candidates) for candidates in classes]
    draws: list[list[FloatArray]] = [[] for _ in classes]
    images = len(classes[0].truths) if classes else 0
    for counts in resampled_counts(images, samples=samples, seed=seed):
        for candidates, row, found in zip(classes, rows, draws, strict=True):
            if row != IMPOSSIBLE:
                found.append(_drawn(rule, candidates, row, counts))
    for candidates, row, found in zip(classes, rows, draws, strict=True):
        yield None if row == IMPOSSIBLE else _chosen(candidates, row, np.concatenate(found, axis=1))


def of_decisions(
    chosen: Mapping[int, Chosen], decided: IntArray, truth: IntArray, *, samples: int = SAMPLES, seed: int = 0
) -> Iterator[Chosen]:
    """The same thresholds of classes by index, with the figures of what is ``decided`` for each image; -1 is nothing.

    The images are drawn as `choose` draws them.
    """
    figures: dict[int, list[FloatArray]] = {index: [] for index in chosen}
    everything = np.ones((len(truth), 1))
    for counts in chain([everything], resampled_counts(len(truth), samples=samples, seed=seed)):
        for index, found in figures.items():
            said, true = decided == index, truth == index
            found.append(np.stack(_figures(*(counts[which].sum(axis=0) for which in (said & true, said, true)))))
    for index, one in chosen.items():
        whole, *draws = np.concatenate(figures[index], axis=1).T
        precision, recall, f1 = whole.tolist()
        between = {**one.intervals, **_intervals(FIGURES, np.array(draws).T)}
        yield replace(one, precision=precision, recall=recall, f1=f1, intervals=between)


def _row_of_all(rule: Rule, candidates: Candidates) -> int:
    everything = np.ones((len(candidates.truths), 1))
    return int(best_rows(rule, *candidates.sums(everything))[0])


def _drawn(rule: Rule, candidates: Candidates, row: int, counts: FloatArray) -> FloatArray:
    """The threshold that the rule would choose of each draw, and the three figures at the one that is chosen."""
    width = max(1, _BLOCK // max(1, len(candidates)))
    parts = []
    for begin in range(0, counts.shape[1], width):
        hits, places, truths = candidates.sums(counts[:, begin : begin + width])
        others = best_rows(rule, hits, places, truths)
        thresholds = np.append(candidates.thresholds, (NAN, candidates.above_all))[others]
        parts.append(
            np.stack([np.where(truths > 0, thresholds, NAN), *_figures(_at(row, hits), _at(row, places), truths)])
        )
    return np.concatenate(parts, axis=1)


def _at(row: int, sums: FloatArray) -> FloatArray:
    return sums[row] if row >= 0 else np.zeros(sums.shape[1])


def _figures(right: FloatArray, found: FloatArray, truths: FloatArray) -> tuple[FloatArray, ...]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / found, right / truths, 2 * right / (found + truths)


def _chosen(candidates: Candidates, row: int, draws: FloatArray) -> Chosen:
    hits, places, truths = candidates.sums(np.ones((len(candidates.truths), 1)))
    precision, recall, f1 = (float(values[0]) for values in _figures(_at(row, hits), _at(row, places), truths))
    between = _intervals(("threshold", *FIGURES), draws)
    threshold = candidates.above_all if row == NOTHING else float(candidates.thresholds[row])
    return Chosen(threshold=threshold, precision=precision, recall=recall, f1=f1, intervals=between)


def _intervals(names: Sequence[str], draws: FloatArray) -> dict[str, Interval | None]:
    """Of each name's draws; None where every one is undefined."""
    return {
        name: interval(values) if np.isfinite(values).any() else None for name, values in zip(names, draws, strict=True)
    }
