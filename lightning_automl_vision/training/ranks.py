"""The processes of one training: started here, one for each device, or by a launcher such as torchrun, and connected.

The first writes; the others do the same and write nothing. All that they say to one another is in gathering.py.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import distributed
from torch._C._distributed_c10d import TCPStore

from lightning_automl_vision.errors import ConfigError, TrainingError, VisionError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.training.gathering import LOCAL_WORLD_SIZE, is_connected
from lightning_automl_vision.training.launchers import (
    ADDRESS,
    MACHINE,
    PORT,
    Launched,
    launched_by,
    machine_number,
    shares_machine,
)
from lightning_automl_vision.training.local_ranks import PARENT, LocalRanks, Place, only_lost_another

if TYPE_CHECKING:
    from lightning_automl_vision.composed import Settings
    from lightning_automl_vision.trainer_settings import TrainerConfig

# Metrics of a large set, or its download, take the first as long while the others wait; a process that ends is noticed.
_PATIENCE = timedelta(hours=6)
_GRACE = 5.0
_SHOW_ALL = (
    "Each process that a launcher starts must see all devices of its machine: with SLURM by --gres=gpu:N, not by"
    " --gpus-per-task or --gpu-bind."
)
Lost = Callable[[VisionError], None]


class Started(LightningEnvironment):
    """Where a process is that was started here, that starts the others, or that ``is_launched`` by somebody else."""

    def __init__(self, place: Place, *, is_launched: bool = False) -> None:
        super().__init__()
        self.place, self.is_launched = place, is_launched
        self.set_global_rank(place.rank)
        self.set_world_size(place.size)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.place.address

    @property
    def main_port(self) -> int:
        return self.place.port

    def local_rank(self) -> int:
        return self.place.local_rank

    def node_rank(self) -> int:
        return self.place.node_rank

    def teardown(self) -> None:
        """Nothing was put into the environment."""


def launched(trainer: TrainerConfig) -> Started | None:
    """Where this process is among those that were started; None where it is alone, or is to start the others."""
    if PARENT in os.environ:
        return Started(Place.of_environment())
    found = _launched(trainer)
    return None if found is None else Started(found.place(os.environ), is_launched=True)


def _launched(trainer: TrainerConfig) -> Launched | None:
    return launched_by(os.environ, trainer.devices, trainer.num_nodes)


def check_ranks(trainer: TrainerConfig, device: str) -> None:
    """Raise ConfigError for processes that there cannot be."""
    several = trainer.devices * trainer.num_nodes
    if device == "mps" and several > 1:
        raise ConfigError(f"trainer.devices={trainer.devices}: mps trains on one device. Leave it at 1.")
    # One that trains alone may be a task of a cluster's job; what torchrun starts is meant to train together.
    is_among_others = PARENT not in os.environ and (several > 1 or "TORCHELASTIC_RUN_ID" in os.environ)
    found = _launched(trainer) if is_among_others else None
    if found is not None:
        found.check(trainer.devices, trainer.num_nodes)
        found.place(os.environ)
    if device == "cuda" and trainer.devices > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices={trainer.devices}: this machine shows {torch.cuda.device_count()} to this process."
            f" {'Give as many, or trainer.accelerator=cpu.' if found is None else _SHOW_ALL}"
        )
    if device != "cuda" and trainer.sync_batchnorm:
        raise ConfigError("trainer.sync_batchnorm=true: torch does that on GPUs alone. Leave it out.")
    if found is None and PARENT not in os.environ and trainer.num_nodes > 1:
        _check_machines(trainer)


def _check_machines(trainer: TrainerConfig) -> None:
    missing = [name for name in (ADDRESS, PORT) if name not in os.environ]
    missing += [MACHINE] if machine_number(os.environ, trainer.num_nodes) is None else []
    if missing:
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}: nobody has told this process where the others are. Start it on"
            " each machine by torchrun or srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there;"
            f" {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set."
        )


def is_follower(trainer: TrainerConfig) -> bool:
    """Whether another process writes what this one takes part in."""
    if trainer.devices * trainer.num_nodes == 1:
        return False
    environment = launched(trainer)
    if environment is None:
        return (machine_number(os.environ, trainer.num_nodes) or 0) > 0
    return environment.global_rank() > 0


@contextmanager
def connected(settings: Settings, folder: Path, *, device: str, lost: Lost) -> Iterator[None]:
    """Within it all processes of the training are; where there is one alone, nothing happens.

    The error of one that dies is raised in its place, or given to ``lost`` where this process cannot be reached.
    """
    trainer = settings.trainer
    if trainer.devices * trainer.num_nodes == 1:
        yield
        return
    environment = launched(trainer)
    if environment is not None:
        shared = environment.is_launched and shares_machine(os.environ)
        with _loss_in_words(), shared_threads(trainer.devices if shared else 1), _group(environment, device, trainer):
            yield
        return
    with _loss_in_words(), shared_threads(trainer.devices) as threads:
        store, place = _meeting_place(trainer)
        ranks = LocalRanks.start(settings, folder, place, threads)
        with _watched(ranks, lost), _group(Started(place), device, trainer, store, ranks):
            yield


@contextmanager
def _loss_in_words() -> Iterator[None]:
    """Where another process is gone of which nobody here can say why."""
    try:
        yield
    except RuntimeError as error:  # of which torch's own are kinds
        if not only_lost_another(str(error)):
            raise
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).strip()).partition("\n")[0].partition(". ")[0][:100]
        raise TrainingError(
            f"Another process of this training has ended, or cannot be reached any more ({reason}). What it said last"
            " tells why: on the console of its machine, or where its launcher keeps that."
        ) from error


def _meeting_place(trainer: TrainerConfig) -> tuple[TCPStore, Place]:
    """At a port that is free, where nobody has said which."""
    several = trainer.num_nodes > 1
    node = (machine_number(os.environ, trainer.num_nodes) or 0) if several else 0
    address, port = (os.environ[ADDRESS], int(os.environ[PORT])) if several else ("127.0.0.1", 0)
    store = TCPStore(address, port, is_master=node == 0, wait_for_workers=False)
    return store, Place(
        rank=node * trainer.devices,
        size=trainer.devices * trainer.num_nodes,
        local_rank=0,
        local_size=trainer.devices,
        node_rank=node,
        address=address,
        port=store.port,
    )


@contextmanager
def _group(
    environment: Started,
    device: str,
    trainer: TrainerConfig,
    store: TCPStore | None = None,
    ranks: LocalRanks | None = None,
) -> Iterator[None]:
    rank, size = environment.global_rank(), environment.world_size()
    before = {name: os.environ.get(name) for name in (LOCAL_WORLD_SIZE, "GLOO_SOCKET_IFNAME")}
    os.environ[LOCAL_WORLD_SIZE] = str(trainer.devices)
    if environment.main_address == "127.0.0.1" and Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # and the name of this machine need not be known
    if device == "cuda":
        torch.cuda.set_device(environment.local_rank())
    try:
        if not environment.is_launched:
            store = store or TCPStore(environment.main_address, environment.main_port, is_master=False)
            _wait_for_all(store, rank, size, ranks)
            distributed.init_process_group(_backend(device), store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        else:
            where = f"tcp://{environment.main_address}:{environment.main_port}"
            LOG.info("Process %d of %d meets the others at %s", rank + 1, size, where.removeprefix("tcp://"))
            distributed.init_process_group(
                _backend(device), init_method=where, rank=rank, world_size=size, timeout=_PATIENCE
            )
        yield
    finally:
        if is_connected():
            distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _backend(device: str) -> str:
    return "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"


def _wait_for_all(store: TCPStore, rank: int, size: int, ranks: LocalRanks | None) -> None:
    """Until each has come: connecting begins when none can be missing any more."""
    store.set(f"here/{rank}", "yes")
    names = [f"here/{other}" for other in range(size)]
    until = time.monotonic() + _PATIENCE.total_seconds()
    while not store.check(names):
        if ranks is not None and (fault := ranks.fault()) is not None:
            raise fault
        if time.monotonic() > until:
            raise ConfigError(f"Of {size} processes some did not come in {_PATIENCE}. Look at what the others say.")
        time.sleep(0.05)


@contextmanager
def _watched(ranks: LocalRanks, lost: Lost) -> Iterator[None]:
    """The processes that were started here end with this one, and it with them."""
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(ranks, over, lost), name="rank watch", daemon=True)
    watch.start()
    try:
        yield
    except (VisionError, KeyboardInterrupt):
        ranks.end(0.0)
        raise
    except Exception as error:  # most often what torch says of one that is gone
        fault = ranks.fault(seconds=2.0)
        ranks.end(0.0)
        if fault is None:
            raise
        raise fault from error
    except BaseException:
        ranks.end(0.0)
        raise
    else:
        ranks.end(60.0)
    finally:
        over.set()


def _watch(ranks: LocalRanks, over: threading.Event, lost: Lost) -> None:
    """A training that waits for one that is gone may not come out of it, as on GPUs, where nobody closes a line."""
    while not over.wait(0.2):
        if (fault := ranks.fault()) is not None:
            if over.wait(_GRACE):
                return
            lost(fault)
            ranks.end(0.0)
            os._exit(fault.exit_code)


@contextmanager
def shared_threads(processes: int) -> Iterator[int]:
    """The threads that this process computes with, shared among as many; the share."""
    before, of_pictures = torch.get_num_threads(), cv2.getNumThreads()
    threads = max(before // processes, 1)
    torch.set_num_threads(threads)
    cv2.setNumThreads(max(of_pictures // processes, 1) if of_pictures > 1 else of_pictures)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(of_pictures)


def end_with_parent() -> None:
    """A process that was started here leaves when the one that started it is gone; Ctrl-C is that one's business."""
    if (parent := os.environ.get(PARENT)) is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, args=(int(parent),), name="parent watch", daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
