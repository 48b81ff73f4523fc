"""Load on a server: clients that ask one after the other, for a while; every answer is looked at.

    python tests/serve_load.py RUN [--clients 8] [--seconds 120] [serve.KEY=VALUE ...]

Starts `lav serve RUN` on a free port of this machine, tells requests a second and how long they took, and how much
memory the server had; ends with 1 if a request failed.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

_JSON = {"Content-Type": "application/json"}
_START_SECONDS = 300


@dataclass
class Report:
    """What came of a load; ``seconds`` of each request that was answered."""

    elapsed: float = 0.0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share)) if self.seconds else float("nan")

    def __str__(self) -> str:
        times = ", ".join(f"p{share} {self.percentile(share) * 1000:.0f} ms" for share in (50, 95, 99))
        rate = len(self.seconds) / self.elapsed if self.elapsed else 0
        return f"{rate:.1f} requests/s, {times}, {len(self.seconds)} answered, {len(self.failures)} failed"


def photos(count: int = 16, size: tuple[int, int] = (480, 640)) -> list[bytes]:
    """Pictures that compress about as photographs do."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        coarse = random.integers(0, 255, (12, 16, 3)).astype(np.uint8)
        pixels = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float64)
        pixels += random.normal(0, 6, pixels.shape)
        made.append(cv2.imencode(".jpg", np.clip(pixels, 0, 255).astype(np.uint8))[1].tobytes())
    return made


def documented(content: bytes) -> bytes:
    """The documented request of one picture."""
    data = [base64.encodebytes(content).decode()]
    return json.dumps({"input_data": {"columns": ["image"], "data": data, "index": [0]}}).encode()


def is_answered(content: bytes) -> bool:
    answers = json.loads(content)
    return len(answers) == 1 and bool({"probs", "boxes"} & set(answers[0]))


def load_on(
    port: int,
    bodies: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    place: str = "/score",
    headers: Mapping[str, str] = _JSON,
    is_good: Callable[[bytes], bool] = is_answered,
) -> Report:
    """Each client has one connection and asks again as soon as it is answered."""
    report, lock = Report(), threading.Lock()
    started = time.monotonic()
    end = started + seconds

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while (begun := time.monotonic()) < end:
            try:
                connection.request("POST", place, bodies[number % len(bodies)], dict(headers))
                response = connection.getresponse()
                content = response.read()
                failure = (
                    None if response.status == 200 and is_good(content) else f"{response.status} {content[:200]!r}"
                )
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = repr(error)
                connection.close()
            with lock:
                if failure is None:
                    report.seconds.append(time.monotonic() - begun)
                else:
                    report.failures.append(failure)
            number += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.elapsed = time.monotonic() - started
    return report


def answers_at(port: int, place: str) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", place)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Started:
    """A server's process, and the file of what it says."""

    running: subprocess.Popen[bytes]
    file: Path

    @property
    def said(self) -> str:
        return self.file.read_text()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """SystemExit with what it said where it ends before, or takes too long."""
        end = time.monotonic() + _START_SECONDS
        while not condition():
            if self.running.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"The server did not start:\n{self.said[-2000:]}")
            time.sleep(0.2)


@contextmanager
def process(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Started]:
    """A process with its children, ended when it is no longer needed."""
    said = folder / "said.txt"
    with said.open("w") as file:
        running = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield Started(running, said)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@contextmanager
def lav_serve(run: str, folder: Path, *keys: str) -> Iterator[int]:
    """The port of a server that is ready."""
    command = [
        sys.executable,
        "-m",
        "lightning_automl_vision",
        "serve",
        str(Path(run).absolute()),
        "serve.port=0",
        *keys,
    ]
    with process(command, folder) as server:
        server.wait_for(lambda: "http://" in server.said)
        found = re.search(r"http://127\.0\.0\.1:(\d+): ", server.said)
        assert found is not None
        port = int(found[1])
        server.wait_for(lambda: answers_at(port, "/health/ready"))
        yield port


def end_with_what_was_started() -> None:
    """A request to end this process ends the servers too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def memory_of(port: int) -> float:
    """Of a `lav serve`, in megabytes, as its metrics tell."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    found = re.search(r"process_resident_memory_bytes ([\d.e+]+)", connection.getresponse().read().decode())
    connection.close()
    return float(found[1]) / 1e6 if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run, or a model folder")
    parser.add_argument("keys", nargs="*", help="serve.KEY=VALUE")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    asked = parser.parse_intermixed_args()
    end_with_what_was_started()
    bodies = [documented(photo) for photo in photos()]
    with tempfile.TemporaryDirectory() as folder, lav_serve(asked.run, Path(folder), *asked.keys) as port:
        load_on(port, bodies, clients=asked.clients, seconds=min(asked.seconds, 5))  # to warm up
        before = memory_of(port)
        report = load_on(port, bodies, clients=asked.clients, seconds=asked.seconds)
        print(f"{asked.clients} clients, {report.elapsed:.0f} s: {report}")
        print(f"memory of the server: {before:.0f} MB before, {memory_of(port):.0f} MB after")
    if report.failures:
        raise SystemExit(f"The first failure: {report.failures[0]}")


if __name__ == "__main__":
    main()
