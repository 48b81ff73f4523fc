"""Test-time augmentation: a picture is shown to the model in several ways, and what it says of each becomes one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from lightning_automl_vision.data.resizing import CenterCrop, Letterbox, LongSide, Resizing, ShortSide
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.samples import Pixels, ScoredBoxes, ScoredLabels, ScoredMasks

D = TypeVar("D", bound=ScoredBoxes)
FLIP, SCALE = "flip", "scale"
_LEAST, _MOST = 0.25, 4.0
_WORD = re.compile(rf"{SCALE}[ _]*([\d.]+)|{FLIP}")


@dataclass(frozen=True, kw_only=True)
class View:
    """How a picture is shown: mirrored, left and right, or so many times as large as usual."""

    flip: bool = False
    scale: float = 1.0

    def __str__(self) -> str:
        words = [*([FLIP] if self.flip else []), *([f"{SCALE} {self.scale:g}"] if self.scale != 1 else [])]
        return " ".join(words) or "as it is"

    def shown(self, prepared: Pixels) -> Pixels:
        return np.ascontiguousarray(prepared[:, ::-1]) if self.flip else prepared

    def undone(self, found: D) -> D:
        """What was found in the mirrored picture, as it lies in the other one."""
        if not self.flip:
            return found
        boxes = found.boxes.copy()
        boxes[:, [0, 2]] = found.width - found.boxes[:, [2, 0]]
        if isinstance(found, ScoredMasks):
            return replace(found, boxes=boxes, shapes=np.ascontiguousarray(found.shapes[:, :, ::-1]))
        return replace(found, boxes=boxes)


PLAIN = View()


def views_of(asked: Any) -> tuple[View, ...]:
    """``flip``, or a list such as ``[flip, scale 0.9, flip scale 1.2]``; the picture as it is comes first."""
    if asked is None or asked == "none":
        return (PLAIN,)
    words = asked if isinstance(asked, (list, tuple)) else [asked]
    views = [_view(word) for word in words]
    return tuple(dict.fromkeys([PLAIN, *views]))


def _view(word: Any) -> View:
    found = list(_WORD.finditer(word.strip())) if isinstance(word, str) else []
    rest = _WORD.sub("", word).strip(" +_") if isinstance(word, str) else str(word)
    kinds = [match[0][:4] for match in found]
    if not found or rest or len({*kinds}) < len(kinds):
        raise ConfigError(
            f"tta={word}: views are {FLIP}, {SCALE} and a number, and both together, one or several:"
            f" tta={FLIP} or 'tta=[{FLIP},{SCALE} 0.9,{FLIP} {SCALE} 1.2]'."
        )
    scale = next((match[1] for match in found if match[1]), "1")
    try:
        size = float(scale)
    except ValueError:
        size = 0.0
    if not _LEAST <= size <= _MOST:
        raise ConfigError(f"tta={word}: {SCALE} must be a number in [{_LEAST:g}, {_MOST:g}], such as {SCALE} 0.9.")
    return View(flip=FLIP in kinds, scale=size)


def resizings_for(views: Sequence[View], resizing: Resizing, *, model: str, fixed: bool) -> tuple[Resizing, ...]:
    """How the picture is prepared for each view; ``fixed`` where the model takes pictures of one size alone."""
    return tuple(_scaled(resizing, view, model, fixed) for view in views)


def _scaled(resizing: Resizing, view: View, model: str, fixed: bool) -> Resizing:
    scale = view.scale
    if scale == 1:
        return resizing
    if isinstance(resizing, CenterCrop):
        return _closer(resizing, view, model)
    if fixed:
        raise ConfigError(
            f"tta={view}: {model} takes squares of one size, which resize={resizing.name!r} fills with the whole"
            f" picture, so that it cannot be shown at another one. Use tta={FLIP}."
        )
    if isinstance(resizing, ShortSide):
        return ShortSide(minimum=_size(resizing.minimum, scale), maximum=_size(resizing.maximum, scale))
    if isinstance(resizing, LongSide):
        return LongSide(size=_size(resizing.size, scale))
    if isinstance(resizing, Letterbox):
        return replace(resizing, size=_size(resizing.size, scale))
    raise ConfigError(f"tta={view}: resize={resizing.name!r} has no sizes to change. Use tta={FLIP}.")


def _closer(resizing: CenterCrop, view: View, model: str) -> Resizing:
    """The crop stays as large as it is, and shows less of the picture, or more as long as there is any."""
    side = _size(resizing.resize, view.scale)
    if side < resizing.size:
        raise ConfigError(
            f"tta={view}: {model} takes squares of {resizing.size} pixels, and a picture with a short side of {side}"
            f" does not fill one. Use {SCALE} {int(-100 * resizing.size // resizing.resize) / -100:g} or more."
        )
    return replace(resizing, resize=side)


def _size(pixels: int, scale: float) -> int:
    return max(round(pixels * scale), 1)


def told_cost(views: Sequence[View], *, fixed: bool) -> str:
    """What test-time augmentation costs, in words; where pictures follow the scale, by their pixels."""
    times = len(views) if fixed else sum(view.scale**2 for view in views)
    return f"tta: each picture is shown {len(views)} times ({', '.join(map(str, views))}), {times:.1f} times the work"


def averaged(answers: Sequence[ScoredLabels]) -> ScoredLabels:
    """The mean score of each class."""
    return replace(answers[0], scores=np.mean([answer.scores for answer in answers], axis=0, dtype=np.float32))
