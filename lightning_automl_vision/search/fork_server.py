"""Starts trials from a process that has imported everything already, which saves seconds of computing for each."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from lightning_automl_vision.log import LOG
from lightning_automl_vision.search.forking import Request
from lightning_automl_vision.search.trial_process import Command, Exit, kill_group, without_cluster

_FORKING = "lightning_automl_vision.search.forking"
# One thread, or an import would start a pool, which no child could use.
_OWN = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def cannot_fork(platform: str = sys.platform) -> str | None:
    """Why trials are fresh processes here, if so: forks without exec are safe on Linux alone."""
    return None if platform == "linux" else f"forks are not safe on {platform}"


class ForkServer:
    """Shared by all slots; starts at the first need, and again when it was lost.

    Where it cannot serve, ``fork`` gives None, and says why once. ``prepare`` names what it does before it forks.
    """

    def __init__(self, prepare: str = f"{_FORKING}:import_everything") -> None:
        self._prepare, self._lock = prepare, threading.RLock()
        self._connection: Connection | None = None
        self.fault = cannot_fork()

    @property
    def pid(self) -> int | None:
        """Of the process that forks now."""
        return self._connection.pid if self._connection is not None else None

    def warm_up(self) -> None:
        """Begin importing, without waiting for it."""
        with self._lock:
            if self.fault is None and (self._connection is None or self._connection.lost):
                self._connection = Connection(self._lock, self._prepare)

    def fork(self, command: Command, pipe: int) -> ForkedProcess | None:
        """Start this trial, as soon as everything is imported."""
        with self._lock:
            for _ in range(2):  # a server that was lost is followed by another, once
                self.warm_up()
                connection = self._connection
                if connection is None:
                    return None
                try:
                    self.fault = connection.fault()
                    if self.fault is None:
                        pid = connection.fork(command, pipe)
                        return ForkedProcess(connection, pid) if pid is not None else None
                    LOG.warning("Each trial is a fresh process, which takes seconds to start: %s.", self.fault)
                    self.close()
                except ConnectionError:
                    connection.close()
            return None

    def close(self) -> None:
        """Ends the server, and after a grace every trial that is still its child."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connection:
    """One server process and what it has told."""

    def __init__(self, lock: threading.RLock, prepare: str) -> None:
        self.lock, self.lost = lock, False
        self._ended: dict[int, Exit] = {}
        self._started: list[int | None] = []
        self._faults: list[str | None] = []
        self._unread = b""
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _FORKING, str(theirs.fileno()), prepare],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**without_cluster(os.environ), **_OWN},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def fault(self) -> str | None:
        """Why nothing can be forked, known once everything is imported."""
        while not self._faults:
            self._hear(None)
        return self._faults[0]

    def fork(self, command: Command, pipe: int) -> int | None:
        """None where the system has no room for another process."""
        request = Request(
            module=command.module,
            words=command.words,
            variables=command.variables(os.environ),
            folder=str(command.working_folder.absolute()),
            console=str(command.console),
            threads=command.threads,
        ).as_bytes()
        sent = socket.send_fds(self._channel, [request], [pipe])
        self._channel.sendall(request[sent:])
        while not self._started:
            self._hear(None)
        return self._started.pop()

    def exit_of(self, pid: int) -> Exit | None:
        """Without a code when the server was lost, and with it the only one who could know."""
        try:
            self._hear(0.0)
        except ConnectionError:
            if pid not in self._ended:
                kill_group(pid, signal.SIGKILL)
                return Exit(None)
        return self._ended.pop(pid, None)

    def close(self) -> None:
        self.lost = True
        self._channel.close()
        self._process.wait()

    def _hear(self, seconds: float | None) -> None:
        """Take what the server says, waiting so long for it; ConnectionError when it is gone."""
        if self.lost:
            raise ConnectionError("the fork server is gone")
        while select.select([self._channel], [], [], seconds)[0]:
            heard = self._channel.recv(1 << 16)
            if not heard:
                self.close()
                raise ConnectionError("the fork server is gone")
            *lines, self._unread = (self._unread + heard).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            if seconds is None:
                return

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"fault": fault}:
                self._faults.append(fault)
            case {"started": pid}:
                self._started.append(pid)
            case {"ended": pid, **ended}:
                self._ended[pid] = Exit(**ended)


class ForkedProcess:
    """A child of the fork server, which sees it end."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection, self.pid = connection, pid
        self._exit: Exit | None = None

    def poll(self) -> Exit | None:
        if self._exit is None:
            with self._connection.lock:
                self._exit = self._connection.exit_of(self.pid)
        return self._exit
