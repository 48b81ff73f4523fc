"""A sweep on several machines: Hydra's launcher starts workers, each with one slot on the study that all share."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.errors import Interrupted, StorageError, TrainingError, VisionError
from lightning_automl_vision.log import LOG, in_file
from lightning_automl_vision.process import requests_to_end, usable_cores
from lightning_automl_vision.search.fork_server import ForkServer
from lightning_automl_vision.search.forking import leave
from lightning_automl_vision.search.gpus import VISIBLE, reserved
from lightning_automl_vision.search.leases import LEASE, Leases
from lightning_automl_vision.search.slots import threads_for
from lightning_automl_vision.search.storages import Patience
from lightning_automl_vision.search.sweep import ENDED, Sweep
from lightning_automl_vision.search.tickets import REASON, TICKET, Tickets, join_study
from lightning_automl_vision.search.watching import GRACE
from lightning_automl_vision.search.work import Work

# Runs the task once for each list of overrides, and gives what went wrong with each, once all have ended.
Launch = Callable[["Worker", Sequence[Sequence[str]], int], Sequence[str]]
LAUNCH = "launch"  # of a study: the number of the last one
_LOOK = 1.0
_MOST_IN_VAIN = 2


def next_launch(study: Study) -> int:
    """A number for those who do the sweep from now on; those before may be asked to end by theirs."""
    number = int(study.user_attrs.get(LAUNCH, 0)) + 1
    study.set_user_attr(LAUNCH, number)
    return number


def home() -> tuple[str, int]:
    """What tells a machine, or a share of one, from others."""
    return socket.gethostname(), usable_cores()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a launcher runs: one slot, until nothing is left to do; ``beside`` are those on the same machine."""

    work: Work
    launch: int
    beside: int
    home: tuple[str, int] = field(default_factory=home)
    shown: str | None = field(default_factory=lambda: os.environ.get(VISIBLE))

    def __call__(self, config: DictConfig) -> str | None:
        """What went wrong, if so; that of a pool whose maker is gone ends, as nobody would take what it says."""
        try:
            return self._fault()
        finally:
            maker = parent_process()
            if maker is not None and maker.pid != os.getppid():
                leave(0)

    def _fault(self) -> str | None:
        with in_file(Path(HydraConfig.get().runtime.output_dir) / "run.log"):
            try:
                self.run()
            except Interrupted:
                return None
            except VisionError as error:
                LOG.error("%s", error)
                return str(error)
        return None

    def run(self) -> None:
        work, patience = self.work, Patience(self.work.place)
        study = join_study(work.place, patience, sampler=work.sampler(), pruner=work.pruner())

        def hurry() -> None:
            patience.hurried = True

        is_beside = home() == self.home
        with (
            reserved(work.gpus, work.asked.devices, among_others=is_beside and self._sees_the_same) as devices,
            ForkServer() as server,
        ):
            server.warm_up()
            work.sweep(
                Tickets(study),
                slots=1,
                threads=threads_for(self.beside if is_beside else 1),
                devices=(devices,),
                server=server,
                leases=Leases(owner=f"{self.launch}-{uuid4().hex[:8]}", seconds=work.lease_seconds),
                launch=self.launch,
                stopped=hurry,
            ).run()

    @property
    def _sees_the_same(self) -> bool:
        """GPUs as the process that launched it: else a cluster has given it some of its own."""
        return os.environ.get(VISIBLE) == self.shown


@dataclass(kw_only=True)
class Crew:
    """The workers of a sweep as the process that launches them sees them; ``sweep`` has no trial of its own."""

    work: Work
    sweep: Sweep
    launch: Launch
    most: int
    _asked_to_end: bool = field(default=False, init=False)
    _fault: BaseException | None = field(default=None, init=False)
    _told: set[int] = field(default_factory=set, init=False)
    _started: int = field(default=0, init=False)
    _states: dict[int, TrialState] = field(default_factory=dict, init=False)

    @property
    def _number(self) -> int:
        return self.sweep.launch

    @property
    def tickets(self) -> Tickets:
        return self.sweep.tickets

    def run(self) -> None:
        """Until no ticket is left or a limit is reached; workers that end too early are followed by others."""
        self.sweep.begin()
        self._told = {trial.number for trial in self.tickets.trials() if trial.state.is_finished()}
        with requests_to_end(self._stop), self._watched():
            self._see_who_lives()
            self._keep_staffed()
        self.sweep.note()
        if self._asked_to_end:
            raise Interrupted(
                f"Interrupted: what has ended is kept in {self.work.folder}. Repeat the command to go on from there."
            )

    def _keep_staffed(self) -> None:
        in_vain = 0
        while self._goes_on():
            missing = min(self.most, self.tickets.left) - len(self._leases.alive())
            if missing <= 0 or not self.tickets.trials(TrialState.WAITING):
                time.sleep(_LOOK)  # others are at it, or were: those that are dead put their tickets back
                continue
            before = self._ended()
            faults = self._launched(missing)
            in_vain = 0 if self._ended() > before else in_vain + 1
            if in_vain >= _MOST_IN_VAIN and self._goes_on():
                reason = next(iter(faults), "they ended without a word")
                raise TrainingError(
                    f"The workers end before any of their trials does: {reason} Their logs are in"
                    f" {self.work.folder / 'workers'}."
                )

    def _goes_on(self) -> bool:
        if self._fault is not None:
            raise self._fault
        return not self._asked_to_end and self.tickets.left > 0 and self.sweep.may_start()

    def _launched(self, number: int) -> list[str]:
        """What went wrong with them; returns when the launcher does."""
        worker = Worker(work=self.work, launch=self._number, beside=self.most)
        jobs = [self._overrides(self._started + place) for place in range(number)]
        first, self._started = self._started, self._started + number
        LOG.info("%d workers are launched", number)
        try:
            faults = [fault for fault in self.launch(worker, jobs, first) if fault]
        except Exception as error:  # launchers raise what their makers chose
            faults = [f"{type(error).__name__}: {_first_line(error)}"]
            are_gone = type(error).__name__ == "TerminatedWorkerError"  # joblib ends all of them if one dies
        else:
            are_gone = True
        for fault in faults:
            LOG.warning("A worker ended early: %s", fault)
        if are_gone:
            self._recover()
        return faults

    def _overrides(self, place: int) -> list[str]:
        words = [*self.work.asked.arguments]
        while "--config-dir" in words:
            at = words.index("--config-dir")
            del words[at : at + 2]
        return [*words, f"output_dir={_quoted(self.work.folder)}", f"hydra.sweep.subdir=workers/{place}"]

    def _recover(self) -> None:
        """Of workers that are known to have ended, nothing runs any more, after the time that trials have to see it."""
        if orphans := self._orphans():
            time.sleep(GRACE + 1)
            self.tickets.recover(self.sweep.value_left, orphans)

    def _orphans(self) -> list[FrozenTrial]:
        running = self.tickets.trials(TrialState.RUNNING)
        mine = f"{self._number}-"
        return [trial for trial in running if str(trial.user_attrs.get(LEASE, [""])[0]).startswith(mine)]

    def _see_who_lives(self) -> None:
        """Workers of an earlier sweeper that was killed go on, and are not started again."""
        until = time.monotonic() + self._leases.beats() + 3 * _LOOK
        while self._goes_on() and time.monotonic() < until:
            running = {trial.number for trial in self.tickets.trials(TrialState.RUNNING)}
            if running <= self._leases.alive():
                break
            time.sleep(_LOOK / 2)

    @property
    def _leases(self) -> Leases:
        assert self.sweep.leases is not None
        return self.sweep.leases

    def _ended(self) -> int:
        """Trials that came to an end of their own, which those that were put back did not."""
        ended = self.tickets.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return sum(trial.state != TrialState.FAIL or REASON in trial.user_attrs for trial in ended)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A thread looks after the study meanwhile, as a launcher returns when all is over."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="crew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(2 * GRACE)

    def _watch(self, over: threading.Event) -> None:
        is_told = False
        try:
            while not over.wait(_LOOK):
                if self._asked_to_end and not is_told:
                    is_told = True
                    self.tickets.study.set_user_attr(ENDED, self._number)
                self.sweep.reap(self._leases)
                self.sweep.note()
                self._tell_changes()
        except BaseException as error:
            self._fault = error

    def _tell_changes(self) -> None:
        trials = self.tickets.trials()
        states = {trial.number: trial.state for trial in trials}
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                LOG.info("trial %d: %s", trial.user_attrs[TICKET], _end_of(trial, self.sweep.metric))
        if states != self._states:
            self._states = states
            with suppress(StorageError):  # of the leaderboard, which is written again
                self.sweep.changed()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked_to_end:
            raise KeyboardInterrupt
        self._asked_to_end = True
        LOG.warning("The workers are asked to end; once more, and this process does not wait for them.")


def _end_of(trial: FrozenTrial, metric: str) -> str:
    if trial.state == TrialState.COMPLETE:
        return f"{metric} {trial.value:.4f}"
    reason = trial.user_attrs.get(REASON)
    word = "stopped" if trial.state == TrialState.PRUNED else "failed"
    return f"{word}: {reason}" if reason else "interrupted"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason was given"


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
