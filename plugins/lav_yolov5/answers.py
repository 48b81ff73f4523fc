"""What an exported network says, as predictions; imports no torch.

With ``nms`` inside the network answers with boxes, scores and labels, else with every cell's guess, as `Head.decode`
gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lav_yolov5.rectangles import GRAY, Rectangle, alike, corner
from lightning_automl_vision.export.answers import limits_of
from lightning_automl_vision.export.runtime import IMAGES, SCORE_THRESHOLD, Arrays, Run
from lightning_automl_vision.merging import nms
from lightning_automl_vision.samples import Pixels, ScoredBoxes

CANDIDATES = 30000
_COORDINATES = 5


@dataclass(frozen=True, kw_only=True)
class YoloAnswers:
    score_threshold: float
    iou_threshold: float
    most: int
    inside: bool

    @classmethod
    def of(cls, *, parameters: Mapping[str, Any], facts: Mapping[str, Any], **_: Any) -> YoloAnswers:
        return cls(
            **limits_of(parameters),
            iou_threshold=float(parameters["nms_iou_threshold"]),
            inside=facts.get("nms") == "inside",
        )

    def __call__(self, run: Run, pictures: Sequence[Pixels]) -> list[ScoredBoxes]:
        """Each picture in the smallest rectangle for it; a network that suppresses boxes takes one at a time."""
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        answers: dict[int, ScoredBoxes] = {}
        for rectangle, members in alike(sizes).items():
            for some in [[member] for member in members] if self.inside else [members]:
                outputs = run(self._inputs([pictures[member] for member in some], rectangle))
                for place, member in enumerate(some):
                    answers[member] = self._scored(outputs, place, sizes[member], corner(sizes[member], rectangle))
        return [answers[index] for index in range(len(pictures))]

    def _inputs(self, pictures: Sequence[Pixels], rectangle: Rectangle) -> Arrays:
        return {IMAGES: framed(pictures, rectangle), SCORE_THRESHOLD: np.array(self.score_threshold, np.float32)}

    def _scored(self, outputs: Arrays, place: int, size: tuple[int, int], start: tuple[int, int]) -> ScoredBoxes:
        """What reaches into the picture, which is this large and lies there, in its pixels."""
        if self.inside:
            boxes, scores, labels = (outputs[name] for name in ("boxes", "scores", "labels"))
        else:
            boxes, scores, labels = self._suppressed(outputs["guesses"][place])
        (left, top), (width, height) = start, size
        moved = boxes.astype(np.float64) - (left, top, left, top)
        within = moved.clip(0, (width, height, width, height))
        kept = np.flatnonzero((within[:, 2:] > within[:, :2]).all(axis=1))[: self.most]
        return ScoredBoxes(
            labels=labels[kept].astype(np.int64),
            boxes=within[kept],
            scores=scores[kept].astype(np.float32),
            width=width,
            height=height,
        )

    def _suppressed(self, guesses: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        likely = guesses[guesses[:, _COORDINATES - 1] > np.float32(self.score_threshold)]
        by_class = likely[:, _COORDINATES:] * likely[:, _COORDINATES - 1 : _COORDINATES]
        labels = by_class.argmax(axis=1)
        scores = by_class[np.arange(len(likely)), labels]
        chosen = np.flatnonzero(scores > np.float32(self.score_threshold))
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:CANDIDATES]
        halves = likely[chosen, 2:4] / 2
        boxes = np.hstack([likely[chosen, :2] - halves, likely[chosen, :2] + halves])
        merged = nms(boxes, scores[chosen], labels[chosen], threshold=self.iou_threshold)
        return merged.boxes, merged.scores, merged.labels


def framed(pictures: Sequence[Pixels], rectangle: Rectangle) -> Pixels:
    """Each in the middle of its rectangle of gray, as N x 3 x H x W."""
    frame = np.full((len(pictures), 3, *rectangle), GRAY, np.uint8)
    for place, picture in zip(frame, pictures, strict=True):
        height, width = picture.shape[:2]
        left, top = corner((width, height), rectangle)
        place[:, top : top + height, left : left + width] = picture.transpose(2, 0, 1)
    return frame
