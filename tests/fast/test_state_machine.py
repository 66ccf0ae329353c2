"""Any course of events, against a plain model of the rules."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
)
from mongomock_motor import AsyncMongoMockClient

from stream_service.admission import OLDEST, SAME_DEVICE, STALEST, Start
from stream_service.connection import Connection
from stream_service.documents import REMEMBERED_PER_SLOT, forget_at
from stream_service.limiter import Limiter, Renewed, Started
from stream_service.store import MongoStore
from stream_service.streams import (
    LimitReachedError,
    Place,
    Stream,
    StreamEndedError,
    StreamNotFoundError,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import datetime

Answer = TypeVar("Answer")

LEASE = timedelta(seconds=60)
RETENTION = timedelta(seconds=300)

SESSIONS = st.sampled_from(["alice", "bob"])
LIMITS = st.integers(1, 4)
KEYS = st.sampled_from(["k", "l"])
DEVICES = st.sampled_from(["TV", "phone"])
LIMITERS = st.integers(0, 1)


@dataclass(eq=False)
class Watched:
    """A stream as somebody would note it down who knows the rules."""

    session: str
    stream_id: str
    slot: int
    key: str | None
    started_at: datetime
    expires_at: datetime
    in_place_of: Watched | None
    device: str | None = None
    stopped: bool = False


class AnyCourseOfEvents(RuleBasedStateMachine):
    streams = Bundle[Watched]("streams")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        client: Any = AsyncMongoMockClient(tz_aware=True)
        self.collection = client["test"]["streams"]
        self.now = utc_now()
        # Two processes on one database; what one of them has seen, the other has not.
        store = MongoStore(Connection(client, "test"), RETENTION)
        self.limiters = [Limiter(store, lease=LEASE, clock=lambda: self.now) for _ in range(2)]
        self.holders: dict[tuple[str, int], Watched] = {}
        # How those that had a slot before were ended, the latest last.
        self.past: dict[tuple[str, int], list[tuple[str, str]]] = {}
        # How many may be active, whatever comes back: the limit of the last that was admitted.
        self.most: dict[str, int] = {}

    def teardown(self) -> None:
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self.runner.run(coroutine)

    def active(self, session: str) -> list[Watched]:
        """The active streams of a session, oldest first."""
        return sorted(
            (
                held
                for held in self.holders.values()
                if held.session == session and self.is_active(held)
            ),
            key=lambda held: (held.started_at, held.slot),
        )

    def is_active(self, stream: Watched) -> bool:
        holds = self.holders.get((stream.session, stream.slot)) is stream
        return holds and not stream.stopped and stream.expires_at > self.now

    def reason(self, stream: Watched) -> str:
        """What is to be said of a stream that is not active."""
        holder = self.holders.get((stream.session, stream.slot))
        if holder is stream:
            return "stopped" if stream.stopped else "expired"
        if holder is not None and holder.in_place_of is stream:
            return "replaced"
        past = self.past.get((stream.session, stream.slot), [])[-REMEMBERED_PER_SLOT:]
        return dict(past).get(stream.stream_id, "not found")

    def remember(self, stream: Watched, reason: str) -> None:
        self.past.setdefault((stream.session, stream.slot), []).append((stream.stream_id, reason))

    def note(self, started: Started, start: Start, victim: Watched | None) -> Watched:
        stream = started.stream
        before = self.active(start.session)
        free = min(set(range(100)) - {held.slot for held in before})
        assert stream.slot == (victim.slot if victim else free)
        assert not started.replay
        watched = Watched(
            start.session,
            stream.stream_id,
            stream.slot,
            start.idempotency_key,
            self.now,
            self.now + LEASE,
            victim,
            start.device_id,
        )
        holder = self.holders.get((start.session, stream.slot))
        self.holders[start.session, stream.slot] = watched
        if victim is not None:
            self.remember(victim, "replaced")
        elif holder is not None and not holder.stopped:
            self.remember(holder, "expired")
        assert started.active == len(self.active(start.session)) <= start.slots
        self.most[start.session] = start.slots
        assert (stream.started_at, stream.expires_at) == (self.now, self.now + LEASE)
        return watched

    def start(self, process: int, start: Start, victim: Watched | None) -> Any:
        """Try a start; it shall have its place, or that of `victim`, or be refused."""
        before = self.active(start.session)
        replayed = [held for held in before if held.key and held.key == start.idempotency_key]
        started = self.run(self.tried(process, start))
        if isinstance(started, LimitReachedError):
            assert not replayed
            assert victim is None
            assert start.enforced
            assert len(before) >= start.limit, "refused below the limit"
            listed = [stream.stream_id for stream in started.reached[0].streams]
            assert listed == [held.stream_id for held in before]
            assert started.reached[0].limit == start.limit
            return multiple()
        if replayed:
            assert started.replay
            assert started.spared is None
            assert started.stream.stream_id == replayed[0].stream_id
            assert started.active == len(before)
            return multiple()
        beyond = victim is None and len(before) >= start.limit
        assert (started.spared is not None) == beyond
        return self.note(started, start, victim)

    async def tried(self, process: int, start: Start) -> Started | LimitReachedError:
        try:
            return await self.limiters[process].start(start)
        except LimitReachedError as refused:
            return refused

    @rule(target=streams, session=SESSIONS, limit=LIMITS, process=LIMITERS)
    def a_start(self, session: str, limit: int, process: int) -> Any:
        return self.start(process, Start(session, limit), None)

    @rule(
        target=streams,
        session=SESSIONS,
        limit=LIMITS,
        replace=st.sampled_from([(), (OLDEST,), (STALEST,)]),
        process=LIMITERS,
    )
    def a_start_whose_limit_is_not_enforced(
        self, session: str, limit: int, replace: tuple[str, ...], process: int
    ) -> Any:
        return self.start(process, Start(session, limit, replace=replace, enforced=False), None)

    @rule(target=streams, session=SESSIONS, limit=LIMITS, key=KEYS, process=LIMITERS)
    def a_start_with_a_key_whose_limit_is_not_enforced(
        self, session: str, limit: int, key: str, process: int
    ) -> Any:
        start = Start(session, limit, idempotency_key=key, enforced=False)
        return self.start(process, start, None)

    @rule(target=streams, session=SESSIONS, limit=LIMITS, device=DEVICES, process=LIMITERS)
    def a_start_of_a_device(self, session: str, limit: int, device: str, process: int) -> Any:
        return self.start(process, Start(session, limit, device_id=device), None)

    @rule(target=streams, session=SESSIONS, limit=LIMITS, key=KEYS, process=LIMITERS)
    def a_start_with_a_key(self, session: str, limit: int, key: str, process: int) -> Any:
        return self.start(process, Start(session, limit, idempotency_key=key), None)

    @rule(
        target=streams,
        stream=streams,
        limit=LIMITS,
        key=st.none() | KEYS,
        process=LIMITERS,
    )
    def a_start_in_place_of(
        self, stream: Watched, limit: int, key: str | None, process: int
    ) -> Any:
        start = Start(stream.session, limit, replace=(stream.stream_id,), idempotency_key=key)
        acts = self.is_active(stream) and len(self.active(stream.session)) <= limit
        return self.start(process, start, stream if acts else None)

    @rule(
        target=streams,
        session=SESSIONS,
        limit=LIMITS,
        which=st.sampled_from([OLDEST, STALEST]),
        process=LIMITERS,
    )
    def a_start_in_place_of_the(self, session: str, limit: int, which: str, process: int) -> Any:
        victim = self.at_the_limit(session, limit, which)
        return self.start(process, Start(session, limit, replace=(which,)), victim)

    def at_the_limit(self, session: str, limit: int, which: str) -> Watched | None:
        """The oldest or the stalest, if the session is at its limit."""
        active = self.active(session)
        if len(active) != limit:
            return None
        return active[0] if which == OLDEST else min(active, key=lambda held: held.expires_at)

    @rule(
        target=streams,
        session=SESSIONS,
        limit=LIMITS,
        device=DEVICES,
        key=st.none() | KEYS,
        then=st.sampled_from([(), (OLDEST,), (STALEST,)]),
        process=LIMITERS,
    )
    def a_start_in_place_of_the_same_device(  # noqa: PLR0913 - what such a start may say
        self,
        *,
        session: str,
        limit: int,
        device: str,
        key: str | None,
        then: tuple[str, ...],
        process: int,
    ) -> Any:
        choices = (SAME_DEVICE, *then)
        start = Start(session, limit, device_id=device, replace=choices, idempotency_key=key)
        active = self.active(session)
        own = [held for held in active if held.device == device]
        victim = None
        if own and len(active) <= limit:
            victim = min(own, key=lambda held: held.expires_at)
        elif not own and then:
            victim = self.at_the_limit(session, limit, *then)
        return self.start(process, start, victim)

    @rule(target=streams, session=SESSIONS, limit=LIMITS, count=st.integers(2, 5))
    def starts_at_once(self, session: str, limit: int, count: int) -> Any:
        starts = [Start(session, limit) for _ in range(count)]

        async def all_at_once() -> list[Started | LimitReachedError]:
            return await asyncio.gather(*(self.tried(0, start) for start in starts))

        room = max(0, limit - len(self.active(session)))
        answers = self.run(all_at_once())
        admitted = [answer for answer in answers if isinstance(answer, Started)]
        assert len(admitted) == min(room, count)
        return multiple(*(self.note(started, starts[0], None) for started in admitted))

    @rule(stream=streams, process=LIMITERS)
    def a_heartbeat(self, stream: Watched, process: int) -> None:
        alive = self.is_active(stream)
        if alive:
            stream.expires_at = self.now + LEASE
        beat = self.limiters[process].heartbeat(Place(stream.session, stream.stream_id))
        self.answers_for(stream, beat, alive=alive)

    @rule(stream=streams, process=LIMITERS)
    def a_fetch_of_the_film(self, stream: Watched, process: int) -> None:
        document = self.run(self.collection.find_one({"stream_id": stream.stream_id}))
        comes_back = document is not None and "ended" not in document
        if comes_back:
            assert self.holders[stream.session, stream.slot] is stream
            assert not stream.stopped
            stream.expires_at = self.now + LEASE
        assert comes_back or not self.is_active(stream)
        place = Place(stream.session, stream.stream_id)
        fetch = self.limiters[process].heartbeat(place, returning=True)
        self.answers_for(stream, fetch, alive=comes_back)

    @rule(stream=streams, process=LIMITERS)
    def a_look(self, stream: Watched, process: int) -> None:
        look = self.limiters[process].get(Place(stream.session, stream.stream_id))
        self.answers_for(stream, look, alive=self.is_active(stream))

    def answers_for(
        self, stream: Watched, asked: Coroutine[Any, Any, Stream | Renewed], *, alive: bool
    ) -> None:
        if alive:
            answer = self.run(asked)
            assert answer.stream_id == stream.stream_id
            if isinstance(answer, Stream):
                assert answer.started_at == stream.started_at
            assert answer.expires_at == stream.expires_at
            return
        reason = self.reason(stream)
        if reason == "not found":
            with pytest.raises(StreamNotFoundError):
                self.run(asked)
            return
        with pytest.raises(StreamEndedError) as ended:
            self.run(asked)
        assert ended.value.reason == reason
        successor = ended.value.replaced_by
        if reason == "replaced":
            assert successor is not None
            assert successor.stream_id == self.holders[stream.session, stream.slot].stream_id
        else:
            assert successor is None

    @rule(stream=streams, process=LIMITERS)
    def a_stop(self, stream: Watched, process: int) -> None:
        stop = self.limiters[process].stop(Place(stream.session, stream.stream_id))
        if self.can_be_stopped(stream):
            assert self.run(stop) == self.is_active(stream)
            self.is_stopped(stream)
        elif self.reason(stream) == "not found":
            with pytest.raises(StreamNotFoundError):
                self.run(stop)
        else:
            self.run(stop)

    @rule(session=SESSIONS, process=LIMITERS)
    def a_stop_of_all(self, session: str, process: int) -> None:
        there = [s for s in self.holders.values() if s.session == session]
        to_be_stopped = [stream for stream in there if self.can_be_stopped(stream)]
        active = self.active(session)
        assert self.run(self.limiters[process].stop_all(session)) == len(active)
        for stream in to_be_stopped:
            self.is_stopped(stream)

    def can_be_stopped(self, stream: Watched) -> bool:
        """Active, or lapsed and not closed: only the database knows what starts have closed."""
        document = self.run(self.collection.find_one({"stream_id": stream.stream_id}))
        return document is not None and "ended" not in document

    def is_stopped(self, stream: Watched) -> None:
        stream.stopped = True
        self.remember(stream, "stopped")

    @rule(stream=streams, shift=st.integers(1, 3))
    def somebody_elses_or_a_forged_id(self, stream: Watched, shift: int) -> None:
        slot, _, token = stream.stream_id.partition("-")
        other = "bob" if stream.session == "alice" else "alice"
        for session, stream_id in (
            (other, stream.stream_id),
            (stream.session, f"{int(slot) + shift}-{token}"),
        ):
            for verb in (Limiter.heartbeat, Limiter.get, Limiter.stop):
                asked: Coroutine[Any, Any, object] = verb(
                    self.limiters[0], Place(session, stream_id)
                )
                with pytest.raises(StreamNotFoundError):
                    self.run(asked)

    @rule(seconds=st.sampled_from([1, 10, 30, 59, 60, 61, 900]))
    def time_goes_by(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def the_database_forgets(self) -> None:
        """What its TTL index does, by the clock of this test."""
        self.run(self.collection.delete_many({"forget_at": {"$lte": self.now}}))
        kept = {d["stream_id"] for d in self.run(self.collection.find({}).to_list(None))}
        for place, held in list(self.holders.items()):
            if held.stream_id not in kept:
                assert not self.is_active(held)
                del self.holders[place]
                self.past.pop(place, None)

    @invariant()
    def nothing_is_forgotten_before_its_time(self) -> None:
        for document in self.run(self.collection.find({}).to_list(None)):
            assert document["forget_at"] >= forget_at(document["expires_at"], RETENTION)

    @invariant()
    def no_more_are_active_than_the_last_start_allowed(self) -> None:
        for session, most in self.most.items():
            assert len(self.active(session)) <= most

    @invariant()
    def lists_are_right(self) -> None:
        for session in ("alice", "bob"):
            listed = self.run(self.limiters[0].active(session))
            assert [stream.stream_id for stream in listed] == [
                held.stream_id for held in self.active(session)
            ]


TestStreamsNeverExceedTheLimitAndNoneIsRefusedBelowItAndEveryReasonIsRight = (
    AnyCourseOfEvents.TestCase
)
AnyCourseOfEvents.TestCase.settings = settings(
    AnyCourseOfEvents.TestCase.settings, max_examples=100, stateful_step_count=30
)
