"""The processes that the first one of a machine starts beside itself, with its own overrides."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_automl_vision.errors import TrainingError
from lightning_automl_vision.search.outcomes import last_words
from lightning_automl_vision.search.overrides import as_overrides

if TYPE_CHECKING:
    from lightning_automl_vision.composed import Settings

# The process that started this one, which ends with it.
PARENT = "LAV_RANK_PARENT"
_GO_ON = "Repeat the command: it goes on from the last checkpoint"
# What those say that only lost another one.
_FOLLOWS = re.compile(
    r"closed by peer|connection reset|broken pipe|Socket Timeout|ncclRemoteError|gloo|another process of this training",
    re.IGNORECASE,
)


class RankError(TrainingError):
    """One of a training's processes ended before the training did; leaves with the same exit code."""


def only_lost_another(words: str) -> bool:
    """Whether a process that ended with these words was not the first to end."""
    return _FOLLOWS.search(words) is not None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process is among all of a training, and where they meet."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node_rank: int
    address: str
    port: int

    @classmethod
    def of_environment(cls) -> Place:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_PORT")
        rank, size, local_rank, local_size, node_rank, port = (int(os.environ[name]) for name in names)
        return cls(
            rank=rank,
            size=size,
            local_rank=local_rank,
            local_size=local_size,
            node_rank=node_rank,
            address=os.environ["MASTER_ADDR"],
            port=port,
        )

    def variables(self) -> dict[str, str]:
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "NODE_RANK": str(self.node_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }

    def beside(self, number: int) -> Place:
        return replace(self, rank=self.rank + number, local_rank=number)


@dataclass
class LocalRank:
    """``console`` holds what it says, and is there afterwards where it failed."""

    place: Place
    process: subprocess.Popen[bytes]
    console: Path

    def fault(self) -> RankError | None:
        """Why it ended, if it did and should not have."""
        code = self.process.poll()
        if not code:
            return None
        error = RankError(f"{self._words(code).rstrip('.')} (process {self.place.rank + 1} of {self.place.size}).")
        error.exit_code = code if code > 0 else TrainingError.exit_code
        return error

    def close(self, *, was_asked: bool) -> None:
        """Of one that ended by itself and said nothing, its console holds what it ended with."""
        fault = self.fault()
        if fault is None or (was_asked and not self.console.stat().st_size):
            self.console.unlink()
        elif not self.console.stat().st_size:
            self.console.write_text(f"{fault}\n", encoding="utf-8")

    def _words(self, code: int) -> str:
        if code < 0:
            with suppress(ValueError):
                return f"A process was killed by {signal.Signals(-code).name}{self._likely(code)}. {_GO_ON}"
        lines = [line.strip() for line in last_words(self.console, 0).splitlines() if line.strip()]
        ours = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
        return next(reversed(ours or lines), f"A process ended with exit code {code} and said nothing")

    def _likely(self, code: int) -> str:
        if code == -signal.SIGKILL:
            return ", most likely by a system that had no memory left"
        has_spoken = self.console.exists() and self.console.stat().st_size > 0
        return f"; see {self.console}" if has_spoken else ""


@dataclass(frozen=True)
class LocalRanks:
    ranks: tuple[LocalRank, ...]

    @classmethod
    def start(cls, settings: Settings, folder: Path, place: Place, threads: int) -> LocalRanks:
        """In the process group of this run, so that who kills it kills them."""
        kept = [override for override in settings.overrides if not override.startswith(("output_dir=", "quiet="))]
        words = [*_config_folders(), *kept, *as_overrides({"output_dir": str(folder), "quiet": True})]
        started: list[LocalRank] = []
        try:
            for number in range(1, place.local_size):
                started.append(_started(words, place.beside(number), folder, threads))
        except BaseException:
            cls(tuple(started)).end(0.0)
            raise
        return cls(tuple(started))

    def fault(self, seconds: float = 0.0) -> RankError | None:
        """Of those that ended in a fault, waiting so long for one, the one that did not merely lose another."""
        until = time.monotonic() + seconds
        while not (faults := self._faults()) and time.monotonic() < until:
            time.sleep(0.05)
        if faults and len(self.ranks) > 1:
            time.sleep(0.3)
            faults = self._faults()
        return next((fault for fault in faults if not only_lost_another(str(fault))), faults[0] if faults else None)

    def end(self, seconds: float) -> None:
        """Wait so long for them to end, then ask them to, then kill them."""
        asked: set[int] = set()
        for grace, number in ((seconds, signal.SIGTERM), (1.0, signal.SIGKILL), (None, signal.SIGKILL)):
            if self._wait(grace):
                break
            for rank in self.ranks:
                if rank.process.poll() is None:
                    asked.add(rank.process.pid)
                    rank.process.send_signal(number)
        for rank in self.ranks:
            with suppress(OSError):
                rank.close(was_asked=rank.process.pid in asked)

    def _faults(self) -> list[RankError]:
        return [fault for rank in self.ranks if (fault := rank.fault()) is not None]

    def _wait(self, seconds: float | None) -> bool:
        until = None if seconds is None else time.monotonic() + seconds
        while any(rank.process.poll() is None for rank in self.ranks):
            if until is not None and time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return True


def _started(words: list[str], place: Place, folder: Path, threads: int) -> LocalRank:
    console = folder / f"process_{place.rank + 1}.log"
    computing = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), str(threads))
    with console.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_automl_vision", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **computing, **place.variables(), PARENT: str(os.getpid())},
        )
    return LocalRank(place, process, console)


def _config_folders() -> list[str]:
    """What a user's own configuration is found by, if this run was composed by hydra's command line."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    searched = [text for text in hydra.overrides.hydra if text.startswith("hydra.searchpath=")]
    return [*(word for folder in folders for word in ("--config-dir", folder)), *searched]
