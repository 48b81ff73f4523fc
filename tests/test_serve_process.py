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
            until_true(lambda: "http://" in self.said or self.process.poll() is not None, 120)
            self.port = int(re.search(r"http://127.0.0.1:(\d+): ", self.said)[1])
            until_true(lambda: self.get("/health/ready")[0] == 200, 120)
        except BaseException:
            self.process.kill()
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
    process.process.kill()
    process.process.wait()


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
    assert re.fullmatch(
        r"http://127.0.0.1:\d+: blue \(100 %\) classifier, green \(0 %\) detector\nReady\.\n", server.said
    )


def test_in_flight_requests_are_answered_before_the_process_ends_with_0(folder):
    process = Process(folder, "detector", "serve.batch_size=1", "serve.request_timeout_ms=90000")
    answers = []

    def ask():
        answers.append(process.ask("POST", "/score", json.dumps(document(*[picture()] * 10))))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)

    def in_flight():
        connection.request("GET", "/metrics")
        return b"lav_requests_in_flight 3.0" in connection.getresponse().read()

    try:
        until_true(in_flight)
    finally:
        assert process.end() == 0
        connection.close()
    for thread in asking:
        thread.join(60)
    assert [status for status, _ in answers] == [200] * 3
    assert all(len(boxes) == 10 for _, boxes in answers)
    assert "Asked to end; 3 requests are in flight." in process.said
    assert "Traceback" not in process.said


def lav(*arguments, cwd, **environment):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["gone"], "gone holds no model"),
        (["serve.deployments={blue: classifier}", "serve.traffic={blue: 101}"], "blue must be in [0, 100]"),
        (["classifier", "serve.prot=81"], "Did you mean 'job.serve.port'?"),
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
