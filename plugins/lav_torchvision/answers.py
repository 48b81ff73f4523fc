"""What the networks say, as predictions: of torch's as of an exported one; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lav_torchvision.architectures import ARCHITECTURES
from lightning_automl_vision.export.answers import channels_first, limits_of
from lightning_automl_vision.export.runtime import IMAGES, SCORE_THRESHOLD, Run
from lightning_automl_vision.samples import Pixels, ScoredBoxes, ScoredMasks

Found = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class DetectorAnswers:
    """``background`` is how many classes of the network come before those that are asked for."""

    score_threshold: float
    most: int
    background: int
    pixel_threshold: float | None = None

    @classmethod
    def of(cls, *, name: str, parameters: Mapping[str, Any], **_: Any) -> DetectorAnswers:
        return cls(
            **limits_of(parameters),
            background=ARCHITECTURES[name].family.background,
            pixel_threshold=parameters.get("mask_pixel_score_threshold"),
        )

    def __call__(self, run: Run, pictures: Sequence[Pixels]) -> list[ScoredBoxes]:
        threshold = np.array(self.score_threshold, np.float32)
        return [
            self.scored(
                run({IMAGES: channels_first([picture]), SCORE_THRESHOLD: threshold}), picture.shape[1], picture.shape[0]
            )
            for picture in pictures
        ]

    def scored(self, found: Found, width: int, height: int) -> ScoredBoxes:
        """What was found in a picture of this size, best first; boxes without extent are none."""
        boxes = found["boxes"]
        kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))[: self.most]
        fields: dict[str, Any] = {
            "labels": found["labels"][kept].astype(np.int64) - self.background,
            "boxes": boxes[kept].astype(np.float64),
            "scores": found["scores"][kept].astype(np.float32),
            "width": width,
            "height": height,
        }
        if self.pixel_threshold is None:
            return ScoredBoxes(**fields)
        shapes = found["masks"][kept, 0].astype(np.float32)
        return ScoredMasks(**fields, shapes=shapes, pixel_threshold=self.pixel_threshold)
