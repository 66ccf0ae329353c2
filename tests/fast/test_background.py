"""What runs beside the requests does not end in silence."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from stream_service import connection as connection_module
from stream_service.api.health import HEALTH
from stream_service.app import create_app
from stream_service.connection import Connection
from stream_service.settings import Settings
from stream_service.streams import StoreUnavailableError
from stream_service.telemetry import background, outages
from stream_service.telemetry.history import History
from stream_service.telemetry.outages import OUTAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.pytest_plugin import AiohttpClient

    from stream_service.store import MongoStore


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RESTART_SECONDS", 0.01)
    monkeypatch.setattr(connection_module, "INDEX_TROUBLE_SECONDS", 0.01)


async def test_a_task_that_fails_is_logged_counted_and_started_again(
    aiohttp_client: AiohttpClient,
    double_store: MongoStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    async def keep(_: History) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ZeroDivisionError
        await asyncio.sleep(3600)

    monkeypatch.setattr(History, "keep", keep)
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    await until(lambda: len(tries) == 3)
    assert [r.__dict__["task"] for r in caplog.records if r.levelno == logging.ERROR] == [
        "history",
        "history",
    ]
    metrics = await (await client.get("/metrics")).text()
    assert 'stream_service_task_failures_total{task="history"} 2.0' in metrics


async def test_an_outage_is_watched_to_its_end_though_the_watch_fails_once(
    aiohttp_client: AiohttpClient,
    double_store: MongoStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(outages, "LOOK_SECONDS", 0.01)
    app = create_app(Settings(), store=double_store)
    await aiohttp_client(app)
    look, looks = app[OUTAGES]._look, 0  # noqa: SLF001

    async def fail_once() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        await look()

    app[OUTAGES]._look = fail_once  # noqa: SLF001
    app[OUTAGES].failed(StoreUnavailableError("gone"))
    await until(lambda: "database reachable again" in caplog.messages)


async def test_health_that_cannot_be_judged_is_down_logged_and_judged_again(
    aiohttp_client: AiohttpClient,
    double_store: MongoStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("stream_service.api.health.CHECK_SECONDS", 0.0)
    app = create_app(Settings(), store=double_store)
    client = await aiohttp_client(app)
    meet = app[HEALTH].processes.meet

    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app[HEALTH].processes, "meet", fail)
    assert (await client.get("/health")).status == 503
    assert "health could not be judged" in caplog.messages
    monkeypatch.setattr(app[HEALTH].processes, "meet", meet)
    assert (await client.get("/health")).status == 200


async def test_indexes_are_made_though_an_unexpected_error_comes_first(
    connect: Callable[[], MongoStore],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make, tries = Connection._make_indexes, 0  # noqa: SLF001

    async def fail_once(self: Connection) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ZeroDivisionError
        await make(self)

    monkeypatch.setattr(Connection, "_make_indexes", fail_once)
    store = connect()
    async with asyncio.timeout(30):
        await store.prepare(None)
    assert "indexes could not be made, and will be tried again" in caplog.messages
