"""How many images the memory has room for in one training step, found by real steps."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_automl_vision.log import LOG
from lightning_automl_vision.models import Batch, VisionModel
from lightning_automl_vision.search.facts import memory_there
from lightning_automl_vision.settings import TrainerConfig, TrainingConfig
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.training.devices import device_of
from lightning_automl_vision.training.hsv_on_device import hsv_on_device
from lightning_automl_vision.training.memory import forget_failed, go_without_code, is_lone_picture, is_out_of_memory
from lightning_automl_vision.training.optimizers import make_optimizer
from lightning_automl_vision.training.random_states import random_states, set_random_states

AUTO = "auto"
# Larger ones make few steps of an epoch and are no faster.
_MOST_IMAGES = 256
# The share of the memory that is there which a step may take: other pictures, and checkpoints, take more.
_SHARE = {"cuda": 0.9}
_SHARE_OF_A_MACHINE = 0.8
# A larger batch makes a CPU that is so slow no faster.
_MOST_SECONDS = 10.0
_GIGABYTE = 1e9
_HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_UNIT_OF_RSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Cost:
    """The bytes that a step takes at most, beside what was there before, and its seconds."""

    bytes: int
    seconds: float


def sizes_to_try(images: int, nominal: int | None) -> list[int]:
    """Powers of two, as far as there are images and a step is not made of more than was asked for."""
    most = min(images, _MOST_IMAGES, nominal or _MOST_IMAGES)
    return [1 << power for power in range(1, most.bit_length())] or [1]


def largest_that_fits(
    sizes: list[int], cost_of: Callable[[int], Cost | None], room: int | None, *, share: float, most_seconds: float
) -> int:
    """Of ascending sizes; one that would surely not fit, as it is twice as large, is not tried where that is deadly."""
    fits = 1
    most = None if room is None else share * room
    for size in sizes:
        cost = cost_of(size)
        if cost is None or (most is not None and cost.bytes > most):
            break
        fits = size
        if cost.seconds > most_seconds or (most is not None and 2 * cost.bytes > most):
            break
    return fits


def fitting_batch_size(
    task: VisionTask[Any, Any],
    batch_of: Callable[[int], Batch[Any]],
    *,
    images: int,
    training: TrainingConfig,
    trainer: TrainerConfig,
) -> int:
    """The largest power of two whose training step fits the memory; leaves the task as it is.

    ``batch_of`` gives so many real pictures.
    """
    device = torch.device(device_of(trainer.accelerator))
    states, room, started = random_states(), memory_room(device), time.monotonic()
    try:
        probe = _Probe(task, batch_of, training, trainer.precision, device)
        size = largest_that_fits(
            sizes_to_try(images, training.nominal_batch_size),
            probe.cost_of,
            room,
            share=_SHARE.get(device.type, _SHARE_OF_A_MACHINE),
            most_seconds=_MOST_SECONDS if device.type == "cpu" else float("inf"),
        )
    finally:
        set_random_states(states)
        forget_failed()
    LOG.info(
        "training.training_batch_size=%s: %d images a step are trained on, which take %.1f GB of the %s that are there"
        " (found in %.1f seconds).",
        AUTO,
        size,
        probe.costs[size].bytes / _GIGABYTE if size in probe.costs else 0,
        "memory" if room is None else f"{room / _GIGABYTE:.1f} GB",
        time.monotonic() - started,
    )
    return size


class _Probe:
    """Steps of a copy of the model; the copy goes when this goes."""

    def __init__(
        self,
        task: VisionTask[Any, Any],
        batch_of: Callable[[int], Batch[Any]],
        training: TrainingConfig,
        precision: str,
        device: torch.device,
    ) -> None:
        self._device, self._batch_of, self._precision = device, batch_of, precision
        self._before = 0 if device.type == "cuda" else _pages(1)
        self._model = self._placed(task.model).train()
        self._averaged = None if task.averaged is None else self._placed(task.averaged)
        self._optimizer = make_optimizer(self._model, _any_size(training))
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        self.costs: dict[int, Cost] = {}

    def _placed(self, module: Any) -> Any:
        copied = deepcopy(module).to(self._device)
        return copied.double() if self._precision == "64-true" else copied

    def cost_of(self, size: int) -> Cost | None:
        """None where the memory was too small."""
        forget_failed()
        batch = self._batch_of(size)
        try:
            cost = self._cost(batch)
        except (RuntimeError, MemoryError, ValueError) as error:
            if not is_out_of_memory(error) and not is_lone_picture(error):
                raise
            go_without_code(error)
            return None
        finally:
            self._optimizer.zero_grad()
        self.costs[size] = cost
        return cost

    def _cost(self, batch: Batch[Any]) -> Cost:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        _step(self._model, self._optimizer, batch.to(self._device), self._precision)  # its states are made in the first
        started = time.monotonic()
        _step(self._model, self._optimizer, batch.to(self._device), self._precision)
        return Cost(max(_used(self._device) - self._before, 0), time.monotonic() - started)


def _any_size(training: TrainingConfig) -> TrainingConfig:
    """For an optimiser whose steps nobody keeps."""
    return replace(training, training_batch_size=1)


def _step(model: VisionModel[Any, Any], optimizer: torch.optim.Optimizer, batch: Batch[Any], precision: str) -> None:
    if precision == "64-true":
        batch = batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    images = batch.images if batch.gains is None else hsv_on_device(batch.images, batch.gains)
    half = _HALVES.get(precision)
    with torch.autocast(batch.images.device.type, dtype=half, enabled=half is not None, cache_enabled=False):
        losses = model.losses(replace(batch, images=images, gains=None))
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    optimizer.step()
    optimizer.zero_grad()


def _used(device: torch.device) -> int:
    """The most bytes so far: of the device, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT_OF_RSS


def memory_room(device: torch.device) -> int | None:
    """The bytes that training may take from now on; None where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
    there = memory_there()
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed == resource.RLIM_INFINITY:
        return there
    left = max(allowed - _pages(0), 0)
    return left if there is None else min(there, left)


def _pages(column: int) -> int:
    """The bytes that this process has asked for, or in the next column, those that it uses."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column])
    except OSError:
        return 0
    return pages * resource.getpagesize()
