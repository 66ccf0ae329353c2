"""How many streams are active: exact while they are few, estimated at a bounded cost when many."""

from __future__ import annotations

from datetime import timedelta
from hashlib import blake2b
from statistics import mean
from typing import TYPE_CHECKING

import pytest

from stream_service import store as store_module
from stream_service.store import MongoStore, Put
from stream_service.streams import (
    StoreUnavailableError,
    Stream,
    new_secret,
    stream_id_of,
    token_of,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tests.conftest import Commands

LEASE = timedelta(seconds=60)
SESSIONS = 300


@pytest.fixture
def now() -> datetime:
    return utc_now()


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes no machine a slow one."""
    monkeypatch.setattr(store_module, "_COUNT_SECONDS", 1000.0)


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


async def active_at(store: MongoStore, now: datetime) -> int:
    return (await store.count(now, now)).active


def widths(commands: Commands) -> list[int]:
    """How many digests each count since the last call looked at, by their first 12 digits."""
    sent = [command["pipeline"][0]["$match"]["session"] for name, command in commands.sent]
    commands.sent.clear()
    return [int(one.get("$lt", "1" + 12 * "0"), 16) - int(one["$gte"], 16) for one in sent]


async def test_few_are_counted(store: MongoStore, now: datetime) -> None:
    active = await fill(store, now)

    assert await store.count(now, now + LEASE / 2) == (active, {})
    assert await store.count(now + LEASE, now + LEASE) == (0, {})
    counted, silent = await store.count(now, now + LEASE)
    assert silent.keys() == {None, "web 1"}
    assert counted == sum(silent.values()) == active


async def test_none_are_none(store: MongoStore, now: datetime) -> None:
    assert await store.count(now, now + LEASE) == (0, {})


async def test_many_are_estimated_evenly_from_a_bounded_number(
    commands: Commands, wire_store: MongoStore, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = await fill(wire_store, now)
    monkeypatch.setattr(store_module, "COUNTED_AT_MOST", 90)
    monkeypatch.setattr(store_module, "_COUNTED_AT_ONCE", 30)
    commands.sent.clear()

    estimates = [await active_at(wire_store, now) for _ in range(60)]

    # Of about 100 documents each, by themselves they are within 20 % or so.
    assert mean(estimates) == pytest.approx(active, rel=0.1)
    assert max(estimates) < 2 * active
    assert len(set(estimates)) > 10, "from another place each time"
    assert {name for name, _ in commands.sent} == {"aggregate"}
    assert {command["pipeline"][1]["$limit"] for _, command in commands.sent} == {60}
    # It found the right slice once, and keeps to it: not even the first look is at all of them.
    looks = widths(commands)
    assert looks[0] == 16**12 // 4096
    assert max(looks) < 16**12 // 3
    assert len(looks) < 8 * len(estimates)


async def test_those_of_a_few_slices_are_counted_exactly(
    wire_store: MongoStore, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = await fill(wire_store, now)
    monkeypatch.setattr(store_module, "_COUNTED_AT_ONCE", 150)

    assert {await active_at(wire_store, now) for _ in range(10)} == {active}


async def test_a_slow_database_is_asked_for_less_at_a_time_but_not_for_nothing(
    commands: Commands, wire_store: MongoStore, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = await fill(wire_store, now)
    await active_at(wire_store, now)
    commands.sent.clear()
    monkeypatch.setattr(store_module, "_COUNTED_AT_ONCE", 1000)
    monkeypatch.setattr(store_module, "_COUNT_SECONDS", 0.000_001)

    assert [await active_at(wire_store, now) for _ in range(2)] == [active, active]

    # Of some 600 documents, 100 at a time.
    looks = widths(commands)
    assert looks[0] == 16**12
    assert 6 <= len(looks[1:]) < 15


async def test_after_no_answer_in_time_the_next_look_begins_with_less(
    commands: Commands,
    wire_store: MongoStore,
    now: datetime,
    failing: Callable[..., None],
) -> None:
    active = await fill(wire_store, now)
    await active_at(wire_store, now)
    commands.sent.clear()
    failing("aggregate", code=50)
    with pytest.raises(StoreUnavailableError):
        await active_at(wire_store, now)

    assert await active_at(wire_store, now) == active

    assert widths(commands)[:2] == [16**12, 16**11]


async def test_what_became_few_is_counted_in_one_look_again(
    commands: Commands, wire_store: MongoStore, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COUNTED_AT_MOST", 90)
    monkeypatch.setattr(store_module, "_COUNTED_AT_ONCE", 30)
    active = await fill(wire_store, now)
    await active_at(wire_store, now)
    monkeypatch.setattr(store_module, "COUNTED_AT_MOST", 30_000)
    monkeypatch.setattr(store_module, "_COUNTED_AT_ONCE", 10_000)
    await active_at(wire_store, now)
    commands.sent.clear()

    assert await active_at(wire_store, now) == active
    assert widths(commands) == [16**12]
