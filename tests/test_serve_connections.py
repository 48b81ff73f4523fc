"""What happens on the wire before there is a request: bodies in pieces, or too long, or late; and what is not HTTP."""

import http.client
import json
import re
import socket

import pytest
from served import listening, picture, until_true

KEY = "0123456789abcdef0123456789abcdef"
BEARER = {"Authorization": f"Bearer {KEY}"}
HEAD = f"POST /score HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n".encode()


@pytest.fixture(scope="module")
def server():
    with listening(keys=(KEY,), body_megabytes=1, request_timeout_ms=30_000) as server:
        yield server


def ask(server, body, **options):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", "/score", body, BEARER, **options)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_body_comes_in_pieces(server):
    content = picture()
    pieces = (content[start : start + 7] for start in range(0, len(content), 7))
    status, answer = ask(server, pieces, encode_chunked=True)
    assert (status, answer[0]["labels"]) == (200, ["dark", "bright"])


def test_a_body_in_pieces_is_cut_off(server):
    refused = ask(server, (bytes(100_000) for _ in range(15)), encode_chunked=True)
    assert refused == (413, {"error": "The body is too long: 1000000 bytes are the most."})


def test_a_body_that_is_announced_too_long_is_not_waited_for(server):
    assert server.raw(HEAD + b"Content-Length: 99999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_a_body_without_end_is_cut_off(server):
    piece = b"186a0\r\n" + bytes(100_000) + b"\r\n"
    try:
        answer = server.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 30)
    except (ConnectionResetError, BrokenPipeError):
        return
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_wrong_key_is_told_before_the_body_is_sent(server):
    assert server.raw(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n").startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(("key", "status"), [(KEY, 413), ("wrong", 401)])
def test_a_refusal_reaches_who_looks_for_it_when_all_is_sent(server, key, status):
    """As most clients do; a connection that is closed at once would be an error of theirs, without a reason."""
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/score", bytes(10_000_000), {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        assert (response.status, list(json.loads(response.read()))) == (status, ["error"])
        assert response.headers["Connection"] == "close"
        connection.close()


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET //etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /page.js%00.html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    ],
    ids=["tls", "dots", "slashes", "zero", "length", "chunk", "header"],
)
def test_what_is_not_http_ends_with_a_refusal(server, content):
    try:
        answer = server.raw(content)
    except (ConnectionResetError, BrokenPipeError):  # it may close before everything was sent
        answer = b"HTTP/1.1 400 "
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert b"root:" not in answer
    assert ask(server, picture())[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for():
    with listening(request_timeout_ms=300) as server:
        answer = server.raw(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nsome")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"The body of the request did not come in time." in answer
        assert server.service.gate.inside == 0


def test_who_goes_away_leaves_nothing_behind():
    with listening() as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nsome")
        assert server.raw(b"GET /health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b'"ready"}')
        until_true(lambda: server.service.gate.inside == 0)
        assert 'code="499"' in server.service.metrics.text().decode()
