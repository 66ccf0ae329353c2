"""Races for slots, on a real server: each store has a client of its own, as processes have."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from stream_service import admission
from stream_service import store as store_module
from stream_service.admission import SAME_DEVICE, STALEST, Start
from stream_service.limiter import End, Limiter, Observer, Renewed, Started
from stream_service.store import MongoStore, Put
from stream_service.streams import (
    LimitReachedError,
    StoreUnavailableError,
    Stream,
    StreamEndedError,
    TooManyRequestsError,
    new_secret,
    stream_id_of,
    token_of,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from pymongo import MongoClient, UpdateOne

    Connect = Callable[..., MongoStore]
    Race = Callable[[Sequence[Start]], Awaitable[list[Started]]]

LEASE = timedelta(seconds=60)


@pytest.fixture
async def stores(connect: Connect) -> list[MongoStore]:
    made = [connect() for _ in range(3)]
    for store in made:
        await store.prepare()
    return made


@pytest.fixture
def limiters(stores: list[MongoStore]) -> list[Limiter]:
    """Three limiters, as of three processes."""
    return [Limiter(store, lease=LEASE) for store in stores]


@pytest.fixture
def race(
    stores: list[MongoStore], limiters: list[Limiter], monkeypatch: pytest.MonkeyPatch
) -> Race:
    """Tries starts at once, dealt out to the limiters; gives those that were admitted.

    Nobody goes on to claim before everybody has read: luck has no say in who is too late.
    """

    async def run(starts: Sequence[Start]) -> list[Started]:
        everybody_has_read = asyncio.Barrier(len(stores))
        with monkeypatch.context() as patch:
            for store in stores:
                patch.setattr(store, "read", _meeting_once(store, everybody_has_read))
            answers = await asyncio.gather(
                *(limiters[n % len(limiters)].start(start) for n, start in enumerate(starts)),
                return_exceptions=True,
            )
        for answer in answers:
            if not isinstance(answer, Started | LimitReachedError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Started)]

    return run


def _meeting_once(store: MongoStore, barrier: asyncio.Barrier) -> Callable[..., Any]:
    read = store.read
    has_met = False

    async def met(*args: Any) -> Any:
        nonlocal has_met
        view = await read(*args)
        if not has_met:
            has_met = True
            await barrier.wait()
        return view

    return met


async def active(limiter: Limiter, session: str) -> set[str]:
    return {stream.stream_id for stream in await limiter.active(session)}


async def test_three_racing_starts_of_a_fresh_session_are_all_admitted(
    limiters: list[Limiter], race: Race
) -> None:
    admitted = await race([Start("s", 3) for _ in range(3)])

    assert sorted(started.stream.slot for started in admitted) == [0, 1, 2]
    assert await active(limiters[0], "s") == {started.stream.stream_id for started in admitted}


async def test_of_many_racing_starts_exactly_the_limit_is_admitted(
    limiters: list[Limiter], race: Race
) -> None:
    admitted = await race([Start("s", 3) for _ in range(60)])

    assert len(admitted) == 3
    assert await active(limiters[0], "s") == {started.stream.stream_id for started in admitted}


async def test_fifty_sessions_that_race_at_once_get_what_they_may_have_each(race: Race) -> None:
    sessions = [f"s{n}" for n in range(50)]
    # Five tries each, so that every limiter has some of every session.
    starts = [Start(session, 3) for _ in range(5) for session in sessions]

    admitted = await race(starts)

    assert Counter(started.stream.session for started in admitted) == dict.fromkeys(sessions, 3)
    # And where no more come than may watch, nobody is refused.
    fresh = [f"t{n}" for n in range(50)]
    admitted = await race([Start(session, 3) for _ in range(3) for session in fresh])
    assert Counter(started.stream.session for started in admitted) == dict.fromkeys(fresh, 3)


async def test_racing_starts_get_the_slots_of_streams_that_are_over_once_each(
    limiters: list[Limiter], race: Race
) -> None:
    for started in await race([Start("s", 3) for _ in range(3)]):
        await limiters[0].stop(started.stream.place)

    admitted = await race([Start("s", 3) for _ in range(30)])

    assert sorted(started.stream.slot for started in admitted) == [0, 1, 2]


async def test_one_idempotency_key_that_races_takes_one_slot(
    limiters: list[Limiter], race: Race
) -> None:
    sessions = [f"s{n}" for n in range(10)]
    starts = [Start(session, 3, idempotency_key="k") for _ in range(3) for session in sessions]

    answers = await race(starts)

    assert len(answers) == len(starts)
    for session in sessions:
        of_session = [answer for answer in answers if answer.stream.session == session]
        assert len({answer.stream.stream_id for answer in of_session}) == 1
        assert sorted(answer.replay for answer in of_session) == [False, True, True]
        assert len(await active(limiters[0], session)) == 1


async def test_one_key_of_an_expired_stream_that_races_takes_one_slot(
    limiters: list[Limiter], race: Race, mongo: MongoClient[Any], database: str
) -> None:
    # The key is on a slot that is not the next one, so it has to be forgotten first.
    low = (await limiters[0].start(Start("s", 3))).stream
    old = (await limiters[0].start(Start("s", 3, idempotency_key="k"))).stream
    mongo[database]["streams"].update_one(
        {"stream_id": old.stream_id}, {"$set": {"expires_at": old.started_at}}
    )
    await limiters[0].stop(low.place)

    answers = await race([Start("s", 3, idempotency_key="k") for _ in range(3)])

    assert len({answer.stream.stream_id for answer in answers}) == 1
    assert len(await active(limiters[0], "s")) == 1


async def test_of_racing_replacements_of_one_stream_one_is_admitted(
    limiters: list[Limiter], race: Race
) -> None:
    victim = await limiters[0].start(Start("s", 2))
    other = await limiters[0].start(Start("s", 2))
    replace = victim.stream.stream_id

    admitted = await race([Start("s", 2, replace=(replace,)) for _ in range(12)])

    assert [started.stream.replaced for started in admitted] == [replace]
    assert await active(limiters[0], "s") == {
        admitted[0].stream.stream_id,
        other.stream.stream_id,
    }


async def test_replacements_of_the_stalest_race_with_starts_and_stay_within_the_limit(
    limiters: list[Limiter], race: Race
) -> None:
    starts = [Start("s", 3, replace=(STALEST,) if n % 2 else ()) for n in range(24)]

    admitted = await race(starts)

    assert len(await active(limiters[0], "s")) == 3
    assert await active(limiters[0], "s") <= {started.stream.stream_id for started in admitted}


async def test_racing_starts_of_one_device_leave_it_one_stream(
    limiters: list[Limiter], race: Race
) -> None:
    other = await limiters[0].start(Start("s", 3, device_id="other"))

    admitted = await race(
        [Start("s", 3, device_id="mine", replace=(SAME_DEVICE,)) for _ in range(12)]
    )

    # One after the other they took each other's place, and none is refused.
    assert len(admitted) == 12
    assert {started.stream.slot for started in admitted} == {1}
    replaced = {started.stream.replaced for started in admitted}
    [last] = {started.stream.stream_id for started in admitted} - replaced
    assert await active(limiters[0], "s") == {other.stream.stream_id, last}


async def test_a_device_that_comes_back_at_the_limit_gets_its_own_place_and_no_one_elses(
    limiters: list[Limiter], race: Race
) -> None:
    devices = ("a", "b", "c")
    before = [await limiters[0].start(Start("s", 3, device_id=device)) for device in devices]

    starts = [Start("s", 3, device_id=device, replace=(SAME_DEVICE,)) for device in devices * 4]
    admitted = await race(starts)

    assert len(admitted) == len(starts)
    slots = {started.stream.device_id: started.stream.slot for started in before}
    assert all(started.stream.slot == slots[started.stream.device_id] for started in admitted)
    assert len(await active(limiters[0], "s")) == 3


async def test_starts_that_are_not_held_to_the_limit_race_with_others_that_are(
    limiters: list[Limiter], race: Race
) -> None:
    # Each limiter has some of either kind.
    starts = [Start("s", 3, enforced=n // 3 % 2 == 0) for n in range(24)]

    admitted = await race(starts)

    assert sorted(started.stream.slot for started in admitted) == list(range(len(admitted)))
    assert 12 <= len(admitted) <= 15
    # Those beyond the limit play on where it is enforced, and keep everybody else out.
    for started in admitted:
        await limiters[0].heartbeat(started.stream.place)
    assert await race([Start("s", 3) for _ in range(3)]) == []
    for started in sorted(admitted, key=lambda started: started.stream.slot)[:-2]:
        await limiters[1].stop(started.stream.place)
    assert len(await race([Start("s", 3) for _ in range(30)])) == 1
    assert len(await active(limiters[0], "s")) == 3


async def returning_beside_starts(
    stores: list[MongoStore], limiters: list[Limiter], monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Let three lapsed streams of each of 120 accounts come back while three more start.

    The limit was 6 when they began, and is 3 now. Whoever starts has read before any of them comes
    back, and writes while they do.

    Returns:
        How many streams each account has active then.
    """
    sessions = [f"s{n}" for n in range(120)]
    long_ago = utc_now() - 2 * LEASE
    lapsed = [
        Stream(session, stream_id_of(slot, token_of(new_secret())), long_ago, long_ago + LEASE)
        for session in sessions
        for slot in (1, 3, 5)
    ]
    assert all(await stores[0].write([Put(stream) for stream in lapsed], long_ago))
    everybody_has_read = asyncio.Event()
    read = stores[0].read

    async def reads(*args: Any) -> Any:
        view = await read(*args)
        everybody_has_read.set()
        return view

    monkeypatch.setattr(stores[0], "read", reads)

    async def comes_back(stream: Stream) -> object:
        await everybody_has_read.wait()
        return await limiters[1].heartbeat(stream.place, returning=True)

    answers = await asyncio.gather(
        *(limiters[0].start(Start(session, 3)) for session in sessions for _ in range(3)),
        *map(comes_back, lapsed),
        return_exceptions=True,
    )
    for answer in answers:
        assert isinstance(answer, Started | Renewed | LimitReachedError | StreamEndedError), answer
    views = await stores[2].read(sessions)
    now = utc_now()
    return Counter(one.session for view in views.values() for one in view if one.is_active(now))


async def test_streams_that_come_back_beside_starts_never_exceed_the_limit(
    stores: list[MongoStore], limiters: list[Limiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    active = await returning_beside_starts(stores, limiters, monkeypatch)

    assert len(active) == 120
    assert max(active.values()) <= 3
    assert Counter(active.values())[3] > 100


async def test_the_same_race_without_closing_what_may_come_back_admits_too_many(
    stores: list[MongoStore], limiters: list[Limiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission._Session, "_in_the_way", lambda *_: [])  # noqa: SLF001

    active = await returning_beside_starts(stores, limiters, monkeypatch)

    assert max(active.values()) > 3


async def test_of_two_who_stop_all_in_one_batch_each_stream_is_told_to_one(
    limiters: list[Limiter], race: Race
) -> None:
    await race([Start(session, 3) for session in ("s", "t") for _ in range(3)])

    told = await asyncio.gather(*(limiters[0].stop_all(session) for session in "stus"))

    assert told == [3, 3, 0, 0]


@pytest.mark.parametrize("way", ["stop", "stop_all"])
async def test_a_stop_that_is_made_too_late_to_be_answered_is_told_all_the_same(
    stores: list[MongoStore], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    ended: list[tuple[str, str | None]] = []

    class Ends(Observer):
        def on_end(self, end: End) -> None:
            ended.append((end.reason, end.by))

    limiter = Limiter(stores[0], lease=LEASE, observer=Ends())
    stream = (await limiter.start(Start("s", 3))).stream
    end, go_on = stores[0].end, asyncio.Event()

    async def end_late(*args: Any) -> Any:
        await go_on.wait()
        return await end(*args)

    monkeypatch.setattr(stores[0], "end", end_late)
    limiter._stop.deadline_seconds = 0.2  # noqa: SLF001
    of: Any = stream.place if way == "stop" else "s"
    with pytest.raises((StoreUnavailableError, TooManyRequestsError)):
        await getattr(limiter, way)(of, by="operator")
    go_on.set()
    await limiter.finish()

    assert ended == [("stopped", "operator")]


async def test_a_stop_of_all_tells_only_of_what_it_ended_itself(
    stores: list[MongoStore], limiters: list[Limiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, replaced, _ = [(await limiters[1].start(Start("s", 3))).stream for _ in range(3)]
    read = stores[0].read

    async def read_before_others(*args: Any) -> Any:
        view = await read(*args)
        await limiters[1].stop(stopped.place)
        await asyncio.sleep(0.01)  # A stop of the same millisecond could be anybody's.
        await limiters[1].start(Start("s", 3, replace=(replaced.stream_id,)))
        return view

    monkeypatch.setattr(stores[0], "read", read_before_others)
    assert await limiters[0].stop_all("s") == 1
    assert len(await active(limiters[1], "s")) == 1


def _claims_whatever_is_there(operation: Callable[..., UpdateOne]) -> Callable[..., UpdateOne]:
    """The conditional upsert with its condition taken out."""

    def unguarded(store: MongoStore, change: store_module.Change, now: datetime) -> UpdateOne:
        made: Any = operation(store, change, now)
        if store_module._is_claim(change):  # noqa: SLF001
            del made._filter["expires_at"]  # noqa: SLF001 - its one way in
        return cast("UpdateOne", made)

    return unguarded


def _claims_beside_what_is_there(operation: Callable[..., UpdateOne]) -> Callable[..., UpdateOne]:
    """The slot's number taken out of the primary key."""

    def unguarded(store: MongoStore, change: store_module.Change, now: datetime) -> UpdateOne:
        made: Any = operation(store, change, now)
        if store_module._is_claim(change):  # noqa: SLF001
            made._filter["_id"] += f"/{token_of(new_secret())}"  # noqa: SLF001 - its one way in
        return cast("UpdateOne", made)

    return unguarded


@pytest.mark.parametrize("without", [_claims_whatever_is_there, _claims_beside_what_is_there])
async def test_the_same_race_without_the_guard_of_the_claim_admits_too_many(
    race: Race,
    monkeypatch: pytest.MonkeyPatch,
    without: Callable[[Callable[..., UpdateOne]], Callable[..., UpdateOne]],
) -> None:
    unguarded = without(MongoStore._operation)  # noqa: SLF001
    monkeypatch.setattr(MongoStore, "_operation", unguarded)

    admitted = await race([Start("s", 3) for _ in range(60)])

    assert len(admitted) > 3
