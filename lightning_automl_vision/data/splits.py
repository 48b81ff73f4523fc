"""Which images are held out for validation: seeded, by class share, and never through a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.samples import IntArray


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
    """Iterative stratification: the rarest class first, each unit to the side that lacks its class most."""
    counts = [_class_counts(unit, labels) for unit in order]
    left: Counter[int] = Counter()
    holders: dict[int, list[int]] = {}
    for number, count in enumerate(counts):
        left.update(count)
        for name in count:
            holders.setdefault(name, []).append(number)
    lacking = [Counter({name: total * part for name, total in left.items()}) for part in (1 - share, share)]
    open_images = [len(labels) * (1 - share), len(labels) * share]
    side: dict[int, int] = {}

    def place(number: int, name: int | None) -> None:
        need = 0.0 if name is None else lacking[1][name] - lacking[0][name]
        if abs(need) < 1e-9:
            need = open_images[1] - open_images[0]
        chosen = int(need > 0)
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
    return {number for number, chosen in side.items() if chosen}


def _class_counts(unit: Sequence[int], labels: Sequence[IntArray]) -> Counter[int]:
    """How many of the unit's images show each class."""
    return Counter(int(name) for index in unit for name in set(labels[index].tolist()))


def _neither_empty(order: Sequence[list[int]], held: set[int]) -> set[int]:
    if not held:
        return {min(range(len(order)), key=lambda number: len(order[number]))}
    if len(held) == len(order):
        return held - {min(held, key=lambda number: len(order[number]))}
    return held
