"""How much is worked on at once: requests by number, bodies and decoded pictures by the memory they take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lightning_automl_vision.serving.refusals import Refused

_RETRY_AFTER = 1


class Gate:
    """Lets ``concurrency`` requests be worked on and ``queue_size`` wait; refuses what comes beside them."""

    def __init__(self, concurrency: int, queue_size: int) -> None:
        self.inside = 0
        self._most = concurrency + queue_size
        self._working = asyncio.Semaphore(concurrency)
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> None:
        if self.inside >= self._most:
            raise Refused(429, "Too many requests wait already. Try again.", retry_after=_RETRY_AFTER)
        self.inside += 1
        self._empty.clear()

    def leave(self) -> None:
        self.inside -= 1
        if not self.inside:
            self._empty.set()

    @property
    def working(self) -> asyncio.Semaphore:
        return self._working

    async def empty(self) -> None:
        """Waits until nobody is inside."""
        await self._empty.wait()


@dataclass(kw_only=True)
class ByteBudget:
    """So many bytes of bodies lie in memory, whoever sent them."""

    most: int
    held: int = 0

    def share(self) -> Share:
        return Share(budget=self)


@dataclass(kw_only=True)
class Share:
    """What one request has of it, until it is given back."""

    budget: ByteBudget
    _taken: int = field(default=0, init=False)

    def take(self, size: int) -> None:
        """503 where that is more than there is."""
        if self.budget.held + size > self.budget.most:
            raise Refused(503, "Other requests fill the server's memory. Try again.", retry_after=_RETRY_AFTER)
        self.budget.held += size
        self._taken += size

    def give_back(self) -> None:
        self.budget.held -= self._taken
        self._taken = 0


class PixelBudget:
    """So many pixels are decoded at a time; no picture has more, so that each gets its turn, in order."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def taken(self, pixels: int) -> AsyncIterator[None]:
        async with self._turn, self._changed:
            await self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            async with self._changed:
                self._free += pixels
                self._changed.notify_all()
