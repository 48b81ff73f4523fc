"""A sweep: slots that are never empty while a ticket waits, in one loop that alone talks to the study."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.errors import ConfigError, Interrupted, StorageError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.process import requests_to_end
from lightning_automl_vision.search.outcomes import Outcome, Trace, outcome_of, read_result
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.progress import progress_of
from lightning_automl_vision.search.pruners import reason_of
from lightning_automl_vision.search.repeats import is_given_back
from lightning_automl_vision.search.requested import configuration, hash_of, not_obeyed, without_effect
from lightning_automl_vision.search.slots import (
    DEFAULT,
    FOLDER,
    HASH,
    MEMORY,
    OVERRIDES,
    PLANNED,
    SECONDS,
    USED,
    VALUES,
    Limits,
    Running,
    Slot,
)
from lightning_automl_vision.search.spaces import Drawn
from lightning_automl_vision.search.tickets import REASON, RETRY_OF, TICKET, Tickets
from lightning_automl_vision.search.trial_process import Command, TrialProcess

if TYPE_CHECKING:
    from lightning_automl_vision.search.fork_server import ForkServer
    from lightning_automl_vision.search.leases import Leases
    from lightning_automl_vision.search.spaces import Spaces

ENDED = "ended"  # of a study: the last launch of workers that has been asked to end
_POLL, _IDLE = 0.1, 1.0
_GRACE = 30.0
_REMEMBER = 10.0  # seconds between two notes of the time that was used
_MINUTE = 60.0


@dataclass
class Sweep:
    """``arguments`` are what every trial is given.

    Ticket 0 is the default that others have to beat where ``with_default`` says so: no policy ends it. It is the
    arguments alone, unless it ``draws_default``; values ``like_default`` would be the same once more.

    ``changed`` is called whenever a trial began or ended, for whoever shows what there is. With ``leases`` this process
    is one of several, of the given ``launch``, that share the study. ``stopped`` is called upon a request to end.
    ``planned`` are the seconds that a trial of a space with these values should take.
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
    like_default: Sequence[Mapping[str, Any]] = ()
    server: ForkServer | None = None
    changed: Callable[[], None] = lambda: None
    working_folder: Path = field(default_factory=Path.cwd)
    module: str = "lightning_automl_vision"
    leases: Leases | None = None
    launch: int = 0
    stopped: Callable[[], None] = lambda: None
    planned: Callable[[str, Mapping[str, Any]], float | None] = lambda space, values: None
    _interrupted: bool = field(default=False, init=False)
    _ends: bool = field(default=False, init=False)
    _no_room: str | None = field(default=None, init=False)  # why nothing more can be written
    _other_data: str | None = field(default=None, init=False)  # that trials would be trained on

    def run(self) -> None:
        """Until no ticket is left, or a limit is reached; what cannot be finished waits for another time."""
        if self.leases is None:
            self.tickets.recover(self.value_left)
        self.begin()
        slots = self.limits.dealt()
        try:
            with requests_to_end(self._stop):  # which is obeyed after the trials have been asked to end
                while self._goes_on(slots):
                    time.sleep(_POLL if any(slot.running for slot in slots) else _IDLE)
        finally:
            self._end(slots)
        if self._no_room is not None:
            kept = f"What has ended is kept in {self.folder}. Repeat the command to go on from there."
            raise StorageError(f"{self._no_room.rstrip('.')}. {kept}")
        self.note()
        if self._other_data is not None:
            raise ConfigError(self._other_data)
        if self._interrupted:
            raise Interrupted(
                f"Interrupted: what has ended is kept in {self.folder}. Repeat the command to go on from there."
            )

    def begin(self) -> None:
        """From now on its time counts."""
        self._started, self._used = time.monotonic(), float(self.tickets.study.user_attrs.get(USED, 0.0))
        self._noted = self._looked = self._started

    def tell_what_is_left(self) -> None:
        """Where a limit has ended it."""
        waiting = self.tickets.left
        if waiting and not self._interrupted:
            why, more = "The time of limits.timeout_minutes is over", "more of it"
            if self._fails_too_often:
                most = self.limits.most_failures
                why, more = (
                    f"Of the trials that ended, more than {most:g} failed",
                    "a higher hydra.sweeper.max_failure_rate",
                )
            left = "1 trial is" if waiting == 1 else f"{waiting} trials are"
            LOG.warning(
                "%s: %s left, after %.1f minutes in all. With %s, the same command goes on.",
                why,
                left,
                self.seconds / _MINUTE,
                more,
            )

    @property
    def seconds(self) -> float:
        """What the sweep has used, earlier times included."""
        return self._used + time.monotonic() - self._started

    def _goes_on(self, slots: Sequence[Slot]) -> bool:
        for slot in slots:
            if slot.running is not None:
                self._look_at(slot, slot.running)
            if slot.running is None and self.may_start():
                self._start(slot)
        if time.monotonic() - self._noted > _REMEMBER:
            self.note()
        is_busy = any(slot.running is not None for slot in slots)
        return not self._is_ended and (is_busy or (self.may_start() and self._waits_for_others()))

    def may_start(self) -> bool:
        return not self._is_ended and self.seconds < self.limits.seconds and not self._fails_too_often

    @property
    def _is_ended(self) -> bool:
        return self._interrupted or self._no_room is not None or self._other_data is not None

    @property
    def _fails_too_often(self) -> bool:
        return fails_too_often(self.tickets, self.limits.most_failures)

    def _waits_for_others(self) -> bool:
        """Until every trial that runs elsewhere is seen to be alive; those that are not wait again."""
        if self.leases is None:
            return False
        self.reap(self.leases)
        running = {trial.number for trial in self.tickets.trials(TrialState.RUNNING)}
        return bool(self.tickets.trials(TrialState.WAITING)) or not running <= self.leases.alive()

    def reap(self, leases: Leases) -> None:
        """Of the trials whose owners are dead, results are kept and tickets put back."""
        running = self.tickets.trials(TrialState.RUNNING)
        leases.look(running)
        if dead := [trial for trial in running if trial.number in leases.dead()]:
            LOG.warning("%s: no sign of life of whoever ran it.", _names(dead))
            self.tickets.recover(self.value_left, dead)

    def _start(self, slot: Slot) -> None:
        while (trial := self.tickets.claim()) is not None:
            lease = None if self.leases is None else self.leases.take(trial)
            drawn = self._drawn(trial)
            values = drawn.values
            if not is_given_back(self.tickets, self.spaces, trial, values, self.like_default):
                break
            if lease is not None:
                lease.end()
        if trial is None:
            return
        overrides = as_overrides(values)
        folder = self._folder(trial)
        remembered = {VALUES: json.dumps(values, default=str), OVERRIDES: overrides, FOLDER: folder.name}
        for name, value in remembered.items():
            trial.set_user_attr(name, value)
        if (planned := self.planned(drawn.space, values)) is not None:
            trial.set_user_attr(PLANNED, round(planned, 1))
        if RETRY_OF in trial.user_attrs and self._ends_with_what_is_left(trial):
            return
        before = self._used_before(trial)
        seconds = min(self.limits.trial_seconds, self.limits.seconds - self.seconds + before)
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
        process = TrialProcess.start(command, self.server)
        slot.running = Running(
            trial=trial,
            process=process,
            lease=lease,
            until=time.monotonic() + seconds - before + _GRACE,
            seconds_before=before,
        )
        LOG.info("trial %d: %s", trial.user_attrs[TICKET], " ".join(overrides) or "the defaults")
        self._tell()

    def _folder(self, trial: optuna.Trial | FrozenTrial) -> Path:
        return self.folder / f"trial_{trial.user_attrs[TICKET]:04}"

    def _used_before(self, trial: optuna.Trial) -> float:
        """The seconds of an earlier attempt, which a run that goes on counts as its own."""
        return progress_of(self._folder(trial), self.metric).seconds or 0.0 if RETRY_OF in trial.user_attrs else 0.0

    def _ends_with_what_is_left(self, trial: optuna.Trial) -> bool:
        """A trial that ended when nobody could hear it is not run again."""
        outcome = self._left(trial)
        if outcome is None or outcome.value is None:
            return False
        if outcome.state == "complete":
            self.tickets.complete(trial, outcome.value)
        else:
            trial.report(outcome.value, outcome.epoch or 1)
            self.tickets.prune(trial, outcome.reason)
        self._tell()
        return True

    def _drawn(self, trial: optuna.Trial) -> Drawn:
        if self.with_default and trial.user_attrs[TICKET] == 0:
            trial.set_user_attr(DEFAULT, True)
            if not self.draws_default:
                return Drawn(space=DEFAULT, values={})
        return self.spaces.suggest(trial)

    def _look_at(self, slot: Slot, running: Running) -> None:
        try:
            outcome = self._outcome(running)
        except UpdateFinishedTrialError:
            outcome = running.process.kill(_GRACE)
        if outcome is not None:
            slot.running = None
            self._conclude(running, outcome)

    def _outcome(self, running: Running) -> Outcome | None:
        """What became of it, if it has ended or had to be ended; it is asked to stop where a policy says so."""
        process, trial = running.process, running.trial
        if running.is_lost or (self.leases is not None and self._is_called_off()):
            return process.kill(_GRACE)
        for _, value in process.reports():
            running.evaluations += 1
            trial.report(value, running.evaluations)
            if not running.stopping and not trial.user_attrs.get(DEFAULT) and trial.should_prune():
                running.stopping = True
                process.ask_to_stop(reason_of(self.tickets.study.pruner, trial.number))
        outcome = process.poll()
        if running.evaluations and outcome is None and self._check(running) is not None:
            return process.kill(_GRACE)
        if outcome is None and time.monotonic() > running.until:
            outcome = process.time_out(process.seconds, _GRACE)
        return outcome

    def _check(self, running: Running) -> str | None:
        """Why what it trains must not count; its configuration is written by now."""
        if not running.is_checked:
            running.is_checked = True
            running.fault = self._fault(running.trial)
        return running.fault

    def _fault(self, trial: optuna.Trial) -> str | None:
        values, used = json.loads(trial.user_attrs[VALUES]), configuration(self._folder(trial))
        trial.set_user_attr(HASH, hash_of(used))
        wrong = not_obeyed(values, used)
        if wrong is not None or trial.user_attrs.get(DEFAULT):
            return wrong
        ticket = trial.user_attrs[TICKET]
        others = [
            (int(other.user_attrs[TICKET]), json.loads(other.user_attrs[VALUES]))
            for other in self.tickets.trials(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            if other.user_attrs.get(HASH) == trial.user_attrs[HASH]
            and not other.user_attrs.get(DEFAULT)
            and (other.user_attrs[TICKET] < ticket or (other.state.is_finished() and other.user_attrs[TICKET] > ticket))
        ]
        return without_effect(values, others)

    def _conclude(self, running: Running, outcome: Outcome) -> None:
        if running.lease is not None:
            running.lease.end()
        ticket = running.trial.user_attrs[TICKET]
        try:
            is_heard = not running.is_lost and self._told(running, outcome)
        except UpdateFinishedTrialError:
            is_heard = False
        if not is_heard:
            LOG.warning("trial %d was taken for dead, and is another process's.", ticket)
        self._tell()

    def _told(self, running: Running, outcome: Outcome) -> bool:
        trial, folder = running.trial, running.process.command.folder
        trial.set_user_attr(SECONDS, round(running.seconds_before + running.process.seconds, 3))
        trial.set_user_attr(MEMORY, running.process.memory)
        ticket = trial.user_attrs[TICKET]
        if outcome.state in ("complete", "pruned"):
            self._check(running)
        if running.fault is None and outcome.state == "interrupted":
            if outcome.kind == "storage":
                self._no_room = outcome.reason
            if outcome.kind == "data":
                self._other_data = outcome.reason
            return self.tickets.put_back(trial, blameless=outcome.kind in ("storage", "data") or self._ends)
        if running.fault is not None or outcome.state == "failed" or outcome.value is None:
            reason = running.fault or outcome.reason or "no value"
            LOG.warning("trial %d failed: %s", ticket, reason)
            return self.tickets.fail(trial, reason)
        if outcome.state == "pruned":
            LOG.info("trial %d stopped: %s", ticket, outcome.reason)
            return self.tickets.prune(trial, outcome.reason)
        if (read_result(folder) or {}).get("status") == "timeout":
            trial.set_user_attr(REASON, f"its time was over; the best of its epochs is {outcome.epoch}")
        LOG.info("trial %d: %s %.4f", ticket, self.metric, outcome.value)
        return self.tickets.complete(trial, outcome.value)

    def value_left(self, trial: FrozenTrial) -> float | None:
        """What a trial finished with whose end nobody saw."""
        outcome = self._left(trial) if FOLDER in trial.user_attrs else None
        return outcome.value if outcome is not None and outcome.state == "complete" else None

    def _left(self, trial: optuna.Trial | FrozenTrial) -> Outcome | None:
        result = read_result(self._folder(trial))
        outcome = outcome_of(Trace(0, result, "")) if result is not None else None
        return outcome if outcome is not None and outcome.state in ("complete", "pruned") else None

    def _end(self, slots: Sequence[Slot]) -> None:
        """All of them are ended before anything is said of one, as the study may be out of reach."""
        self._ends = True
        ended = [(slot.running, slot.running.process.kill(_GRACE)) for slot in slots if slot.running is not None]
        for running, outcome in ended:
            self._conclude(running, outcome)

    def _tell(self) -> None:
        try:
            self.changed()
        except StorageError as error:
            self._no_room = str(error)

    def _is_called_off(self) -> bool:
        """Whether whoever launched this process has asked it to end; looked up every second."""
        if time.monotonic() - self._looked > _IDLE:
            self._looked = time.monotonic()
            self._interrupted |= int(self.tickets.study.user_attrs.get(ENDED, -1)) >= self.launch
        return self._interrupted

    def note(self) -> None:
        self._noted = time.monotonic()
        remember_time(self.tickets, self.seconds)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        self.stopped()


def _within(seconds: float) -> list[str]:
    """A training that knows its limit ends in good order, with the best epoch it has."""
    return [] if seconds == math.inf else [f"limits.timeout_minutes={max(seconds, 1.0) / _MINUTE:.6g}"]


def remember_time(tickets: Tickets, seconds: float) -> None:
    """The time that was used, of which the last to know need not know most."""
    if seconds > float(tickets.study.user_attrs.get(USED, 0.0)):
        tickets.study.set_user_attr(USED, round(seconds, 1))


def fails_too_often(tickets: Tickets, most: float) -> bool:
    ended = [trial for trial in tickets.last_of_each() if trial.state.is_finished()]
    failed = sum(trial.state == TrialState.FAIL for trial in ended)
    return bool(ended) and failed / len(ended) > most


def _names(trials: Sequence[FrozenTrial]) -> str:
    return ", ".join(f"trial {trial.user_attrs[TICKET]}" for trial in trials)
