"""How well scores put the images of a class before all others: ROC and precision-recall, ties counted as ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

AnyScores = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What is found at each distinct score, from the highest down, when everything from there up counts as found."""

    thresholds: AnyScores
    true_positives: IntArray
    false_positives: IntArray

    @property
    def positives(self) -> int:
        return int(self.true_positives[-1]) if len(self.true_positives) else 0

    @property
    def negatives(self) -> int:
        return int(self.false_positives[-1]) if len(self.false_positives) else 0

    @property
    def area_under_roc(self) -> float:
        """NaN unless there are both positives and negatives."""
        if not self.positives or not self.negatives:
            return float("nan")
        widths = np.diff(self.false_positives, prepend=0)
        doubled_heights = self.true_positives + np.append(0, self.true_positives[:-1])
        return float(np.sum(widths * doubled_heights) / (2.0 * self.positives * self.negatives))

    @property
    def average_precision(self) -> float:
        """The step-wise area under precision over recall; NaN without positives."""
        if not self.positives:
            return float("nan")
        gains = np.diff(self.true_positives, prepend=0)
        return float(np.sum(gains * self.precision) / self.positives)

    @property
    def precision(self) -> FloatArray:
        return self.true_positives / (self.true_positives + self.false_positives)


def rank(scores: AnyScores, truth: BoolArray) -> Ranking:
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    if len(ordered):
        ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    else:
        ends = np.empty(0, dtype=np.int64)
    found = np.cumsum(truth[order], dtype=np.int64)[ends]
    return Ranking(thresholds=ordered[ends], true_positives=found, false_positives=ends + 1 - found)
