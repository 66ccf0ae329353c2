"""How many streams are active: exact while they are few, estimated at a bounded cost when many."""

from __future__ import annotations

from datetime import timedelta
from hashlib import blake2b
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest

from stream_service import store as store_module
from stream_service.store import MongoStore, Put
from stream_service.streams import Stream, new_secret, stream_id_of, token_of, utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from tests.conftest import Commands

LEASE = timedelta(seconds=60)
SESSIONS = 300


@pytest.fixture
def now() -> datetime:
    return utc_now()


async def fill(store: MongoStore, now: datetime) -> int:
    """Give sessions 1 to 3 streams each, a third of which are over; tells how many are active."""
    writes = []
    for number in range(SESSIONS):
        session = blake2b(b"%d" % number, digest_size=18).hexdigest()
        for slot in range(1 + number % 3):
            at = now - LEASE if (number + slot) % 3 == 0 else now
            stream_id = stream_id_of(slot, token_of(new_secret()))
            platform = "web 1" if number % 2 else None
            writes.append(Put(Stream(session, stream_id, at, at + LEASE, platform=platform)))
    assert all(await store.write(writes, now - LEASE))
    return sum(write.stream.is_active(now) for write in writes)


async def test_few_are_counted(store: MongoStore, now: datetime) -> None:
    active = await fill(store, now)

    assert await store.count(now) == active
    assert await store.count(now + LEASE) == 0
    assert await store.silent(now, now + LEASE / 2) == {}
    silent = await store.silent(now, now + LEASE)
    assert silent.keys() == {None, "web 1"}
    assert sum(silent.values()) == active


async def test_none_are_none(store: MongoStore, now: datetime) -> None:
    assert await store.count(now) == 0
    assert await store.silent(now, now + LEASE) == {}


async def test_many_are_estimated_evenly_from_a_bounded_number(
    commands: Commands, wire_store: MongoStore, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = await fill(wire_store, now)
    monkeypatch.setattr(store_module, "COUNTED_AT_MOST", 100)
    commands.sent.clear()

    estimates = [await wire_store.count(now) for _ in range(60)]

    # Of about 75 documents each, by themselves they are within 20 % or so.
    assert mean(estimates) == pytest.approx(active, rel=0.1)
    assert max(estimates) < 2 * active
    assert len(set(estimates)) > 10, "from another place each time"
    for name, command in commands.sent:
        assert name == "aggregate"
        match: dict[str, Any] = command["pipeline"][0]["$match"]
        limits = [stage["$limit"] for stage in command["pipeline"] if "$limit" in stage]
        assert "session" in match, "not even the first look is at all of them"
        assert "expires_at" in match or limits == [101]
    # It found the right slice once, and keeps to it.
    assert len(commands.sent) < 3 * len(estimates)


async def test_what_became_few_is_counted_again(
    store: MongoStore, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COUNTED_AT_MOST", 50)
    active = await fill(store, now)
    await store.count(now)
    monkeypatch.setattr(store_module, "COUNTED_AT_MOST", 20_000)

    await store.count(now)

    assert await store.count(now) == active
