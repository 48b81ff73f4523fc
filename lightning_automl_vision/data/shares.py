"""Which part of a data set each of several processes goes through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

V = TypeVar("V")


class Share(NamedTuple):
    """Process ``rank`` of so many, of which ``local`` run on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 1

    @property
    def is_all(self) -> bool:
        return self.size == 1

    def length(self, whole: int) -> int:
        """How many of a training's draws are this one's: each process has as many."""
        return -(-whole // self.size)

    def of_draws(self, draws: Iterable[V]) -> Iterator[V]:
        """Every ``size``-th, from ``rank`` on: batches of all processes together are those of one, as large as all."""
        return iter(draws) if self.is_all else islice(draws, self.rank, None, self.size)

    def of_batches(self, draws: Iterable[V], batch_size: int) -> Iterator[V]:
        """Every ``size``-th batch, as one process would make it; nothing comes twice, and some may have none."""
        if self.is_all:
            return iter(draws)
        return (draw for place, draw in enumerate(draws) if place // batch_size % self.size == self.rank)

    def batches_length(self, whole: int, batch_size: int) -> int:
        """How many draws ``of_batches`` gives."""
        batches, rest = divmod(whole, batch_size)
        short = rest if batches % self.size == self.rank else 0
        return len(range(self.rank, batches, self.size)) * batch_size + short

    def of_images(self, images: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """The places of those images, of as many windows, that are this one's: all of an image, about as many each."""
        held, owners, mine = [0] * self.size, dict[int, int](), []
        for place, (image, size) in enumerate(zip(images, sizes, strict=True)):
            owner = owners.setdefault(image, held.index(min(held)))
            held[owner] += size
            if owner == self.rank:
                mine.append(place)
        return mine


ALL = Share()
