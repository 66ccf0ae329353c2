"""A service with fewer files than there are connections goes on."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.process.open_files import LoopErrors
from tests.support.processes import PATIENCE_SECONDS, Service, read_answer

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

FEW = 80
PROGRAM = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW}, {FEW}))
from stream_service.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def service(mongo_url: str, database: str) -> Iterator[Service]:
    with Service(program=("-c", PROGRAM), MONGO_URL=mongo_url, MONGO_DB=database) as service:
        service.wait_for(lambda event: event["event"] == "ready")
        yield service


def _ask(connection: socket.socket, method: str, path: str, session: str = "") -> Any:
    named = f"Session-Id: {session}\r\n" if session else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{named}Content-Length: 0\r\n\r\n"
    connection.sendall(head.encode())
    return read_answer(connection)


def test_more_idle_connections_than_files_keep_neither_old_nor_new_ones_from_an_answer(
    service: Service,
) -> None:
    connections = []
    try:
        with service.connect() as mine:
            mine.settimeout(PATIENCE_SECONDS)
            for number in range(10):
                connections += [service.connect() for _ in range(3 * FEW // 10)]
                # Some have been used, some never.
                assert _ask(connections[-1], "GET", "/health/live")[0] == 200
                assert _ask(connections[-2], "GET", "/health/live")[0] == 200
                # One that is used is not the one that has been idle for longest.
                assert _ask(mine, "POST", "/streams", f"old {number}")[0] == 201
            for number in range(20):
                with service.connect() as new:
                    new.settimeout(PATIENCE_SECONDS)
                    assert _ask(new, "POST", "/streams", f"new {number}")[0] == 201
        assert all(map(_is_closed, connections[: len(connections) - FEW]))
    finally:
        for one in connections:
            one.close()
    told = [event for event in service.events if event["event"] != "request"]
    assert len(told) < 20
    assert any("few files" in event["event"] for event in told)


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_an_error_of_the_loop_that_comes_again_is_one_line_with_a_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stream_service.process.open_files.QUIET_SECONDS", 0.05)
    loop = asyncio.get_running_loop()
    errors = LoopErrors()
    for _ in range(1000):
        errors(loop, {"message": "socket.accept() out of system resource", "exception": OSError()})
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(caplog.records) < 2:  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)
    assert [record.__dict__.get("again") for record in caplog.records] == [None, 999]


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health/live HT", b"POST /streams HTTP/1.1\r\nHost: x\r\n"]
)
def test_a_request_that_does_not_end_ends_its_connection_an_idle_one_is_kept(
    mongo_url: str, database: str, sent: bytes
) -> None:
    variables = {"MONGO_URL": mongo_url, "MONGO_DB": database, "KEEPALIVE_SECONDS": "3600"}
    with (
        Service("idle=1", program=("-m", "tests.support.driver"), **variables) as service,
        service.connect() as idle,
        service.connect() as slow,
    ):
        idle.settimeout(PATIENCE_SECONDS)
        slow.settimeout(PATIENCE_SECONDS)
        assert _ask(idle, "GET", "/health/live")[0] == 200
        slow.sendall(sent)
        assert slow.recv(1) == b""
        # It has been idle for longer than that, and is not closed.
        status, _, body = _ask(idle, "GET", "/health/live")
        assert (status, json.dumps(body)) == (200, '{"status": "UP"}')
