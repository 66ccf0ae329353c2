"""What comes between a start's look and its step, or undoes what it saw: one by one, on purpose."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.admission import Start
from stream_service.limiter import Limiter, Renewed
from stream_service.store import Put
from stream_service.streams import (
    LimitReachedError,
    Stream,
    StreamEndedError,
    key_place,
    new_secret,
    stream_id_of,
    token_of,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from stream_service.store import MongoStore

MILLISECOND = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
LEASE = 60 * SECOND


def streaming(slot: int, at: datetime, key: str | None = None) -> Stream:
    stream_id = stream_id_of(slot, token_of(new_secret()))
    return Stream("s", stream_id, at, at + LEASE, places=() if key is None else (key_place(key),))


def after_the_first_look(
    monkeypatch: pytest.MonkeyPatch, store: MongoStore, happens: Callable[[], Awaitable[object]]
) -> None:
    read = store.read
    looks = 0

    async def look(*args: Any) -> Any:
        nonlocal looks
        view = await read(*args)
        looks += 1
        if looks == 1:
            await happens()
        return view

    monkeypatch.setattr(store, "read", look)


async def active(limiter: Limiter) -> list[int]:
    return sorted(stream.slot for stream in await limiter.active("s"))


@pytest.fixture
async def end_of_the_third(store: MongoStore) -> datetime:
    """When the lease of a stream in slot 4 is over; those in 0 and 1 run on.

    As after the limit was lowered from 5 to 3.
    """
    began = utc_now()
    at = began - LEASE
    writes = [Put(streaming(0, began)), Put(streaming(1, began)), Put(streaming(4, at))]
    assert all(await store.write(writes, at))
    return began


async def test_a_heartbeat_in_the_last_moment_of_a_stream_above_a_lowered_limit_keeps_its_place(
    store: MongoStore, end_of_the_third: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    fourth = next(s for s in (await store.read(["s"]))["s"] if s.slot == 4)
    limiter = Limiter(store, lease=LEASE, clock=lambda: end_of_the_third)
    other = Limiter(store, lease=LEASE, clock=lambda: end_of_the_third - MILLISECOND)

    after_the_first_look(monkeypatch, store, lambda: other.heartbeat(fourth.place))
    with pytest.raises(LimitReachedError):
        await limiter.start(Start("s", 3))

    assert await active(limiter) == [0, 1, 4]


async def test_a_heartbeat_that_comes_after_the_place_was_given_away_is_told_that_it_is_over(
    store: MongoStore, end_of_the_third: datetime
) -> None:
    fourth = next(s for s in (await store.read(["s"]))["s"] if s.slot == 4)
    limiter = Limiter(store, lease=LEASE, clock=lambda: end_of_the_third)
    # Its clock stands for a command that was sent in time and is carried out late.
    late = Limiter(store, lease=LEASE, clock=lambda: end_of_the_third - MILLISECOND)

    started = await limiter.start(Start("s", 3))
    with pytest.raises(StreamEndedError) as over:
        await late.heartbeat(fourth.place)

    assert started.stream.slot == 2
    assert over.value.reason == "expired"
    assert await active(limiter) == [0, 1, 2]


@pytest.mark.parametrize("by", ["key", "token"])
async def test_what_a_start_saw_of_itself_and_a_failover_then_undid_is_started_anew(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    limiter = Limiter(store, lease=LEASE)
    start = Start("s", 3, idempotency_key="k") if by == "key" else Start("s", 3)
    first = await limiter.start(start)

    async def undo() -> None:
        await store._streams.delete_many({})  # noqa: SLF001 - as another primary never had it

    after_the_first_look(monkeypatch, store, undo)
    again = await limiter.start(Start("s", 3, idempotency_key="k") if by == "key" else start)

    assert not again.replay
    assert [s.stream_id for s in await limiter.active("s")] == [again.stream.stream_id]
    assert (again.stream.stream_id == first.stream.stream_id) == (by == "token")


async def test_a_replay_whose_stream_was_stopped_meanwhile_is_a_start_of_its_own(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = Limiter(store, lease=LEASE)
    first = (await limiter.start(Start("s", 3, idempotency_key="k"))).stream

    after_the_first_look(monkeypatch, store, lambda: limiter.stop(first.place))
    again = await limiter.start(Start("s", 3, idempotency_key="k"))

    assert not again.replay
    assert [s.stream_id for s in await limiter.active("s")] == [again.stream.stream_id]


@pytest.mark.parametrize("returning", [False, True])
async def test_a_heartbeat_or_return_that_a_router_missed_and_counted_wrongly_is_sent_again(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch, *, returning: bool
) -> None:
    # As while its chunk moves: the stream is there and nothing ended it, but was not renewed.
    now = utc_now()
    limiter = Limiter(store, lease=LEASE, clock=lambda: now)
    first, second = [(await limiter.start(Start("s", 3))).stream for _ in range(2)]
    now += 2 * LEASE if returning else LEASE / 3
    renew, renewals = store.renew, 0

    async def miss_one(places: Any, *args: Any, returning: Any) -> bool:
        nonlocal renewals
        renewals += 1
        if renewals == 1:
            hit, back = [
                [place for place in of if place[1] != second.stream_id]
                for of in (places, returning)
            ]
            await renew(hit, *args, returning=back)
            return False
        return await renew(places, *args, returning=returning)

    monkeypatch.setattr(store, "renew", miss_one)
    await asyncio.gather(
        *(limiter.heartbeat(s.place, returning=returning) for s in (first, second))
    )

    assert [s.expires_at for s in await limiter.active("s")] == [now + LEASE] * 2


@pytest.mark.parametrize(("lost_in_a_row", "survives"), [(1, True), (2, False)])
async def test_a_renewal_that_is_lost_costs_no_stream_that_beats_on_time(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch, lost_in_a_row: int, *, survives: bool
) -> None:
    """By the arithmetic of docs/reliability.md: one in a row is mended, two are not promised."""
    now = began = utc_now()
    limiter = Limiter(store, lease=LEASE, clock=lambda: now)
    monkeypatch.setattr("stream_service.limiter.random", lambda: 1.0)  # The longest wait.
    stream = (await limiter.start(Start("s", 3))).stream
    durable = stream.expires_at
    answers: list[object] = []

    for beat in range(1, 13):
        now += limiter.heartbeat_in() * SECOND
        try:
            answers.append(await limiter.heartbeat(stream.place))
        except StreamEndedError as over:
            answers.append(over)
        if beat % (lost_in_a_row + 1):
            # What a failover leaves: what a majority had.
            undo = {"$set": {"expires_at": durable}}
            await store._streams.update_many({}, undo)  # noqa: SLF001
        else:
            durable = now + LEASE

    assert all(isinstance(answer, Renewed) for answer in answers) == survives
    assert now > began + 4 * LEASE
