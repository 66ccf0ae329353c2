"""The limit, applied: what a handler calls, on top of the rules and of the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from stream_service.admission import (
    Claim,
    Decision,
    Forget,
    Refuse,
    Settled,
    Start,
    TakeOver,
    plan,
)
from stream_service.store import Write
from stream_service.streams import (
    LimitReachedError,
    StoreUnavailableError,
    Stream,
    StreamEndedError,
    StreamNotFoundError,
    is_stream_id,
    stream_id_of,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stream_service.store import MongoStore

Clock = Callable[[], datetime]

BEATS_PER_LEASE = 3
JITTER = 0.1

DEADLINE_SECONDS = 2.0
"""How long a caller waits for an answer at most. A write that is under way then still finishes."""


@dataclass(frozen=True, slots=True)
class Started:
    """A start that was admitted.

    Attributes:
        stream: The stream.
        active: How many the session has now, this one among them.
        limit: How many it may have.
        replay: Whether an earlier try of the same start had made the stream.
    """

    stream: Stream
    active: int
    limit: int
    replay: bool


# What became of a start in one try; None if it has to look again.
Outcome = Started | LimitReachedError | None


class Limiter:
    """Starts, renews and ends streams. All times are UTC in whole milliseconds.

    Every method raises `StoreUnavailableError` when the store gives no answer in time.
    """

    def __init__(self, store: MongoStore, *, lease: timedelta, clock: Clock = utc_now) -> None:
        """Make a limiter.

        Args:
            store: Where the streams are.
            lease: How long a stream stays active without a heartbeat.
            clock: Tells the time.
        """
        self._store = store
        self._lease = lease
        self._clock = clock

    async def start(self, start: Start) -> Started:
        """Admit one more stream.

        Raises:
            LimitReachedError: The session has as many as it may, by a view that was read after
                the start arrived.
        """
        async with _deadline():
            while True:
                [outcome] = await self._try([start])
                if isinstance(outcome, Exception):
                    raise outcome
                if outcome is not None:
                    return outcome

    async def _try(self, starts: Sequence[Start]) -> list[Outcome]:
        """Read, plan, write: two commands, however many starts there are."""
        now = self._clock()
        decisions = await self._decide(starts, now)
        outcomes: list[Outcome] = [None] * len(starts)
        writes: dict[int, tuple[int, Write]] = {}
        for index, (start, decision) in enumerate(zip(starts, decisions, strict=True)):
            match decision:
                case Settled(stream, active, replay):
                    outcomes[index] = Started(stream, active, start.limit, replay)
                case Refuse(streams):
                    outcomes[index] = LimitReachedError(start.limit, streams)
                case Claim(slot, active):
                    writes[index] = active, Write(self._stream(start, slot, now))
                case TakeOver(victim, active, unless_renewed):
                    stream = self._stream(start, victim.slot, now, victim.stream_id)
                    writes[index] = active, Write(stream, victim, unless_renewed)
                case Forget(expired):
                    await self._store.forget_key(expired, now)
        if writes:
            done = await self._store.write([write for _, write in writes.values()], now)
            for (index, (active, write)), won in zip(writes.items(), done, strict=True):
                if won:
                    limit = starts[index].limit
                    outcomes[index] = Started(write.stream, active, limit, replay=False)
        return outcomes

    async def _decide(self, starts: Sequence[Start], now: datetime) -> list[Decision]:
        by_session: dict[str, list[int]] = {}
        for index, start in enumerate(starts):
            by_session.setdefault(start.session, []).append(index)
        keys = {start.idempotency_key for start in starts if start.idempotency_key is not None}
        views = await self._store.read(by_session.keys(), keys, now)
        decisions: dict[int, Decision] = {}
        for session, indexes in by_session.items():
            planned = plan(views.get(session, ()), [starts[i] for i in indexes], now)
            decisions.update(zip(indexes, planned, strict=True))
        return [decisions[index] for index in range(len(starts))]

    def _stream(
        self, start: Start, slot: int, now: datetime, replaced: str | None = None
    ) -> Stream:
        return Stream(
            session=start.session,
            stream_id=stream_id_of(slot, start.token),
            device=start.device,
            content=start.content,
            started_at=now,
            expires_at=now + self._lease,
            idempotency_key=start.idempotency_key,
            replaced=replaced,
        )

    async def active(self, session: str) -> list[Stream]:
        """The session's active streams, oldest first."""
        async with _deadline():
            views = await self._store.read([session], (), self._clock())
        return sorted(views.get(session, ()), key=lambda stream: (stream.started_at, stream.slot))

    async def get(self, session: str, stream_id: str) -> Stream:
        """One active stream.

        Raises:
            StreamEndedError: It is over.
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        if not is_stream_id(stream_id):
            raise StreamNotFoundError
        async with _deadline():
            found = await self._store.slot_of(session, stream_id)
        return _still_active(found, stream_id, self._clock())

    async def heartbeat(self, session: str, stream_id: str) -> Stream:
        """Renew the lease of a stream.

        Raises:
            StreamEndedError: It is over; a heartbeat never brings it back.
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        if not is_stream_id(stream_id):
            raise StreamNotFoundError
        now = self._clock()
        async with _deadline():
            renewed = await self._store.renew(session, stream_id, now, now + self._lease)
            if renewed is not None:
                return renewed
            found = await self._store.slot_of(session, stream_id)
        return _still_active(found, stream_id, now)

    async def stop(self, session: str, stream_id: str) -> bool:
        """End a stream; one that is over already stays as it ended.

        Returns:
            Whether it was active until now.

        Raises:
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        if not is_stream_id(stream_id):
            raise StreamNotFoundError
        now = self._clock()
        async with _deadline():
            if await self._store.end(session, stream_id, now):
                return True
            found = await self._store.slot_of(session, stream_id)
        if found is None or stream_id not in (found.stream_id, found.replaced):
            raise StreamNotFoundError
        return False

    def heartbeat_in(self, stream: Stream) -> float:
        """Seconds until the next heartbeat is wanted: a third of what is left of the lease.

        Jittered by 10 %, so that a fleet that restarts together does not beat together.
        """
        left = max(stream.expires_at - self._clock(), timedelta())
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, no secret
        return round(left.total_seconds() / BEATS_PER_LEASE * spread, 3)


@asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield
    except TimeoutError:
        raise StoreUnavailableError("deadline") from None


def _still_active(found: Stream | None, stream_id: str, now: datetime) -> Stream:
    if found is not None and found.stream_id == stream_id:
        if found.is_active(now):
            return found
        if found.stopped:
            raise StreamEndedError("stopped")
        raise StreamEndedError("expired", lease_end=found.expires_at)
    if found is not None and found.replaced == stream_id:
        raise StreamEndedError("replaced", found)
    raise StreamNotFoundError
