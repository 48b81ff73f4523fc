"""What the best epoch is explained with, as one JSON document: report, confusion matrix, curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.metrics.curves import (
    Curve,
    Rankings,
    classification_report,
    confusion_matrix,
    precision_recall_curve,
    roc_curve,
)
from lightning_automl_vision.metrics.ranking import AnyScores, Ranking
from lightning_automl_vision.samples import BoolArray

# A curve of more points looks the same and makes the file large.
POINTS = 200


def evaluation_document(
    scores: AnyScores,
    labels: NDArray[np.generic],
    *,
    multilabel: bool,
    classes: Sequence[str],
    predicted: BoolArray | None = None,
) -> dict[str, Any]:
    """Rows of the confusion matrix are the true classes, columns the predicted ones."""
    report = classification_report(scores, labels, multilabel=multilabel, classes=classes, predicted=predicted)
    matrix = confusion_matrix(scores, labels, multilabel=multilabel, classes=classes, predicted=predicted)
    rankings = Rankings.of(scores, labels, multilabel=multilabel, classes=classes)
    named = {**rankings.classes, "micro average": rankings.micro}
    return {
        "classes": list(classes),
        "images": len(scores),
        "report": {name: asdict(row) for name, row in report.classes.items()},
        "averages": {name: asdict(row) for name, row in report.averages.items()},
        "confusion_matrix": matrix.tolist(),
        "curves": {name: _curves(ranking) for name, ranking in named.items()},
    }


def _curves(ranking: Ranking) -> dict[str, Any]:
    return {"roc": _thinned(roc_curve(ranking)), "precision_recall": _thinned(precision_recall_curve(ranking))}


def _thinned(curve: Curve | None) -> dict[str, list[float]] | None:
    if curve is None:
        return None
    chosen = np.unique(np.linspace(0, len(curve.x) - 1, min(POINTS, len(curve.x))).round().astype(int))
    return {name: getattr(curve, name)[chosen].round(6).tolist() for name in ("x", "y", "thresholds")}
