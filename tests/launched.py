"""Whole runs of several processes, as a launcher starts them, forked from a server that has imported everything."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pair import CONTEXT


@dataclass(frozen=True)
class Blow:
    """What happens to the process of this rank before its batch of this number, counted over all epochs."""

    rank: int
    batch: int
    number: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class Launched:
    """``said`` holds for each process what it left with: nothing, or the words of its error."""

    processes: list[Any]
    said: list[Path]

    def wait(self, seconds: float = 200.0) -> list[int]:
        """The exit codes, negative for signals; none is left afterwards."""
        until = time.monotonic() + seconds
        try:
            for process in self.processes:
                process.join(max(until - time.monotonic(), 0.1))
            codes = [process.exitcode for process in self.processes]
            assert None not in codes, f"not all came to their end: {codes}, {self.words}"
            return codes
        finally:
            for process in self.processes:
                process.kill()
                process.join()

    @property
    def words(self) -> list[str]:
        return [path.read_text() if path.exists() else "" for path in self.said]


def launch(
    size: int, asked: Mapping[str, Any], folder: Path, *, blow: Blow | None = None, **environment: str
) -> Launched:
    """``lav.train`` of what is asked for, in so many processes of one machine."""
    folder.mkdir(parents=True, exist_ok=True)
    said = [folder / f"said_{rank}" for rank in range(size)]
    for path in said:
        path.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    around = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    asked = {**asked, "trainer": {**asked.get("trainer", {}), "accelerator": "cpu", "devices": size}}
    processes = [
        CONTEXT.Process(
            target=_run,
            args=(asked, said[rank], blow, {**around, "RANK": str(rank), "LOCAL_RANK": str(rank), **environment}),
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return Launched(processes, said)


def launched(size: int, asked: Mapping[str, Any], folder: Path, **environment: str) -> None:
    """The same, to its good end."""
    together = launch(size, asked, folder, **environment)
    codes = together.wait()
    assert codes == [0] * size, together.words


def _run(asked: Mapping[str, Any], said: Path, blow: Blow | None, environment: Mapping[str, str]) -> None:
    import lightning_automl_vision as lav
    from lightning_automl_vision.errors import VisionError

    os.environ.update(environment)
    if blow is not None and environment["RANK"] == str(blow.rank):
        _strike(blow)
    try:
        lav.train(**asked, quiet=True)
    except VisionError as error:
        said.write_text(str(error))
        sys.exit(error.exit_code)
    except BaseException:
        said.write_text(traceback.format_exc())
        raise


def _strike(blow: Blow) -> None:
    from lightning_automl_vision.tasks.base import VisionTask

    usual, left = VisionTask.training_step, blow.batch

    def struck(self: Any, *arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), blow.number)
        return usual(self, *arguments)

    setattr(VisionTask, "training_step", struck)  # noqa: B010
