"""What was found through the windows of one image, as one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.merging.candidates import Merged
from lightning_automl_vision.merging.methods import Merge
from lightning_automl_vision.samples import FloatArray, ScoredBoxes, ScoredMasks, resampling

A = TypeVar("A", bound=ScoredBoxes)


def one_answer(parts: Sequence[A], merge: Merge) -> A:
    """Answers in pixels of the same image, merged; the mask of an object is all that its sources show of it."""
    if len(parts) == 1:
        return parts[0]
    every = parts[0].beside(parts[1:])
    merged = merge(every.boxes, every.scores, every.labels)
    best = np.array([source[0] for source in merged.sources], dtype=np.int64)
    answer = replace(every.chosen(best), boxes=merged.boxes, scores=merged.scores)
    if isinstance(every, ScoredMasks) and isinstance(answer, ScoredMasks):
        for index, source in enumerate(merged.sources):
            if len(source) > 1:
                answer.shapes[index] = _shape(merged, index, every)
    return answer


def _shape(merged: Merged, index: int, every: ScoredMasks) -> NDArray[np.float32]:
    """How sure any source is of each place in the merged box."""
    box = merged.boxes[index]
    shapes = [_seen_from(box, every.boxes[one], every.shapes[one]) for one in merged.sources[index].tolist()]
    return np.asarray(np.max(shapes, axis=0))


def _seen_from(box: FloatArray, own: FloatArray, shape: NDArray[np.float32]) -> NDArray[np.float32]:
    """A shape over its own box as one over another box; nothing is known beyond its own."""
    across, down = (resampling(own[axis::2], box[axis::2], shape.shape[1 - axis], beyond=False) for axis in (0, 1))
    return np.asarray(down @ shape @ across.T, dtype=np.float32)
