"""Pictures of several requests seen by a network at once, in a thread that does nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from lightning_automl_vision.log import LOG
from lightning_automl_vision.predictor import Prepared
from lightning_automl_vision.serving.metrics import Metrics
from lightning_automl_vision.serving.refusals import TOO_LATE, Refused

Answer = Callable[[Sequence[Prepared]], Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    picture: Prepared
    deadline: float
    answer: asyncio.Future[Any]


@dataclass(kw_only=True)
class Batcher:
    """Gives a network what is there, ``size`` at most; waits ``wait`` seconds only for pictures that are on their way.

    ``announce`` says that one is, ``ask`` that it has come; each announced picture comes or is called off.
    """

    name: str
    size: int
    wait: float
    metrics: Metrics
    thread: ThreadPoolExecutor
    _coming: int = 0
    _queue: asyncio.Queue[_Waiting] = field(default_factory=asyncio.Queue)

    def announce(self) -> None:
        self._coming += 1

    def call_off(self) -> None:
        self._coming -= 1

    async def ask(self, picture: Prepared, deadline: float) -> Any:
        """The network's answer; Refused with 504 where its turn came after the deadline, a time of the loop."""
        self._coming -= 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(picture=picture, deadline=deadline, answer=answer))
        self.metrics.waiting.labels(self.name).set(self._queue.qsize())
        return await answer

    async def run(self, answer: Answer) -> None:
        """Until cancelled."""
        while True:
            batch = [await self._queue.get()]
            await self._gather(batch)
            self.metrics.waiting.labels(self.name).set(self._queue.qsize())
            timely = [waiting for waiting in batch if not _is_over(waiting)]
            if timely:
                await self._answered(timely, answer)

    async def _gather(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.wait
        while len(batch) < self.size:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
            elif self._coming and loop.time() < until:
                try:
                    async with asyncio.timeout_at(until):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    return
            else:
                return

    async def _answered(self, batch: Sequence[_Waiting], answer: Answer) -> None:
        self.metrics.batches.labels(self.name).observe(len(batch))
        pictures = [waiting.picture for waiting in batch]
        started = time.monotonic()
        found = await asyncio.get_running_loop().run_in_executor(self.thread, _each, answer, pictures)
        self.metrics.network_seconds.labels(self.name).observe(time.monotonic() - started)
        for waiting, prediction in zip(batch, found, strict=True):
            if waiting.answer.done():  # whoever asked has gone
                continue
            if isinstance(prediction, Exception):
                waiting.answer.set_exception(prediction)
            else:
                waiting.answer.set_result(prediction)


def _is_over(waiting: _Waiting) -> bool:
    """Whether nobody needs an answer any more; who is too late is told."""
    if not waiting.answer.done() and waiting.deadline <= asyncio.get_running_loop().time():
        waiting.answer.set_exception(Refused(504, TOO_LATE))
    return waiting.answer.done()


def _each(answer: Answer, pictures: Sequence[Prepared]) -> Sequence[Any]:
    """A prediction or an exception for each: a picture that breaks the network spoils no other's answer."""
    try:
        return answer(pictures)
    except Exception as error:
        if len(pictures) == 1:
            LOG.error("The model failed on a picture.", exc_info=error)
            return [Refused(500, "The model failed on the picture. The server's log says why.")]
    return [prediction for picture in pictures for prediction in _each(answer, [picture])]
