"""What was true, scored and predicted of each class, and the figures of each class that metrics average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.metrics.ranking import AnyScores, rank
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

# A multi-label class counts as predicted from this score on.
THRESHOLD = 0.5
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Scores and, for each image and class, whether it is true and whether it is predicted."""

    scores: AnyScores
    truth: BoolArray
    predicted: BoolArray

    @classmethod
    def of(
        cls,
        scores: AnyScores,
        labels: NDArray[np.generic],
        *,
        multilabel: bool,
        classes: Sequence[str],
        predicted: BoolArray | None = None,
    ) -> Outcomes:
        """From N x C scores and N class indices, or N x C zeros and ones when an image may have several labels.

        What counts as ``predicted`` may be said; else it is the best score, or all from the usual threshold on.
        """
        expected = (len(scores), len(classes))
        if scores.shape != expected:
            raise ValueError(f"scores must be N x {len(classes)}, got {scores.shape}")
        if labels.shape != (expected if multilabel else expected[:1]):
            raise ValueError(f"labels must be {'N x C' if multilabel else 'N'} for {expected} scores: {labels.shape}")
        if multilabel:
            chosen = scores >= THRESHOLD if predicted is None else predicted
            return cls(scores=scores, truth=labels.astype(bool), predicted=chosen)
        indices = np.arange(len(classes))
        if not np.isin(labels, indices).all():
            raise ValueError(f"labels must be in [0, {len(classes)}), got {sorted(set(labels.tolist()))}")
        best = scores.argmax(axis=1) if len(scores) else np.empty(0, dtype=np.int64)
        chosen = best[:, None] == indices if predicted is None else predicted
        return cls(scores=scores, truth=labels[:, None] == indices, predicted=chosen)

    @property
    def flattened(self) -> Outcomes:
        """All classes as one: the pool that micro averages are taken over."""
        return Outcomes(
            scores=self.scores.reshape(-1, 1),
            truth=self.truth.reshape(-1, 1),
            predicted=self.predicted.reshape(-1, 1),
        )


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One value for each class, NaN where there is nothing to measure.

    A class that is true somewhere but never predicted has precision 0, as in scikit-learn: all of it was missed.
    A class that is neither true nor predicted has no precision, recall, F1 or IoU.
    """

    support: IntArray
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    iou: FloatArray
    auc: FloatArray
    average_precision: FloatArray

    @classmethod
    def of(cls, outcomes: Outcomes) -> ClassFigures:
        support = outcomes.truth.sum(axis=0)
        predicted = outcomes.predicted.sum(axis=0)
        hits = (outcomes.truth & outcomes.predicted).sum(axis=0)
        seen = support + predicted > 0
        ranked = [rank(scores, truth) for scores, truth in zip(outcomes.scores.T, outcomes.truth.T, strict=True)]
        return cls(
            support=support,
            precision=np.where(seen, ratio(hits, predicted, otherwise=0.0), NAN),
            recall=ratio(hits, support),
            f1=ratio(2 * hits, support + predicted),
            iou=ratio(hits, support + predicted - hits),
            auc=np.array([ranking.area_under_roc for ranking in ranked], dtype=np.float64),
            average_precision=np.array([ranking.average_precision for ranking in ranked], dtype=np.float64),
        )

    def named(self) -> Iterator[tuple[str, FloatArray]]:
        """Each figure under its documented name."""
        yield "AUC", self.auc
        yield "average_precision_score", self.average_precision
        yield "f1_score", self.f1
        yield "precision_score", self.precision
        yield "recall_score", self.recall


def ratio(part: NDArray[np.integer], whole: NDArray[np.integer], *, otherwise: float = NAN) -> FloatArray:
    """``part / whole``, and ``otherwise`` where the whole is nothing."""
    shares: FloatArray = np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole > 0)
    return shares


def mean_of_known(values: FloatArray, weights: IntArray | None = None) -> float:
    """The (weighted) mean over the values that are not NaN; NaN if none is, or if all weigh nothing."""
    known = ~np.isnan(values)
    shares = (np.ones(len(values)) if weights is None else weights)[known]
    total = shares.sum()
    return float(np.sum(values[known] * shares) / total) if total else NAN
