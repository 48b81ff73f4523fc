"""``lav`` as a person types it, without the seconds of its imports: forks of one process that has imported everything.

Where the environment is not the one that process began with, it is a new Python.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "lightning_automl_vision")


def lav(*words: object, cwd: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command said and its exit code."""
    said = [str(word) for word in words]
    if environment or _variables() != _server().variables:
        variables = {**os.environ, **environment}
        return subprocess.run([*COMMAND, *said], capture_output=True, text=True, cwd=cwd, env=variables, check=False)
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        code = _server().ask({"words": said, "folder": str(cwd), "out": str(out), "err": str(err)})
        return subprocess.CompletedProcess([*COMMAND, *said], code, out.read_text(), err.read_text())


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


class _Server:
    def __init__(self) -> None:
        self.variables = _variables()
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.variables
        )

    def ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@cache
def _server() -> _Server:
    """Of this test process; it ends with it, as its input does."""
    return _Server()


def _serve() -> None:
    """One command after the other, each in a fork, which has the exit code as Python gives it."""
    from lightning_automl_vision.search import forking

    forking.import_everything()
    del sys.path[0]  # the tests' folder, which a command does not have there
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            forking.leave(forking.ended(partial(_become, request)))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(request: dict[str, Any]) -> None:
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT, 0o666), number)
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])
    sys.argv = ["lightning_automl_vision", *request["words"]]
    runpy.run_module("lightning_automl_vision", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
