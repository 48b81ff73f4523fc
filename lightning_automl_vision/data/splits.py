"""Which images are held out for validation, once or part by part: seeded, by class share, never through a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lightning_automl_vision.data.packed import classes_seen
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.samples import IntArray

_ROUNDING = 1e-9


def split(
    labels: Sequence[IntArray],
    share: float,
    *,
    seed: int,
    stratified: bool = False,
    groups: Sequence[str | None] | None = None,
) -> tuple[list[int], list[int]]:
    """Sorted indices of the training and the validation images; neither is empty.

    Images of one group stay together; an image without a group is a group of its own.
    """
    units = _units(len(labels), groups)
    count = _count(units)
    if count < 2:
        what = "image" if len(labels) < 2 else f"group ({len(labels)} images)"
        raise DataError(
            f"Only one {what} to split into training and validation. "
            "Give data.validation=PATH, or another data.group_by."
        )
    order = np.random.default_rng(seed).permutation(count)
    sizes = np.bincount(units)[order].tolist()
    if stratified:
        sides = _sides_by_class(order, units, labels, (1 - share, share))
        held = {place for place, side in enumerate(sides) if side}
    else:
        held = _held_at_random(sizes, share * len(labels))
    inside = np.zeros(count, dtype=np.bool_)
    inside[order[[*_neither_empty(sizes, held)]]] = True
    return np.flatnonzero(~inside[units]).tolist(), np.flatnonzero(inside[units]).tolist()


def folds(
    labels: Sequence[IntArray], number: int, *, seed: int, groups: Sequence[str | None] | None = None
) -> list[list[int]]:
    """So many parts of about one size in which each class has its share; sorted indices, none of them empty.

    Images of one group are in one part; an image without a group is a group of its own.
    """
    units = _units(len(labels), groups)
    count = _count(units)
    if count < number:
        what = f"{len(labels)} images" if groups is None else f"{count} groups ({len(labels)} images)"
        way_out = "or add images" if groups is None else "or give another data.group_by"
        raise DataError(
            f"data.folds={number}: there are only {what}, and each fold needs one of its own to validate on."
            f" Give at most data.folds={count}, {way_out}."
        )
    order = np.random.default_rng(seed).permutation(count)
    sides = np.empty(count, dtype=np.int64)
    sides[order] = _sides_by_class(order, units, labels, [1 / number] * number)
    return [np.flatnonzero(sides[units] == part).tolist() for part in range(number)]


def units_by_class(labels: Sequence[IntArray], groups: Sequence[str | None] | None = None) -> Counter[int]:
    """In how many images each class is to be seen; where they are grouped, in how many groups."""
    _, classes, _ = _shown(_units(len(labels), groups), labels)
    return Counter(classes.tolist())


def _units(count: int, groups: Sequence[str | None] | None) -> IntArray:
    """The number of each image's unit, in the order they appear in."""
    if groups is None:
        return np.arange(count)
    numbers: dict[object, int] = {}
    keys = (place if group is None else group for place, group in enumerate(groups))
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.int64, count=count)


def _count(units: IntArray) -> int:
    return int(units.max(initial=-1)) + 1


def _shown(units: IntArray, labels: Sequence[IntArray]) -> tuple[IntArray, IntArray, IntArray]:
    """Unit by unit, a class that is to be seen in it, and in how many of its images."""
    seen = [(units[:0], units[:0]), *((units[images], classes) for images, classes in classes_seen(labels))]
    owners, classes = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    most = int(classes.max(initial=0)) + 1
    pairs, times = np.unique(owners * most + classes, return_counts=True)
    return pairs // most, pairs % most, times


def _held_at_random(sizes: Sequence[int], wanted: float) -> set[int]:
    """Places of units while they bring the held-out images nearer to the wanted number."""
    held: set[int] = set()
    total = 0
    for place, size in enumerate(sizes):
        if total >= wanted:
            break
        if abs(total + size - wanted) < abs(total - wanted):
            held.add(place)
            total += size
    return held


def _sides_by_class(order: IntArray, units: IntArray, labels: Sequence[IntArray], shares: Sequence[float]) -> list[int]:
    """Iterative stratification: the rarest class first, each unit to the side that lacks its class most.

    Where several lack it alike, the one that lacks most images takes the unit. Units are told by their place in order.
    """
    owners, classes, times = _shown(np.argsort(order)[units], labels)
    sizes = np.bincount(units)[order].tolist()
    ends = np.searchsorted(owners, np.arange(len(order)), side="right").tolist()
    shown = [*zip(classes.tolist(), times.tolist(), strict=True)]
    totals = np.bincount(classes, weights=times)
    lacking = [[total * share for total in totals.tolist()] for share in shares]
    left = totals.astype(np.int64).tolist()
    open_images = [len(labels) * share for share in shares]
    side: list[int | None] = [None] * len(order)

    def place(number: int, name: int | None) -> None:
        most = 0.0 if name is None else max(lack[name] for lack in lacking)
        alike = [place for place, lack in enumerate(lacking) if name is None or most - lack[name] < _ROUNDING]
        chosen = max(alike, key=lambda place: open_images[place])
        side[number] = chosen
        open_images[chosen] -= sizes[number]
        lack = lacking[chosen]
        for label, count in shown[ends[number - 1] if number else 0 : ends[number]]:
            lack[label] -= count
            left[label] -= count

    waiting = {*np.unique(classes).tolist()}
    while remaining := [name for name in waiting if left[name] > 0]:
        name = min(remaining, key=lambda name: (left[name], name))
        waiting.remove(name)
        for number in sorted(owners[classes == name].tolist(), key=lambda number: -sizes[number]):
            if side[number] is None:
                place(number, name)
    for number, chosen in enumerate(side):
        if chosen is None:
            place(number, None)
    return [chosen for chosen in side if chosen is not None]


def _neither_empty(sizes: Sequence[int], held: set[int]) -> set[int]:
    if not held:
        return {min(range(len(sizes)), key=lambda place: sizes[place])}
    if len(held) == len(sizes):
        return held - {min(held, key=lambda place: sizes[place])}
    return held
