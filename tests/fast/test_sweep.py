"""What has been over for the retention is forgotten, and nothing that is active ever is."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.store import SWEEP_STEP, TOLERATED_SKEW, MongoStore, Place, Write
from stream_service.streams import StoreUnavailableError, Stream, new_token, stream_id_of, utc_now
from tests.conftest import RETENTION
from tests.support.http_api import open_api

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo import MongoClient
    from pytest_aiohttp.plugin import AiohttpClient

SECOND = timedelta(seconds=1)
LEASE = 60 * SECOND
LONG = LEASE + RETENTION + TOLERATED_SKEW + 60 * SECOND


@pytest.fixture
def now() -> datetime:
    return utc_now()


def streaming(slot: int, at: datetime, session: str = "s") -> Stream:
    return Stream(session, stream_id_of(slot, new_token()), None, None, at, at + LEASE)


async def put(store: MongoStore, *streams: Stream) -> None:
    for stream in streams:
        assert await store.write([Write(stream)], stream.started_at) == [True]


def places(*streams: Stream) -> list[Place]:
    return [(stream.session, stream.stream_id) for stream in streams]


async def holder_of(store: MongoStore, stream: Stream) -> Stream | None:
    return (await store.slots(places(stream))).get((stream.session, stream.stream_id))


async def active(store: MongoStore, now: datetime) -> list[Stream]:
    return [s for s in (await store.read(["s"])).get("s", []) if s.is_active(now)]


async def test_a_sweep_forgets_what_has_been_over_for_the_retention_and_nothing_else(
    store: MongoStore, now: datetime
) -> None:
    forgotten, remembered, playing = (
        streaming(0, now - LONG),
        streaming(1, now - 2 * LEASE),
        streaming(2, now),
    )
    await put(store, forgotten, remembered, playing)

    await store.sweep()

    assert await holder_of(store, forgotten) is None
    assert await holder_of(store, remembered) == remembered
    assert await active(store, now) == [playing]


async def test_a_sweep_leaves_a_stream_that_beats_and_forgets_it_when_it_is_over(
    store: MongoStore, now: datetime
) -> None:
    # It was to be forgotten minutes ago, had it not beaten.
    stream = streaming(0, now - LONG)
    await put(store, stream)
    await store.renew(places(stream), now - LONG, now + LEASE)

    for _ in range(2):
        await store.sweep()
        assert [s.stream_id for s in await active(store, now)] == [stream.stream_id]

    # When that look was due, and the stream had been over for the retention.
    change = {"$set": {"forget_at": now - LONG, "expires_at": now - LONG}}
    await store._streams.update_many({}, change)  # noqa: SLF001
    await store.sweep()
    assert await holder_of(store, stream) is None


async def test_a_sweep_looks_at_what_it_left_only_much_later(
    store: MongoStore, now: datetime
) -> None:
    await put(store, streaming(0, now - LEASE - RETENTION))
    stream = streaming(0, now - LEASE - RETENTION, "other")
    await put(store, stream)
    await store.renew(places(stream), stream.started_at, now + LEASE)

    await store.sweep()

    for document in await store._streams.find().to_list(None):  # noqa: SLF001
        assert document["forget_at"] > utc_now() + SWEEP_STEP - 60 * SECOND


@pytest.mark.parametrize("has_one", [False, True])
async def test_a_sweep_spares_what_an_earlier_version_renewed_or_gave_the_slot_to(
    store: MongoStore, now: datetime, *, has_one: bool
) -> None:
    """It knows no `forget_at`: it leaves none, or that of the stream before."""
    playing, lapsed = streaming(0, now), streaming(1, now - LONG)
    await put(store, playing, lapsed)
    change = {"$set": {"forget_at": now - LONG}} if has_one else {"$unset": {"forget_at": ""}}
    await store._streams.update_many({}, change)  # noqa: SLF001

    await store.sweep()
    assert await active(store, now) == [playing]
    assert all("forget_at" in d for d in await store._streams.find().to_list(None))  # noqa: SLF001

    # What it made and nobody renews is forgotten too, once it was looked at.
    await store._streams.update_many({}, {"$set": {"forget_at": now - LONG}})  # noqa: SLF001
    await store.sweep()
    assert await holder_of(store, lapsed) is None
    assert await active(store, now) == [playing]


async def test_a_changed_retention_is_kept_at_once(
    connect: Callable[..., MongoStore], mongo: MongoClient[Any], database: str, now: datetime
) -> None:
    stream = streaming(0, now - LEASE - 60 * SECOND)
    await put(connect(retention=0 * SECOND), stream)
    assert mongo[database]["streams"].count_documents({"forget_at": {"$lte": now}}) == 1

    longer = connect(retention=3600 * SECOND)
    await longer.sweep()
    assert await holder_of(longer, stream) == stream


async def test_the_application_sweeps_by_itself_and_goes_on_after_an_outage(
    aiohttp_client: AiohttpClient,
    double_store: MongoStore,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_service.app.SWEEP_SECONDS", 0.01)
    forgotten = streaming(0, now - LONG)
    await put(double_store, forgotten)
    sweep, sweeps = double_store.sweep, asyncio.Queue[None]()

    async def fail_first() -> None:
        sweeps.put_nowait(None)
        if sweeps.qsize() == 1:
            raise StoreUnavailableError
        await sweep()

    monkeypatch.setattr(double_store, "sweep", fail_first)
    await open_api(aiohttp_client, double_store)

    while await holder_of(double_store, forgotten) is not None:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    assert sweeps.qsize() > 1
