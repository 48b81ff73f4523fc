"""Merging while the windows of an image arrive one after the other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.merging.candidates import Merged, best_first, checked, joined
from lightning_automl_vision.merging.islands import hulls_of, islands
from lightning_automl_vision.merging.methods import Merge
from lightning_automl_vision.merging.overlaps import Neighbours, pairs_between
from lightning_automl_vision.merging.suppression import conflicts, settled
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray, Scores

# Pixels that rounding may carry a box across its window's border.
_ROUNDING = 1e-3


class StreamingMerge:
    """The merge of everything at once, given out piece by piece: what is finished no later window can change.

    All windows are known beforehand; each is added once, in any order, though memory is least when neighbours follow
    each other. A box lies within its window. Sources are numbered as boxes arrive.

    With ``nms`` and ``ios_nms`` a box waits while a window still to come shows part of it, or while a better box that
    would suppress it waits. With ``soft_nms`` and ``greedy_merging`` all boxes that depend on each other wait together;
    a greedily grown box must have a ``largest`` side, as otherwise what comes could reach anything. That, and
    ``weighted_fusion``, whose boxes may wander, wait for the end.
    """

    def __init__(self, windows: Sequence[Sequence[float]], merge: Merge) -> None:
        self._windows: FloatArray = np.array(windows, dtype=np.float64).reshape(-1, 4)
        self._coming = np.ones(len(self._windows), np.bool_)
        self._waiting = _waiting_for(merge)(self._windows, merge)
        self._finished: list[Merged] = []
        self._count = 0

    def add(self, window: int, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> None:
        """What one window, by its number, answered, in pixels of the image."""
        if not (0 <= window < len(self._windows) and self._coming[window]):
            raise ValueError(f"window {window} is none of the {self._coming.sum()} still to come")
        corners, values, classes = checked(boxes, scores, labels)
        corners = _within(corners, self._windows[window])
        self._coming[window] = False
        arrived = _Held(
            boxes=corners,
            scores=values,
            labels=classes,
            indices=np.arange(self._count, self._count + len(values)),
        )
        self._count += len(values)
        self._finished.append(self._waiting.add(arrived, window, self._coming))

    def finished(self) -> Merged:
        """What became final since the last call, best first.

        With other methods than ``nms`` and ``ios_nms`` this looks at all that waits: ask after a row, not each tile.
        """
        finished, self._finished = [*self._finished, self._waiting.settle(self._coming)], []
        return joined(finished)

    def close(self) -> Merged:
        """All that is left, best first; windows that were not added have no answer."""
        self._coming[:] = False
        finished, self._finished = [*self._finished, self._waiting.rest()], []
        return joined(finished)

    @property
    def held(self) -> IntArray:
        """Inputs that may still be part of a result; after ``finished`` the others were named there or never will."""
        return self._waiting.held.indices


def _within(boxes: FloatArray, window: FloatArray) -> FloatArray:
    low, high = window[:2], window[2:]
    inside: FloatArray = np.clip(boxes, np.tile(low, 2), np.tile(high, 2))
    beyond = np.abs(inside - boxes).max(axis=1, initial=0)
    if (beyond > _ROUNDING).any():
        worst = int(beyond.argmax())
        raise ValueError(f"box {boxes[worst].tolist()} reaches beyond its window {window.tolist()}")
    return inside


def _meet(boxes: FloatArray, others: FloatArray) -> BoolArray:
    """Whether boxes have area in common with others, or with one other."""
    wide = np.minimum(boxes[..., 2], others[..., 2]) > np.maximum(boxes[..., 0], others[..., 0])
    tall = np.minimum(boxes[..., 3], others[..., 3]) > np.maximum(boxes[..., 1], others[..., 1])
    return np.asarray(wide & tall)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """Candidates in the order in which they came."""

    boxes: FloatArray
    scores: Scores
    labels: IntArray
    indices: IntArray

    @classmethod
    def none(cls) -> _Held:
        nothing = np.empty(0, np.int64)
        return cls(boxes=np.empty((0, 4)), scores=np.empty(0, np.float32), labels=nothing, indices=nothing)

    def __len__(self) -> int:
        return len(self.scores)

    def and_(self, other: _Held) -> _Held:
        return _Held(
            boxes=np.concatenate([self.boxes, other.boxes]),
            scores=np.concatenate([self.scores, other.scores]),
            labels=np.concatenate([self.labels, other.labels]),
            indices=np.concatenate([self.indices, other.indices]),
        )

    def chosen(self, keep: NDArray[Any]) -> _Held:
        return _Held(
            boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], indices=self.indices[keep]
        )

    def merged(self, merge: Merge) -> Merged:
        answer = merge(self.boxes, self.scores, self.labels)
        sources = tuple(self.indices[source] for source in answer.sources)
        return Merged(boxes=answer.boxes, scores=answer.scores, labels=answer.labels, sources=sources)


class _Waiting(ABC):
    """Candidates that are not final."""

    def __init__(self, windows: FloatArray, merge: Merge) -> None:
        self.windows, self.merge, self.held = windows, merge, _Held.none()

    @abstractmethod
    def add(self, arrived: _Held, window: int, coming: BoolArray) -> Merged:
        """What is final when these came and those windows are still to come."""

    @abstractmethod
    def settle(self, coming: BoolArray) -> Merged:
        """What else is final."""

    def rest(self) -> Merged:
        held, self.held = self.held, _Held.none()
        return held.merged(self.merge)

    def groups(self, labels: IntArray) -> IntArray:
        return np.zeros_like(labels) if self.merge.class_agnostic else np.unique(labels, return_inverse=True)[1]


class _Conflicts(_Waiting):
    """Suppression needs pairs alone: a box is final when it is known which of those that could suppress it stay."""

    def __init__(self, windows: FloatArray, merge: Merge) -> None:
        super().__init__(windows, merge)
        self._better = self._worse = self._windows_to_come = np.empty(0, np.int64)

    def add(self, arrived: _Held, window: int, coming: BoolArray) -> Merged:
        rectangle = self.windows[window]
        near = np.flatnonzero(_meet(self.held.boxes, rectangle))
        self._windows_to_come[near] -= 1
        others = self.windows[coming & _meet(self.windows, rectangle)]
        to_come = _meet(arrived.boxes[:, None], others[None]).sum(axis=1)
        self._windows_to_come = np.concatenate([self._windows_to_come, to_come])
        near = np.append(near, np.arange(len(self.held), len(self.held) + len(arrived)))
        self.held = self.held.and_(arrived)
        self._connect(near, len(arrived))
        return self.settle(coming)

    def _connect(self, near: IntArray, fresh: int) -> None:
        """Conflicts of what came with what was held near it; those among the latter are known."""
        some = self.held.chosen(near)
        order = best_first(some.boxes, some.scores, some.labels)
        boxes = some.boxes[order]
        pairs = Neighbours.of(boxes, self.groups(some.labels)[order]).pairs()
        better, worse = conflicts(pairs, boxes, self.merge.threshold, self.merge.overlap)
        better, worse = order[better], order[worse]
        new = np.maximum(better, worse) >= len(near) - fresh
        self._better = np.concatenate([self._better, near[better[new]]])
        self._worse = np.concatenate([self._worse, near[worse[new]]])

    def settle(self, coming: BoolArray) -> Merged:
        stays, goes = settled(len(self.held), self._better, self._worse, self._windows_to_come > 0)
        final = self.held.chosen(stays)
        waits = ~(stays | goes)
        self.held, self._windows_to_come = self.held.chosen(waits), self._windows_to_come[waits]
        places = np.cumsum(waits) - 1
        left = waits[self._better] & waits[self._worse]
        self._better, self._worse = places[self._better[left]], places[self._worse[left]]
        order = best_first(final.boxes, final.scores, final.labels)
        final = final.chosen(order)
        sources = tuple(final.indices.reshape(-1, 1))
        return Merged(boxes=final.boxes, scores=final.scores, labels=final.labels, sources=sources)


class _Islands(_Waiting):
    """Boxes meet within islands alone: one is final where no window to come reaches its hull, nor what may grow there.

    A box that grows with what comes holds some of it, and is no longer than the longest box there is, the longest that
    may come, and the longest allowed. What is new is looked at when it has become as much as what was left.
    """

    def __init__(self, windows: FloatArray, merge: Merge) -> None:
        super().__init__(windows, merge)
        self._left = 0

    def add(self, arrived: _Held, window: int, coming: BoolArray) -> Merged:
        self.held = self.held.and_(arrived)
        return self.settle(coming) if len(self.held) > 2 * self._left else _Held.none().merged(self.merge)

    def settle(self, coming: BoolArray) -> Merged:
        held, reach = self.held, self._reach(coming)
        numbers = islands(held.boxes, self.groups(held.labels), self.merge.threshold, self.merge.overlap)
        waits = np.zeros(len(held), np.bool_)
        hulls = hulls_of(numbers, held.boxes)
        nothing = np.zeros(len(hulls), np.int64), np.zeros(len(reach), np.int64)
        for pairs in pairs_between(hulls, nothing[0], reach, nothing[1]):
            waits[pairs.first] = True
        waits = waits[numbers]
        final, self.held = held.chosen(~waits), held.chosen(waits)
        self._left = len(self.held)
        return final.merged(self.merge)

    def _reach(self, coming: BoolArray) -> FloatArray:
        """Where boxes that come, or that grow with them, may lie."""
        windows = self.windows[coming]
        if self.merge.method == "soft_nms" or not len(windows):
            return windows
        reach = max(self.merge.largest, _longest(windows), _longest(self.held.boxes)) + _ROUNDING
        return np.hstack([windows[:, :2] - reach, windows[:, 2:] + reach])


def _longest(boxes: FloatArray) -> float:
    return float((boxes[:, 2:] - boxes[:, :2]).max(initial=0))


class _Everything(_Waiting):
    """Nothing is final before the end."""

    def add(self, arrived: _Held, window: int, coming: BoolArray) -> Merged:
        self.held = self.held.and_(arrived)
        return self.settle(coming)

    def settle(self, coming: BoolArray) -> Merged:
        return _Held.none().merged(self.merge)


def _waiting_for(merge: Merge) -> type[_Waiting]:
    if merge.method in ("nms", "ios_nms"):
        return _Conflicts
    local = merge.method == "soft_nms" or (merge.method == "greedy_merging" and merge.largest < math.inf)
    return _Islands if local else _Everything
