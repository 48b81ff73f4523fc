"""The process: a socket, the signals that end it, and what is left to do before it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import uvicorn

from lightning_automl_vision.errors import ConfigError, Interrupted
from lightning_automl_vision.jobs.serve import ServeConfig
from lightning_automl_vision.log import LOG
from lightning_automl_vision.predictor import load
from lightning_automl_vision.serving.access import Access, access_of
from lightning_automl_vision.serving.application import application
from lightning_automl_vision.serving.service import Service

_BACKLOG = 1024
_LAST_WORDS = 2  # seconds for connections that are idle or slow to read their answer
_HERE = ("127.0.0.1", "localhost", "::1")


def run_server(
    folders: Mapping[str, str], traffic: Mapping[str, float], config: ServeConfig, *, threads: int, accelerator: str
) -> None:
    """Until SIGTERM or Ctrl-C; raises what kept a model from being loaded."""
    access = access_of(config)
    if not access.is_guarded and config.host not in _HERE:
        LOG.warning("serve.host=%s: whoever reaches it may ask. serve.auth_mode=key lets only some.", config.host)
    with listening(config.host, config.port) as listener:
        loaders = {name: partial(load, folder, accelerator=accelerator) for name, folder in folders.items()}
        service = Service(loaders, traffic, config, threads)
        server = Server(service, access)
        host = f"[{config.host}]" if ":" in config.host else config.host
        LOG.info("http://%s:%d: %s", host, listener.getsockname()[1], _told(folders, traffic))
        if not any(traffic.values()):
            LOG.warning("All shares are 0: a request that names no deployment gets 503. Give one serve.traffic.")
        asyncio.run(server.serve(sockets=[listener]))
    if server.failure is not None:
        raise server.failure
    if service.gate.inside or not service.is_loaded:
        LOG.warning("Ended at once; %d requests were given up.", service.gate.inside)
        os._exit(
            Interrupted.exit_code if server.force_exit else 0
        )  # a network that does not come back is not waited for


def _told(folders: Mapping[str, str], traffic: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({traffic[name]:g} %) {folder}" for name, folder in folders.items())


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Taken before a model is loaded, so that a port that is in use is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"serve.host={host}: {error.strerror}. Name an address of this machine.") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)  # who comes before the first answer can be given waits for it
        except OSError as error:
            raise ConfigError(
                f"serve.host={host} serve.port={port}: {error.strerror}. Choose another, or 0 for a free port."
            ) from None
        yield listener


class Server(uvicorn.Server):
    """Ends when what is in flight is answered; a second request to end does not wait for that."""

    def __init__(self, service: Service, access: Access) -> None:
        self._service = service
        self._draining: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        logging.getLogger("uvicorn").parent = LOG  # it says what there is to say as this program does
        super().__init__(
            uvicorn.Config(
                application(service, access, self._failed),
                http="h11",
                ws="none",
                lifespan="on",
                backlog=_BACKLOG,
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_WORDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._asked_to_end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _asked_to_end(self) -> None:
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off is no news
            return
        LOG.info("Asked to end; %d requests are in flight.", self._service.gate.inside)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True

    def _failed(self, error: Exception) -> None:
        self.failure = error
        self.should_exit = True
