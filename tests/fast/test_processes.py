"""Processes on one database: what differs is told, and what would do harm does not serve."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api.health import HEALTH
from stream_service.app import create_app
from stream_service.connection import Connection
from stream_service.settings import Settings
from stream_service.streams import utc_now
from tests.support.http_api import Clock
from tests.support.processes import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo import MongoClient

    from stream_service.processes import Processes
    from stream_service.store import MongoStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = "the key of the deployment"
OTHER_KEY = "another key than that one"


def process(
    store: MongoStore, clock: Callable[[], datetime] = utc_now, **settings: Any
) -> Processes:
    """One that would serve on this store."""
    return create_app(Settings(**settings), store=store, clock=clock)[HEALTH].processes


def told(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message.startswith(message)]


async def test_each_setting_that_differs_is_told_once(
    store: MongoStore, caplog: pytest.LogCaptureFixture
) -> None:
    one = process(store, digest_key=KEY, stream_limit=3)
    other = process(store, digest_key=KEY, stream_limit=4, enforce=False)
    for _ in range(3):
        await one.meet()
        await other.meet()
    await process(store, digest_key=KEY, stream_limit=3).meet()
    lines = told(caplog, "settings of processes differ")
    assert sorted((line["setting"], line["here"], line["there"]) for line in lines) == [
        *[("ENFORCE", 0, 1), ("ENFORCE", 1, 0), ("ENFORCE", 1, 0)],
        *[("STREAM_LIMIT", 3, 4), ("STREAM_LIMIT", 3, 4), ("STREAM_LIMIT", 4, 3)],
    ]
    assert one.refusal is other.refusal is None
    assert [document["settings"]["STREAM_LIMIT"] for document in one.others] == [4]


async def test_another_audience_of_the_playback_tokens_is_told(
    store: MongoStore, caplog: pytest.LogCaptureFixture
) -> None:
    for audience in ("https://cdn.example", None):
        await process(store, digest_key=KEY, playback_audience=audience).meet()
    [line] = told(caplog, "settings of processes differ")
    assert (line["setting"], line["here"]) == ("PLAYBACK_AUDIENCE", None)
    assert line["there"] == "https://cdn.example"


async def test_no_document_of_a_process_has_its_key(
    connect: Callable[..., MongoStore], mongo: MongoClient[Any], database: str
) -> None:
    await process(connect(), digest_key=KEY).meet()
    [document] = mongo[database]["processes"].find()
    assert KEY not in str(document)
    assert document["forget_at"] > utc_now()
    indexes = mongo[database]["processes"].index_information()
    assert indexes["forget"]["expireAfterSeconds"] == 0


async def test_another_digest_key_is_refused_until_the_others_are_gone(store: MongoStore) -> None:
    running = process(store, digest_key=KEY)
    await running.meet()
    for key in (None, OTHER_KEY):
        late = process(store, digest_key=key)
        await late.meet()
        assert late.refusal is not None
        assert "DIGEST_KEY_CHANGE=1" in late.refusal
        assert KEY not in late.refusal
    await running.meet()
    assert running.refusal is None
    assert running.others == []
    changing = process(store, digest_key=OTHER_KEY, digest_key_change=True)
    await changing.meet()
    assert changing.refusal is None
    await changing.leave()
    await running.leave()
    alone = process(store, digest_key=OTHER_KEY)
    await alone.meet()
    assert alone.refusal is None


def test_a_process_with_another_digest_key_ends_with_a_line_that_says_so(
    mongo_url: str, database: str
) -> None:
    where: Any = {"MONGO_URL": mongo_url, "MONGO_DB": database}
    with Service(DIGEST_KEY=KEY, **where) as running:
        running.wait_for(lambda event: event["event"] == "ready")
        with Service(DIGEST_KEY=OTHER_KEY, **where) as late:
            assert late.status() == 1
        assert late.log[-1].startswith("stream-service: DIGEST_KEY is not that of the process ")
        assert running.ask("GET", "/health/ready") == (200, {"status": "UP"})
        with Service(DIGEST_KEY=OTHER_KEY, DIGEST_KEY_CHANGE="1", **where) as changing:
            changing.wait_for(lambda event: event["event"] == "ready")


@pytest.mark.parametrize(("off", "warned", "ready"), [(4, 0, True), (-7, 1, True), (12, 1, False)])
async def test_a_clock_that_is_off_warns_and_one_that_is_far_off_is_not_ready(
    store: MongoStore, caplog: pytest.LogCaptureFixture, off: int, warned: int, *, ready: bool
) -> None:
    clock = Clock()
    clock.move_on(off)
    one = process(store, clock)
    for _ in range(2):
        await one.meet()
    assert len(told(caplog, "clock is off")) == warned
    assert one.clock_is_right == ready
    assert one.own["clock"] == pytest.approx(off, abs=1.5)


@pytest.mark.parametrize("tells", [True, False])
async def test_a_clock_that_is_set_back_is_told_and_not_ready_until_it_is_right(
    store: MongoStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tells: bool,
) -> None:
    caplog.set_level(logging.INFO)
    back = timedelta()
    if not tells:
        monkeypatch.setattr(store, "clock", no_clock)
    one = process(store, lambda: utc_now() - back)
    await one.meet()
    assert one.clock_is_right
    back = timedelta(hours=1)
    for _ in range(2):
        await one.meet()
        assert not one.clock_is_right
    [jump] = told(caplog, "clock jumped")
    assert jump["seconds"] == pytest.approx(-3600, abs=1)
    back = timedelta()
    for _ in range(2):
        await one.meet()
    assert one.clock_is_right
    assert len(told(caplog, "clock is right again")) == 1
    assert len(told(caplog, "the database tells no time")) == (not tells)


async def no_clock() -> None:
    """What a database tells whose `hello` has no time."""


@pytest.mark.parametrize(
    ("local_time", "tells"),
    [
        (NOON.replace(tzinfo=None), NOON),
        (1_767_268_800_000, NOON),
        (None, None),
    ],
    ids=["date", "number", "none"],
)
async def test_a_database_tells_the_time_as_a_date_or_a_number_or_not_at_all(
    local_time: object, tells: datetime | None
) -> None:
    class Client:
        admin: Client

        def __getitem__(self, _: str) -> Client:
            return self

        def get_collection(self, *_: object, **__: object) -> None: ...

        async def command(self, _: str) -> dict[str, object]:
            return {"localTime": local_time}

    client: Any = Client()
    client.admin = client
    assert await Connection(client, "any").clock() == tells


def test_a_process_whose_clock_is_far_off_is_never_announced(mongo_url: str, database: str) -> None:
    driver = ("-m", "tests.support.driver", "clock=12")
    with Service(program=driver, MONGO_URL=mongo_url, MONGO_DB=database) as service:
        service.wait_for(lambda event: event["event"].startswith("clock is off"))
        assert service.ask("GET", "/health") == (200, {"status": "UP"})
        assert service.ask("GET", "/health/ready") == (503, {"status": "DOWN"})
    assert not [event for event in service.events if event["event"] == "ready"]
