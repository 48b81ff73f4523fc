"""The fork server's own process: it imports what a training needs, and becomes a trial for each that is asked for.

Until then it computes nothing and asks no device, so that it has one thread and a child can use everything anew.
`python -m lightning_automl_vision.search.forking SOCKET PREPARE` is started by fork_server.py.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType
from typing import Any, NoReturn

from lightning_automl_vision.search.trial_process import kill_group, reaped
from lightning_automl_vision.search.watching import GRACE, watch

SIZE = struct.Struct("!I")
# Ours alone: what they import from others, they import in their own order, after what must be set before it.
_NEEDED = (
    "lightning_automl_vision.main",
    "lightning_automl_vision.jobs.train",
    "lightning_automl_vision.data.labelled",
    "lightning_automl_vision.training.session",
    "lightning_automl_vision.augment",
    "lightning_automl_vision.object_augment",
    "lightning_automl_vision.model_folder",
    "lightning_automl_vision.model_card",
    "lightning_automl_vision.data.manifest",
    "lightning_automl_vision.delivery.companions",
    "lightning_automl_vision.search.comparing",
)
_TASKS = Path("/proc/self/task")  # a folder for each thread


@dataclass(frozen=True, kw_only=True)
class Request:
    """What becomes of a child: ``python -m module words`` in this folder, with these variables and no others."""

    module: str
    words: list[str]
    variables: dict[str, str]
    folder: str
    console: str
    threads: int

    def as_bytes(self) -> bytes:
        text = json.dumps(self.__dict__).encode("ascii")
        return SIZE.pack(len(text)) + text


def main(number: int, prepare: str) -> None:
    """Serve until the other end of the socket is gone; a child comes out of the loop to run its trial, and ends."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = {*os.environ}
    with socket.socket(fileno=number) as channel:
        channel.set_inheritable(False)
        fault = _prepared(prepare)
        with suppress(ConnectionError):
            _tell(channel, {"fault": fault})
        added = {name: value for name, value in os.environ.items() if name not in given}  # by imports
        trial = None if fault else Server(channel, partial(become, interrupt=interrupt, added=added)).serve()
    if trial is not None:
        leave(ended(trial))


def _prepared(prepare: str) -> str | None:
    """Why no trial may be forked from here, if so."""
    try:
        resolve_name(prepare)()
    except Exception as error:  # a fresh process says it better, in the trial's own console
        return f"{type(error).__name__}: {error}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "an import has initialised CUDA"
    threads = len(list(_TASKS.iterdir())) if _TASKS.exists() else threading.active_count()
    if threads > 1:
        return f"{threads - 1} threads were started by imports"
    gc.collect()
    gc.freeze()  # what is here stays, and children need not look at it, which would copy it
    return None


def import_everything() -> None:
    """What a training of any task and model needs."""
    import cv2

    cv2.setNumThreads(0)
    for name in _NEEDED:
        importlib.import_module(name)
    from lightning_automl_vision.api import settings
    from lightning_automl_vision.data.readers import FORMATS, reader
    from lightning_automl_vision.delivery.environment import pinned_packages
    from lightning_automl_vision.lock import all_versions
    from lightning_automl_vision.plugins import model_specs, models_by_plugin
    from lightning_automl_vision.specs import TASKS

    builders = [*(task.builder for task in TASKS.values()), *(model.builder for model in model_specs().values())]
    for module in sorted({builder.partition(":")[0] for builder in builders}):
        importlib.import_module(module)
    for name in FORMATS:
        reader(name)
    settings()  # what is composed once is parsed and registered
    for plugin, models in models_by_plugin().items():  # and what is installed is looked up
        all_versions(plugin)
        for model in models[:1]:
            pinned_packages(model.name)


def _tell(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.sendall(json.dumps(message).encode("ascii") + b"\n")


class Server:
    """One loop, one thread: requests come in, exits go out."""

    def __init__(self, channel: socket.socket, become: Callable[[Request, int], None]) -> None:
        self._channel, self._become = channel, become
        self._children: set[int] = set()
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)

    def serve(self) -> Callable[[], None] | None:
        """In the server None at the end, in a child what it shall do."""
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        try:
            while True:
                ready = select.select([self._channel.fileno(), self._woken], [], [])[0]
                if self._woken in ready:
                    os.read(self._woken, 1 << 12)
                    self._reap()
                if self._channel.fileno() in ready:
                    trial = self._fork(*_received(self._channel))
                    if trial is not None:
                        return trial
        except ConnectionError:
            self._end()
            return None

    def _fork(self, request: Request, pipe: int) -> Callable[[], None] | None:
        try:
            pid: int | None = os.fork()
        except OSError:  # no room for another process; whoever asked will find out
            pid = None
        if pid == 0:
            signal.set_wakeup_fd(-1)
            os.close(self._woken)
            os.close(self._waker)
            return partial(self._become, request, pipe)
        os.close(pipe)
        if pid is not None:
            self._children.add(pid)
        _tell(self._channel, {"started": pid})
        return None

    def _reap(self) -> None:
        for pid in sorted(self._children):
            ended = reaped(pid)
            if ended is not None:
                self._children.remove(pid)
                _tell(self._channel, {"ended": pid, **asdict(ended)})

    def _end(self) -> None:
        """The sweeper is gone. The trials notice it as well, unless they are busy beyond Python's reach."""
        until = time.monotonic() + GRACE
        while self._children and time.monotonic() < until:
            self._children = {pid for pid in self._children if reaped(pid) is None}
            time.sleep(0.05)
        for pid in self._children:
            kill_group(pid, signal.SIGKILL)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler there must be, or the signal would wake nobody."""


def _received(channel: socket.socket) -> tuple[Request, int]:
    """ConnectionError when the other end is closed."""
    head, pipes, _, _ = socket.recv_fds(channel, SIZE.size, 1)
    if not head:
        raise ConnectionError
    head += _exactly(channel, SIZE.size - len(head))
    return Request(**json.loads(_exactly(channel, SIZE.unpack(head)[0]))), pipes[0]


def _exactly(channel: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = channel.recv(count - len(found))
        if not part:
            raise ConnectionError
        found += part
    return found


def become(request: Request, pipe: int, *, interrupt: Any, added: Mapping[str, str]) -> None:
    """Run the trial as a fresh Python would: only what was imported, and what that set, is inherited."""
    os.setsid()
    _redirect(request.console)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, interrupt)
    own_folder = os.getcwd()
    os.chdir(request.folder)
    if sys.path[0] == own_folder:  # what `python -m` puts there
        sys.path[0] = os.getcwd()
    os.environ.clear()
    os.environ.update({**added, **request.variables})
    watch(pipe, GRACE)
    _compute_with(request.threads)
    sys.argv = [request.module, *request.words]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def ended(trial: Callable[[], None]) -> int:
    """The exit code Python would have."""
    try:
        trial()
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """As Python ends, but for taking apart everything that was imported, which costs more than many a trial."""
    threading._shutdown()  # type: ignore[attr-defined]  # what multiprocessing calls in its forks; pools end with it
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _redirect(console: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    out = os.open(console, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.close(out)


def _compute_with(threads: int) -> None:
    """What a fresh process reads from its environment, and random numbers of its own, which Python alone sees to."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
        torch.default_generator.seed()
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(threads)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
