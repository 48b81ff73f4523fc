"""The order in which a data set is gone through, drawn anew from the seed for each epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from lightning_automl_vision.data.packed import labels_of
from lightning_automl_vision.data.shares import ALL, Share
from lightning_automl_vision.samples import IntArray, Labels, Sample


class Draw(NamedTuple):
    """One image, or window, in one epoch; ``repeat`` counts from 0 how often it came up before.

    ``pool`` are those that may be composed with it, where that is not all; ``later`` is
    what the same process reads next but a few.
    """

    epoch: int
    image: int
    repeat: int
    pool: tuple[int, ...] = ()
    later: int | None = None

    @property
    def seed(self) -> tuple[int, int, int]:
        return self[:3]


class EpochSampler:
    """Draws for one epoch; whoever trains calls ``set_epoch`` before each, as Lightning does.

    Draws carry the epoch to worker processes that live longer than one. ``order`` is that of an evaluation. With a
    ``share`` draws are one process' own: of what is shuffled each has equally many, else each has its own batches.
    ``ahead`` is how many draws lie between one and the ``later`` of it.
    """

    def __init__(
        self,
        size: int,
        *,
        shuffle: bool,
        seed: int,
        groups: Sequence[IntArray] | None = None,
        order: IntArray | None = None,
        epoch: int = 0,
        share: Share = ALL,
        batch_size: int = 1,
    ) -> None:
        self._size = size
        self._share = share
        self._batch_size = batch_size
        self.ahead = 0
        self._shuffle = shuffle
        self._seed = seed
        self._groups = groups
        self._given = np.arange(size) if order is None else order
        self._epoch = epoch
        self._begun = (epoch, 0)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def begin_at(self, epoch: int, draws: int) -> None:
        """Go on in the middle of an epoch; all others are whole."""
        self._epoch, self._begun = epoch, (epoch, draws)

    def __len__(self) -> int:
        """Of a whole epoch."""
        if self._is_random:
            return self._share.length(self._size)
        return self._share.batches_length(self._size, self._batch_size)

    def __iter__(self) -> Iterator[Draw]:
        return with_next(without_begun(self._draws(), self._epoch, self._begun), self.ahead)

    @property
    def _is_random(self) -> bool:
        return self._shuffle or self._groups is not None

    def _draws(self) -> Iterator[Draw]:
        if self._is_random:
            return self._share.of_draws(self._every_draw(self._share.length(self._size) * self._share.size))
        return self._share.of_batches(self._every_draw(self._size), self._batch_size)

    def _every_draw(self, count: int) -> Iterator[Draw]:
        """Of all processes: where more are needed for each to have as many, the order begins anew."""
        seen: Counter[int] = Counter()
        epoch, order = self._epoch, self._order(np.random.default_rng((self._seed, self._epoch)))
        repeats = self._groups is not None or count > len(order)
        for index in map(int, np.resize(order, count)):
            yield Draw(epoch, index, seen[index])
            if repeats:
                seen[index] += 1

    def _order(self, generator: np.random.Generator) -> IntArray:
        if self._groups is not None:
            return balanced_order(self._groups, self._size, generator)
        return generator.permutation(self._size) if self._shuffle else self._given


def without_begun(draws: Iterator[Draw], epoch: int, begun: tuple[int, int]) -> Iterator[Draw]:
    """The draws of an epoch that are left where so many were gone through before."""
    return islice(draws, begun[1] if begun[0] == epoch else 0, None)


def with_next(draws: Iterator[Draw], distance: int) -> Iterator[Draw]:
    """Each draw with the image that comes so many draws later, for whoever reads it to fetch that one meanwhile."""
    waiting = list(islice(draws, distance))
    place = 0
    for later in draws if distance else ():
        yield waiting[place]._replace(later=later.image)
        waiting[place] = later
        place = (place + 1) % distance
    yield from chain(waiting[place:], waiting[:place], draws)


def order_by_shape(sizes: Sequence[tuple[int, int]]) -> IntArray:
    """The images so ordered by height over width that those of a batch need little padding."""
    return np.argsort([height / width for width, height in sizes], kind="stable")


def balanced_order(groups: Sequence[IntArray], size: int, generator: np.random.Generator) -> IntArray:
    """``size`` draws in which every group comes up equally often, to within one, and so do a group's members."""
    quotas = np.full(len(groups), size // len(groups))
    quotas[generator.permutation(len(groups))[: size % len(groups)]] += 1
    drawn = [_drawn(group, quota, generator) for group, quota in zip(groups, quotas.tolist(), strict=True)]
    return generator.permutation(np.concatenate(drawn))


def _drawn(group: IntArray, quota: int, generator: np.random.Generator) -> IntArray:
    rounds = -(-quota // len(group))
    return np.concatenate([group[:0], *(generator.permutation(group) for _ in range(rounds))])[:quota]


def groups_by_rarest_label(samples: Sequence[Sample[Labels]], num_classes: int) -> list[IntArray]:
    """The images of each class; one with several labels counts for its rarest, those without any are a group."""
    counts = np.zeros(num_classes, dtype=np.int64)
    each = labels_of(samples)
    for labels in each:
        counts[labels] += 1
    rarest = np.array([labels[counts[labels].argmin()] if len(labels) else num_classes for labels in each])
    return [np.flatnonzero(rarest == group) for group in np.unique(rarest)]
