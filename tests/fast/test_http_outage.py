"""A store that is away, or that hangs, and faults that nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from stream_service.api import handlers
from stream_service.api.keys import LIMITER
from stream_service.group_commit import DEADLINE_SECONDS
from stream_service.store import MongoStore
from stream_service.streams import StoreUnavailableError
from tests.support.http_api import Api, a_lease_id, open_api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web
    from pytest_aiohttp.plugin import AiohttpClient

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

    up, down = b'{"status":"UP"}', b'{"status":"DOWN"}'
    with monkeypatch.context() as before:
        before.setattr(store, "ping", away)
        assert await answers("/health", "/health/ready") == [down, down]
    assert await answers("/health", "/health/ready") == [up, up]
    monkeypatch.setattr(store, "ping", away)
    assert await answers("/health", "/health/ready") == [down, up]


async def test_a_thousand_who_ask_for_health_at_once_cost_the_store_two_pings(
    aiohttp_client: AiohttpClient, double_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings = _Pings()
    monkeypatch.setattr(double_store, "ping", pings)
    api = await open_api(aiohttp_client, double_store)
    first = asyncio.ensure_future(api.ask("GET", "/health", session=None))
    await pings.begun.acquire()
    assert api.client.app is not None
    limiter = api.client.app[LIMITER]
    others = [asyncio.ensure_future(limiter.ping()) for _ in range(999)]
    await asyncio.sleep(0)
    pings.answer()
    pings.answer()
    assert (await first).status == 200
    await asyncio.gather(*others)
    assert pings.sent == 2


async def test_health_is_told_from_a_ping_that_was_sent_after_it_was_asked(
    aiohttp_client: AiohttpClient, double_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings = _Pings()
    monkeypatch.setattr(double_store, "ping", pings)
    api = await open_api(aiohttp_client, double_store)
    before = asyncio.ensure_future(api.ask("GET", "/health", session=None))
    await pings.begun.acquire()
    after = asyncio.ensure_future(api.ask("GET", "/health", session=None))
    pings.answer()
    assert (await before).status == 200
    pings.answer(StoreUnavailableError("away by now"))
    assert (await after).status == 503
    pings.answer()
    assert (await api.ask("GET", "/health", session=None)).status == 200


class _Pings:
    """A store's ping that answers when it is told to."""

    def __init__(self) -> None:
        self.sent = 0
        self.begun = asyncio.Semaphore(0)
        self._answers: asyncio.Queue[Exception | None] = asyncio.Queue()

    def answer(self, error: Exception | None = None) -> None:
        self._answers.put_nowait(error)

    async def __call__(self) -> None:
        self.sent += 1
        self.begun.release()
        error = await self._answers.get()
        if error is not None:
            raise error


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
