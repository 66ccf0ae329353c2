"""What the log says of an outage of the database: one line when it begins, one when it is over."""

from __future__ import annotations

import asyncio
import logging
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.store import MongoStore
from stream_service.streams import StoreUnavailableError
from stream_service.telemetry import outages
from stream_service.telemetry.outages import Outages
from tests.support.http_api import open_api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_aiohttp.plugin import AiohttpClient

AWAY = StoreUnavailableError("ServerSelectionTimeoutError", "nothing listens there")


class Database:
    """Answers pings, or does not; `asked` is set by each."""

    def __init__(self) -> None:
        self.away = True
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()

    async def ping(self) -> None:
        self.asked.set()
        if self.away:
            raise AWAY
        self.answered.set()

    async def is_asked(self) -> None:
        self.asked.clear()
        await self.asked.wait()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "LOOK_SECONDS", 0.01)


class Lines(logging.Handler):
    """The lines that were logged, and a wait for the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append({**vars(record), "event": record.getMessage()})
        self._more.set()

    async def reach(self, count: int) -> None:
        while len(self.said) < count:
            self._more.clear()
            await self._more.wait()


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("stream_service.telemetry.outages")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def test_an_outage_costs_two_lines_however_many_requests_it_fails(
    lines: Lines,
) -> None:
    database = Database()
    watch = Outages(database.ping, "db.example:27017/films")
    for _ in range(3):
        for _ in range(100):
            watch.failed(AWAY)
        await database.is_asked()
    database.away = False
    await lines.reach(2)
    began, over = lines.said
    assert began["event"] == "database unreachable"
    assert began["database"] == over["database"] == "db.example:27017/films"
    assert (began["error"], began["hint"]) == (str(AWAY), AWAY.hint)
    assert over["event"] == "database reachable again"
    assert over["requests"] == 300
    assert over["seconds"] >= 0

    database.away = True
    watch.failed(StoreUnavailableError("deadline"))
    assert "hint" not in lines.said[2]
    database.away = False
    await lines.reach(4)
    assert lines.said[3]["requests"] == 1


async def test_a_database_that_answers_pings_and_fails_requests_is_one_outage(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "LOOK_SECONDS", 0.05)
    database = Database()
    database.away = False
    watch = Outages(database.ping, "db.example:27017/films")
    until = asyncio.get_running_loop().time() + 6 * outages.LOOK_SECONDS
    while asyncio.get_running_loop().time() < until:
        watch.failed(AWAY)
        await asyncio.sleep(0)
    assert [line["event"] for line in lines.said] == ["database unreachable"]
    assert not database.answered.is_set()
    await lines.reach(2)


async def test_one_that_is_not_over_is_no_longer_watched_when_the_service_ends(
    lines: Lines,
) -> None:
    watch = Outages(Database().ping, "db.example:27017/films")
    watch.failed(AWAY)
    watch.close()
    await asyncio.sleep(0.05)
    assert [line["event"] for line in lines.said] == ["database unreachable"]
    assert len(asyncio.all_tasks()) == 1


async def test_requests_that_fail_are_told_of_by_the_database_its_error_and_what_to_check(
    aiohttp_client: AiohttpClient, lines: Lines
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    url = f"mongodb://user:s3cret@127.0.0.1:{port}/films?directConnection=true"
    store = MongoStore.connect(url, "films", timedelta(seconds=300))
    api = await open_api(aiohttp_client, store, mongo_url=url, mongo_db="films")
    for _ in range(3):
        assert (await api.ask("GET", "/streams")).status == 503
    store.close()
    [said] = lines.said
    assert said["database"] == f"127.0.0.1:{port}/films"
    assert said["error"] == "ServerSelectionTimeoutError"
    assert said["hint"].startswith("nothing listens there: check host and port in MONGO_URL")
    assert "s3cret" not in repr(said)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (socket.EAI_NONAME, "Name or service not known"),
        (socket.EAI_AGAIN, "Temporary failure in name resolution"),
    ],
)
async def test_a_host_that_nobody_knows_is_told_as_such(
    number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody_knows(*_: Any, **__: Any) -> None:
        raise socket.gaierror(number, words)

    monkeypatch.setattr(socket, "getaddrinfo", nobody_knows)
    store = MongoStore.connect("mongodb://no-such-host", "test", timedelta(seconds=300))
    with pytest.raises(StoreUnavailableError) as caught:
        await store.read([])
    store.close()
    assert caught.value.hint == "no such host: check its name in MONGO_URL"
