"""One trial: a training in a process group of its own, which can be watched, asked to stop and killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lightning_automl_vision.result import RESULT
from lightning_automl_vision.run import write
from lightning_automl_vision.search.outcomes import Kind, Outcome, State, Trace, last_words, outcome_of, read_result
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.reports import Report, Reports
from lightning_automl_vision.search.watching import PIPE, STOP, TRIAL_FOLDER
from lightning_automl_vision.training.early_stopping import improves

if TYPE_CHECKING:
    from lightning_automl_vision.search.fork_server import ForkServer

CONSOLE = "console.log"
# What a cluster tells the process that runs the sweep: Lightning would take a trial for one of its tasks.
_OF_THE_CLUSTER = re.compile(
    r"(SLURM|SRUN|TORCHELASTIC|LSB|LSF|JSM_NAMESPACE|OMPI|PMI|PMIX|MPI|MASTER|GROUP|ROLE)_.*"
    r"|(GLOBAL_|LOCAL_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|PL_GLOBAL_SEED"
)
_POLL = 0.05
_LINGERING = 5.0  # seconds for what was killed to vanish: what it holds of a device is free only then


@dataclass(frozen=True, kw_only=True)
class Command:
    """One plain training, judged by ``metric``; ``arguments`` are its overrides without the folder.

    ``devices`` is what CUDA_VISIBLE_DEVICES shall be; a variable of ``environment`` that is None is taken away.
    ``module`` is what Python runs, in ``working_folder``, to which relative paths in the arguments belong.
    """

    arguments: tuple[str, ...]
    folder: Path
    metric: str
    lower_is_better: bool = False
    threads: int = 1
    devices: str | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    module: str = "lightning_automl_vision"
    working_folder: Path = field(default_factory=Path.cwd)

    @property
    def words(self) -> list[str]:
        """What follows the program's name on its command line."""
        return [*self.arguments, *as_overrides({"output_dir": str(self.folder), "quiet": True})]

    @property
    def console(self) -> Path:
        return self.folder / CONSOLE

    def variables(self, around: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of the trial, made from the one around it."""
        changes: dict[str, str | None] = {
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), str(self.threads)),
            "OPENBLAS_NUM_THREADS": "1",  # numpy multiplies nothing large, and a forked trial can have no other number
            TRIAL_FOLDER: str(self.folder),
            **({} if self.devices is None else {"CUDA_VISIBLE_DEVICES": self.devices}),
            **self.environment,
        }
        merged = {**without_cluster(around), **changes}
        return {name: value for name, value in merged.items() if value is not None}


def without_cluster(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not _OF_THE_CLUSTER.fullmatch(name)}


@dataclass(frozen=True)
class Exit:
    """``code`` is negative for a signal, None where nobody saw it; ``cpu_seconds`` with those of its children.

    ``memory`` is the most bytes that any one of them held at a time, of those that its leader has waited for; Linux
    begins to count a fresh process at what the one that started it held.
    """

    code: int | None
    cpu_seconds: float | None = None
    memory: int | None = None


class Process(Protocol):
    """The leader of a process group, whose number is its ``pid``."""

    pid: int

    def poll(self) -> Exit | None:
        """Once it has ended, and all of its group were killed; the same from then on."""


class FreshProcess:
    """A Python of its own, which imports everything anew."""

    def __init__(self, command: Command, pipe: int) -> None:
        environment = {**command.variables(os.environ), PIPE: str(pipe)}
        with command.console.open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, "-m", command.module, *command.words],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd=command.working_folder,
                env=environment,
                pass_fds=[pipe],
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._exit: Exit | None = None

    def poll(self) -> Exit | None:
        if self._exit is None and (ended := reaped(self.pid)) is not None:
            self._exit = ended
            self._process.returncode = ended.code  # so that Popen does not wait for it as well
        return self._exit


def reaped(pid: int) -> Exit | None:
    """The exit of a leader once it has ended; its group is killed first, while its number is still its own."""
    if sys.platform != "darwin":  # which cannot look without taking
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        kill_group(pid, signal.SIGKILL)
    found, status, used = os.wait4(pid, os.WNOHANG)
    if found == 0:
        return None
    if sys.platform == "darwin":
        kill_group(pid, signal.SIGKILL)
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Exit(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, memory)


def kill_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # none is left, or zombies alone
        os.killpg(pid, number)


def is_gone(group: int) -> bool:
    """Whether nobody of it is left, not even to be buried."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return False


class TrialProcess:
    """A training that has been started; belongs to the thread that polls it."""

    def __init__(self, command: Command, process: Process, pipe: int, before: _Before) -> None:
        self.command, self.started = command, time.monotonic()
        self._process, self._pipe, self._before = process, pipe, before
        self._unheard: list[Report] = []
        self._best: Report | None = None
        self._killed_as: Outcome | None = None
        self._outcome: Outcome | None = None
        self._ended: float | None = None
        self.cpu_seconds: float | None = None
        self.memory: int | None = None

    @classmethod
    def start(cls, command: Command, server: ForkServer | None = None) -> TrialProcess:
        """By the fork server if there is one that works, else as a fresh process."""
        command.folder.mkdir(parents=True, exist_ok=True)
        command = replace(command, folder=command.folder.absolute())
        (command.folder / STOP).unlink(missing_ok=True)
        before = _Before(command)
        theirs, ours = os.pipe()
        try:
            process: Process | None = server.fork(command, theirs) if server is not None else None
            process = process or FreshProcess(command, theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(command, process, ours, before)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def reports(self) -> list[Report]:
        """(epoch, value) of each evaluation since the last time; an undefined value is NaN."""
        if self._outcome is None:
            self._read()
        new, self._unheard = self._unheard, []
        return new

    def _read(self) -> None:
        sign = -1 if self.command.lower_is_better else 1
        for epoch, value in self._before.reports.new():
            self._unheard.append((epoch, value))
            if self._best is None or improves(sign * value, sign * self._best[1]):
                self._best = epoch, value

    def ask_to_stop(self, reason: str) -> None:
        """After its next evaluation, in good order: it is pruned then."""
        write(self.command.folder / STOP, f"{reason}\n")

    def poll(self) -> Outcome | None:
        """What became of it, as soon as all of its processes are gone."""
        if self._outcome is None and (ended := self._process.poll()) is not None:
            self._ended = self._ended or time.monotonic()
            if is_gone(self.pid) or time.monotonic() - self._ended > _LINGERING:
                os.close(self._pipe)
                self.cpu_seconds, self.memory = ended.cpu_seconds, ended.memory
                self._outcome = self._judged(ended)
        return self._outcome

    def wait(self, seconds: float | None = None) -> Outcome | None:
        """None when it still runs after so long."""
        until = None if seconds is None else time.monotonic() + seconds
        while (outcome := self.poll()) is None and (until is None or time.monotonic() < until):
            time.sleep(_POLL)
        return outcome

    def kill(self, grace: float, *, state: State = "interrupted", reason: str = "interrupted") -> Outcome:
        """SIGTERM, upon which training ends after its step and says so; SIGKILL to all after so many seconds.

        A result that was finished before stands, else it is ``state`` for this ``reason``.
        """
        if self.poll() is None:
            self._killed_as = self._killed_as or Outcome(state=state, reason=reason, kind=_KINDS[state])
            # The leader alone: its workers, ended beside it, would look to it like workers that crashed.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            self.wait(grace)
        while (outcome := self.poll()) is None:
            kill_group(self.pid, signal.SIGKILL)
            self.wait(1.0)
        return outcome

    def time_out(self, seconds: float, grace: float) -> Outcome:
        """Kill it because it took longer than that."""
        limits = "limits.trial_timeout_minutes, or what was left of limits.timeout_minutes"
        reason = f"timed out after {seconds:.0f} s: it did not end by itself when its time ({limits}) was over"
        return self.kill(grace, state="failed", reason=reason)

    def _judged(self, ended: Exit) -> Outcome:
        self._read()
        self._before.reports.close()
        words = last_words(self.command.console, self._before.printed)
        outcome = outcome_of(Trace(ended.code, self._before.new_result(), words), self._killed_as)
        if outcome.epoch is None and self._best is not None:
            epoch, value = self._best
            outcome = replace(outcome, epoch=epoch, value=value if value == value else None)
        return outcome


_KINDS: Mapping[State, Kind] = {"failed": "timeout", "pruned": "policy", "interrupted": "interrupted", "complete": ""}


class _Before:
    """What an earlier attempt left in the folder, which is none of this one's."""

    def __init__(self, command: Command) -> None:
        self._folder = command.folder
        self._result = _stamp(command.folder / RESULT)
        self.printed = command.console.stat().st_size if command.console.exists() else 0
        self.reports = Reports(command.folder / "metrics.jsonl", command.metric)

    def new_result(self) -> Mapping[str, object] | None:
        return read_result(self._folder) if _stamp(self._folder / RESULT) != self._result else None


def _stamp(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None
