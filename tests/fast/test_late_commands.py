"""A command that the database carries out long after it was sent changes nothing that is over.

As after a link that heals, or a slow second hop: what the sender knew has passed meanwhile.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from stream_service.store import Confirm, MongoStore, Put
from stream_service.streams import Stream, key_place, new_secret, stream_id_of, token_of, utc_now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

SECOND = timedelta(seconds=1)
LEASE = 60 * SECOND


def streaming(at: datetime, *, key: str | None = None) -> Stream:
    return Stream(
        session="s",
        stream_id=stream_id_of(0, token_of(new_secret())),
        device="TV",
        content="film",
        started_at=at,
        expires_at=at + LEASE,
        places=() if key is None else (key_place(key),),
    )


async def stopped(store: MongoStore, stream: Stream, seconds: int = 1) -> None:
    await store.end([stream.place], stream.started_at + seconds * SECOND)
    assert (await store.slots([stream.place]))[stream.place].ended == "stopped"


async def stopped_beyond_the_skew(store: MongoStore, stream: Stream) -> None:
    await stopped(store, stream, 20)


async def replaced(store: MongoStore, stream: Stream, at: int = 1) -> Stream:
    now = stream.started_at + at * SECOND
    successor = streaming(now)
    assert await store.write([Put(successor, stream)], now) == [True]
    return successor


async def replaced_by_one_that_was_stopped(store: MongoStore, stream: Stream) -> None:
    await stopped(store, await replaced(store, stream), 20)


async def stopped_and_its_slot_claimed(store: MongoStore, stream: Stream) -> None:
    await stopped(store, stream)
    now = stream.started_at + 2 * SECOND
    assert await store.write([Put(streaming(now))], now) == [True]


async def stopped_and_its_slot_used_and_stopped(store: MongoStore, stream: Stream) -> None:
    await stopped(store, stream)
    now = stream.started_at + 2 * SECOND
    other = streaming(now)
    assert await store.write([Put(other)], now) == [True]
    await stopped(store, other, 20)


async def lapsed_and_closed(store: MongoStore, stream: Stream) -> None:
    now = stream.expires_at
    assert await store.expire([stream.place], now) == {stream.place}


OVER = [
    lapsed_and_closed,
    stopped,
    stopped_beyond_the_skew,
    replaced,
    replaced_by_one_that_was_stopped,
    stopped_and_its_slot_claimed,
    stopped_and_its_slot_used_and_stopped,
]


async def a_renewal(store: MongoStore, stream: Stream, now: datetime) -> bool:
    return await store.renew([stream.place], now, now + 2 * LEASE)


async def a_stop(store: MongoStore, stream: Stream, now: datetime) -> None:
    await store.end([stream.place], now)


async def a_take_over(store: MongoStore, stream: Stream, now: datetime) -> bool:
    write = Put(streaming(now), stream)
    return await store.write([write], now) == [True]


async def a_take_over_if_unchanged(store: MongoStore, stream: Stream, now: datetime) -> bool:
    write = Put(streaming(now), stream, if_unchanged=True)
    return await store.write([write], now) == [True]


async def a_confirmation(store: MongoStore, stream: Stream, now: datetime) -> bool:
    return await store.write([Confirm(stream)], now) == [True]


async def a_closing(store: MongoStore, stream: Stream, now: datetime) -> bool:
    return bool(await store.expire([stream.place], now))


COMMANDS = [
    a_renewal,
    a_stop,
    a_take_over,
    a_take_over_if_unchanged,
    a_confirmation,
    a_closing,
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("event", OVER)
async def test_a_command_that_comes_late_changes_nothing_of_a_stream_that_is_over(
    store: MongoStore,
    event: Callable[[MongoStore, Stream], Awaitable[object]],
    command: Callable[[MongoStore, Stream, datetime], Awaitable[bool | None]],
) -> None:
    stream = streaming(utc_now(), key="k")
    assert await store.write([Put(stream)], stream.started_at) == [True]
    await event(store, stream)
    holder = (await store.slots([stream.place]))[stream.place]

    # What was sent while the stream was active.
    assert not await command(store, stream, stream.started_at)

    assert (await store.slots([stream.place]))[stream.place] == holder


@pytest.mark.parametrize("seconds", [1, 20])
async def test_a_claim_that_comes_late_takes_a_slot_only_from_what_was_over_when_it_was_sent(
    store: MongoStore, seconds: int
) -> None:
    sent = utc_now()
    playing = streaming(sent + seconds * SECOND)
    assert await store.write([Put(playing)], playing.started_at) == [True]

    assert await store.write([Put(streaming(sent))], sent) == [False]

    assert (await store.slots([playing.place]))[playing.place] == playing


async def test_a_renewal_that_comes_late_still_counts_for_a_stream_that_nobody_ended(
    store: MongoStore,
) -> None:
    stream = streaming(utc_now())
    await store.write([Put(stream)], stream.started_at)
    late = stream.expires_at + SECOND

    assert await a_renewal(store, stream, stream.started_at + 30 * SECOND)
    assert (await store.slots([stream.place]))[stream.place].is_active(late)


async def test_a_stop_that_comes_late_ends_a_stream_that_was_renewed_meanwhile(
    store: MongoStore,
) -> None:
    stream = streaming(utc_now())
    await store.write([Put(stream)], stream.started_at)
    assert await a_renewal(store, stream, stream.started_at + 30 * SECOND)

    await a_stop(store, stream, stream.started_at)
    assert (await store.slots([stream.place]))[stream.place].ended == "stopped"
