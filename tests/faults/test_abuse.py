"""Clients that mean no good, or that broke: slow, idle, vanishing, and random."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.conftest import served
from tests.faults.tally import MARK, TALLY, new_secret
from tests.faults.viewers import Viewers
from tests.support.database import url_of
from tests.support.playback import write_key
from tests.support.processes import Service, read_answer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.conftest import Serve
    from tests.support.database import Database

pytestmark = pytest.mark.timeout(600)

IDLE = 2000


@pytest.fixture
def service(database: Database, serve: Serve) -> Iterator[Service]:
    with serve(database.url, GATEWAY_TOKEN="") as service:
        yield service


async def test_two_thousand_idle_connections_keep_nobody_out_and_are_closed_in_time(
    database: Database, serve: Serve, token: str
) -> None:
    with serve(database.url, "idle=8") as service:
        kept = [service.connect() for _ in range(IDLE)]
        TALLY.fault("idle connection", IDLE)
        async with Viewers([service.url], 20, token=token) as viewers:
            async with viewers.playing(8):
                await asyncio.sleep(2)
            assert await viewers.all_sure_ones_beat() > 0
        for connection in kept:
            connection.settimeout(40)
            assert await asyncio.to_thread(connection.recv, 1) == b""
            connection.close()
    assert TALLY.violations == []


async def test_a_head_that_comes_a_byte_a_second_is_cut_off(
    database: Database, serve: Serve
) -> None:
    with serve(database.url, "idle=3") as service, service.connect() as client:
        TALLY.fault("byte a second")
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in b"GET /watch HTTP/1.1\r\nHost: somewhere":
                client.sendall(bytes([byte]))
                await asyncio.sleep(1)
        assert 3 <= time.monotonic() - began < 15


def test_a_body_that_comes_a_byte_a_second_is_answered_408(service: Service) -> None:
    TALLY.fault("byte a second")
    head = f"POST /streams HTTP/1.1\r\nHost: x\r\nSession-Id: {new_secret()}\r\n"
    with service.connect() as client:
        client.sendall(f"{head}Content-Length: 900\r\n\r\n".encode())
        began = time.monotonic()
        client.settimeout(1)
        while time.monotonic() - began < 15:
            client.sendall(b" ")
            with suppress(TimeoutError):
                if client.recv(1, socket.MSG_PEEK):
                    break
        client.settimeout(15)
        assert read_answer(client)[0] == 408
        assert 1.9 < time.monotonic() - began < 6


async def test_two_thousand_checks_at_once_of_a_stopped_stream_let_nobody_in(
    database: Database, serve: Serve, tmp_path: Path
) -> None:
    key = str(write_key(tmp_path / "key.pem"))
    async with (
        Proxy(database.port) as proxy,
        served(
            serve(
                url_of(proxy.port),
                *("patient", "deadline=5"),
                GATEWAY_TOKEN="",
                PLAYBACK_KEYS=key,
            )
        ) as service,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
    ):
        session = {"Session-Id": new_secret()}
        async with client.post(f"{service.url}/streams", headers=session) as answer:
            stream = await answer.json()
        async with client.delete(f"{service.url}/streams/{stream['lease_id']}") as answer:
            assert answer.status == 204
        token = {"Playback-Token": stream["playback_token"]}

        async def check() -> int:
            url = f"{service.url}/playback/check?live=1"
            async with client.get(url, headers=token) as answer:
                assert "Stream-Id" not in answer.headers
                assert ("Retry-After" in answer.headers) == (answer.status == 429)
                return answer.status

        # So that they come faster than the database answers for eight.
        proxy.delay = 0.05
        statuses = Counter(await asyncio.gather(*(check() for _ in range(2000))))
        proxy.delay = 0
        async with client.get(f"{service.url}/metrics") as answer:
            metrics = await answer.text()
    TALLY.fault("check at once", 2000)
    TALLY.measured["checks at once"] = f"2000 of a stopped stream: {dict(statuses)}"
    assert set(statuses) == {401, 429}
    assert statuses[429] > 1000
    assert "stream_service_store_errors_total{" not in metrics
    assert "database unreachable" not in [event["event"] for event in service.events]


def test_clients_that_vanish_in_the_middle_cost_nobody_else_anything(service: Service) -> None:
    request = (
        f"POST /streams HTTP/1.1\r\nHost: x\r\nSession-Id: {new_secret()}\r\n"
        "Content-Length: 2\r\n\r\n{}"
    ).encode()
    for cut in range(0, len(request) + 1, 3):
        with service.connect() as client:
            client.sendall(request[:cut])
        TALLY.fault("client vanished")
    assert service.ask("GET", "/health") == (200, {"status": "UP"})
    status, body = service.ask("POST", "/streams", {"Session-Id": new_secret()})
    assert (status, body["active"]) == (201, 1)
    assert [e for e in service.events if e["level"] in ("ERROR", "CRITICAL")] == []


_LINE = st.sampled_from(
    [b"GET /watch", b"POST /streams", b"GET /streams", b"DELETE /streams/x", b"PUT /", b"\0 \0"]
) | st.binary(max_size=30)
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(b"Session-Id", b"Idempotency-Key", b"Content-Type", b"Content-Length"),
                *(b"Transfer-Encoding", b"Content-Encoding", b"X-Request-Id", b"Connection"),
                b"Expect",
            ]
        )
        | st.binary(max_size=12),
        st.binary(max_size=24).map(lambda value: MARK.encode() + value)
        | st.sampled_from([b"application/json", b"2", b"chunked", b"gzip", b"close", b"\xff"])
        | st.binary(max_size=24),
    ),
    max_size=6,
)


def test_no_bytes_at_all_bring_forth_a_500_or_end_the_service(service: Service) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(line=_LINE, headers=_HEADERS, body=st.binary(max_size=60))
    def fuzz(line: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        lines = [line + b" HTTP/1.1", b"Host: x", *(n + b": " + v for n, v in headers)]
        with service.connect() as client:
            client.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
            client.shutdown(socket.SHUT_WR)
            with suppress(http.client.BadStatusLine, ConnectionError, http.client.IncompleteRead):
                status, answered, _ = read_answer(client)
                TALLY.statuses[status] += 1
                assert status < 500
                if status >= 400 and not line.startswith(b"HEAD"):
                    assert answered["content-type"] == "application/problem+json"

    fuzz()
    assert service.ask("GET", "/health") == (200, {"status": "UP"})
    assert [e for e in service.events if e["level"] in ("ERROR", "CRITICAL")] == []


def test_the_api_keeps_to_its_own_description(
    database: Database, serve: Serve, tmp_path: Path
) -> None:
    key = str(write_key(tmp_path / "key.pem"))
    operator = new_secret()
    with serve(database.url, "guesses", OPERATOR_TOKEN=operator, PLAYBACK_KEYS=key) as service:
        _asked_all_that_is_described(service, operator, tmp_path)


def _asked_all_that_is_described(service: Service, operator: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", Path(__file__).with_name("schemathesis.toml")),
            *("run", f"{service.url}/openapi.json", "--checks", "all", "--max-examples", "25"),
            *("--header", f"Session-Id: {new_secret()}", "--seed", "1"),
            *("--header", f"Authorization: Bearer {operator}"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
