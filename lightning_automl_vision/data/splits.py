"""Which images are held out for validation, once or part by part: seeded, by class share, never through a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

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
    if len(units) < 2:
        what = "image" if len(labels) < 2 else f"group ({len(labels)} images)"
        raise DataError(
            f"Only one {what} to split into training and validation. "
            "Give data.validation=PATH, or another data.group_by."
        )
    order = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    held = _held_by_class(order, labels, share) if stratified else _held_at_random(order, share * len(labels))
    held = _neither_empty(order, held)
    validation = sorted(index for number in held for index in order[number])
    inside = set(validation)
    return [index for index in range(len(labels)) if index not in inside], validation


def folds(
    labels: Sequence[IntArray], number: int, *, seed: int, groups: Sequence[str | None] | None = None
) -> list[list[int]]:
    """So many parts of about one size in which each class has its share; sorted indices, none of them empty.

    Images of one group are in one part; an image without a group is a group of its own.
    """
    units = _units(len(labels), groups)
    if len(units) < number:
        what = f"{len(labels)} images" if groups is None else f"{len(units)} groups ({len(labels)} images)"
        way_out = "or add images" if groups is None else "or give another data.group_by"
        raise DataError(
            f"data.folds={number}: there are only {what}, and each fold needs one of its own to validate on."
            f" Give at most data.folds={len(units)}, {way_out}."
        )
    order = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    sides = _sides_by_class(order, labels, [1 / number] * number)
    return [
        sorted(index for unit, side in zip(order, sides, strict=True) if side == part for index in unit)
        for part in range(number)
    ]


def units_by_class(labels: Sequence[IntArray], groups: Sequence[str | None] | None = None) -> Counter[int]:
    """In how many images each class is to be seen; where they are grouped, in how many groups."""
    found: Counter[int] = Counter()
    for unit in _units(len(labels), groups):
        found.update(_class_counts(unit, labels).keys())
    return found


def _units(count: int, groups: Sequence[str | None] | None) -> list[list[int]]:
    if groups is None:
        return [[index] for index in range(count)]
    units: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        units.setdefault((index,) if group is None else group, []).append(index)
    return list(units.values())


def _held_at_random(order: Sequence[list[int]], wanted: float) -> set[int]:
    """Units in their order while they bring the held-out images nearer to the wanted number."""
    held: set[int] = set()
    size = 0
    for number, unit in enumerate(order):
        if abs(size + len(unit) - wanted) < abs(size - wanted):
            held.add(number)
            size += len(unit)
    return held


def _held_by_class(order: Sequence[list[int]], labels: Sequence[IntArray], share: float) -> set[int]:
    return {number for number, side in enumerate(_sides_by_class(order, labels, (1 - share, share))) if side}


def _sides_by_class(order: Sequence[list[int]], labels: Sequence[IntArray], shares: Sequence[float]) -> list[int]:
    """Iterative stratification: the rarest class first, each unit to the side that lacks its class most.

    Where several lack it alike, the one that lacks most images takes the unit.
    """
    counts = [_class_counts(unit, labels) for unit in order]
    left: Counter[int] = Counter()
    holders: dict[int, list[int]] = {}
    for number, count in enumerate(counts):
        left.update(count)
        for name in count:
            holders.setdefault(name, []).append(number)
    lacking = [Counter({name: total * share for name, total in left.items()}) for share in shares]
    open_images = [len(labels) * share for share in shares]
    side: dict[int, int] = {}

    def place(number: int, name: int | None) -> None:
        most = 0.0 if name is None else max(lack[name] for lack in lacking)
        alike = [place for place, lack in enumerate(lacking) if name is None or most - lack[name] < _ROUNDING]
        chosen = max(alike, key=lambda place: open_images[place])
        side[number] = chosen
        open_images[chosen] -= len(order[number])
        lacking[chosen].subtract(counts[number])
        left.subtract(counts[number])

    while remaining := [name for name in holders if left[name] > 0]:
        name = min(remaining, key=lambda name: (left[name], name))
        for number in sorted(holders.pop(name), key=lambda number: -len(order[number])):
            if number not in side:
                place(number, name)
    for number in range(len(order)):
        if number not in side:
            place(number, None)
    return [side[number] for number in range(len(order))]


def _class_counts(unit: Sequence[int], labels: Sequence[IntArray]) -> Counter[int]:
    """How many of the unit's images show each class."""
    return Counter(int(name) for index in unit for name in set(labels[index].tolist()))


def _neither_empty(order: Sequence[list[int]], held: set[int]) -> set[int]:
    if not held:
        return {min(range(len(order)), key=lambda number: len(order[number]))}
    if len(held) == len(order):
        return held - {min(held, key=lambda number: len(order[number]))}
    return held
