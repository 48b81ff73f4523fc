"""Who may ask the server, how much at a time, which model answers, and how it ends."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from served import (
    DEPLOYMENT,
    DETECTION,
    document,
    error_of,
    picture,
    predictor,
    scores_of,
    served,
    until_true,
)

from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.jobs.serve import KEY_VARIABLE, ServeConfig, traffic_fault
from lightning_automl_vision.serving.access import access_of
from lightning_automl_vision.serving.traffic import Traffic

KEY = "0123456789abcdef0123456789abcdef"
GUARDED = [
    ("POST", "/score"),
    ("GET", "/deployments"),
    ("PUT", "/traffic"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]


class Held:
    """A network that answers when it is released, and remembers how many pictures it saw at a time."""

    def __init__(self):
        self.begun, self.released, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, pictures):
        if any(pixels.any() for pixels in pictures):  # not the warming up
            self.batches.append(len(pictures))
            self.begun.set()
            self.released.wait(60)
        return scores_of(pictures)


@pytest.fixture
def held():
    network = Held()
    yield network
    network.released.set()


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded():
    with served(keys=(KEY, "another-key-that-is-good")) as client:
        yield client


@pytest.mark.parametrize(("method", "place"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), bearer(""), bearer(KEY[:-1]), {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}],
)
def test_without_a_good_key_there_is_no_answer(guarded, method, place, headers):
    response = guarded.request(method, place, headers=headers)
    assert error_of(response, 401) == "A key is needed: send the header Authorization: Bearer KEY."
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [KEY, "another-key-that-is-good"])
def test_each_good_key_opens(guarded, key):
    assert guarded.post("/score", content=picture(), headers=bearer(key)).status_code == 200


def test_a_header_of_any_bytes_is_only_a_wrong_key(guarded):
    assert guarded.get("/metrics", headers={"Authorization": b"Bearer \xff\xfe"}).status_code == 401


@pytest.mark.parametrize("place", ["/", "/page.js", "/health/live", "/health/ready"])
def test_probes_and_the_page_need_no_key(guarded, place):
    assert guarded.get(place).status_code == 200


def test_keys_are_read_from_a_file_or_else_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    access_of(ServeConfig(auth_mode="key")).check({"authorization": f"bearer {KEY}"})
    file = tmp_path / "key"
    file.write_text(f"first-key-of-the-file\n{'second' * 4}\n")
    access = access_of(ServeConfig(auth_mode="key", key_file=str(file)))
    access.check({"authorization": f"Bearer {'second' * 4}"})
    with pytest.raises(Exception, match="A key is needed"):
        access.check(bearer(KEY))


@pytest.mark.parametrize("content", [None, "", "short", "with späces and ümlauts there"])
def test_keys_that_are_no_good_are_refused_and_not_shown(content, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        access_of(ServeConfig(auth_mode="key", key_file=str(file)))
    assert str(file) in str(refused.value)
    assert not content or content not in str(refused.value)
    with pytest.raises(ConfigError, match=f"there is no key in the environment variable {KEY_VARIABLE}"):
        access_of(ServeConfig(auth_mode="key"))


def test_traffic_is_dealt_exactly():
    traffic = Traffic({"blue": 90, "green": 10, "red": 0})
    dealt = [traffic.next() for _ in range(1000)]
    assert Counter(dealt) == {"blue": 900, "green": 100}
    assert all(Counter(dealt[start : start + 10])["green"] == 1 for start in range(0, 1000, 10))
    traffic.change({"blue": 20, "red": 20})
    assert Counter(traffic.next() for _ in range(100)) == {"blue": 50, "red": 50}


@pytest.mark.parametrize(
    ("traffic", "reason"),
    [
        ({"blue": 60, "green": 41}, "that is 101 % in all"),
        ({"blue": -1}, "blue must be in [0, 100]"),
        ({"blue": True}, "blue must be in [0, 100]"),
        ({"blue": "all"}, "blue must be in [0, 100]"),
        ({"blue": float("nan")}, "blue must be in [0, 100]"),
        ({"red": 1}, "there is no deployment 'red', only blue, green"),
        ([90, 10], "percentages by name are expected"),
    ],
)
def test_traffic_that_cannot_be_is_refused(traffic, reason):
    assert reason in traffic_fault(traffic, {"blue": 1, "green": 2})


@pytest.fixture(scope="module")
def two():
    models = {"blue": predictor(), "green": predictor(DETECTION)}
    with served(models, traffic={"blue": 75, "green": 0}, keys=(KEY,)) as client:
        client.headers.update(bearer(KEY))
        client.put("/traffic", json={"blue": 75})
        yield client


def test_a_new_deployment_takes_no_requests_but_those_that_name_it(two):
    two.put("/traffic", json={"blue": 75})
    answers = [two.post("/score", content=picture()) for _ in range(8)]
    assert {answer.headers[DEPLOYMENT] for answer in answers} == {"blue"}
    named = two.post("/score", content=picture(), headers={DEPLOYMENT: "green"})
    assert named.headers[DEPLOYMENT] == "green"
    assert "boxes" in named.json()[0]
    answer = error_of(two.post("/score", content=picture(), headers={DEPLOYMENT: "../red"}), 404)
    assert answer == "There is no deployment '../red', only blue, green."


def test_traffic_changes_while_the_server_runs(two):
    changed = two.put("/traffic", json={"blue": 25, "green": 75}).json()
    assert [(one["name"], one["traffic"]) for one in changed] == [("blue", 25), ("green", 75)]
    names = [two.post("/score", content=picture()).headers[DEPLOYMENT] for _ in range(8)]
    assert Counter(names) == {"blue": 2, "green": 6}
    assert error_of(two.put("/traffic", json={"blue": 60, "green": 60}), 400).startswith("Traffic stays as it is")
    assert two.get("/deployments").json() == changed


def test_where_no_deployment_takes_requests_one_has_to_be_named(two):
    two.put("/traffic", json={})
    reason = error_of(two.post("/score", content=picture()), 503)
    assert reason == "No deployment takes requests. Name one in the header azureml-model-deployment: blue, green."
    assert two.post("/score", content=picture(), headers={DEPLOYMENT: "blue"}).status_code == 200


def test_traffic_is_not_changed_without_a_key():
    with served() as client:
        assert "serve.auth_mode=key" in error_of(client.put("/traffic", json={"default": 0}), 403)


def test_deployments_tell_what_a_client_needs(two):
    blue, green = two.get("/deployments").json()
    assert blue == {
        "name": "blue",
        "traffic": blue["traffic"],
        "ready": True,
        "task": "image_classification",
        "model": "bright",
        "labels": ["dark", "bright"],
    }
    assert green["task"] == DETECTION


def test_pictures_of_several_requests_are_seen_at_once(held):
    with served(predictor(network=held), batch_size=4, batch_wait_ms=1000) as client, ThreadPoolExecutor(9) as threads:
        first = threads.submit(client.post, "/score", content=picture())
        assert held.begun.wait(60)
        others = [threads.submit(client.post, "/score", content=picture()) for _ in range(8)]
        until_true(lambda: b'lav_queue_length{deployment="default"} 8.0' in client.get("/metrics").content)
        held.released.set()
        answers = [one.result() for one in (first, *others)]
    assert {answer.status_code for answer in answers} == {200}
    assert held.batches == [1, 4, 4]


def test_a_lone_picture_does_not_wait_for_others():
    with served(batch_size=16, batch_wait_ms=1000) as client:
        started = time.monotonic()
        for _ in range(3):
            client.post("/score", content=picture())
        assert time.monotonic() - started < 2.5


def test_answers_do_not_depend_on_who_else_asks():
    pictures = [picture((0, 0, 1 + number, 1 + number)) for number in range(30)]
    with served(batch_size=8, batch_wait_ms=20) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda content: client.post("/score", content=content).json(), pictures))
        several = client.post("/score", json=document(*pictures)).json()
    assert [answer[0]["probs"][1] for answer in answers] == pytest.approx([(n + 1) ** 2 / 19200 for n in range(30)])
    assert several == [answer for (answer,) in answers]


def test_more_requests_than_may_wait_are_sent_away(held):
    with (
        served(predictor(network=held), concurrency=1, queue_size=1) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        asked = [threads.submit(client.post, "/score", content=picture()) for _ in range(2)]
        until_true(lambda: client.service.gate.inside == 2)
        refused = client.post("/score", content=picture())
        assert error_of(refused, 429) == "Too many requests wait already. Try again."
        assert refused.headers["Retry-After"] == "1"
        assert client.get("/health/ready").status_code == 200
        held.released.set()
        assert [one.result().status_code for one in asked] == [200, 200]
        assert 'lav_requests_total{code="429",deployment="default"} 1.0' in client.get("/metrics").text
        until_true(lambda: client.service.gate.inside == 0)
        assert client.post("/score", content=picture()).status_code == 200


def test_bodies_together_fill_no_more_memory_than_they_may():
    with served(body_megabytes=0.1) as client:
        bodies = client.service.bodies
        others = bodies.share()
        others.take(8 * 100_000 - 100)
        refused = client.post("/score", content=picture())
        assert error_of(refused, 503) == "Other requests fill the server's memory. Try again."
        assert refused.headers["Retry-After"] == "1"
        others.give_back()
        for content, status in ((picture(), 200), (b"nothing", 400), (bytes(100_001), 413), (b"", 400)):
            assert client.post("/score", content=content).status_code == status
            until_true(lambda: bodies.held == 0)


def test_a_model_that_leaves_pictures_out_fails_and_stops_no_other():
    def forgetful(pictures):
        return [] if pictures[0].any() else scores_of(pictures)

    with served({"blue": predictor(network=forgetful), "green": predictor()}, traffic={"blue": 100}) as client:
        for _ in range(2):
            assert error_of(client.post("/score", content=picture()), 500).startswith("The model failed on the picture")
        assert client.post("/score", content=picture(), headers={DEPLOYMENT: "green"}).status_code == 200


def test_a_request_that_takes_too_long_is_told_so_and_counts_until_its_work_ends(held):
    with served(predictor(network=held), request_timeout_ms=300) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.post, "/score", content=picture())
        held.begun.wait(60)
        late = client.post("/score", content=picture())  # whose turn never comes
        assert error_of(first.result(), 504) == error_of(late, 504) == "The request took longer than it may."
        assert client.service.gate.inside == 2
        held.released.set()
        until_true(lambda: client.service.gate.inside == 0)
        assert held.batches == [1]


def test_a_picture_that_breaks_the_network_breaks_no_other_answer(caplog):
    def fragile(pictures):
        if any(pixels.max() == 7 for pixels in pictures):
            raise RuntimeError("/secret/path of the server")
        return scores_of(pictures)

    broken = cv2.imencode(".png", np.full((120, 160, 3), 7, np.uint8))[1].tobytes()
    with (
        served(predictor(network=fragile), batch_size=4, batch_wait_ms=500) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        answers = list(
            threads.map(lambda c: client.post("/score", content=c), [picture(), broken, picture(), picture()])
        )
        assert error_of(answers[1], 500) == "The model failed on the picture. The server's log says why."
        assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
        metrics = client.get("/metrics").text
    assert 'lav_requests_total{code="500",deployment="default"} 1.0' in metrics


def test_until_its_models_are_loaded_a_server_is_live_and_not_ready():
    begin = threading.Event()

    def load():
        begin.wait(60)
        return predictor()

    with served(load, ready=False) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        for response in (client.get("/health/ready"), client.post("/score", content=picture())):
            assert error_of(response, 503) == "The model is being loaded. Try again."
            assert response.headers["Retry-After"] == "5"
        assert client.get("/deployments").json() == [{"name": "default", "traffic": 100, "ready": False}]
        begin.set()
        until_true(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/score", content=picture()).status_code == 200


def test_a_model_that_cannot_be_loaded_ends_the_server():
    def load():
        raise WeightsError("weights.safetensors is missing.")

    with served(load, ready=False) as client:
        until_true(lambda: client.failures)
        assert isinstance(client.failures[0], WeightsError)
        assert client.get("/health/ready").status_code == 503


def test_a_server_that_ends_answers_what_is_in_flight_and_nothing_new(held):
    with served(predictor(network=held)) as client, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.post, "/score", content=picture())
        held.begun.wait(60)
        draining = client.portal.start_task_soon(client.service.drain)
        until_true(lambda: client.service.refuses)
        for response in (client.get("/health/ready"), client.post("/score", content=picture())):
            assert error_of(response, 503) == "The server is ending. Ask another."
        assert client.get("/health/live").status_code == 200
        assert "lav_ready 0.0" in client.get("/metrics").text
        assert not draining.done()
        held.released.set()
        assert asked.result().status_code == 200
        draining.result(60)


def test_a_load_balancer_has_time_to_take_notice():
    with served(drain_wait_ms=60_000) as client:
        draining = client.portal.start_task_soon(client.service.drain)
        until_true(lambda: client.get("/health/ready").status_code == 503)
        assert client.post("/score", content=picture()).status_code == 200
        draining.cancel()


def test_metrics_tell_what_prometheus_reads():
    with served() as client:
        client.post("/score", json=document(picture(), b"nothing"))
        client.post("/score", content=b"nothing")
        client.post("/score", content=picture(), headers={DEPLOYMENT: "other"})
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'lav_requests_total{code="200",deployment="default"} 1.0',
        'lav_requests_total{code="400",deployment="default"} 1.0',
        'lav_requests_total{code="404",deployment="none"} 1.0',
        'lav_images_total{deployment="default",outcome="answered"} 1.0',
        'lav_images_total{deployment="default",outcome="fault"} 2.0',
        'lav_request_seconds_count{deployment="default"} 2.0',
        'lav_batch_size_sum{deployment="default"} 1.0',
        'lav_queue_length{deployment="default"} 0.0',
        "lav_requests_in_flight 0.0",
        "lav_ready 1.0",
        "process_resident_memory_bytes",
    ):
        assert line in response.text, line


def test_openapi_describes_every_route(guarded):
    document = guarded.get("/openapi.json", headers=bearer(KEY)).json()
    assert {(method, place) for place, ways in document["paths"].items() for method in ways} == {
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("post", "/score"),
        ("get", "/deployments"),
        ("put", "/traffic"),
        ("get", "/metrics"),
    }
    score = document["paths"]["/score"]["post"]
    assert set(score["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
        "image/*",
        "application/octet-stream",
    }
    assert set(score["responses"]) == {"200", "400", "401", "404", "408", "413", "415", "429", "503", "504"}
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}


@pytest.mark.parametrize("place", ["/nothing", "/score/", "/..%2f..%2fetc/passwd", "/page.js/x", "/docs", "/redoc"])
def test_there_is_nothing_but_what_is_described(guarded, place):
    assert error_of(guarded.get(place), 404) == "There is no such page."


def test_every_answer_is_guarded(guarded):
    for place in ("/", "/page.js", "/health/ready", "/nothing", "/metrics"):
        headers = guarded.get(place).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert error_of(guarded.get("/score"), 405) == "This page is not asked that way."


def test_keys_do_not_come_into_the_log(caplog, tmp_path):
    def breaks(pictures):
        if pictures[0].any():
            raise RuntimeError("broken")
        return scores_of(pictures)

    with caplog.at_level("DEBUG"), served(predictor(network=breaks), keys=(KEY,)) as client:
        client.post("/score", content=picture(), headers=bearer(KEY))
        client.put("/traffic", json={"default": 50}, headers=bearer(KEY))
        client.get("/metrics", headers=bearer(KEY))
    assert "broken" in caplog.text
    assert KEY not in caplog.text
    assert json.dumps({"default": 50.0}).strip("{}").replace('"', "'") in caplog.text
