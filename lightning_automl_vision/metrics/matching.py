"""Which object found stands for which true one, by COCO's rules and by PASCAL VOC's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects, check
from lightning_automl_vision.metrics.overlaps import Pairs, overlapping
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

NOBODY = -1
Partners = NDArray[np.int32]


def ranks_within(groups: IntArray) -> IntArray:
    """For each of a ranked set how many of its group come before it."""
    order = np.argsort(groups, kind="stable")
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = _places_in_runs(groups[order])
    return ranks


def _places_in_runs(values: IntArray) -> IntArray:
    """How many equal values come directly before each."""
    changes = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    places: IntArray = np.arange(len(values)) - np.repeat(changes, np.diff(changes, append=len(values)))
    return places


def take_turns(
    pairs: Pairs, groups: IntArray, *, thresholds: FloatArray, ignored: BoolArray, crowd: BoolArray
) -> Partners:
    """The true object that each ranked object found takes, or `NOBODY`: thresholds x rows of ``ignored`` x found.

    In each group the best score chooses first, the true object that it overlaps most (the last of equals) among those
    still free; one that counts comes before every one that is ignored, and a crowd stays free. What has the same turn
    in different groups chooses at once, for all thresholds and all rows of ``ignored`` together.

    Args:
        pairs: All that overlap by the lowest threshold or more, in the order of the groups.
        groups: Of each object found.
        thresholds: Overlaps from which on an object may be taken.
        ignored: Choices of true objects to ignore, as rows.
        crowd: Which true objects are crowds.
    """
    partners = np.full((len(thresholds), len(ignored), len(groups)), NOBODY, dtype=np.int32)
    taken = np.zeros((len(thresholds), *ignored.shape), dtype=np.bool_)
    turns = _turns(pairs, groups)
    order = np.lexsort((-pairs.truth, -pairs.overlap, pairs.found, turns))
    pairs, turns = pairs.chosen(order), turns[order]
    # Places in the order of preference: whatever is ignored comes after all that counts.
    places = np.arange(len(pairs)) + len(pairs) * ignored[:, pairs.truth]
    never = 2 * len(pairs)
    rounds = np.flatnonzero(np.diff(turns, prepend=-1, append=-1)).tolist() if len(turns) else []
    for begin, end in pairwise(rounds):
        truth, found = pairs.truth[begin:end], pairs.found[begin:end]
        free = ~taken[:, :, truth] | crowd[truth]
        free &= (pairs.overlap[begin:end] >= thresholds[:, None])[:, None]
        firsts = np.flatnonzero(np.diff(found, prepend=-1))
        best = np.minimum.reduceat(np.where(free, places[:, begin:end], never), firsts, axis=2)
        threshold, row, chooser = np.nonzero(best < never)
        chosen = pairs.truth[best[threshold, row, chooser] % len(pairs)]
        partners[threshold, row, found[firsts][chooser]] = chosen
        taken[threshold, row, chosen] = True
    return partners


def _turns(pairs: Pairs, groups: IntArray) -> IntArray:
    """For each pair how many objects of its group, among those that overlap anything, choose before it."""
    new = np.diff(pairs.found, prepend=-1) != 0
    choosers = np.cumsum(new) - 1
    turns: IntArray = _places_in_runs(groups[pairs.found[new]])[choosers]
    return turns


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The set ranked, and of each object found whether it is right; one ``left_out``, on a crowd, is neither."""

    found: FoundObjects
    right: BoolArray
    left_out: BoolArray

    @property
    def wrong(self) -> BoolArray:
        return ~(self.right | self.left_out)


def voc_verdict(truth: TrueObjects, found: FoundObjects, *, iou_threshold: float) -> Verdict:
    """PASCAL VOC's rule: an object found stands for the true one of its class that it overlaps most, or for none.

    The best score that overlaps a true object by the threshold or more is right, every other is wrong, even where
    another true object is free. What is not right and lies on a crowd by the threshold or more is left out.
    """
    check(truth, found)
    found = found.ranked()
    pairs = overlapping(truth, found, at_least=iou_threshold)
    on_crowd = truth.crowd[pairs.truth]
    left_out = np.zeros(len(found), dtype=np.bool_)
    left_out[pairs.found[on_crowd]] = True
    pairs = pairs.chosen(~on_crowd)
    pairs = pairs.chosen(np.lexsort((pairs.truth, -pairs.overlap, pairs.found)))
    pairs = pairs.chosen(np.flatnonzero(np.diff(pairs.found, prepend=-1)))
    right = np.zeros(len(found), dtype=np.bool_)
    right[pairs.found[np.unique(pairs.truth, return_index=True)[1]]] = True
    return Verdict(found=found, right=right, left_out=left_out & ~right)
