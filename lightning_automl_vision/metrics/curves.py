"""What the best epoch is explained with: confusion matrix, ROC and precision-recall points, a report for each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.metrics.outcomes import ClassFigures, Outcomes, mean_of_known, ratio
from lightning_automl_vision.metrics.ranking import AnyScores, Ranking, rank
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray


def confusion_matrix(
    scores: AnyScores,
    labels: NDArray[np.generic],
    *,
    multilabel: bool,
    classes: Sequence[str],
    predicted: BoolArray | None = None,
) -> IntArray:
    """C x C images by true class (row) and predicted class; with ``multilabel`` C x 2 x 2, absent before present."""
    outcomes = Outcomes.of(scores, labels, multilabel=multilabel, classes=classes, predicted=predicted)
    if not multilabel:
        return outcomes.truth.astype(np.int64).T @ outcomes.predicted.astype(np.int64)
    sides = [(~outcomes.truth, outcomes.truth), (~outcomes.predicted, outcomes.predicted)]
    cells = [[(true & predicted).sum(axis=0) for predicted in sides[1]] for true in sides[0]]
    return np.array(cells, dtype=np.int64).transpose(2, 0, 1)


def share_of_row(matrix: IntArray) -> FloatArray:
    """A confusion matrix whose rows add up to 1; a row of a class that is never true is NaN."""
    return ratio(matrix, np.broadcast_to(matrix.sum(axis=-1, keepdims=True), matrix.shape))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points from the highest score down, and the score from which on each point counts an image as found."""

    x: FloatArray
    y: FloatArray
    thresholds: FloatArray


def roc_curve(ranking: Ranking) -> Curve | None:
    """The share of positives found over the share of negatives found; None without both."""
    if not ranking.positives or not ranking.negatives:
        return None
    return Curve(
        x=np.append(0, ranking.false_positives) / ranking.negatives,
        y=np.append(0, ranking.true_positives) / ranking.positives,
        thresholds=np.append(np.inf, ranking.thresholds),
    )


def precision_recall_curve(ranking: Ranking) -> Curve | None:
    """Precision over recall, from nothing found (precision 1 by definition) on; None without positives."""
    if not ranking.positives:
        return None
    return Curve(
        x=np.append(0, ranking.true_positives) / ranking.positives,
        y=np.append(1, ranking.precision),
        thresholds=np.append(np.inf, ranking.thresholds),
    )


@dataclass(frozen=True, kw_only=True)
class Rankings:
    """How each class ranks, in their order, and all of them pooled."""

    classes: Mapping[str, Ranking]
    micro: Ranking

    @classmethod
    def of(
        cls, scores: AnyScores, labels: NDArray[np.generic], *, multilabel: bool, classes: Sequence[str]
    ) -> Rankings:
        outcomes = Outcomes.of(scores, labels, multilabel=multilabel, classes=classes)
        columns = zip(classes, outcomes.scores.T, outcomes.truth.T, strict=True)
        return cls(
            classes={name: rank(column, truth) for name, column, truth in columns},
            micro=rank(outcomes.scores.ravel(), outcomes.truth.ravel()),
        )


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    precision: float
    recall: float
    f1: float
    support: int
    auc: float
    average_precision: float


@dataclass(frozen=True, kw_only=True)
class ClassificationReport:
    """A row for each class, in their order, and one for each average (micro, macro, weighted); NaN is undefined."""

    classes: Mapping[str, ReportRow]
    averages: Mapping[str, ReportRow]


def classification_report(
    scores: AnyScores,
    labels: NDArray[np.generic],
    *,
    multilabel: bool,
    classes: Sequence[str],
    predicted: BoolArray | None = None,
) -> ClassificationReport:
    outcomes = Outcomes.of(scores, labels, multilabel=multilabel, classes=classes, predicted=predicted)
    figures = ClassFigures.of(outcomes)
    micro = next(_rows(ClassFigures.of(outcomes.flattened)))
    return ClassificationReport(
        classes=dict(zip(classes, _rows(figures), strict=True)),
        averages={"micro": micro, "macro": _average(figures), "weighted": _average(figures, figures.support)},
    )


def _rows(figures: ClassFigures) -> Iterator[ReportRow]:
    for index, support in enumerate(figures.support):
        yield ReportRow(
            precision=float(figures.precision[index]),
            recall=float(figures.recall[index]),
            f1=float(figures.f1[index]),
            support=int(support),
            auc=float(figures.auc[index]),
            average_precision=float(figures.average_precision[index]),
        )


def _average(figures: ClassFigures, weights: IntArray | None = None) -> ReportRow:
    return ReportRow(
        precision=mean_of_known(figures.precision, weights),
        recall=mean_of_known(figures.recall, weights),
        f1=mean_of_known(figures.f1, weights),
        support=int(figures.support.sum()),
        auc=mean_of_known(figures.auc, weights),
        average_precision=mean_of_known(figures.average_precision, weights),
    )
