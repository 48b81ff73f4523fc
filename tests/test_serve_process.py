"""``lav serve`` by its command line: a process on a port of its own, the models of real folders, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from served import DETECTION, document, picture, until_true
from test_predict import save

from lightning_automl_vision.api import settings as composed
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.jobs import serve as verb
from lightning_automl_vision.outlines import prediction_dict
from lightning_automl_vision.predictor import load

COMMAND = [sys.executable, "-m", "lightning_automl_vision", "serve"]
KEY = "0123456789abcdef0123456789abcdef"


class Process:
    """A server that was started by its command line, and what it says."""

    def __init__(self, folder, *arguments, **environment):
        self.log = folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments, "serve.port=0"],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        try:
            until_true(lambda: "http://" in self.said or self.process.poll() is not None, 300)
            self.port = int(re.search(r"http://127.0.0.1:(\d+): ", self.said)[1])
            until_true(lambda: self.get("/health/ready")[0] == 200, 300)
        except BaseException:
            self.kill()
            raise AssertionError(self.said) from None

    @property
    def said(self):
        return self.log.read_text()

    def ask(self, method, place, body=None, headers=None, **options):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, place, body, headers or {}, **options)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def get(self, place, **options):
        return self.ask("GET", place, **options)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    save(folder / "classifier", "timm", "image_classification", architecture="test_vit3")
    detector = {"min_size": 64, "max_size": 96, "box_score_threshold": 0.0, "box_detections_per_image": 5}
    save(folder / "detector", "fasterrcnn_resnet18_fpn", DETECTION, **detector)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    deployments = "serve.deployments={blue: classifier, green: detector}"
    process = Process(folder, deployments, "serve.traffic={blue: 100}", "serve.auth_mode=key", LAV_SERVE_KEY=KEY)
    yield process
    process.kill()


BEARER = {"Authorization": f"Bearer {KEY}"}


def photographs():
    random = np.random.default_rng(0)
    for suffix in (".png", ".jpg"):
        yield cv2.imencode(suffix, random.integers(0, 255, (90, 130, 3)).astype(np.uint8))[1].tobytes()


@pytest.mark.parametrize("name", ["blue", "green"])
def test_the_server_answers_as_the_model_itself(server, folder, name):
    predictor = load(folder / {"blue": "classifier", "green": "detector"}[name])
    contents = list(photographs())
    headers = {**BEARER, "azureml-model-deployment": name, "Content-Type": "application/json"}
    status, answers = server.ask("POST", "/score", json.dumps(document(*contents)), headers)
    assert status == 200
    for answer, prediction in zip(answers, predictor.predict(contents, batch_size=1), strict=True):
        expected = prediction_dict(prediction)
        assert flat(answer) == pytest.approx(flat(expected), abs=1e-5)
        assert [box["label"] for box in answer.get("boxes", ())] == [box["label"] for box in expected.get("boxes", ())]
    assert "boxes" in answers[0] or name == "blue"


def flat(answer):
    if "probs" in answer:
        return answer["probs"]
    return [number for box in answer["boxes"] for number in (*box["box"].values(), box["score"])]


def test_the_command_line_says_where_and_nothing_secret(server):
    server.ask("POST", "/score", picture(), BEARER)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"no HTTP\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert re.fullmatch(
        r"http://127.0.0.1:\d+: blue \(100 %\) classifier, green \(0 %\) detector\nReady\.\n"
        r"Invalid HTTP request received\.\n",
        server.said,
    )


def test_traffic_and_keys_from_outside(server):
    def change(traffic):
        return server.ask("PUT", "/traffic", json.dumps(traffic), BEARER)

    assert server.ask("POST", "/score", picture())[0] == 401
    status, answer = change({"blue": 60, "green": 41})
    assert (status, answer["error"][:24]) == (400, "Traffic stays as it is: ")
    status, told = change({"blue": 60, "green": 20})
    assert (status, [(one["name"], one["traffic"]) for one in told]) == (200, [("blue", 60), ("green", 20)])
    answers = [server.ask("POST", "/score", picture(), BEARER) for _ in range(8)]
    assert {status for status, _ in answers} == {200}
    assert sum("boxes" in answer[0] for _, answer in answers) == 2
    assert change({"blue": 100})[0] == 200
    answers = [server.ask("POST", "/score", picture(), BEARER)[1] for _ in range(4)]
    assert all("probs" in answer[0] for answer in answers)


class Asking:
    """Requests of many pictures at the same time, each with its status and answer in the end."""

    def __init__(self, process, requests, pictures=12):
        body = json.dumps(document(*[picture()] * pictures))
        self.answers = []
        self._threads = [threading.Thread(target=self._ask, args=(process, body)) for _ in range(requests)]
        for thread in self._threads:
            thread.start()
        until_true(lambda: f"lav_requests_in_flight {requests}.0" in metrics(process) or self.answers)

    def _ask(self, process, body):
        self.answers.append(process.ask("POST", "/score", body))

    def ended(self):
        for thread in self._threads:
            thread.join(60)
        return self.answers


def metrics(process):
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_in_flight_requests_are_answered_and_nothing_new_before_the_process_ends_with_0(folder):
    process = Process(folder, "detector", "serve.batch_size=1", "serve.request_timeout_ms=90000")
    try:
        asking = Asking(process, requests=3)
        process.process.send_signal(signal.SIGTERM)
        until_true(lambda: process.get("/health/ready")[0] == 503)
        refused = process.ask("POST", "/score", picture())
        assert process.process.wait(60) == 0
    finally:
        process.kill()
    assert refused == (503, {"error": "The server is ending. Ask another."})
    assert [status for status, _ in asking.ended()] == [200] * 3
    assert all(len(boxes) == 12 for _, boxes in asking.answers)
    assert "Asked to end; 3 requests are in flight." in process.said
    assert "Traceback" not in process.said


def test_what_is_too_much_or_takes_too_long_is_told_and_the_server_goes_on(folder):
    limits = ["serve.concurrency=1", "serve.queue_size=1", "serve.request_timeout_ms=500"]
    process = Process(folder, "detector", *limits)
    try:
        asking = Asking(process, requests=2, pictures=64)
        assert process.ask("POST", "/score", picture()) == (
            429,
            {"error": "Too many requests wait already. Try again."},
        )
        late = (504, {"error": "The request took longer than it may."})
        assert late in asking.ended()
        until_true(lambda: "lav_requests_in_flight 0.0" in metrics(process))
        codes = [429, *(code for code, _ in asking.answers)]
        until_true(lambda: codes.append(process.ask("POST", "/score", picture())[0]) or codes[-1] == 200)
        assert f'lav_requests_total{{code="429",deployment="default"}} {float(codes.count(429))}' in metrics(process)
        assert process.end() == 0
    finally:
        process.kill()


def test_a_server_that_gives_nobody_a_share_says_so(folder):
    process = Process(folder, "serve.deployments={blue: classifier}")
    try:
        assert "All shares are 0: a request that names no deployment gets 503. Give one serve.traffic" in process.said
        assert process.ask("POST", "/score", picture())[0] == 503
    finally:
        process.kill()


def lav(*arguments, cwd, **environment):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["gone"], "gone holds no model"),
        (["serve.deployments={blue: classifier}", "serve.traffic={blue: 101}"], "blue must be in [0, 100]"),
        (["classifier", "serve.prot=81"], "Did you mean 'serve.port'?"),
        (["classifier", "serve.request_timeout_ms=90001"], "must be in [1, 90000]"),
    ],
)
def test_a_wrong_command_line_is_one_line(folder, arguments, answer):
    process = lav(*arguments, cwd=folder, LAV_SERVE_KEY="")
    assert process.returncode == 2, process.stderr
    assert answer in process.stderr
    assert process.stderr.startswith("Error: ")
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "keys", "answer"),
    [
        ({}, {}, "checkpoint is not given"),
        ({"runs": "[classifier, detector]"}, {}, "tells several models apart by name"),
        ({"checkpoint": "classifier"}, {"deployments": {"blue": "detector"}}, "Leave one of them out"),
        ({"checkpoint": "classifier"}, {"traffic": {"default": 50}}, "there is one model, which takes all of it"),
        ({}, {"deployments": {"blue": "classifier", "green": "gone"}}, "gone holds no model"),
        ({}, {"deployments": {"blue/2": "classifier"}}, "'blue/2' is no name for a deployment"),
        ({}, {"deployments": {2: "classifier"}}, "2 is no name for a deployment"),
        ({}, {"deployments": {"blue": 3}}, "blue is 3. Name a run's folder"),
        ({}, {"deployments": "classifier"}, "write '{blue: RUN1, green: RUN2}'"),
        ({}, {"deployments": {}}, "write '{blue: RUN1, green: RUN2}'"),
        ({}, {"deployments": {"blue": "classifier"}, "traffic": {"red": 1}}, "no deployment 'red', only blue"),
        ({}, {"deployments": {"blue": "classifier"}, "traffic": 5}, "percentages by name are expected"),
        ({"checkpoint": "classifier"}, {"auth_mode": "password"}, "must be one of none, key"),
        ({"checkpoint": "classifier"}, {"auth_mode": "key"}, "there is no key in the environment variable"),
        ({"checkpoint": "classifier"}, {"key_file": "gone"}, "Add serve.auth_mode=key"),
        ({"checkpoint": "classifier"}, {"host": "no.such.host.invalid"}, "serve.host=no.such.host.invalid: "),
        ({"checkpoint": "classifier", "training": {"number_of_epochs": 3}}, {}, "lav serve has no use for it"),
    ],
)
def test_what_cannot_be_served_is_refused(folder, asked, keys, answer, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LAV_SERVE_KEY", raising=False)
    with pytest.raises(ConfigError) as refused:
        verb.run(composed(**asked, job={"name": "serve", "serve": keys}))
    assert answer in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_port_that_is_taken_is_told_at_once(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = lav("classifier", f"serve.port={port}", cwd=folder)
    assert process.returncode == 2
    assert f"serve.port={port}: Address already in use. Choose another, or 0 for a free port." in process.stderr


def test_weights_that_are_missing_end_the_server_with_their_error(tmp_path):
    save(tmp_path / "broken", "timm", "image_classification", architecture="test_vit3")
    (tmp_path / "broken" / "model" / "weights.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"weights\.safetensors is missing"):
        verb.run(composed(checkpoint=str(tmp_path / "broken"), job={"name": "serve", "serve": {"port": 0}}))


def test_the_server_itself_imports_no_torch():
    code = (
        "import sys, lightning_automl_vision.serving.server\n"
        "heavy = [name for name in ('torch', 'lightning', 'timm', 'torchvision') if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_without_the_packages_of_the_extra_it_says_how_to_install_them(folder, tmp_path):
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('No module', name='fastapi')")
    process = lav("classifier", cwd=folder, PYTHONPATH=str(tmp_path))
    assert process.returncode == 2
    assert "fastapi is not installed. Install it: pip install 'lightning-automl-vision[serve]'." in process.stderr
