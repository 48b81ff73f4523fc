"""What a slot of a sweep holds, and what a study and its trials remember of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from lightning_automl_vision.process import usable_cores
from lightning_automl_vision.search.leases import Lease
from lightning_automl_vision.search.trial_process import TrialProcess

USED, OVERRIDES, VALUES, FOLDER, HASH, SECONDS, DEFAULT = (
    "used_seconds",
    "overrides",
    "values",
    "folder",
    "hash",
    "seconds",
    "default",
)
MEMORY, PLANNED = "memory", "planned_seconds"


@dataclass(kw_only=True)
class Running:
    """A trial and its process; ``fault`` is why what it trains must not count."""

    trial: optuna.Trial
    process: TrialProcess
    until: float
    lease: Lease | None = None
    seconds_before: float = 0.0  # of an earlier attempt that it goes on from
    evaluations: int = 0
    stopping: bool = False
    is_checked: bool = False
    fault: str | None = None

    @property
    def is_lost(self) -> bool:
        """Others took it for dead, and another process may run it by now."""
        return self.lease is not None and self.lease.lost


@dataclass
class Slot:
    """One trial at a time, on devices of its own."""

    devices: str | None
    running: Running | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a sweep may use; times in seconds."""

    slots: int = 1
    seconds: float = math.inf
    trial_seconds: float = math.inf
    most_failures: float = 1.0  # share of the trials that ended, which ends the sweep when it is exceeded
    threads: int = 1
    devices: Sequence[str | None] = (None,)

    def dealt(self) -> list[Slot]:
        return [Slot(self.devices[slot % len(self.devices)]) for slot in range(self.slots)]


def threads_for(slots: int) -> int:
    """What OMP_NUM_THREADS says, else the cores of this process, shared among the slots."""
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(int(asked), 1)
    return max(usable_cores() // slots, 1)
