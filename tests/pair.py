"""Several processes of one training, forked from a server that has imported everything and computed nothing yet.

What has computed has threads, which a fork does not take along.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "lightning_automl_vision.training.session"])


def in_two(function: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 120.0) -> list[Any]:
    """What the function gives in each of two processes that are connected."""
    return in_several(2, function, *arguments, folder=folder, seconds=seconds)


def in_several(
    size: int, function: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 120.0
) -> list[Any]:
    """The same in so many."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "meeting"
    store.unlink(missing_ok=True)
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    processes = [
        CONTEXT.Process(target=_run, args=(function, arguments, rank, size, store, pipe))
        for rank, (_, pipe) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        answers = []
        for ours, theirs in pipes:
            theirs.close()
            assert ours.poll(seconds), "one of the processes does not come to its end"
            answers.append(ours.recv())
        faults = [value for done, value in answers if not done]
        assert not faults, "\n".join(faults)
        return [value for _, value in answers]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
            process.join()


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], rank: int, size: int, store: Path, pipe: Any
) -> None:
    from torch import distributed

    try:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        pipe.send((True, function(*arguments)))
        distributed.destroy_process_group()
    except BaseException:
        pipe.send((False, traceback.format_exc()))
