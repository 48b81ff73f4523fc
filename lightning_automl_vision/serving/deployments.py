"""A model in service: loaded, asked and written down, each where it does not hold up the others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_automl_vision.asking import polygon_points
from lightning_automl_vision.outlines import prediction_dict
from lightning_automl_vision.predictor import Prediction, Predictor, Prepared
from lightning_automl_vision.run import finite
from lightning_automl_vision.serving.batching import Batcher
from lightning_automl_vision.serving.contents import Content, Encoded, Fault, safely
from lightning_automl_vision.serving.gate import PixelBudget
from lightning_automl_vision.serving.metrics import Metrics
from lightning_automl_vision.serving.refusals import TOO_LATE, Refused

_WARM_UP = (240, 320, 3)


@dataclass(kw_only=True)
class Deployment:
    """``load`` gives the model, in the thread that will ask it; ``threads`` are those of its network."""

    name: str
    load: Callable[[], Predictor]
    metrics: Metrics
    decoding: Executor
    budget: PixelBudget
    batch_size: int | None
    batch_wait: float
    threads: int
    _predictor: Predictor | None = None
    _batcher: Batcher | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "network"))

    @property
    def is_loaded(self) -> bool:
        return self._batcher is not None

    @property
    def predictor(self) -> Predictor:
        assert self._predictor is not None, "nobody is let in before"
        return self._predictor

    @property
    def classifies(self) -> bool:
        return self.predictor.card.task.startswith("image_classification")

    async def open(self) -> asyncio.Task[None]:
        """Load it, ask it once, and give the task that goes on asking it."""
        loop = asyncio.get_running_loop()
        predictor = await loop.run_in_executor(self._thread, _warm, self.load, self.threads)
        self._predictor = predictor
        size = self.batch_size or predictor.card.usual_batch_size
        self._batcher = Batcher(
            name=self.name, size=size, wait=self.batch_wait, metrics=self.metrics, thread=self._thread
        )
        return asyncio.create_task(self._batcher.run(predictor.answer_prepared))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def answers(self, contents: list[Content], deadline: float) -> list[dict[str, Any]]:
        """The documented answer for each picture, or ``{"error": …}`` for one that cannot be used."""
        asked = [asyncio.create_task(self._answer(content, deadline)) for content in contents]
        try:
            return await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()

    async def _answer(self, content: Content, deadline: float) -> dict[str, Any]:
        found = content if isinstance(content, Fault) else await self._predicted(content, deadline)
        self.metrics.images.labels(self.name, "fault" if isinstance(found, Fault) else "answered").inc()
        if isinstance(found, Fault):
            return {"error": found.reason}
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.decoding, _written, found, polygon_points(self.predictor.card))

    async def _predicted(self, content: Encoded, deadline: float) -> Prediction | Fault:
        assert self._batcher is not None
        loop = asyncio.get_running_loop()
        is_coming = False
        async with self.budget.taken(content.pixels):
            try:
                self._batcher.announce()
                is_coming = True
                if loop.time() > deadline:
                    raise Refused(504, TOO_LATE)
                picture = await loop.run_in_executor(self.decoding, safely, lambda: _prepared(self.predictor, content))
                if isinstance(picture, Fault):
                    return picture
                is_coming = False
                found: Prediction = await self._batcher.ask(picture, deadline)
                return found
            finally:
                if is_coming:
                    self._batcher.call_off()

    def described(self, percentage: float) -> Mapping[str, Any]:
        """What a client may know of it."""
        known: Mapping[str, Any] = {"name": self.name, "traffic": percentage, "ready": self.is_loaded}
        if self._predictor is None:
            return known
        card = self._predictor.card
        return {**known, "task": card.task, "model": card.name, "labels": list(card.labels)}


def _prepared(predictor: Predictor, content: Encoded) -> Prepared:
    return predictor.prepared(predictor.picture(content.content))


def _written(found: Prediction, most_points: int) -> dict[str, Any]:
    written: dict[str, Any] = finite(prediction_dict(found, most_points))
    return written


def _warm(load: Callable[[], Predictor], threads: int) -> Predictor:
    """The first question takes longest, and shows that the model can be asked at all."""
    predictor = load()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)  # of this thread, which alone asks the network
    predictor.answer([predictor.picture(np.zeros(_WARM_UP, np.uint8))])
    return predictor
