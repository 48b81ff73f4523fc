"""The deployments behind one address: which of them answers, how many requests at a time, and until when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect

from lightning_automl_vision.jobs.serve import ServeConfig
from lightning_automl_vision.predictor import Predictor
from lightning_automl_vision.process import usable_cores
from lightning_automl_vision.serving.body import read_body
from lightning_automl_vision.serving.contents import Content, ContentLimits, pictures_in
from lightning_automl_vision.serving.deployments import Deployment
from lightning_automl_vision.serving.gate import ByteBudget, Gate, PixelBudget, Share
from lightning_automl_vision.serving.metrics import Metrics
from lightning_automl_vision.serving.refusals import TOO_LATE, Refused, quoted
from lightning_automl_vision.serving.traffic import Traffic

_PICTURES_DECODED = 4  # of the largest that is allowed, at the same time
_BODIES_HELD = 8  # likewise
_RETRY_AFTER = 5


class Service:
    """Everything but HTTP itself."""

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Predictor]],
        traffic: Mapping[str, float],
        config: ServeConfig,
        threads: int = 1,
    ) -> None:
        self.metrics, self.traffic, self.config = Metrics(), Traffic(traffic), config
        self.gate = Gate(config.concurrency, config.queue_size)
        self._longest = round(config.body_megabytes * 1e6)
        self.bodies = ByteBudget(most=_BODIES_HELD * self._longest)
        self.is_draining = self.refuses = False
        self._pool = ThreadPoolExecutor(config.decoding_threads or usable_cores(), "decoding")
        self._limits = ContentLimits(images=config.maximum_images, pixels=config.maximum_image_pixels)
        self._running: list[asyncio.Task[None]] = []
        budget = PixelBudget(_PICTURES_DECODED * config.maximum_image_pixels)
        self.deployments = {
            name: Deployment(
                name=name,
                load=load,
                metrics=self.metrics,
                decoding=self._pool,
                budget=budget,
                batch_size=config.batch_size,
                batch_wait=config.batch_wait_ms / 1000,
                threads=threads,
            )
            for name, load in loaders.items()
        }

    async def open(self) -> None:
        """Load one model after the other; what goes wrong with one is raised."""
        for deployment in self.deployments.values():
            self._running.append(await deployment.open())
        self.metrics.ready.set(1)

    def close(self) -> None:
        for task in self._running:
            task.cancel()
        for deployment in self.deployments.values():
            deployment.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_loaded(self) -> bool:
        return all(deployment.is_loaded for deployment in self.deployments.values())

    async def drain(self) -> None:
        """Says that it ends, waits for whoever shall notice, refuses what is new, and waits for what is in flight."""
        self.is_draining = True
        self.metrics.ready.set(0)
        await asyncio.sleep(self.config.drain_wait_ms / 1000)
        self.refuses = True
        await self.gate.empty()

    def check_ready(self) -> None:
        if not self.is_loaded:
            raise Refused(503, "The model is being loaded. Try again.", retry_after=_RETRY_AFTER)
        if self.refuses:
            raise Refused(503, "The server is ending. Ask another.", retry_after=_RETRY_AFTER)

    def named(self, name: str | None) -> Deployment:
        """The deployment of that name, or whose turn it is."""
        if name is None:
            name = self.traffic.next()
        if name not in self.deployments:
            raise Refused(404, f"There is no deployment {quoted(name)}, only {', '.join(self.deployments)}.")
        return self.deployments[name]

    async def score(self, deployment: Deployment, chunks: AsyncIterator[bytes], headers: Mapping[str, str]) -> bytes:
        """The JSON to answer with, within the time that a request may take."""
        started, loop = time.monotonic(), asyncio.get_running_loop()
        deadline = loop.time() + self.config.request_timeout_ms / 1000
        code, is_inside, held = 500, False, self.bodies.share()
        try:
            self._enter()
            is_inside = True
            body = await self._body(chunks, headers, held, deadline)
            working = asyncio.create_task(self._work(deployment, body, headers.get("content-type", ""), deadline))
            is_inside = False  # the work is, until it is done
            working.add_done_callback(lambda task: self._left(task, held))
            async with asyncio.timeout_at(deadline):
                answer = await asyncio.shield(working)  # what was begun is ended, however late
            code = 200
            return answer
        except TimeoutError:
            code = 504
            raise Refused(504, TOO_LATE) from None
        except Refused as refusal:
            code = refusal.status
            raise
        except ClientDisconnect:
            code = 499
            raise
        finally:
            if is_inside:
                self._leave(held)
            self.metrics.requests.labels(deployment.name, str(code)).inc()
            self.metrics.seconds.labels(deployment.name).observe(time.monotonic() - started)

    def _enter(self) -> None:
        self.gate.enter()
        self.metrics.in_flight.set(self.gate.inside)

    def _leave(self, held: Share) -> None:
        held.give_back()
        self.gate.leave()
        self.metrics.in_flight.set(self.gate.inside)

    def _left(self, task: asyncio.Task[bytes], held: Share) -> None:
        self._leave(held)
        with suppress(asyncio.CancelledError):
            task.exception()  # which nobody may be there to hear any more

    async def _body(
        self, chunks: AsyncIterator[bytes], headers: Mapping[str, str], held: Share, deadline: float
    ) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                return await read_body(chunks, headers, self._longest, held)
        except TimeoutError:
            raise Refused(408, "The body of the request did not come in time.") from None

    async def _work(self, deployment: Deployment, body: bytes, content_type: str, deadline: float) -> bytes:
        loop = asyncio.get_running_loop()
        async with self.gate.working:
            if loop.time() > deadline:
                raise Refused(504, TOO_LATE)
            contents: list[Content] = await loop.run_in_executor(
                self._pool, lambda: pictures_in(body, content_type, self._limits, classifies=deployment.classifies)
            )
            answers = await deployment.answers(contents, deadline)
            _check_any(answers)
            return await loop.run_in_executor(self._pool, _as_json, answers)


def _check_any(answers: Sequence[Mapping[str, Any]]) -> None:
    """Where no picture can be used the whole request is at fault."""
    if all("error" in answer for answer in answers):
        first = answers[0]["error"]
        several = f"None of the {len(answers)} pictures can be used. The first: " if answers[1:] else ""
        raise Refused(400, f"{several}{first}")


def _as_json(answers: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps(answers, allow_nan=False, separators=(",", ":")).encode()
