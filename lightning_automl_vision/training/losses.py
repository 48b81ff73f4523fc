"""Means of named losses that are read from the device only when someone asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Means = dict[str, float]


class LossMeter:
    """Sums stay on the device: reading one in each step would make the host wait for it."""

    def __init__(self) -> None:
        self._window: dict[str, Tensor] = {}
        self._window_steps = 0
        self._totals: Means = {}
        self._steps = 0

    def add(self, losses: Mapping[str, Tensor], share: float = 1.0, *, ends: bool = True) -> None:
        """Those of a step, or of a share of it; what ``ends`` it counts it."""
        for name, loss in losses.items():
            so_far, added = self._window.get(name), loss.detach() if share == 1 else loss.detach() * share
            self._window[name] = added if so_far is None else so_far + added
        self._window_steps += ends

    def copy(self) -> LossMeter:
        copied = LossMeter()
        copied._window, copied._window_steps = dict(self._window), self._window_steps
        copied._totals, copied._steps = dict(self._totals), self._steps
        return copied

    @property
    def steps(self) -> int:
        """Since ``mean`` was last asked for."""
        return self._steps + self._window_steps

    def recent(self) -> Means:
        """Over the steps since this, or ``mean``, was last asked for; empty when there were none."""
        sums = {name: float(total) for name, total in self._window.items()}
        steps, self._window, self._window_steps = self._window_steps, {}, 0
        for name, total in sums.items():
            self._totals[name] = self._totals.get(name, 0.0) + total
        self._steps += steps
        return {name: total / max(steps, 1) for name, total in sums.items()}

    def mean(self) -> Means:
        """Over the steps since this was last asked for."""
        self.recent()
        means = {name: total / self._steps for name, total in self._totals.items()}
        self._totals, self._steps = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """All of it as it is: a mean of what goes on from here has the same digits."""
        return {
            "window": {name: total.cpu() for name, total in self._window.items()},
            "window_steps": self._window_steps,
            "totals": dict(self._totals),
            "steps": self._steps,
        }

    def go_on_from(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._window = {name: total.to(device) for name, total in state["window"].items()}
        self._window_steps = state["window_steps"]
        self._totals, self._steps = dict(state["totals"]), state["steps"]
