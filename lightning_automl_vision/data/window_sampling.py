"""The order in which the windows of images are gone through: mixed as far as memory allows, each image decoded once.

Images are drawn as without tiling, and their windows follow them. That sequence is dealt into lanes, of which each is
read by one process: batches come from the lanes in turn, as loaders hand batches to processes in turn. Within a lane
the windows of as many images are mixed as its share of the memory holds. An image is decoded twice where a border
between lanes cuts it, and never because of the number of processes that read, on which the order does not depend.
Of several processes that train, each has images of its own, with all of their windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from lightning_automl_vision.data.sampling import Draw, EpochSampler, without_begun
from lightning_automl_vision.data.shares import ALL, Share
from lightning_automl_vision.data.tiled import Windows
from lightning_automl_vision.samples import BoolArray, IntArray, Sample

_LANES = (8, 4, 2, 1)
# Of so many images one at most may be decoded twice because lanes cut it.
_IMAGES_A_LANE = 20
_CHANNELS = 3
# What tells the draw of windows from that of images.
_OF_WINDOWS = 2


class Lane(NamedTuple):
    """Windows in order, and for each the number of its pool: those that are in memory together."""

    windows: IntArray
    pool: IntArray
    pools: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A labelled set seen through windows: the samples of all windows, and how many of them an epoch has.

    ``memory`` are the bytes that decoded images may take, all processes together; ``empty`` the tiles that show
    nothing, of which there are only as many as make ``empty_share`` of an epoch's tiles.
    """

    windows: Windows
    samples: Sequence[Sample[Any]]
    memory: int
    empty: BoolArray | None = None
    empty_share: float = 1.0

    def __len__(self) -> int:
        left_out = 0 if self.empty is None else int(self.empty.sum()) - self.kept_empty
        return len(self.windows) - left_out

    @property
    def kept_empty(self) -> int:
        """How many empty tiles an epoch has, the same number in each."""
        empty = 0 if self.empty is None else int(self.empty.sum())
        if self.empty_share >= 1:
            return empty
        others = len(self.windows) - len(self.windows.sizes) - empty
        return min(empty, int(others * self.empty_share / (1 - self.empty_share)))


@dataclass
class WindowSampler:
    """Draws of windows for one epoch; ``images`` draws the images of all processes, and is told the epoch.

    With ``ahead`` a draw tells of one in the next batch of its lane, which the same process reads.
    """

    cut: Cut
    images: EpochSampler
    batch_size: int
    seed: int
    shuffle: bool
    share: Share = ALL
    ahead: bool = False
    _epoch: int = field(default=0, init=False)
    _begun: tuple[int, int] = field(default=(0, 0), init=False)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self.images.set_epoch(epoch)

    def begin_at(self, epoch: int, draws: int) -> None:
        """Go on in the middle of an epoch; all others are whole."""
        self.set_epoch(epoch)
        self._begun = (epoch, draws)

    def __len__(self) -> int:
        """What is judged comes once; of what is trained on each process has as many windows."""
        if self.share.is_all or self.shuffle:
            return self.share.length(len(self.cut))
        return len(self._sequence(np.random.default_rng(0)))

    def __iter__(self) -> Iterator[Draw]:
        return without_begun(self._draws(), self._epoch, self._begun)

    def _draws(self) -> Iterator[Draw]:
        seen = np.zeros(len(self.cut.windows), dtype=np.int64)
        generator = np.random.default_rng((self.seed, self._epoch, _OF_WINDOWS))
        sequence = np.resize(self._sequence(generator), len(self))
        lanes = [self._lane(part, generator) for part in dealt(sequence, self.batch_size, self._lanes)]
        size = self.batch_size
        for start in range(0, max(len(lane.windows) for lane in lanes), size):
            for lane in lanes:
                places = slice(start, start + size)
                later = lane.windows[places.stop : places.stop + size].tolist() if self.ahead else []
                drawn = zip(lane.windows[places].tolist(), lane.pool[places].tolist(), strict=True)
                for (window, pool), next_but_few in zip_longest(drawn, later):
                    yield Draw(self._epoch, window, int(seen[window]), lane.pools[pool], next_but_few)
                    seen[window] += 1

    @property
    def _lanes(self) -> int:
        return lanes_for(len(self.cut.windows.sizes) // self.share.size)

    def _sequence(self, generator: np.random.Generator) -> IntArray:
        """The windows of the epoch's images, image by image."""
        drawn, first = np.ones(len(self.cut.windows), dtype=np.bool_), self.cut.windows.first
        if self.cut.empty is not None:
            drawn[generator.permutation(np.flatnonzero(self.cut.empty))[self.cut.kept_empty :]] = False
        images = [draw.image for draw in self.images]
        every = [windows[drawn[windows]] for windows in (np.arange(first[image], first[image + 1]) for image in images)]
        if not self.share.is_all:
            every = [every[place] for place in self.share.of_images(images, [len(windows) for windows in every])]
        return np.concatenate([first[:0], *every])

    def _lane(self, windows: IntArray, generator: np.random.Generator) -> Lane:
        images = np.searchsorted(self.cut.windows.first, windows, side="right") - 1
        starts = np.flatnonzero(np.diff(images, prepend=-1))
        memory = [_CHANNELS * int(np.prod(self.cut.windows.sizes[image])) for image in images[starts].tolist()]
        pool = np.zeros(len(windows), dtype=np.int64)
        pool[starts] = np.diff(packed(memory, self.cut.memory // (2 * self._lanes)), prepend=0)
        pool = np.cumsum(pool)
        if self.shuffle:
            windows = windows[np.lexsort((generator.random(len(windows)), pool))]
        bounds = np.flatnonzero(np.diff(pool)) + 1
        return Lane(windows, pool, tuple(tuple(part.tolist()) for part in np.split(windows, bounds)))


def lanes_for(images: int) -> int:
    """As many as are worth their images decoded twice."""
    return next(lanes for lanes in _LANES if lanes - 1 <= images / _IMAGES_A_LANE)


def readers_for(processes: int, images: int) -> int:
    """So many of the processes that each lane is read by one of them."""
    return max((lanes for lanes in _LANES if lanes <= min(processes, lanes_for(images))), default=0)


def dealt(sequence: IntArray, batch_size: int, lanes: int) -> list[IntArray]:
    """As many consecutive parts, of whole batches; a short last batch belongs to the lane that is last to give one."""
    batches = -(-len(sequence) // batch_size)
    lanes = max(min(lanes, batches), 1)
    sizes = np.full(lanes, batches // lanes * batch_size)
    sizes[: batches % lanes] += batch_size
    sizes[(batches - 1) % lanes] -= batches * batch_size - len(sequence)
    return np.split(sequence, np.cumsum(sizes)[:-1])


def packed(memory: list[int], most: int) -> IntArray:
    """The number of the pool of each: as many in a row as fit, and always one."""
    pools, held, pool = [], 0, 0
    for size in memory:
        if held and held + size > most:
            pool, held = pool + 1, 0
        held += size
        pools.append(pool)
    return np.array(pools, dtype=np.int64)
