"""The GPUs of this machine, as a sweep deals them out to its slots; imports no torch."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_automl_vision.errors import ConfigError, TrainingError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.process import usable_cores

if TYPE_CHECKING:
    from lightning_automl_vision.search.asking import Asked

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICES = Path("/dev")


def usable_gpus(accelerator: str = "auto") -> tuple[str, ...]:
    """Their names as CUDA_VISIBLE_DEVICES knows them: those that it shows to this process, else all of the machine."""
    numbered = len([*_DEVICES.glob("nvidia[0-9]*")])
    others = [*_DEVICES.glob("dxg"), *_DEVICES.glob("kfd")]  # of Windows and of AMD, which are not numbered
    if accelerator not in ("auto", "gpu", "cuda") or not (numbered or others):
        return ()
    if (shown := os.environ.get(VISIBLE)) is None:
        return tuple(map(str, range(numbered)))
    names = [name.strip() for name in shown.split(",")]
    end = next((place for place, name in enumerate(names) if not name or name.startswith(("-", "No"))), len(names))
    return tuple(names[:end])  # CUDA looks no further than the first that there is not


def check_gpus(asked: Asked) -> None:
    """ConfigError where this machine has too few for a single trial."""
    gpus = usable_gpus(asked.settings.trainer.accelerator)
    if gpus and asked.devices > len(gpus):
        raise ConfigError(
            f"trainer.devices={asked.devices}: this machine shows {len(gpus)} to this process. Give as many, or"
            " trainer.accelerator=cpu."
        )


def fitted(asked: Asked) -> Asked:
    """With no more slots than there are GPUs for, which is told; trials of one GPU each may share it."""
    slots, each, gpus = asked.slots, asked.devices, usable_gpus(asked.settings.trainer.accelerator)
    if gpus and slots * each > len(gpus):
        if each == 1:
            LOG.warning("%d trials at a time share %d GPU%s.", slots, len(gpus), "s" * (len(gpus) > 1))
            return asked
        most = len(gpus) // each
        LOG.warning(
            "limits.max_concurrent_trials=%d: as many trials of trainer.devices=%d each would take %d GPUs. There are"
            " %d, and so %d at a time.",
            *(slots, each, slots * each, len(gpus), most),
        )
        limits = replace(asked.settings.limits, max_concurrent_trials=most)
        return replace(asked, settings=replace(asked.settings, limits=limits))
    if not gpus and each > 1 and slots * each > (cores := usable_cores()):
        LOG.warning(
            "%d trials of %d processes each at a time, on %d cores: they wait for one another.", slots, each, cores
        )
    return asked


def dealt(gpus: Sequence[str], each: int) -> tuple[str | None, ...]:
    """What the trials of each slot are shown, slots in turn; None where that is what this process sees."""
    if not gpus:
        return (None,)
    return tuple(",".join(gpus[first : first + each]) for first in range(0, len(gpus) - each + 1, each))


@contextmanager
def reserved(gpus: Sequence[str], each: int, *, among_others: bool) -> Iterator[str | None]:
    """So many for the trials of a worker, which no other of this user has meanwhile where it is ``among_others``.

    Of GPUs that are all taken, one is shared by trials that need no more; else TrainingError. They are free again when
    this process is gone, however that went.
    """
    if not gpus:
        yield None
        return
    with ExitStack() as locks:
        mine = _taken(gpus, each, locks) if among_others else [*gpus[:each]]
        if len(mine) < each == 1:
            mine = [gpus[os.getpid() % len(gpus)]]
        if len(mine) < each:
            raise TrainingError(
                f"{socket.gethostname()} has {len(mine)} free of the {len(gpus)} GPUs that it shows, and a trial takes"
                f" trainer.devices={each}. Have fewer workers: limits.max_concurrent_trials."
            )
        yield ",".join(mine)


def _taken(gpus: Sequence[str], most: int, locks: ExitStack) -> list[str]:
    """Those of them that nobody else has, so many at most, for as long as the stack is open."""
    folder = Path(tempfile.gettempdir()) / f"lav_gpus_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    taken: list[str] = []
    with (folder / "all").open("ab") as all_of_them:
        fcntl.flock(all_of_them, fcntl.LOCK_EX)  # or two workers might take one each of two
        for gpu in gpus:
            if len(taken) == most:
                break
            file = locks.enter_context((folder / gpu.replace("/", "_")).open("ab"))
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken.append(gpu)
    return taken
