"""Requests a second, and how long they take: `lav serve` beside `mlflow models serve` and LitServe in the same run.

    python benchmarks/serving.py RUN [--clients 8] [--seconds 120] [--rounds 1] [--python PYTHON]

All three serve the same model folder by the same `lightning_automl_vision.load`, one thread for the network, to the
same clients with the same pictures (640 x 480 JPEG) on this machine. They are started together and asked in turn, so
that none is measured on another machine than the others; idle they take no time. `lav serve` and LitServe put pictures
of several requests together (as many at once, the same wait), MLflow has no such thing. LitServe and MLflow are left
out, and said to be, where PYTHON (by default this one) has not got them; PYTHON must have lightning_automl_vision too.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from serve_load import (
    Report,
    answers_at,
    documented,
    end_with_what_was_started,
    lav_serve,
    load_on,
    photos,
    process,
)

BATCH, WAIT_MS = 16, 5
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "LITSERVE_ENABLE_ANALYTICS": "0"}

LITSERVE = """
import base64, sys
import litserve
from lightning_automl_vision import load
from lightning_automl_vision.outlines import prediction_dict

class Model(litserve.LitAPI):
    def setup(self, device):
        import torch
        torch.set_num_threads(1)
        self.predictor = load(sys.argv[1])
    def decode_request(self, request):
        return self.predictor.picture(base64.b64decode(request["input_data"]["data"][0]))
    def batch(self, pictures):
        return pictures
    def predict(self, pictures):
        return self.predictor.answer(pictures)
    def unbatch(self, answers):
        return list(answers)
    def encode_response(self, answer):
        return [prediction_dict(answer)]

if __name__ == "__main__":
    api = Model(max_batch_size=int(sys.argv[3]), batch_timeout=float(sys.argv[4]), api_path="/score")
    litserve.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
"""
MLFLOW = """
import base64
import mlflow
from mlflow.models import set_model

class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import torch
        from lightning_automl_vision import load
        torch.set_num_threads(1)
        self.predictor = load(context.artifacts["run"])
    def predict(self, context, model_input, params=None):
        from lightning_automl_vision.outlines import prediction_dict
        pictures = [base64.b64decode(text) for text in model_input["image"]]
        return [prediction_dict(answer) for answer in self.predictor.predict(pictures)]

set_model(Model())
"""
SAVE = """
import sys, mlflow
mlflow.pyfunc.save_model("model", python_model="served.py", artifacts={"run": sys.argv[1]}, pip_requirements=["mlflow"])
"""


def environment(python: str) -> dict[str, str]:
    """MLflow looks for uvicorn's command on the path."""
    return {**ENVIRONMENT, "PATH": os.pathsep.join([str(Path(python).absolute().parent), os.environ.get("PATH", "")])}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that is ready, and how it is asked for one picture."""

    name: str
    port: int
    place: str
    body: Callable[[bytes], bytes]
    is_good: Callable[[bytes], bool]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def has(python: str, package: str) -> bool:
    return subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0


@contextmanager
def ours(run: str, folder: Path) -> Iterator[Served]:
    keys = (f"serve.batch_size={BATCH}", f"serve.batch_wait_ms={WAIT_MS}", "serve.threads=1")
    with lav_serve(run, folder, *keys) as port:
        yield Served(
            name="lav serve", port=port, place="/score", body=documented, is_good=lambda c: "error" not in c.decode()
        )


@contextmanager
def litserve(run: str, folder: Path, python: str) -> Iterator[Served]:
    (folder / "served.py").write_text(LITSERVE)
    port = free_port()
    command = [python, "served.py", run, str(port), str(BATCH), str(WAIT_MS / 1000)]
    with process(command, folder, environment(python)) as server:
        server.wait_for(lambda: answers_at(port, "/health"))
        yield Served(
            name="LitServe",
            port=port,
            place="/score",
            body=documented,
            is_good=lambda c: b"labels" in c or b"boxes" in c,
        )


@contextmanager
def mlflow(run: str, folder: Path, python: str) -> Iterator[Served]:
    (folder / "served.py").write_text(MLFLOW)
    subprocess.run(
        [python, "-c", SAVE, run],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, **environment(python)},
    )
    port = free_port()
    command = [python, "-m", "mlflow", "models", "serve", "-m", "model", "-p", str(port), "--env-manager", "local"]
    with process(command, folder, environment(python)) as server:
        server.wait_for(lambda: answers_at(port, "/ping"))
        yield Served(
            name="mlflow", port=port, place="/invocations", body=split_frame, is_good=lambda c: b"predictions" in c
        )


def split_frame(content: bytes) -> bytes:
    """What MLflow takes in place of the documented request."""
    frame = {"columns": ["image"], "data": [[base64.b64encode(content).decode()]]}
    return json.dumps({"dataframe_split": frame}).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--python", default=sys.executable)
    asked = parser.parse_args()
    end_with_what_was_started()
    run, python, pictures = str(Path(asked.run).absolute()), asked.python, photos()
    reports: dict[str, list[Report]] = {}
    with ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        servers = [stack.enter_context(ours(run, folder()))]
        for package, start in (("litserve", litserve), ("mlflow", mlflow)):
            if has(python, package):
                servers.append(stack.enter_context(start(run, folder(), python)))
                print(f"{servers[-1].name} is ready", flush=True)
            else:
                print(f"{package} is not installed for {python}: left out")
        for clients in sorted({1, asked.clients}):
            seconds = asked.seconds if clients == asked.clients else asked.seconds / 4
            for number in range(asked.rounds):
                for server in servers if number % 2 == 0 else servers[::-1]:
                    bodies = [server.body(picture) for picture in pictures]
                    load = {"place": server.place, "is_good": server.is_good, "clients": clients}
                    load_on(server.port, bodies, seconds=min(seconds / 4, 5), **load)
                    report = load_on(server.port, bodies, seconds=seconds, **load)
                    reports.setdefault(server.name, []).append(report)
                    print(f"{server.name:10} {clients} clients: {report}", flush=True)
                    if report.failures:
                        print(f"{server.name:10} the first failure: {report.failures[0]}")
    if any(report.failures for report in reports["lav serve"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
