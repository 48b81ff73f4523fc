"""What a classifier's exported network is asked, and how its answer becomes a prediction; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_automl_vision.export.runtime import IMAGES, Run
from lightning_automl_vision.samples import Pixels, ScoredLabels, Scores


@dataclass(frozen=True, kw_only=True)
class ClassAnswers:
    multilabel: bool

    @classmethod
    def of(cls, *, task: str, **_: Any) -> ClassAnswers:
        return cls(multilabel=task == "image_classification_multilabel")

    def __call__(self, run: Run, pictures: Sequence[Pixels]) -> Sequence[ScoredLabels]:
        logits = run({IMAGES: channels_first(pictures)})["logits"].astype(np.float32)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = _sigmoid(logits) if self.multilabel else shifted / shifted.sum(axis=1, keepdims=True)
        return [ScoredLabels(scores=row) for row in scores]


def _sigmoid(logits: Scores) -> Scores:
    """Of large negative numbers too."""
    small = np.exp(-np.abs(logits))
    scores: Scores = np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return scores


def channels_first(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures of one size as N x 3 x H x W."""
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def limits_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a detector's answers are limited to, by the names of the model's parameters."""
    return {
        "score_threshold": float(parameters["box_score_threshold"]),
        "most": int(parameters["box_detections_per_image"]),
    }
