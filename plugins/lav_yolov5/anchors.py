"""Which anchors to train with, and a picture of why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lav_yolov5.anchor_fitting import Coverage, coverage, fitted_anchors
from lightning_automl_vision.drawing.files import write_picture
from lightning_automl_vision.samples import FloatArray

_ENOUGH = 0.98


@dataclass(frozen=True)
class AnchorChoice:
    """The anchors to train with in pixels; how well the current ones (``before``) and the best found (``after``) do.

    ``after`` is ``before`` where no others were looked for.
    """

    anchors: FloatArray
    adopted: bool
    before: Coverage
    after: Coverage
    threshold: float


def choose_anchors(
    sizes: FloatArray,
    current: FloatArray,
    *,
    threshold: float,
    image_size: int,
    generator: np.random.Generator,
) -> AnchorChoice:
    """The current anchors where they reach 98 % of the objects, or nothing found reaches more.

    Sizes and anchors are pixels at the size of training. New anchors have the shape of ``current`` and grow from the
    first to the last.
    """
    before = coverage(sizes, current, threshold)
    if before.recall > _ENOUGH:
        return AnchorChoice(anchors=current, adopted=False, before=before, after=before, threshold=threshold)
    fitted = fitted_anchors(
        sizes, count=current.size // 2, image_size=image_size, threshold=threshold, generator=generator
    )
    after = coverage(sizes, fitted, threshold)
    adopted = after.recall > before.recall
    anchors = fitted.reshape(current.shape) if adopted else current
    return AnchorChoice(anchors=anchors, adopted=adopted, before=before, after=after, threshold=threshold)


def draw_anchors(choice: AnchorChoice, sizes: FloatArray, current: FloatArray, path: Path) -> Path:
    """The objects by width and height with the anchors among them, and those used before where they are others."""
    from lav_yolov5.anchor_chart import chart_of  # fonts and colours, which choosing never needs

    chart = chart_of(
        sizes,
        choice.anchors.reshape(-1, 2),
        current.reshape(-1, 2) if choice.adopted else None,
        threshold=choice.threshold,
        heading=f"Anchors for {len(sizes)} {'object' if len(sizes) == 1 else 'objects'}",
        lines=_said_of(choice, len(sizes)),
    )
    return write_picture(path, chart)


def _said_of(choice: AnchorChoice, objects: int) -> list[str]:
    reached = choice.after.recall if choice.adopted else choice.before.recall
    lines = [f"{100 * reached:.1f} % of the objects in reach"]
    if choice.adopted:
        lines.append(f"({100 * choice.before.recall:.1f} % before)")
    elif reached <= _ENOUGH:
        lines.append("(no better anchors were found)")
    lost = objects - round(reached * objects)
    return [*lines, f"{lost} out of reach, in red"] if lost else lines
