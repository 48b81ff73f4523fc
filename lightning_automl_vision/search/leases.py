"""Which trials of other processes are still alive: an owner counts on, and readers trust no clock but their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from lightning_automl_vision.errors import VisionError

LEASE = "lease"  # [who runs the trial, a number that grows]
LEASE_SECONDS = 60.0  # longer than the lock of a journal whose holder was killed keeps others waiting
_BEATS = 4  # so many in the time of a lease


class Lease:
    """Renewed by a thread for as long as this process lives; ``lost`` once others took the trial for dead."""

    def __init__(self, trial: optuna.Trial, owner: str, seconds: float) -> None:
        self.lost = False
        self._trial, self._owner, self._every = trial, owner, seconds / _BEATS
        self._over, self._count = threading.Event(), 0
        self._renew()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def end(self) -> None:
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(self._every) and not self.lost:
            self._renew()

    def _renew(self) -> None:
        self._count += 1
        try:
            self._trial.set_user_attr(LEASE, [self._owner, self._count])
        except UpdateFinishedTrialError:
            self.lost = not self._over.is_set()
        except VisionError:  # the study is out of reach, which whoever drives the trial finds out as well
            self._over.set()


@dataclass
class _Seen:
    lease: Any
    since: float
    moved: bool = False


@dataclass
class Leases:
    """What one process has seen of the leases of others; ``seconds`` without a move, and an owner is dead."""

    owner: str
    seconds: float = LEASE_SECONDS
    _seen: dict[int, _Seen] = field(default_factory=dict, init=False)
    _looked: float = field(default=0.0, init=False)

    def take(self, trial: optuna.Trial) -> Lease:
        return Lease(trial, self.owner, self.seconds)

    def look(self, running: Iterable[FrozenTrial]) -> None:
        """To be called often: after a gap, in which perhaps nobody could write, everyone gets the whole time anew."""
        now = time.monotonic()
        seen = self._seen if now - self._looked < self.seconds / 2 else {}
        found = {}
        for trial in running:
            lease, known = trial.user_attrs.get(LEASE), seen.get(trial.number)
            if known is None or known.lease != lease:
                known = _Seen(lease, now, moved=known is not None)
            found[trial.number] = known
        self._looked, self._seen = now, found

    def dead(self) -> set[int]:
        """The numbers of trials whose owners have not moved for so long."""
        return {number for number, seen in self._seen.items() if self._looked - seen.since > self.seconds}

    def alive(self) -> set[int]:
        """The numbers of trials whose owners were seen to move, and not long ago."""
        return {number for number, seen in self._seen.items() if seen.moved} - self.dead()

    def beats(self) -> float:
        """Seconds in which every owner that lives has moved at least once."""
        return 1.5 * self.seconds / _BEATS
