"""Everything that draws in this process, as plain values: what a checkpoint keeps, and a step that is done again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Of everything that draws in this process: dropout and its like, on each device."""
    name, keys, *rest = tuple(np.random.get_state(legacy=True))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }


class RandomStates:
    """The same for this process alone, as each library gives them: quickly made, before every step."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = [generator.get_state() for generator in torch.cuda.default_generators]
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        self._numpy = np.random.get_state(legacy=True)
        self._python = random.getstate()

    def restore(self) -> None:
        torch.set_rng_state(self._torch)
        for generator, state in zip(torch.cuda.default_generators, self._cuda, strict=False):
            generator.set_state(state)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


def set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count() and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
