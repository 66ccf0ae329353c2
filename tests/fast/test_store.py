"""The store's verbs, on the test double and on a real server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.admission import Start
from stream_service.api.digests import Digests
from stream_service.connection import COMMAND_TIMEOUT
from stream_service.documents import FORGET_STEP, REMEMBERED_PER_SLOT, TOLERATED_SKEW
from stream_service.limiter import Limiter
from stream_service.store import (
    Change,
    Confirm,
    MongoStore,
    Put,
)
from stream_service.streams import (
    Place,
    StoreUnavailableError,
    Stream,
    Tombstone,
    key_place,
    new_secret,
    stream_id_of,
    token_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo import MongoClient

    from tests.conftest import Commands

NOW = datetime(2100, 1, 1, 20, 15, tzinfo=UTC)
"""Far ahead, so that no database deletes what a test puts there, however slow the machine is."""
SECOND = timedelta(seconds=1)
LEASE = 60 * SECOND

LATITUDE_SECONDS = 8.0
"""For a slow machine. Without its own limit the driver would look for a server for 30 s."""


def streaming(  # noqa: PLR0913 - the parts of a stream
    slot: int = 0,
    session: str = "s",
    *,
    at: datetime = NOW,
    key: str | None = None,
    replaced: str | None = None,
    salt: str | None = None,
    device: str | None = None,
    fingerprint: str | None = None,
) -> Stream:
    return Stream(
        session=session,
        stream_id=stream_id_of(slot, token_of(new_secret())),
        device="TV",
        content="film",
        started_at=at,
        expires_at=at + LEASE,
        places=() if key is None else (key_place(key),),
        tombstones=() if replaced is None else (Tombstone(replaced, "replaced"),),
        device_id=device,
        fingerprint=fingerprint,
        salt=salt,
    )


def in_place_of(victim: Stream, *, at: datetime = NOW) -> Stream:
    return streaming(victim.slot, victim.session, at=at)


async def put(store: MongoStore, *streams: Stream) -> None:
    for stream in streams:
        assert await store.write([Put(stream)], stream.started_at) == [True]


def places(*streams: Stream) -> list[Place]:
    return [stream.place for stream in streams]


async def holder_of(store: MongoStore, stream: Stream) -> Stream | None:
    """What the slot of this stream holds now, but for what it remembers of those before."""
    holder = (await store.slots(places(stream))).get(stream.place)
    return holder and holder._replace(tombstones=(), ended_by=None)


async def active(store: MongoStore, session: str = "s", now: datetime = NOW) -> list[Stream]:
    held = (await store.read([session])).get(session, [])
    held = [stream._replace(tombstones=()) for stream in held if stream.is_active(now)]
    return sorted(held, key=lambda stream: stream.slot)


async def test_a_claim_gets_a_slot_that_nobody_ever_had(store: MongoStore) -> None:
    stream = streaming()

    assert await store.write([Put(stream)], NOW) == [True]
    assert await active(store) == [stream]


async def test_a_claim_of_an_occupied_slot_has_to_look_again(store: MongoStore) -> None:
    first = streaming()
    await put(store, first)

    assert await store.write([Put(streaming())], NOW) == [False]
    assert await active(store) == [first]


async def test_a_claim_gets_the_slot_of_a_stream_whose_lease_just_ended(store: MongoStore) -> None:
    await put(store, streaming(key="k", device="d", fingerprint="f", salt="s"))
    then = NOW + LEASE
    second = streaming(at=then)

    assert await store.write([Put(second)], then - timedelta(milliseconds=1)) == [False]
    assert await store.write([Put(second)], then) == [True]
    # Nothing of the first one is left: not its key, nor its device.
    assert await holder_of(store, second) == second


async def test_no_start_takes_what_another_start_of_its_batch_is_answered_with(
    store: MongoStore,
) -> None:
    limiter = Limiter(store, lease=LEASE, clock=lambda: NOW)
    first = await limiter.start(Start("s", 1, idempotency_key="k"))

    hasty, replayed = await asyncio.gather(
        limiter.start(Start("s", 1, replace=("oldest",))),
        limiter.start(Start("s", 1, idempotency_key="k")),
    )
    assert replayed.replay
    assert replayed.stream.stream_id == first.stream.stream_id
    assert hasty.stream.replaced == first.stream.stream_id


async def test_a_slot_remembers_those_that_were_ended_and_not_for_ever(store: MongoStore) -> None:
    had_it: list[Stream] = []
    now = NOW
    for number in range(REMEMBERED_PER_SLOT + 2):
        now += TOLERATED_SKEW
        victim = had_it[-1] if number % 2 else None
        stream = in_place_of(victim, at=now) if victim else streaming(at=now)
        assert await store.write([Put(stream, victim)], now) == [True]
        had_it.append(stream)
        if number % 2:
            await store.end(places(stream), now)
    last = streaming(at=now)
    await put(store, last)

    holder = (await store.slots(places(last)))[last.place]
    reasons = [holder.reason_of(stream.stream_id) for stream in had_it]
    assert reasons == [None, None, *["replaced", "stopped"] * (REMEMBERED_PER_SLOT // 2)]


async def test_a_stream_keeps_what_its_start_came_with_through_renewal_and_end(
    store: MongoStore,
) -> None:
    stream = streaming(device="d", fingerprint="f")
    await put(store, stream)
    await store.renew(places(stream), NOW + SECOND, NOW + SECOND + LEASE)
    [renewed] = await active(store)
    await store.end(places(stream), NOW + SECOND)

    holder = await holder_of(store, stream)
    assert holder is not None
    assert (renewed.device_id, holder.device_id) == ("d", "d")
    assert (renewed.fingerprint, holder.fingerprint) == ("f", "f")


async def test_a_claim_of_a_stopped_streams_slot_takes_the_tombstone_away(
    store: MongoStore,
) -> None:
    stopped, second = streaming(), streaming()
    await put(store, stopped)
    await store.end(places(stopped), NOW)

    await put(store, second)

    assert await holder_of(store, second) == second


async def test_slots_of_different_sessions_do_not_meet(store: MongoStore) -> None:
    ours, theirs = streaming(session="ours"), streaming(session="theirs")

    assert await store.write([Put(ours), Put(theirs)], NOW) == [True, True]
    assert await active(store, "ours") == [ours]
    assert await active(store, "theirs") == [theirs]


async def test_a_key_that_another_slot_of_the_session_bears_loses_its_claim(
    store: MongoStore,
) -> None:
    await put(store, streaming(0, key="k"))

    assert await store.write([Put(streaming(1, key="k"))], NOW) == [False]
    assert await store.write([Put(streaming(1, "other", key="k"))], NOW) == [True]
    assert len(await active(store)) == 1


async def test_any_number_of_streams_of_a_session_have_no_key(store: MongoStore) -> None:
    writes = [Put(streaming(slot)) for slot in range(3)]

    assert await store.write(writes, NOW) == [True, True, True]


async def test_a_take_over_puts_the_new_stream_into_its_victims_slot(store: MongoStore) -> None:
    victim = streaming(1, key="k")
    await put(store, victim)
    successor = in_place_of(victim)

    assert await store.write([Put(successor, victim)], NOW) == [True]
    assert await active(store) == [successor]
    assert await holder_of(store, victim) == successor


async def test_a_take_over_gets_a_victim_that_was_renewed_meanwhile(store: MongoStore) -> None:
    victim = streaming()
    await put(store, victim)
    await store.renew(places(victim), NOW, NOW + 2 * LEASE)

    assert await store.write([Put(in_place_of(victim), victim)], NOW) == [True]


async def test_a_take_over_if_unchanged_spares_a_victim_that_was(store: MongoStore) -> None:
    victim = streaming()
    await put(store, victim)
    await store.renew(places(victim), NOW, NOW + 2 * LEASE)

    write = Put(in_place_of(victim), victim, if_unchanged=True)

    assert await store.write([write], NOW) == [False]
    assert [stream.stream_id for stream in await active(store)] == [victim.stream_id]


async def test_a_take_over_if_unchanged_gets_a_victim_that_was_not(store: MongoStore) -> None:
    victim = streaming()
    await put(store, victim)
    successor = in_place_of(victim)

    assert await store.write([Put(successor, victim, if_unchanged=True)], NOW) == [True]
    assert await active(store) == [successor]


async def test_a_take_over_of_a_stream_that_is_over_has_to_look_again(store: MongoStore) -> None:
    stopped, expired = streaming(0), streaming(1, at=NOW - LEASE)
    await put(store, stopped, expired)
    await store.end(places(stopped), NOW)

    for victim in (stopped, expired):
        assert await store.write([Put(in_place_of(victim), victim)], NOW) == [False]
    assert await active(store) == []


async def test_a_take_over_of_a_stream_that_was_taken_over_has_to_look_again(
    store: MongoStore,
) -> None:
    victim = streaming()
    await put(store, victim)
    first = in_place_of(victim)
    await store.write([Put(first, victim)], NOW)

    assert await store.write([Put(in_place_of(victim), victim)], NOW) == [False]
    assert await active(store) == [first]


async def test_a_batch_of_claims_says_of_each_whether_it_was_done(store: MongoStore) -> None:
    await put(store, streaming(1), streaming(2, at=NOW - LEASE))
    writes = [Put(streaming(0)), Put(streaming(1)), Put(streaming(2)), Put(streaming(0))]

    assert await store.write(writes, NOW) == [True, False, True, False]
    assert [s.stream_id for s in await active(store)][::2] == [
        writes[0].stream.stream_id,
        writes[2].stream.stream_id,
    ]


async def test_a_mixed_batch_whose_take_overs_were_all_done_says_so(store: MongoStore) -> None:
    victim, other = streaming(0), streaming(1)
    await put(store, victim, other, streaming(2))
    writes = [
        Put(in_place_of(victim), victim),
        Put(streaming(2)),
        Put(streaming(3)),
        Put(in_place_of(other), other, if_unchanged=True),
    ]

    assert await store.write(writes, NOW) == [True, False, True, True]


async def test_a_mixed_batch_says_of_each_change_whether_it_was_made(store: MongoStore) -> None:
    """Though the database counts those that are no claims, and does not say which it made."""
    victim, gone, playing, over = (streaming(slot) for slot in range(4))
    await put(store, victim, playing, over, streaming(4))
    await store.end(places(over), NOW)
    successor = in_place_of(victim)
    changes: list[Change] = [
        Put(in_place_of(gone), gone),
        Put(successor, victim),
        Put(streaming(4)),
        Put(streaming(5)),
        Confirm(playing),
        Confirm(over),
    ]

    assert await store.write(changes, NOW) == [False, True, False, True, True, False]
    assert await holder_of(store, successor) == successor


async def test_a_renewal_lets_leases_run_on(store: MongoStore) -> None:
    first, second, other = streaming(0, key="k"), streaming(1), streaming(0, "other")
    await put(store, first, second, other)
    until = NOW + 2 * LEASE

    assert await store.renew(places(first, other), NOW, until)
    assert await active(store, now=NOW + LEASE) == [first._replace(expires_at=until)]
    assert await active(store, "other") == [other._replace(expires_at=until)]
    assert await active(store) == [first._replace(expires_at=until), second]


async def test_a_stream_that_beats_twice_in_a_batch_counts_once(store: MongoStore) -> None:
    stream = streaming()
    await put(store, stream)

    assert await store.renew(places(stream, stream), NOW, NOW + 2 * LEASE)


async def test_a_renewal_never_moves_the_end_of_a_lease_back(store: MongoStore) -> None:
    # As of a process whose clock is behind, or one that has a shorter lease.
    stream = streaming()
    await put(store, stream)

    assert await store.renew(places(stream), NOW, NOW + SECOND)
    assert await active(store) == [stream]


async def test_a_renewal_brings_nothing_back_that_is_over(store: MongoStore) -> None:
    stopped, expired, victim = streaming(0), streaming(1, at=NOW - LEASE), streaming(2)
    await put(store, stopped, expired, victim)
    await store.end(places(stopped), NOW)
    successor = in_place_of(victim)
    await store.write([Put(successor, victim)], NOW)

    for stream in (stopped, expired, victim, streaming(3), successor._replace(session="other")):
        assert not await store.renew(places(stream), NOW, NOW + 2 * LEASE)
    assert await active(store) == [successor]


async def test_a_renewal_of_a_batch_with_one_over_renews_the_others_and_says_so(
    store: MongoStore,
) -> None:
    expired, playing = streaming(0, at=NOW - LEASE), streaming(1)
    await put(store, expired, playing)
    until = NOW + 2 * LEASE

    assert not await store.renew(places(expired, playing), NOW, until)
    assert await active(store) == [playing._replace(expires_at=until)]


async def test_an_end_leaves_a_tombstone_that_is_dated_back_and_bears_no_key(
    store: MongoStore,
) -> None:
    stream = streaming(key="k")
    await put(store, stream)

    await store.end(places(stream), NOW)
    assert await active(store) == []
    assert await holder_of(store, stream) == stream._replace(
        ended="stopped", expires_at=NOW - TOLERATED_SKEW, places=()
    )
    # So a process whose clock is behind can use the slot, and the key, at once.
    behind = NOW - TOLERATED_SKEW
    assert await store.write([Put(streaming(0, key="k", at=behind))], behind) == [True]


async def test_an_end_touches_only_the_stream_that_it_names(store: MongoStore) -> None:
    closed, victim, playing = streaming(0, at=NOW - LEASE), streaming(1), streaming(2)
    await put(store, closed, victim, playing)
    successor = in_place_of(victim)
    await store.write([Put(successor, victim)], NOW)
    await store.expire(places(closed), NOW)

    for other in (closed, victim, playing._replace(session="other")):
        await store.end(places(other), NOW)
    assert await active(store) == [successor, playing]
    assert await holder_of(store, closed) == closed._replace(ended="expired")


async def test_an_end_of_a_lapsed_stream_moves_neither_of_its_times_forward(
    store: MongoStore,
) -> None:
    lapsed = streaming(0, at=NOW - 3 * LEASE)
    await put(store, lapsed)

    await store.end(places(lapsed), NOW)

    assert await holder_of(store, lapsed) == lapsed._replace(ended="stopped")


async def test_a_renewal_of_those_that_return_spares_what_is_over_for_good(
    store: MongoStore,
) -> None:
    lapsed, beating, victim, closed, stopped, playing = [
        streaming(slot, at=NOW - 2 * LEASE) for slot in range(5)
    ] + [streaming(5)]
    await put(store, lapsed, beating, victim, closed, stopped, playing)
    successor = streaming(2)
    await store.write([Put(successor, expired=victim)], NOW)
    await store.expire(places(closed), NOW)
    await store.end(places(stopped), NOW)
    until = NOW + LEASE / 2

    returning = places(lapsed, victim, closed, stopped, playing)
    assert not await store.renew(places(beating), NOW, until, returning=returning)

    # Never to an earlier end.
    assert await active(store) == [lapsed._replace(expires_at=until), successor, playing]
    assert await store.renew([], NOW, until, returning=places(lapsed, playing))


async def test_sessions_that_name_each_others_streams_in_one_batch_stop_neither(
    store: MongoStore,
) -> None:
    ours, theirs = streaming(0, "ours"), streaming(0, "theirs")
    await put(store, ours, theirs)
    crossed = [Place("ours", theirs.stream_id), Place("theirs", ours.stream_id)]

    await store.end(crossed, NOW)
    assert await active(store, "ours") == [ours]
    assert await active(store, "theirs") == [theirs]


@pytest.mark.usefixtures("frees_removed_keys")
async def test_a_lapsed_stream_that_was_closed_is_renewed_by_nobody_and_its_key_is_free(
    store: MongoStore,
) -> None:
    lapsed = streaming(0, at=NOW - LEASE, key="k")
    await put(store, lapsed)
    again = streaming(1, key="k")
    assert await store.write([Put(again)], NOW) == [False]

    assert await store.expire(places(lapsed), NOW) == {lapsed.place}

    # Sent in time, and carried out only now.
    sent = NOW - SECOND
    assert not await store.renew(places(lapsed), sent, sent + LEASE)
    assert await store.write([Put(in_place_of(lapsed), lapsed)], sent) == [False]
    assert await holder_of(store, lapsed) == lapsed._replace(ended="expired", places=())
    assert await store.write([Put(again)], NOW) == [True]
    in_its_slot = streaming(0)
    await put(store, in_its_slot)
    assert await holder_of(store, lapsed) == in_its_slot


async def test_of_several_that_end_a_stream_at_once_one_is_told_that_it_did(
    connect: Callable[..., MongoStore],
) -> None:
    stores = [connect(), connect()]
    for _ in range(20):
        session = new_secret().hex()
        playing = [streaming(slot, session) for slot in range(6)]
        lapsed = [streaming(slot, session, at=NOW - LEASE) for slot in range(6, 12)]
        await put(stores[0], *playing, *lapsed)

        ended = await asyncio.gather(
            *(store.end(places(*playing, *lapsed[:3]), NOW) for store in stores),
            *(store.expire(places(*lapsed), NOW) for store in stores),
        )

        told = [place for places_ended in ended for place in places_ended]
        assert sorted(told) == sorted(places(*playing, *lapsed))


async def test_a_claim_is_of_the_slot_as_it_was_seen(store: MongoStore) -> None:
    lapsed = streaming(0, at=NOW - 3 * LEASE)
    await put(store, lapsed)
    await store.expire(places(lapsed), NOW - SECOND)

    # Seen before it was closed: what found it first has told of it.
    assert await store.write([Put(streaming(0), expired=lapsed)], NOW) == [False]
    closed = lapsed._replace(ended="expired")
    assert await store.write([Put(streaming(0), expired=closed)], NOW) == [True]


async def test_a_stream_is_not_closed_while_it_is_active_nor_when_its_slot_has_another(
    store: MongoStore,
) -> None:
    playing = streaming(0, key="k")
    lapsed = streaming(1, at=NOW - LEASE, key="l")
    await put(store, playing, lapsed)
    successor = streaming(1, key="l")
    await put(store, successor)

    assert await store.expire(places(playing, lapsed), NOW) == set()

    assert await active(store) == [playing, successor]


async def test_a_confirmation_is_for_the_stream_that_is_active_there_and_leaves_it_as_it_is(
    store: MongoStore,
) -> None:
    playing, stopped, lapsed, victim = (streaming(slot) for slot in range(4))
    lapsed = streaming(2, at=NOW - LEASE)
    await put(store, playing, stopped, lapsed, victim)
    await store.end(places(stopped), NOW)
    successor = in_place_of(victim)
    assert await store.write([Put(successor, victim)], NOW) == [True]

    for _ in range(2):
        assert await store.write([Confirm(playing)], NOW) == [True]
    for over in (stopped, lapsed, victim, streaming(4)):
        assert await store.write([Confirm(over)], NOW) == [False]

    assert await active(store) == [playing, successor]


async def test_every_kind_of_change_shares_one_command_with_the_others(
    commands: Commands, wire_store: MongoStore
) -> None:
    playing, victim = streaming(0), streaming(1)
    await put(wire_store, playing, victim)
    commands.sent.clear()

    changes: list[Change] = [Confirm(playing), Put(in_place_of(victim), victim)]
    changes += [Put(streaming(3))]
    assert await wire_store.write(changes, NOW) == [True] * 3

    assert [name for name, _ in commands.sent] == ["update"]


async def test_slots_tell_of_who_has_them_now_and_of_nothing_before_the_first(
    store: MongoStore,
) -> None:
    expired, other = streaming(1, at=NOW - LEASE), streaming(1, "other")
    await put(store, expired, other)
    earlier, never = streaming(1), streaming(0)

    found = await store.slots(places(expired, earlier, never, other))

    assert found == {
        expired.place: expired,
        earlier.place: expired,
        other.place: other,
    }


async def test_a_read_shows_what_is_over_as_over_as_long_as_it_is_there(
    store: MongoStore,
) -> None:
    lapsed, stopped, playing = streaming(0, at=NOW - LEASE, key="k"), streaming(1), streaming(2)
    await put(store, lapsed, stopped, playing)
    await put(store, streaming(0, "other", key="k"))
    await store.end(places(stopped), NOW)

    views = await store.read(["s"])

    tombstone = stopped._replace(
        ended="stopped",
        expires_at=NOW - TOLERATED_SKEW,
        tombstones=(Tombstone(stopped.stream_id, "stopped"),),
    )
    assert views.keys() == {"s"}
    held = [stream._replace(ended_by=None) for stream in views["s"]]
    assert sorted(held, key=lambda stream: stream.slot) == [lapsed, tombstone, playing]
    assert await active(store) == [playing]
    assert await active(store, now=NOW + LEASE) == []


async def test_one_read_answers_for_many_sessions(store: MongoStore) -> None:
    ours = {f"s{n}": [streaming(slot, f"s{n}") for slot in range(3)] for n in range(60)}
    streams = [stream for view in ours.values() for stream in view]
    assert all(await store.write([Put(stream) for stream in streams], NOW))

    views = await store.read([*list(ours)[:50], "nobody"])

    assert views.keys() == set(list(ours)[:50])
    for session, view in views.items():
        assert sorted(view, key=lambda stream: stream.slot) == ours[session]


async def test_a_read_of_more_streams_than_a_default_batch_is_one_command(
    commands: Commands, wire_store: MongoStore
) -> None:
    # The server's first batch is 101 documents unless it is asked for more.
    writes = [Put(streaming(slot, f"s{n}")) for n in range(8) for slot in range(50)]
    assert all(await wire_store.write(writes, NOW))
    commands.sent.clear()

    views = await wire_store.read([f"s{n}" for n in range(8)])

    assert sum(len(view) for view in views.values()) == 400
    assert [name for name, _ in commands.sent] == ["find"]


def indexes_of(mongo: MongoClient[Any], database: str) -> dict[str, Any]:
    return dict(mongo[database]["streams"].index_information())


def names_of(mongo: MongoClient[Any], database: str) -> set[str]:
    return set(indexes_of(mongo, database))


OWN = {"_id_", "session_1", "forget", "places"}


async def test_the_indexes_are_made_by_the_first_verb_at_once_and_never_again(
    commands: Commands, connect: Callable[..., MongoStore], mongo: MongoClient[Any], database: str
) -> None:
    store = connect()
    await store.read(["s"])
    await store.prepare()
    await put(store, streaming())
    names = [name for name, _ in commands.sent]
    made = ["listIndexes", "createIndexes"]
    assert names == ["hello", *made, *made, "find", "update"]
    assert names_of(mongo, database) == OWN
    commands.sent.clear()

    await connect().read(["s"])
    assert [name for name, _ in commands.sent] == ["hello", "listIndexes", "listIndexes", "find"]


async def test_a_heartbeat_moves_an_index_only_when_it_crosses_a_step(
    wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    """Of the heartbeats of an hour, every 20 s, 6 of 180."""
    stream = streaming()
    await put(wire_store, stream)
    [before] = mongo[database]["streams"].find()
    moved = 0
    for seconds in range(20, 3601, 20):
        now = NOW + seconds * SECOND
        await wire_store.renew(places(stream), now, now + LEASE)
        [after] = mongo[database]["streams"].find()
        changed = {field for field in after if before[field] != after[field]}
        indexed = {key for index in indexes_of(mongo, database).values() for key, _ in index["key"]}
        assert changed - {"forget_at"} == {"expires_at"}
        moved += len(changed & indexed)
        before = after
    assert moved == timedelta(hours=1) / FORGET_STEP


async def test_an_index_of_another_layout_is_told_with_what_to_do(
    connect: Callable[..., MongoStore],
    mongo: MongoClient[Any],
    database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mongo[database]["streams"].create_index([("forget_at", 1)], name="forget")
    with pytest.raises(StoreUnavailableError, match="indexes"):
        await connect().prepare(SECOND)

    [told] = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "drop the collection" in told.__dict__["hint"]


async def test_processes_that_start_at_once_do_not_quarrel_about_the_indexes(
    connect: Callable[..., MongoStore], mongo: MongoClient[Any], database: str
) -> None:
    stores = [connect() for _ in range(4)]

    await asyncio.gather(*(store.prepare() for store in stores))

    assert names_of(mongo, database) == OWN
    await stores[2].read([])


async def test_indexes_may_take_longer_than_a_command_and_all_but_keys_is_served_meanwhile(
    connect: Callable[..., MongoStore],
    failing: Callable[..., None],
    mongo: MongoClient[Any],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_service.connection.COMMAND_TIMEOUT", 0.5 * SECOND)
    monkeypatch.setattr("stream_service.connection._INDEX_PATIENCE_SECONDS", 0.1)
    failing("createIndexes", block=3.0)
    store = connect()
    limiter = Limiter(store, lease=LEASE)

    await store.read([])
    stream = (await limiter.start(Start("s", 3))).stream
    await limiter.heartbeat(stream.place)
    assert len(await limiter.active("s")) == 1
    with pytest.raises(StoreUnavailableError, match="indexes are being made"):
        await limiter.start(Start("s", 3, idempotency_key="k"))
    assert await limiter.stop(stream.place)
    assert "places" not in names_of(mongo, database)

    await store.prepare(None)
    assert names_of(mongo, database) == OWN
    await limiter.start(Start("s", 3, idempotency_key="k"))


async def test_indexes_that_cannot_be_made_now_are_made_later(
    connect: Callable[..., MongoStore],
    failing: Callable[..., None],
    mongo: MongoClient[Any],
    database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing("createIndexes", code=13, times=2)
    store = connect()

    await store.read(["s"])
    await store.prepare(None)

    assert names_of(mongo, database) == OWN
    told = [r for r in caplog.records if r.levelname == "WARNING"]
    assert [r.__dict__["error"] for r in told] == ["OperationFailure 13"]


async def each_verb(store: MongoStore) -> None:
    stream = streaming(key="k")
    await put(store, stream)
    await store.read(["s"])
    await store.renew(places(stream), NOW, NOW + 2 * LEASE)
    await holder_of(store, stream)
    await store.write([Confirm(stream)], NOW)
    await store.end(places(stream), NOW)
    await store.expire(places(stream), NOW)


async def test_a_server_without_retryable_writes_serves_every_verb(
    commands: Commands, connect: Callable[..., MongoStore]
) -> None:
    await each_verb(connect(options="retryWrites=false"))

    assert all("txnNumber" not in sent for _, sent in commands.sent)


async def test_all_writes_but_renewals_wait_for_a_majority_whatever_the_url_says(
    commands: Commands, connect: Callable[..., MongoStore]
) -> None:
    await each_verb(connect(options="w=0&journal=false"))

    writes = [sent for name, sent in commands.sent if name in ("update", "findAndModify")]
    assert len(writes) == 5
    one, *others = sorted((sent["writeConcern"] for sent in writes), key=lambda c: str(c["w"]))
    assert one == {"w": 1, "j": False}
    assert others == [{"w": "majority", "j": True}] * 4


async def test_reads_ask_the_primary_whatever_the_url_says(
    commands: Commands, connect: Callable[..., MongoStore]
) -> None:
    # Not a direct connection, on which the driver has no choice.
    options = "directConnection=false&readPreference=secondary&readConcernLevel=available"
    await each_verb(connect(options=options))

    reads = [sent for name, sent in commands.sent if name == "find"]
    assert len(reads) >= 2
    for sent in reads:
        assert sent.get("$readPreference", {"mode": "primary"}) == {"mode": "primary"}
        assert sent["readConcern"] == {"level": "local"}


async def test_the_database_knows_no_session_id_and_no_idempotency_key(
    wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    digest = Digests()
    session, key = "a-login-that-works", "a-key-of-the-client"
    start = Start(digest(session), 3, idempotency_key=digest(key, session))
    started = await Limiter(wire_store, lease=LEASE).start(start)

    [document] = mongo[database]["streams"].find()
    text = json.dumps(document, default=str)
    assert started.stream.stream_id in text
    assert session not in text
    assert key not in text
    assert document["session"] == digest(session)
    assert document["_id"] == f"{digest(session)}/0"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=take)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


@pytest.fixture
def dead_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("port", ["silent_port", "dead_port"])
async def test_a_database_that_is_away_is_reported_within_the_time_of_one_command(
    port: str, request: pytest.FixtureRequest
) -> None:
    number = request.getfixturevalue(port)
    store = MongoStore.connect(f"mongodb://127.0.0.1:{number}", "test", LEASE)
    stream = streaming()

    began = time.monotonic()
    answers = await asyncio.gather(
        store.read([]),
        store.read(["s"]),
        store.write([Put(stream)], NOW),
        store.renew(places(stream), NOW, NOW + LEASE),
        store.end(places(stream), NOW),
        store.slots(places(stream)),
        return_exceptions=True,
    )
    took = time.monotonic() - began
    store.close()

    assert [type(answer) for answer in answers] == [StoreUnavailableError] * len(answers)
    assert took < COMMAND_TIMEOUT.total_seconds() + LATITUDE_SECONDS


async def test_a_database_that_fails_is_reported_without_its_words(
    wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    await put(wire_store, streaming())
    mongo[database].command("collMod", "streams", validator={"device": {"$type": "int"}})

    with pytest.raises(StoreUnavailableError) as caught:
        await wire_store.write([Put(streaming(1))], datetime.now(UTC))

    assert "film" not in str(caught.value)
    assert str(caught.value).startswith(("BulkWriteError", "WriteError"))
