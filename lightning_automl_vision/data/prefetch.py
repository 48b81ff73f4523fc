"""What will be asked for soon is fetched in threads; each content is held until it is taken, once."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

_THREADS = 8
_MOST_HELD = 256

Job = tuple[str, "Future[bytes]"]


class Prefetch:
    """``read`` runs in threads, which a process that was forked starts anew and none waits for when it ends."""

    def __init__(self, read: Callable[[str], bytes], *, threads: int = _THREADS, most_held: int = _MOST_HELD) -> None:
        self._read = read
        self._threads = threads
        self._most_held = most_held
        self._process = 0

    def ask(self, image: str) -> None:
        """What was asked for first, and never taken, is forgotten where there is too much."""
        self._start()
        if image in self._waiting:
            return
        future: Future[bytes] = Future()
        self._waiting[image] = future
        self._jobs.put((image, future))
        if len(self._waiting) > self._most_held:
            _, oldest = self._waiting.popitem(last=False)
            oldest.cancel()

    def take(self, image: str) -> bytes:
        """From the threads if they were asked, else read here; raises what reading raised."""
        future = self._waiting.pop(image, None) if self._process == os.getpid() else None
        return self._read(image) if future is None else future.result()

    def _start(self) -> None:
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self._waiting: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        for _ in range(self._threads):
            threading.Thread(target=self._work, args=(self._jobs,), daemon=True).start()

    def _work(self, jobs: SimpleQueue[Job]) -> None:
        while True:
            image, future = jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._read(image))
            except BaseException as error:  # whoever takes it gets to know
                future.set_exception(error)
