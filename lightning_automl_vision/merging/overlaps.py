"""Which of many boxes overlap, found strip by strip without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

Overlap = Literal["iou", "ios"]
"""The common area over that of the union, or over that of the smaller box."""

# Pairs are looked at in portions of about this many.
_PORTION = 1 << 15
# One in so many boxes tells how dense all are.
_SAMPLED = 8
# Looking at so many times as many boxes at once is as fast as searching for them in two ways.
_AHEAD = 2


class Pairs(NamedTuple):
    """Places of boxes that have area in common, and how much."""

    first: IntArray
    second: IntArray
    common: FloatArray


def areas(boxes: FloatArray) -> FloatArray:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def overlap_of(common: NDArray[Any], some: NDArray[Any], others: NDArray[Any], overlap: Overlap) -> FloatArray:
    """From a common area above zero and the areas of the two."""
    return np.asarray(common / (some + others - common if overlap == "iou" else np.minimum(some, others)))


def overlaps_with(box: FloatArray, boxes: FloatArray, overlap: Overlap) -> FloatArray:
    """How much each of the boxes overlaps one."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clip(0).prod(axis=1)
    meet = common > 0
    found = np.zeros(len(boxes))
    found[meet] = overlap_of(common[meet], areas(box[None]), areas(boxes[meet]), overlap)
    return found


@dataclass(frozen=True, slots=True)
class _Frame:
    """Horizontal strips about as high as a box; a group, a strip and a place along it make one number to sort by.

    Rounding keeps the order of such numbers, so that a search by them finds too much rather than too little.
    """

    left: float
    top: float
    height: float
    strips: int
    pitch: float

    @classmethod
    def around(cls, boxes: FloatArray) -> _Frame:
        if not len(boxes):
            return cls(0.0, 0.0, 1.0, 1, 1.0)
        left, top = boxes[:, 0].min(), boxes[:, 1].min()
        width, height = boxes[:, 2].max() - left, boxes[:, 3].max() - top
        # Twice as high as the mean box, which lies in one and a half on average; no more strips than boxes.
        strip = max(2 * float((boxes[:, 3] - boxes[:, 1]).mean()), float(height) / len(boxes)) or 1.0
        return cls(float(left), float(top), strip, int(height / strip) + 2, 3 * float(width) + 1)


@dataclass(frozen=True, slots=True)
class _Entries:
    """A box once for every strip that it lies in, in the order of where it begins."""

    owners: IntArray
    begins: FloatArray
    ends: FloatArray
    strips: IntArray
    sides: FloatArray  # 4 x the number of boxes
    first_strips: IntArray  # of each box

    @classmethod
    def of(cls, boxes: FloatArray, groups: IntArray, frame: _Frame) -> _Entries:
        sides = np.array(boxes.T, order="C")
        left, top, right, bottom = sides
        first = ((top - frame.top) / frame.height).astype(np.int64)
        counts = ((bottom - frame.top) / frame.height).astype(np.int64) - first + 1
        owners, within = _spread(counts)
        strips = first[owners] + within
        line = (groups[owners] * frame.strips + strips) * frame.pitch - frame.left
        begins = line + left[owners]
        order = np.argsort(begins)
        ends = (line + right[owners])[order]
        return cls(owners[order], begins[order], ends, strips[order], sides, first)

    def of_marked(self, some: BoolArray) -> _Entries:
        """Those of the boxes that are marked."""
        kept = np.flatnonzero(some[self.owners])
        return _Entries(
            self.owners[kept], self.begins[kept], self.ends[kept], self.strips[kept], self.sides, self.first_strips
        )


def _spread(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Each place as often as its count says, and the how manieth time it is."""
    places = np.repeat(np.arange(len(counts)), counts)
    return places, np.arange(len(places)) - (np.cumsum(counts) - counts)[places]


@dataclass(frozen=True, slots=True)
class _Search:
    """For each of some entries a stretch of others that may overlap it."""

    some: _Entries
    others: _Entries
    froms: IntArray
    counts: IntArray

    def pairs(self, limit: int | None = None) -> Iterator[Pairs]:
        counts = self.counts if limit is None else np.minimum(self.counts, limit)
        block = np.cumsum(counts) // _PORTION
        cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(counts)]
        for begin, end in pairwise(cuts):
            places, within = _spread(counts[begin:end])
            if len(places):
                yield self._meeting(places + begin, self.froms[begin:end][places] + within)

    def _meeting(self, one: IntArray, other: IntArray) -> Pairs:
        some, others = self.some, self.others
        first, second = some.owners[one], others.owners[other]
        left, top, right, bottom = some.sides
        its_left, its_top, its_right, its_bottom = others.sides
        tall = np.minimum(bottom[first], its_bottom[second])
        tall -= np.maximum(top[first], its_top[second])
        # What lies side by side in several strips counts in the first of them.
        strip = some.strips[one]
        meet = np.flatnonzero(
            (tall > 0) & ((some.first_strips[first] == strip) | (others.first_strips[second] == strip))
        )
        first, second = first[meet], second[meet]
        wide = np.minimum(right[first], its_right[second])
        wide -= np.maximum(left[first], its_left[second])
        common = wide * tall[meet]
        meet = np.flatnonzero(common > 0)
        return Pairs(first[meet], second[meet], common[meet])


@dataclass(frozen=True)
class Neighbours:
    """Which among some boxes are close to each other."""

    _entries: _Entries

    @classmethod
    def of(cls, boxes: FloatArray, groups: IntArray) -> Neighbours:
        return cls(_Entries.of(boxes, groups, _Frame.around(boxes)))

    @cached_property
    def _search(self) -> _Search:
        entries = self._entries
        froms = np.arange(1, len(entries.begins) + 1)
        return _Search(entries, entries, froms, np.searchsorted(entries.begins, entries.ends, side="right") - froms)

    @property
    def candidates(self) -> int:
        """How many pairs have to be looked at."""
        return int(self._search.counts.sum())

    @property
    def most(self) -> int:
        """How many candidates a box has in a strip at most."""
        return int(self._search.counts.max(initial=0))

    def about(self) -> int:
        """``candidates``, judged by some of the boxes."""
        some = np.arange(0, len(self._entries.begins), _SAMPLED)
        ends = np.searchsorted(self._entries.begins, self._entries.ends[some], side="right")
        return int((ends - some - 1).sum()) * _SAMPLED

    def among(self, some: BoolArray) -> Neighbours:
        """Of the marked boxes alone."""
        return Neighbours(self._entries.of_marked(some))

    def pairs(self, limit: int | None = None) -> Iterator[Pairs]:
        """The pairs of a group that have area in common, each once.

        With a limit not all of them: each box is compared with so many candidates in a strip at most.
        """
        return self._search.pairs(limit)

    def between(self, some: BoolArray, others: BoolArray) -> Iterator[Pairs]:
        """The pairs of a group, of one box marked here and one marked there, that have area in common, each once."""
        return _between(self._entries.of_marked(some), self._entries.of_marked(others))


def pairs_between(boxes: FloatArray, groups: IntArray, others: FloatArray, their_groups: IntArray) -> Iterator[Pairs]:
    """The pairs of one box of each kind that have area in common, each once."""
    frame = _Frame.around(np.concatenate([boxes, others]))
    return _between(_Entries.of(boxes, groups, frame), _Entries.of(others, their_groups, frame))


def _between(some: _Entries, rest: _Entries) -> Iterator[Pairs]:
    froms = np.searchsorted(rest.begins, some.begins, side="left")
    tos = np.searchsorted(rest.begins, some.ends, side="right")
    # From here on what reaches one of some may begin; where all are about as long, that is not much more to look at.
    ahead = np.searchsorted(rest.begins, some.begins - _longest(rest), side="left")
    if (froms - ahead).sum() <= _AHEAD * (tos - froms).sum():
        yield from _Search(some, rest, ahead, tos - ahead).pairs()
        return
    yield from _Search(some, rest, froms, tos - froms).pairs()
    froms = np.searchsorted(some.begins, rest.begins, side="right")
    counts = np.searchsorted(some.begins, rest.ends, side="right") - froms
    for pairs in _Search(rest, some, froms, counts).pairs():
        yield Pairs(pairs.second, pairs.first, pairs.common)


def _longest(entries: _Entries) -> float:
    """At least as much as the difference of any end and its beginning, whatever rounding does."""
    length = float((entries.ends - entries.begins).max(initial=0))
    return length + 4 * float(np.spacing(np.abs(entries.ends).max(initial=0) + length))
