"""A sweep: slots that are never empty while a ticket waits, in one loop that alone talks to the study."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from lightning_automl_vision.errors import Interrupted
from lightning_automl_vision.log import LOG
from lightning_automl_vision.process import requests_to_end, usable_cores
from lightning_automl_vision.search.outcomes import Outcome, Trace, outcome_of, read_result
from lightning_automl_vision.search.overrides import as_overrides, is_group
from lightning_automl_vision.search.pruners import reason_of
from lightning_automl_vision.search.tickets import REASON, TICKET, Tickets
from lightning_automl_vision.search.trial_process import Command, TrialProcess

if TYPE_CHECKING:
    from lightning_automl_vision.search.fork_server import ForkServer
    from lightning_automl_vision.search.spaces import Spaces

# What a study and its trials remember.
USED, OVERRIDES, VALUES, FOLDER, HASH, SECONDS, DEFAULT = (
    "used_seconds",
    "overrides",
    "values",
    "folder",
    "hash",
    "seconds",
    "default",
)
_POLL = 0.1
_GRACE = 30.0
_REMEMBER = 10.0  # seconds between two notes of the time that was used
_MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a sweep may use; times in seconds."""

    slots: int = 1
    seconds: float = math.inf
    trial_seconds: float = math.inf
    most_failures: float = 1.0  # share of the trials that ended, which ends the sweep when it is exceeded
    threads: int = 1
    devices: Sequence[str | None] = (None,)


@dataclass
class Slot:
    """One trial at a time, on devices of its own."""

    devices: str | None
    trial: optuna.Trial | None = None
    process: TrialProcess | None = None
    evaluations: int = 0
    stopping: bool = False
    until: float = math.inf


@dataclass
class Sweep:
    """``arguments`` are what every trial is given.

    Ticket 0 is the default that others have to beat where ``with_default`` says so; it draws nothing, and is the
    arguments alone, unless it ``draws_default``.

    ``changed`` is called whenever a trial began or ended, for whoever shows what there is.
    """

    tickets: Tickets
    spaces: Spaces
    arguments: Sequence[str]
    folder: Path
    metric: str
    lower_is_better: bool
    limits: Limits
    with_default: bool = False
    draws_default: bool = False
    server: ForkServer | None = None
    changed: Callable[[], None] = lambda: None
    working_folder: Path = field(default_factory=Path.cwd)
    module: str = "lightning_automl_vision"
    _interrupted: bool = field(default=False, init=False)

    def run(self) -> None:
        """Until no ticket is left, or a limit is reached; what cannot be finished waits for another time."""
        self.tickets.recover(self._value_left)
        self._started, self._used = time.monotonic(), float(self.tickets.study.user_attrs.get(USED, 0.0))
        self._noted = self._started
        slots = [Slot(devices) for devices in _dealt(self.limits.devices, self.limits.slots)]
        try:
            with requests_to_end(self._stop):  # which is obeyed after the trials have been asked to end
                while self._goes_on(slots):
                    time.sleep(_POLL)
        finally:
            for slot in slots:
                self._end(slot)
            self._note()
        self._tell_what_is_left()
        if self._interrupted:
            raise Interrupted(
                f"Interrupted: what has ended is kept in {self.folder}. Repeat the command to go on from there."
            )

    def _tell_what_is_left(self) -> None:
        waiting = self.tickets.left
        if waiting and not self._interrupted:
            why = "Too many trials failed" if self._fails_too_often else "The time of limits.timeout_minutes is over"
            LOG.warning(
                "%s: %d trials are left, after %.1f minutes in all. With more, the same command goes on.",
                why,
                waiting,
                self.seconds / _MINUTE,
            )

    @property
    def seconds(self) -> float:
        """What the sweep has used, earlier times included."""
        return self._used + time.monotonic() - self._started

    def _goes_on(self, slots: Sequence[Slot]) -> bool:
        for slot in slots:
            self._look_at(slot)
            if slot.process is None and self._may_start():
                self._start(slot)
        if time.monotonic() - self._noted > _REMEMBER:
            self._note()
        return not self._interrupted and any(slot.process is not None for slot in slots)

    def _may_start(self) -> bool:
        return not self._interrupted and self.seconds < self.limits.seconds and not self._fails_too_often

    @property
    def _fails_too_often(self) -> bool:
        ended = [trial for trial in self.tickets.last_of_each() if trial.state.is_finished()]
        failed = sum(trial.state == optuna.trial.TrialState.FAIL for trial in ended)
        return bool(ended) and failed / len(ended) > self.limits.most_failures

    def _start(self, slot: Slot) -> None:
        trial = self.tickets.claim()
        if trial is None:
            return
        values = self._values(trial)
        overrides = as_overrides(values)
        folder = self.folder / f"trial_{trial.user_attrs[TICKET]:04}"
        remembered = {
            VALUES: json.dumps(values, default=str),
            OVERRIDES: overrides,
            FOLDER: folder.name,
            HASH: _hash([*self.arguments, *overrides]),
        }
        for name, value in remembered.items():
            trial.set_user_attr(name, value)
        seconds = min(self.limits.trial_seconds, self.limits.seconds - self.seconds)
        command = Command(
            arguments=(*self.arguments, *overrides, *_within(seconds)),
            folder=folder,
            metric=self.metric,
            lower_is_better=self.lower_is_better,
            threads=self.limits.threads,
            devices=slot.devices,
            module=self.module,
            working_folder=self.working_folder,
        )
        slot.trial, slot.evaluations, slot.stopping = trial, 0, False
        slot.process = TrialProcess.start(command, self.server)
        slot.until = time.monotonic() + seconds + _GRACE
        LOG.info("trial %d: %s", trial.user_attrs[TICKET], " ".join(overrides) or "the defaults")
        self.changed()

    def _values(self, trial: optuna.Trial) -> dict[str, Any]:
        if self.with_default and trial.user_attrs[TICKET] == 0:
            trial.set_user_attr(DEFAULT, True)
            if not self.draws_default:
                return {}
        return dict(self.spaces.suggest(trial).values)

    def _look_at(self, slot: Slot) -> None:
        if slot.process is None or slot.trial is None:
            return
        for _, value in slot.process.reports():
            slot.evaluations += 1
            slot.trial.report(value, slot.evaluations)
            if not slot.stopping and slot.trial.should_prune():
                slot.stopping = True
                slot.process.ask_to_stop(reason_of(self.tickets.study.pruner, slot.trial.number))
        outcome = slot.process.poll()
        if outcome is None and time.monotonic() > slot.until:
            outcome = slot.process.time_out(slot.process.seconds, _GRACE)
        if outcome is not None:
            self._conclude(slot, outcome)

    def _conclude(self, slot: Slot, outcome: Outcome) -> None:
        assert slot.trial is not None
        assert slot.process is not None
        trial, folder = slot.trial, slot.process.command.folder
        trial.set_user_attr(SECONDS, round(slot.process.seconds, 3))
        slot.trial = slot.process = None
        ticket = trial.user_attrs[TICKET]
        wrong = self._not_obeyed(trial, folder) if outcome.state in ("complete", "pruned") else None
        if outcome.state == "interrupted":
            self.tickets.put_back(trial)
        elif wrong is not None or outcome.state == "failed" or outcome.value is None:
            reason = wrong or outcome.reason or "no value"
            self.tickets.fail(trial, reason)
            LOG.warning("trial %d failed: %s", ticket, reason)
        elif outcome.state == "pruned":
            self.tickets.prune(trial, outcome.reason)
            LOG.info("trial %d stopped: %s", ticket, outcome.reason)
        else:
            if (read_result(folder) or {}).get("status") == "timeout":
                trial.set_user_attr(REASON, f"its time was over; the best of its epochs is {outcome.epoch}")
            self.tickets.complete(trial, outcome.value)
            LOG.info("trial %d: %s %.4f", ticket, self.metric, outcome.value)
        self.changed()

    def _not_obeyed(self, trial: optuna.Trial, folder: Path) -> str | None:
        """Every value that was drawn must stand in the configuration that the trial says it had."""
        used = OmegaConf.load(folder / "config.yaml")
        for key, value in json.loads(trial.user_attrs[VALUES]).items():
            there = OmegaConf.select(used, key.lstrip("+"))
            there = OmegaConf.to_container(there) if OmegaConf.is_config(there) else there
            if is_group(key):  # of which the configuration keeps the keys, and of some the name
                there = there.get("name", value) if isinstance(there, dict) else value
            if there != value:
                return f"{key}={value!r} was asked for, and {there!r} was used"
        return None

    def _value_left(self, trial: FrozenTrial) -> float | None:
        """What a trial finished with whose end nobody saw."""
        name = trial.user_attrs.get(FOLDER)
        result = None if name is None else read_result(self.folder / name)
        outcome = outcome_of(Trace(0, result, "")) if result is not None else None
        return outcome.value if outcome is not None and outcome.state == "complete" else None

    def _end(self, slot: Slot) -> None:
        if slot.process is not None:
            self._conclude(slot, slot.process.kill(_GRACE))

    def _note(self) -> None:
        self._noted = time.monotonic()
        self.tickets.study.set_user_attr(USED, round(self.seconds, 1))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True


def threads_for(slots: int) -> int:
    """What OMP_NUM_THREADS says, else the cores of this process, shared among the slots."""
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(int(asked), 1)
    return max(usable_cores() // slots, 1)


def _within(seconds: float) -> list[str]:
    """A training that knows its limit ends in good order, with the best epoch it has."""
    return [] if seconds == math.inf else [f"limits.timeout_minutes={max(seconds, 1.0) / _MINUTE:.6g}"]


def _dealt(devices: Sequence[str | None], slots: int) -> list[str | None]:
    return [devices[slot % len(devices)] for slot in range(slots)]


def _hash(arguments: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(arguments)).encode()).hexdigest()[:16]
