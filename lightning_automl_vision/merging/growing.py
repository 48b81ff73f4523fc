"""Greedy merging: the best box takes in what overlaps it, and grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.merging.candidates import Candidates, Merged, best_first, checked_threshold, gathered
from lightning_automl_vision.merging.islands import first_islands, joined_islands, may_merge
from lightning_automl_vision.merging.overlaps import Neighbours, Overlap, areas, overlap_of
from lightning_automl_vision.merging.sweeping import Grid, sweep
from lightning_automl_vision.samples import BoolArray, FloatArray, IntArray

# A larger island is worth its own rounds.
_LARGE = 300
# Once so much of a group had to grow again, nearly everything in it hangs together: it becomes one island.
_PATIENCE = 0.5


def greedy_merging(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    threshold: float,
    class_agnostic: bool = False,
    overlap: Overlap = "ios",
    largest: float = math.inf,
) -> Merged:
    """The best box takes in each box of its class that overlaps it, as it has grown so far, by more than the threshold.

    It looks at the others once, from the best to the worst, and grows to the union with each that it takes in; then the
    best of those left does the same. All of this is repeated with the grown boxes until none takes in another. A grown
    box has the score and the class of the best box in it. With ``largest`` a box is not taken in where the union would
    be longer on a side than so many pixels and than the same side of both: growth ends there, however dense the crowd.
    """
    rule = _Rule(checked_threshold(threshold), overlap, largest)
    candidates = Candidates.of(boxes, scores, labels, class_agnostic=class_agnostic)
    groups, state = candidates.groups, _State(owners=np.arange(len(candidates)), corners=candidates.boxes.copy())
    numbers = first_islands(candidates.boxes, groups, threshold, overlap)
    inhabitants = np.bincount(groups)
    places, again = np.arange(len(candidates)), np.zeros_like(inhabitants)
    # Islands are guessed and grow apart; where grown boxes of several may have met, these grow again as one.
    while len(places):
        _settle(state, candidates, places, numbers[places], rule)
        first, second = _met(state, candidates, numbers, rule)
        numbers = joined_islands(numbers, numbers[first], numbers[second])
        again += np.bincount(groups[_all_in(numbers, first)], minlength=len(again))
        whole = again > _PATIENCE * inhabitants
        numbers = np.where(whole[groups], len(numbers) + groups, numbers)
        places = _all_in(numbers, first)
    members = gathered(state.owners)
    best = np.array([places[0] for places in members], dtype=np.int64)
    return candidates.together(state.corners[best], candidates.scores[best], members)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """The best candidate in the grown box that each candidate is in, and the corners of that box."""

    owners: IntArray
    corners: FloatArray


def _settle(state: _State, candidates: Candidates, places: IntArray, numbers: IntArray, rule: _Rule) -> None:
    """Grow what is in some islands, pass after pass, until none takes in another."""
    order = np.argsort(numbers, kind="stable")
    owners, best = np.arange(len(candidates)), places[order]
    state.corners[places] = candidates.boxes[places]
    grown = _Grown(boxes=candidates.boxes[best], best=best, islands=numbers[order])
    while len(grown.best):
        leaders, unions = _grow(grown, rule)
        best = grown.best.copy()
        np.minimum.at(best, leaders, grown.best)
        target = np.arange(len(candidates))
        target[grown.best] = best[leaders]
        owners = target[owners]
        leads = leaders == np.arange(len(leaders))
        state.corners[best[leads]] = unions[leads]
        again = leads & np.isin(grown.islands, grown.islands[~leads])
        grown = _in_order(candidates, unions[again], best[again], grown.islands[again])
    state.owners[places] = owners[places]


def _all_in(numbers: IntArray, some: IntArray) -> IntArray:
    """The places of all that is in the same islands as some places."""
    within = np.zeros(int(numbers.max(initial=-1)) + 1, np.bool_)
    within[numbers[some]] = True
    return np.flatnonzero(within[numbers])


def _met(state: _State, candidates: Candidates, numbers: IntArray, rule: _Rule) -> tuple[IntArray, IntArray]:
    """Pairs of grown boxes of different islands that may have overlapped too much while they grew."""
    best = np.flatnonzero(state.owners == np.arange(len(candidates)))
    size = areas(candidates.boxes)
    least = size.copy()
    np.minimum.at(least, state.owners, size)
    neighbours = Neighbours.of(state.corners[best], candidates.groups[best])
    first, second = may_merge(neighbours, least[best], rule.threshold, rule.overlap)
    apart = numbers[best[first]] != numbers[best[second]]
    return best[first[apart]], best[second[apart]]


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a box takes in."""

    threshold: float
    overlap: Overlap
    largest: float

    def taken(
        self, boxes: FloatArray, size: FloatArray, takers: FloatArray, common: FloatArray
    ) -> tuple[IntArray, BoolArray]:
        """Places of the boxes, of these areas, that their takers would take in as they are, and whether they grow."""
        meet = np.flatnonzero(common > 0)
        found = overlap_of(common[meet], areas(takers[meet]), size[meet], self.overlap)
        meet = meet[found > self.threshold]
        some, others = boxes[meet], takers[meet]
        union = _union(some, others)
        grows = np.asarray((union != others).any(axis=1))
        if self.largest == math.inf:
            return meet, grows
        longest = np.maximum(np.maximum(_sides(some), _sides(others)), self.largest)
        fits = np.flatnonzero((_sides(union) <= longest).all(axis=1))
        return meet[fits], grows[fits]


def _sides(boxes: FloatArray) -> FloatArray:
    return boxes[:, 2:] - boxes[:, :2]


def _union(boxes: FloatArray, others: FloatArray) -> FloatArray:
    return np.hstack([np.minimum(boxes[:, :2], others[:, :2]), np.maximum(boxes[:, 2:], others[:, 2:])])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grown:
    """Boxes island by island and best first within each; a box is known by the best candidate in it."""

    boxes: FloatArray
    best: IntArray
    islands: IntArray


def _in_order(candidates: Candidates, boxes: FloatArray, best: IntArray, numbers: IntArray) -> _Grown:
    order = best_first(boxes, candidates.scores[best], candidates.labels[best])
    order = order[np.argsort(numbers[order], kind="stable")]
    return _Grown(boxes=boxes[order], best=best[order], islands=numbers[order])


def _grow(grown: _Grown, rule: _Rule) -> tuple[IntArray, FloatArray]:
    """One pass: by whom each box is taken in, perhaps itself, and what the takers grow to."""
    begins = np.flatnonzero(np.diff(grown.islands, prepend=-1))
    ends = np.append(begins[1:], len(grown.islands))
    large = ends - begins > _LARGE
    leaders, unions = np.arange(len(grown.boxes)), grown.boxes.copy()
    for begin, end in zip(begins[large].tolist(), ends[large].tolist(), strict=True):
        found, unions[begin:end] = _grow_one(grown.boxes[begin:end], rule)
        leaders[begin:end] = found + begin
    small = np.flatnonzero(~np.repeat(large, ends - begins))
    found, unions[small] = _grow_all(grown.boxes[small], grown.islands[small], rule)
    leaders[small] = small[found]
    return leaders, unions


def _grow_one(boxes: FloatArray, rule: _Rule) -> tuple[IntArray, FloatArray]:
    """A pass over one island, taker by taker."""
    if (grid := Grid.over(boxes)) is not None:
        return sweep(boxes, grid, threshold=rule.threshold, overlap=rule.overlap, largest=rule.largest)
    leaders, unions, size = np.arange(len(boxes)), boxes.copy(), areas(boxes)
    left, top, right, bottom = np.array(boxes.T, order="C")  # of a box that is taken in, left is infinite
    for taker in range(len(boxes)):
        behind, union = taker + 1, unions[taker]
        while behind and left[taker] < np.inf:
            meet = (left[behind:] < union[2]) & (right[behind:] > union[0])
            meet &= (top[behind:] < union[3]) & (bottom[behind:] > union[1])
            near = np.flatnonzero(meet) + behind
            others = np.broadcast_to(union, (len(near), 4))
            taken, grows = rule.taken(boxes[near], size[near], others, _common(boxes[near], others))
            near, behind = near[taken], 0
            if grows.any():
                near = near[: grows.argmax() + 1]
                behind = int(near[-1]) + 1
                union[:] = _union(union[None], boxes[near[-1:]])
            leaders[near] = taker
            left[near] = np.inf
    return leaders, unions


def _grow_all(boxes: FloatArray, numbers: IntArray, rule: _Rule) -> tuple[IntArray, FloatArray]:
    """A pass over many small islands at once, a step of each island's present taker in each round."""
    leaders, unions, size = np.arange(len(boxes)), boxes.copy(), areas(boxes)
    count, never = int(numbers.max(initial=-1)) + 1, len(boxes)
    taker, behind = np.full(count, -1), np.zeros(count, np.int64)
    left = leaders.copy()
    while len(left):
        left = _without_new_takers(left, numbers, taker, behind)
        of = numbers[left]
        leader = taker[of]
        near = _near(boxes, unions, left, leader, left > behind[of])
        some, others = boxes[left[near]], unions[leader[near]]
        hit, grows = rule.taken(some, size[left[near]], others, _common(some, others))
        near = near[hit]
        growing = near[grows]
        first = np.full(count, never)
        first[of[growing][::-1]] = left[growing][::-1]  # of several the first one is written last
        taken = near[left[near] <= first[of[near]]]
        leaders[left[taken]] = leader[taken]
        further = np.flatnonzero(first < never)
        unions[taker[further]] = _union(unions[taker[further]], boxes[first[further]])
        behind[further] = first[further]
        taker[first == never] = -1
        left = _without(left, taken)
    return leaders, unions


def _without_new_takers(left: IntArray, numbers: IntArray, taker: IntArray, behind: IntArray) -> IntArray:
    """The boxes left when in each island without a taker the first has become it."""
    of = numbers[left]
    waits = taker[of] < 0
    waits[1:] &= of[1:] != of[:-1]
    begins = np.flatnonzero(waits)
    taker[of[begins]] = behind[of[begins]] = left[begins]
    return _without(left, begins)


def _without(values: IntArray, places: IntArray) -> IntArray:
    kept = np.ones(len(values), np.bool_)
    kept[places] = False
    return values[kept]


def _near(boxes: FloatArray, unions: FloatArray, left: IntArray, leader: IntArray, asked: BoolArray) -> IntArray:
    """Which of those asked lie above or below their takers, or overlap them."""
    wide = np.minimum(boxes[left, 2], unions[leader, 2]) > np.maximum(boxes[left, 0], unions[leader, 0])
    return np.flatnonzero(asked & wide)


def _common(boxes: FloatArray, others: FloatArray) -> FloatArray:
    wide = np.minimum(boxes[:, 2], others[:, 2]) - np.maximum(boxes[:, 0], others[:, 0])
    tall = np.minimum(boxes[:, 3], others[:, 3]) - np.maximum(boxes[:, 1], others[:, 1])
    return np.asarray(wide.clip(0) * tall.clip(0))
