"""What the processes of one training agree on, and what they found, brought together; one alone asks nobody."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from lightning_automl_vision.data.shares import ALL, Share

V = TypeVar("V")
_ALONE: ContextVar[Share | None] = ContextVar("alone", default=None)
# The bytes that a process sends at a time: all that the first one holds beside what it keeps is one such part of each.
_PART = 1 << 24
LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"


def is_connected() -> bool:
    """Whether this process trains together with others."""
    return _ALONE.get() is None and distributed.is_available() and distributed.is_initialized()


def share() -> Share:
    """The part of each data set that this process goes through."""
    if not is_connected():
        return _ALONE.get() or ALL
    size = distributed.get_world_size()
    return Share(distributed.get_rank(), size, min(int(os.environ.get(LOCAL_WORLD_SIZE, size)), size))


@contextmanager
def as_one_of(processes: int, here: int) -> Iterator[None]:
    """This process does what the first of so many would, of which so many are on this machine, and talks to nobody."""
    token = _ALONE.set(Share(0, processes, here))
    try:
        yield
    finally:
        _ALONE.reset(token)


def alone() -> AbstractContextManager[None]:
    """What one process does for all of them, while the others wait for what it tells next."""
    return as_one_of(1, 1)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return share().rank == 0


def agreed(*flags: bool) -> tuple[bool, ...]:
    """For each flag whether any process raised it: all hear the same. All ask the same, at the same time."""
    if not is_connected():
        return flags
    raised = torch.tensor(flags, dtype=torch.int32)
    distributed.all_reduce(raised, op=distributed.ReduceOp.MAX)
    return tuple(bool(flag) for flag in raised.tolist())


def told(value: V) -> V:
    """What the first process says; whatever the others bring is forgotten."""
    if not is_connected():
        return value
    values: list[Any] = [value if is_first() else None]
    distributed.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[no-any-return]


def each(value: V) -> list[V]:
    """What each process says, by rank; something small."""
    if not is_connected():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def gathered(found: Mapping[int, V]) -> dict[int, V]:
    """By index what any process found, for the first; the others have only their own, and metrics are told to them.

    An image that two of them had counts once. What is sent comes in parts, so that nobody holds all of it twice.
    """
    if not is_connected():
        return dict(found)
    parts = _parts(found)
    whole = dict(found) if is_first() else {}
    while True:
        part = next(parts, None)
        if not agreed(part is not None)[0]:
            return whole if is_first() else dict(found)
        received: list[Any] | None = [None] * distributed.get_world_size() if is_first() else None
        distributed.gather_object(part, received, dst=0)
        for sent in (received or ())[1:]:
            whole.update(pickle.loads(sent) if sent is not None else {})


def _parts(found: Mapping[int, V]) -> Iterator[bytes]:
    """Pickled, of about so many bytes each; the first process keeps what it has, and sends nothing of it."""
    if is_first():
        return
    part: dict[int, V] = {}
    size = 0
    for index, value in found.items():
        part[index] = value
        size += len(pickle.dumps(value))
        if size >= _PART:
            yield pickle.dumps(part)
            part, size = {}, 0
    if part:
        yield pickle.dumps(part)


def average(values: Mapping[str, float], weight: float = 1.0) -> dict[str, float]:
    """The mean over all processes, of which each counts as much as its weight says; some may have no values."""
    if not is_connected():
        return dict(values)
    parts = [(others, times) for others, times in each((dict(values), weight)) if others]
    every = sum(times for _, times in parts)
    return {name: sum(others[name] * times for others, times in parts) / every for name in parts[0][0]} if parts else {}


def total(counts: Mapping[str, int]) -> dict[str, int]:
    """The sums over all processes."""
    parts = each(dict(counts))
    return {name: sum(part[name] for part in parts) for name in counts}


@torch.no_grad()
def same_tensors(*modules: nn.Module, weights: bool = False) -> None:
    """Give all processes the first one's buffers, which each step leaves different; with ``weights`` those too."""
    if not is_connected():
        return
    for module in modules:
        tensors: list[Tensor] = [*module.buffers(), *(module.parameters() if weights else ())]
        for tensor in tensors:
            value = tensor.detach().contiguous()
            distributed.broadcast(value, src=0)
            tensor.copy_(value)
