"""A store that is away, or that hangs, and faults that nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from stream_service.api import handlers, health
from stream_service.group_commit import DEADLINE_SECONDS
from stream_service.store import MongoStore
from stream_service.streams import StoreUnavailableError
from tests.support.http_api import Api, a_lease_id, open_api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp import web
    from pytest_aiohttp.plugin import AiohttpClient

    from tests.conftest import Commands

LATITUDE_SECONDS = 8.0
"""For a slow machine. Without a deadline it would be the 30 s of the driver."""

STREAM = "/streams/0-AAAAAAAAAAAAAAAAAAAAAA"
AGAIN = {
    ("GET", "/watch"): "unknown whether the stream was started",
    ("POST", "/streams"): "if it was, that stream ends with its lease",
    ("GET", "/streams"): "Try again",
    ("DELETE", "/streams"): "unknown whether the streams were ended",
    ("GET", STREAM): "Try again",
    ("DELETE", STREAM): "unknown whether the stream was stopped",
    ("POST", f"{STREAM}/stop"): "unknown whether the stream was stopped",
    ("POST", f"/streams/{a_lease_id()}/heartbeat"): "unknown whether the lease was renewed",
}
"""The routes that ask the store, with what their 503 says of this very request."""


@pytest.fixture(params=["refuses", "hangs"])
def absent_store(request: pytest.FixtureRequest) -> Iterator[MongoStore]:
    """A store on a port where nobody listens, or where nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if request.param == "refuses":
            listening.close()
        url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        store = MongoStore.connect(url, "test", timedelta(seconds=300))
        yield store
        store.close()


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, absent_store: MongoStore) -> Api:
    return await open_api(aiohttp_client, absent_store)


async def test_without_its_store_every_route_says_so_within_the_deadline(api: Api) -> None:
    began = time.monotonic()
    *answers, health = await asyncio.gather(
        *(api.ask(method, path) for method, path in [*AGAIN, ("GET", "/health")])
    )
    took = time.monotonic() - began
    for (method, path), answer in zip(AGAIN, answers, strict=True):
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.body["type"].endswith(":unavailable")
        assert AGAIN[method, path] in answer.body["detail"]
    assert (health.status, health.raw) == (503, b'{"status":"DOWN"}')
    assert took < DEADLINE_SECONDS + LATITUDE_SECONDS


async def test_a_start_that_had_a_key_is_told_to_send_it_again(api: Api) -> None:
    with_key = await api.ask("POST", "/streams", headers={"Idempotency-Key": "k"})
    assert "with the same Idempotency-Key" in with_key.body["detail"]
    without = await api.ask("POST", "/streams")
    assert "Idempotency-Key" not in without.body["detail"]


async def test_without_its_store_the_process_is_still_alive(api: Api) -> None:
    answer = await api.ask("GET", "/health/live", session=None)
    assert (answer.status, answer.raw) == (200, b'{"status":"UP"}')


async def test_bad_input_is_refused_as_such_even_without_the_store(api: Api) -> None:
    assert (await api.ask("GET", "/watch", session=None)).status == 400
    assert (await api.start(dvice="TV")).status == 400
    assert (await api.ask("GET", "/streams/nonsense")).status == 404


async def test_health_is_exactly_up_with_its_store(
    aiohttp_client: AiohttpClient, store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, store)
    for path in ("/health", "/health/live"):
        answer = await api.ask("GET", path, session=None)
        assert (answer.status, answer.raw) == (200, b'{"status":"UP"}')


async def test_ready_is_a_process_that_has_served_whatever_became_of_its_store_since(
    aiohttp_client: AiohttpClient, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await open_api(aiohttp_client, store)

    async def answers(*paths: str) -> list[bytes]:
        return [(await api.ask("GET", path, session=None)).raw for path in paths]

    async def away() -> None:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(health, "CHECK_SECONDS", 0)

    up, down = b'{"status":"UP"}', b'{"status":"DOWN"}'
    with monkeypatch.context() as before:
        before.setattr(store, "clock", away)
        assert await answers("/health", "/health/ready") == [down, down]
    assert await answers("/health", "/health/ready") == [up, up]
    monkeypatch.setattr(store, "clock", away)
    assert await answers("/health", "/health/ready") == [down, up]


async def test_however_many_ask_for_health_the_store_is_read_and_written_once_in_a_while(
    aiohttp_client: AiohttpClient, connect: Callable[..., MongoStore], commands: Commands
) -> None:
    api = await open_api(aiohttp_client, connect())
    answers = await asyncio.gather(*(api.ask("GET", "/health", session=None) for _ in range(300)))
    assert {answer.status for answer in answers} == {200}
    assert (await api.ask("GET", "/health", session=None)).status == 200
    sent = [name for name, _ in commands.sent if name in ("find", "update")]
    # A slot is read, its own document written, the others' read.
    assert sent == ["find", "update", "find"]


@pytest.mark.parametrize("command", ["find", "update"])
async def test_health_is_down_while_the_store_answers_pings_and_fails_what_requests_do(
    aiohttp_client: AiohttpClient,
    connect: Callable[..., MongoStore],
    failing: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0)
    api = await open_api(aiohttp_client, connect())
    failing(command, code=1)
    assert (await api.ask("GET", "/health", session=None)).status == 503
    assert (await api.ask("GET", "/health/ready", session=None)).status == 503
    assert (await api.ask("GET", "/health", session=None)).status == 200
    assert (await api.ask("GET", "/health/ready", session=None)).status == 200


async def test_an_unforeseen_error_is_logged_and_answered_without_telling_its_inside(
    aiohttp_client: AiohttpClient,
    double_store: MongoStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def failing(_: web.Request) -> web.Response:
        raise LookupError("the inside of it")

    monkeypatch.setattr(handlers, "list_active", failing)
    api = await open_api(aiohttp_client, double_store)
    with caplog.at_level(logging.ERROR):
        answer = await api.ask("GET", "/streams")
    assert answer.status == 500
    assert answer.body["type"].endswith(":internal-error")
    assert b"inside of it" not in answer.raw
    assert b"LookupError" not in answer.raw
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    assert (await api.ask("GET", "/watch")).status == 200
