"""The server is asked nonsense: it refuses each piece, stays alive, tells nothing of itself, and grows no larger."""

import http.client
import os
import re
import threading
from pathlib import Path

import pytest
from malformed import malformed_requests
from served import DETECTION, listening, picture, predictor, served

from lightning_automl_vision.serving.application import openapi_of

KEY = "0123456789abcdef0123456789abcdef"
TELLING = re.compile(r"Traceback|File \"|\.py\b|0x[0-9a-f]{6}|/root|/tmp|/home|/usr|site-packages|object at")


def check(request, status, text):
    """Refused, or answered where what is left is a picture after all."""
    allowed = status == 200 and request.is_picture
    assert allowed or 400 <= status < 500, (status, request, text)
    assert not TELLING.search(text), (request, text)


@pytest.mark.parametrize("task", ["image_classification", DETECTION])
def test_nonsense_is_refused(task, caplog):
    with served(predictor(task), keys=(KEY,)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        good = client.post("/score", content=picture()).json()
        document = client.get("/openapi.json").json()
        for request in malformed_requests(document, 350):
            response = client.request(request.method, request.place, content=request.body, headers=request.headers)
            check(request, response.status_code, response.text)
        client.put("/traffic", json={"default": 100})
        assert client.post("/score", content=picture()).json() == good
        assert "lav_requests_in_flight 0.0" in client.get("/metrics").text
    assert "failed." not in caplog.text


def memory():
    """Of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell a process's memory so")
def test_ten_thousand_pieces_of_nonsense_leave_the_memory_flat():
    """Over real connections, several at a time; memory counts from when everything was seen once."""
    with listening(predictor(DETECTION), keys=(KEY,)) as server:
        document = openapi_of(server.app)
        good = asked_well(server.port)
        ask_all(server.port, document, 2000, seed=1)
        before = memory()
        ask_all(server.port, document, 10_000, seed=2)
        assert memory() < before + 25
        assert (server.service.gate.inside, server.service.bodies.held) == (0, 0)
        assert asked_well(server.port) == good


def test_nonsense_is_the_same_for_the_same_seed():
    with listening(predictor(DETECTION)) as server:
        document = openapi_of(server.app)
    one, same, other = ([*malformed_requests(document, 140, seed=seed)] for seed in (1, 1, 2))
    assert one == same
    assert one != other


def asked_well(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("PUT", "/traffic", '{"default": 100}', {"Authorization": f"Bearer {KEY}"})
    assert connection.getresponse().read()
    connection.request("POST", "/score", picture(), {"Authorization": f"Bearer {KEY}"})
    response = connection.getresponse()
    assert response.status == 200
    answer = response.read()
    connection.close()
    return answer


def ask_all(port, document, count, seed, clients=4):
    failures = []

    def ask(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            for request in malformed_requests(document, count // clients, seed=seed * 100 + number):
                headers = {"Authorization": f"Bearer {KEY}", **request.headers}
                connection.request(request.method, request.place, request.body, headers)
                response = connection.getresponse()
                check(request, response.status, response.read().decode())
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
