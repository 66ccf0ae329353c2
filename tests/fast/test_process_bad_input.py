"""What no HTTP client would send, as bytes to a real process: a problem, and nothing changed."""

from __future__ import annotations

import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import PATIENCE_SECONDS, Service, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def service(mongo_url: str, mongo: MongoClient[Any]) -> Iterator[Service]:
    name = f"stream_service_test_{secrets.token_hex(6)}"
    with Service(MONGO_URL=mongo_url, MONGO_DB=name) as service:
        yield service
    mongo.drop_database(name)


def _playing(service: Service, session: str) -> Any:
    status, body = service.ask("GET", "/streams", {"Session-Id": session})
    assert status == 200
    return body["streams"]


def _refused(service: Service, request: bytes, status: int) -> Any:
    answered, headers, body = service.exchange(request)
    assert answered == status, body
    assert headers["content-type"] == PROBLEM
    assert headers["cache-control"] == "no-store"
    assert headers["x-request-id"]
    assert body["status"] == status
    assert {"type", "title", "detail"} <= set(body)
    return body


@pytest.mark.parametrize(
    "value", [b"a\0b", b"\0", b"a\rb", b"a\r", b"a\nb", b"a\x7fb", b"a\x1b[0m", b"a\tb", b"caf\xe9"]
)
def test_a_session_with_control_characters_is_refused_as_a_problem(
    service: Service, value: bytes
) -> None:
    request = b"GET /watch HTTP/1.1\r\nHost: x\r\nSession-Id: %s\r\n\r\n" % value
    _refused(service, request, 400)
    assert _playing(service, "a") == []
    assert _playing(service, "ab") == []


def test_a_line_break_in_a_session_begins_another_header_and_nothing_else(
    service: Service,
) -> None:
    request = b"GET /streams HTTP/1.1\r\nHost: x\r\nSession-Id: a\r\nSession-Id: b\r\n\r\n"
    assert _refused(service, request, 400)["field"] == "Session-Id"


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /watch HTTP/9.9",
        b"NONSENSE /watch HTTP/1.1",
        b"GET /wa\0tch HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET http://[ HTTP/1.1",
        b"GET /watch?" + b"a" * 20_000 + b" HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_not_http_is_refused_as_a_problem(service: Service, request_line: bytes) -> None:
    request = request_line + b"\r\nHost: x\r\nSession-Id: raw\r\nX-Request-Id: mine\r\n\r\n"
    answered, headers, _ = service.exchange(request)
    assert answered == 400
    assert headers["server"] == "stream-service"
    # By it the line in the log is found.
    logged = service.wait_for(lambda e: e.get("request_id") == headers["x-request-id"])
    assert (logged["event"], logged["status"]) == ("bad request", 400)
    _refused(service, request, 400)
    assert _playing(service, "raw") == []


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: two\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"No-Colon\r\n\r\n",
        b"X-Long: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)
def test_a_request_whose_framing_is_broken_starts_nothing(service: Service, headers: bytes) -> None:
    start = b"POST /streams HTTP/1.1\r\nHost: x\r\nSession-Id: framing\r\n"
    _refused(service, start + headers, 400)
    assert _playing(service, "framing") == []


@pytest.mark.parametrize(
    ("begun", "rest"), [(b"2\r\n\r\n{}", b""), (b"2\r\n\r\n{", b"}"), (b"2\r\n\r\n", b"{}")]
)
def test_the_rest_of_a_small_body_that_nobody_reads_is_waited_for(
    service: Service, begun: bytes, rest: bytes
) -> None:
    with service.connect() as client:
        client.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: " + begun)
        status, headers, _ = read_answer(client)
        assert (status, headers.get("connection")) == (404, None)
        client.sendall(rest + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(client)[0] == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 16385\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_the_rest_of_any_other_body_that_nobody_reads_costs_the_connection(
    service: Service, framing: bytes
) -> None:
    with service.connect() as client:
        client.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + framing)
        status, headers, _ = read_answer(client)
        assert (status, headers["connection"]) == (404, "close")
        assert client.recv(1) == b""


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd"])
def test_a_packed_body_is_not_unpacked_to_be_refused(service: Service, coding: bytes) -> None:
    start = b"POST /streams HTTP/1.1\r\nHost: x\r\nSession-Id: packed\r\n"
    packed = b"Content-Encoding: %s\r\nContent-Length: 4\r\n\r\n\x01\x02no" % coding
    assert _refused(service, start + packed, 415)["field"] == "Content-Encoding"
    assert _playing(service, "packed") == []


@pytest.mark.parametrize("path", [b"/watch", b"/nowhere"])
def test_an_expectation_that_cannot_be_met_is_refused_as_a_problem(
    service: Service, path: bytes
) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: x\r\nSession-Id: hope\r\nExpect: a miracle\r\n\r\n"
    _refused(service, request % path, 417)
    assert _playing(service, "hope") == []


def test_a_client_that_asks_whether_to_go_on_is_told_so(service: Service) -> None:
    head = b"POST /streams HTTP/1.1\r\nHost: x\r\nSession-Id: 100\r\nContent-Length: 2\r\n"
    with service.connect() as client:
        client.sendall(head + b"Expect: 100-continue\r\n\r\n")
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.recv(len(go_on), socket.MSG_WAITALL) == go_on
        client.sendall(b"{}")
        assert read_answer(client)[0] == 201


def test_head_starts_nothing(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"HEAD /watch HTTP/1.1\r\nHost: x\r\nSession-Id: head\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 405 ")
    assert _playing(service, "head") == []


def test_a_body_sent_too_slowly_is_answered_408_and_starts_nothing(service: Service) -> None:
    start = b"POST /streams HTTP/1.1\r\nHost: x\r\nSession-Id: slow\r\nContent-Length: 900\r\n\r\n"
    with service.connect() as connection:
        connection.sendall(start)
        began = time.monotonic()
        connection.settimeout(0.1)
        # One byte at a time, and always soon enough for a timeout that each byte would renew.
        while time.monotonic() < began + PATIENCE_SECONDS:
            connection.sendall(b" ")
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
        waited = time.monotonic() - began
        connection.settimeout(PATIENCE_SECONDS)
        status, headers, body = read_answer(connection)
    assert (status, headers["content-type"], body["status"]) == (408, PROBLEM, 408)
    assert 1.9 < waited < 10
    assert _playing(service, "slow") == []


def test_a_client_that_goes_away_in_the_middle_of_its_body_starts_nothing(
    service: Service,
) -> None:
    start = b"POST /streams HTTP/1.1\r\nHost: x\r\nSession-Id: gone\r\nContent-Length: 900\r\n\r\n{"
    with service.connect() as connection:
        connection.sendall(start)
    assert _playing(service, "gone") == []
    assert service.ask("GET", "/health") == (200, {"status": "UP"})


def test_a_bad_request_does_not_end_the_service(service: Service) -> None:
    assert service.process.poll() is None
    assert not [event for event in service.events if event["level"] in ("ERROR", "CRITICAL")]


def test_an_expectation_that_is_no_text_is_refused_like_any_other(service: Service) -> None:
    for expected in (b"the impossible", b"\xff\xfe"):
        request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nExpect: " + expected + b"\r\n\r\n"
        _refused(service, request, 417)
