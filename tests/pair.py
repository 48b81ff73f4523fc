"""Two processes of one training, forked from a server that has imported everything and computed nothing yet.

What has computed has threads, which a fork does not take along.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "lightning_automl_vision.training.session"])


def in_two(function: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 120.0) -> list[Any]:
    """What the function gives in each of two processes that are connected."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "meeting"
    store.unlink(missing_ok=True)
    pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(2)]
    processes = [
        _CONTEXT.Process(target=_run, args=(function, arguments, rank, store, pipes[rank][1])) for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        answers = []
        for ours, theirs in pipes:
            theirs.close()
            assert ours.poll(seconds), "one of two processes does not come to its end"
            done, value = ours.recv()
            assert done, value
            answers.append(value)
        return answers
    finally:
        for process in processes:
            process.join(10)
            process.kill()
            process.join()


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], rank: int, store: Path, pipe: Any) -> None:
    from torch import distributed

    try:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        pipe.send((True, function(*arguments)))
        distributed.destroy_process_group()
    except BaseException:
        pipe.send((False, traceback.format_exc()))
