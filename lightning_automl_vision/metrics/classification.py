"""The documented classification metrics, equal to scikit-learn's wherever those are defined.

What cannot be measured is never made up: a class that the truth lacks is left out of recall, AUC and average
precision, a class that is neither true nor predicted out of every macro average, and a metric with nothing left is NaN.
So is every metric when a score is not finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.metrics.outcomes import NAN, ClassFigures, Outcomes, mean_of_known, ratio
from lightning_automl_vision.metrics.ranking import AnyScores
from lightning_automl_vision.samples import BoolArray, FloatArray


def classification_metrics(
    scores: AnyScores,
    labels: NDArray[np.generic],
    *,
    multilabel: bool,
    classes: Sequence[str],
    predicted: BoolArray | None = None,
) -> dict[str, float]:
    """Every metric by its documented name, over all images at once.

    Args:
        scores: N x C; a multi-class image's prediction is its highest score, the first in a tie, and a multi-label
            image has every label whose score is at least 0.5.
        labels: N class indices, or N x C zeros and ones with ``multilabel``.
        multilabel: Adds the ``iou`` family. ``iou`` is that of ``iou_samples``: the mean over images, where an image
            without labels that is given none counts 1. ``accuracy`` asks for all labels of an image, ``log_loss`` is
            the mean over labels. What is only defined for one label an image is absent.
        classes: With two classes of which each image has one, metrics of the second are given as ``_binary``.
        predicted: N x C, where something else decides on it.
    """
    outcomes = Outcomes.of(scores, labels, multilabel=multilabel, classes=classes, predicted=predicted)
    per_class, pooled = ClassFigures.of(outcomes), ClassFigures.of(outcomes.flattened)
    metrics = {
        "accuracy": _accuracy(outcomes),
        "log_loss": _log_loss(outcomes, multilabel=multilabel),
        **dict(_averages(per_class, pooled)),
    }
    if multilabel:
        metrics |= _overlaps(outcomes, per_class, pooled)
    else:
        metrics |= _single_label(outcomes, per_class)
    if not multilabel and len(classes) == 2:
        metrics |= {f"{name}_binary": float(values[1]) for name, values in per_class.named()}
    return metrics if np.isfinite(scores).all() else dict.fromkeys(metrics, NAN)


def _averages(per_class: ClassFigures, pooled: ClassFigures) -> Iterator[tuple[str, float]]:
    for (name, values), (_, micro) in zip(per_class.named(), pooled.named(), strict=True):
        yield f"{name}_macro", mean_of_known(values)
        yield f"{name}_micro", float(micro[0])
        yield f"{name}_weighted", mean_of_known(values, per_class.support)


def _accuracy(outcomes: Outcomes) -> float:
    return mean_of_known((outcomes.truth == outcomes.predicted).all(axis=1).astype(np.float64))


def _log_loss(outcomes: Outcomes, *, multilabel: bool) -> float:
    """Scores of 0 and 1 are moved inside by the resolution of their type, so that one error is not infinite."""
    resolution = np.finfo(outcomes.scores.dtype).eps
    scores = np.clip(outcomes.scores, resolution, 1 - resolution)
    if multilabel:
        likelihoods = np.where(outcomes.truth, scores, 1 - scores.astype(np.float64)).ravel()
    else:
        likelihoods = scores[outcomes.truth].astype(np.float64)
    return float(-np.mean(np.log(likelihoods))) if likelihoods.size else NAN


def _single_label(outcomes: Outcomes, per_class: ClassFigures) -> dict[str, float]:
    recall = mean_of_known(per_class.recall)
    present = int(np.count_nonzero(per_class.support))
    chance = 1 / present if present else NAN
    return {
        "balanced_accuracy": recall,
        "norm_macro_recall": (recall - chance) / (1 - chance) if present > 1 else NAN,
        "matthews_correlation": _matthews_correlation(outcomes),
        "weighted_accuracy": mean_of_known(per_class.recall, per_class.support**2),
    }


def _matthews_correlation(outcomes: Outcomes) -> float:
    """Zero, its limit, when one class is predicted throughout; NaN when one class is true throughout."""
    truth, predicted = (table.sum(axis=0).astype(np.float64) for table in (outcomes.truth, outcomes.predicted))
    images = len(outcomes.scores)
    covariance = np.count_nonzero(outcomes.truth & outcomes.predicted) * images - truth @ predicted
    spread_of_truth, spread_of_predicted = images**2 - truth @ truth, images**2 - predicted @ predicted
    if not spread_of_truth:
        return NAN
    return float(covariance / np.sqrt(spread_of_truth * spread_of_predicted)) if spread_of_predicted else 0.0


def _overlaps(outcomes: Outcomes, per_class: ClassFigures, pooled: ClassFigures) -> dict[str, float]:
    samples = mean_of_known(_overlap_of_each_image(outcomes))
    return {
        "iou": samples,
        "iou_samples": samples,
        "iou_macro": mean_of_known(per_class.iou),
        "iou_micro": float(pooled.iou[0]),
        "iou_weighted": mean_of_known(per_class.iou, per_class.support),
    }


def _overlap_of_each_image(outcomes: Outcomes) -> FloatArray:
    common = (outcomes.truth & outcomes.predicted).sum(axis=1)
    either = (outcomes.truth | outcomes.predicted).sum(axis=1)
    return ratio(common, either, otherwise=1.0)
