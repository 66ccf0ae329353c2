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
from stream_service.group_commit import DEADLINE_SECONDS
from stream_service.store import MongoStore
from tests.support.http_api import Api, open_api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web
    from pytest_aiohttp.plugin import AiohttpClient

LATITUDE_SECONDS = 8.0
"""For a slow machine. Without a deadline it would be the 30 s of the driver."""

STREAM = "/streams/0-AAAAAAAAAAAAAAAAAAAAAA"
ROUTES = [
    ("GET", "/watch"),
    ("POST", "/streams"),
    ("GET", "/streams"),
    ("GET", STREAM),
    ("DELETE", STREAM),
    ("POST", f"{STREAM}/stop"),
    ("POST", f"{STREAM}/heartbeat"),
]


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
        *(api.ask(method, path) for method, path in [*ROUTES, ("GET", "/health")])
    )
    took = time.monotonic() - began
    for answer in answers:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Session-Id"]
        assert answer.body["type"].endswith(":unavailable")
    assert (health.status, health.raw) == (503, b'{"status":"DOWN"}')
    assert took < DEADLINE_SECONDS + LATITUDE_SECONDS


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
