"""The limit, applied: what a handler calls, on top of the rules and of the store."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter, itemgetter
from random import random
from typing import TYPE_CHECKING, Literal

from stream_service.admission import (
    OLDEST,
    STALEST,
    Claim,
    Close,
    Decision,
    KeyReused,
    Overtaken,
    Refuse,
    Settled,
    Start,
    TakeOver,
    plan,
)
from stream_service.group_commit import AGAIN, MAX_WAITING, Again, GroupCommit
from stream_service.store import TOLERATED_SKEW, Change, Closing, Confirmation, Place, Write
from stream_service.streams import (
    KeyReusedError,
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
    from collections.abc import Sequence

    from stream_service.store import MongoStore

Clock = Callable[[], datetime]

BEATS_PER_LEASE = 3
JITTER = 0.1

MAX_SESSIONS_ENDED_AT_ONCE = 16
"""How many sessions may share the commands that end all their streams, up to 100 each."""

MAX_SEEN = 65_536
"""How many streams a process remembers the labels of."""


@dataclass(frozen=True, slots=True)
class Started:
    """A start that was admitted.

    Attributes:
        stream: The stream.
        active: How many the session has now, this one among them.
        limit: How many it may have.
        replay: Whether an earlier try of the same start had made the stream.
        spared: What the limit would have done, where it is not enforced: refused the start, or
            replaced another stream. None for a start within the limit.
    """

    stream: Stream
    active: int
    limit: int
    replay: bool
    spared: Literal["refusal", "replacement"] | None = None


Outcome = Started | LimitReachedError | KeyReusedError
"""What becomes of a start once the store has answered."""


class Observer:
    """Is told what a limiter does, to count it. This one counts nothing.

    Called on the event loop, before the caller has its answer: a method must neither wait nor
    raise.
    """

    def on_start(self, outcome: Outcome | StoreUnavailableError) -> None:
        """A start was decided, or the store gave no answer."""

    def on_heartbeat(self, outcome: Stream | Exception) -> None:
        """A heartbeat renewed its stream, or was answered with this exception."""

    def on_stop(self, streams: int) -> None:
        """A stop ended this many streams that were active until then."""

    def on_batch(self, kind: str, size: int, waited_seconds: float) -> None:
        """A batch of requests shared one command.

        Args:
            kind: Kind of command, of a few that the code names.
            size: How many requests shared it.
            waited_seconds: How long the first of them waited for it to be sent.
        """


_UNOBSERVED = Observer()


class Limiter:
    """Starts, renews and ends streams. All times are UTC in whole milliseconds.

    Requests of one kind that wait at the same moment share one command (see `group_commit`).
    Every method raises `StoreUnavailableError` when the store gives no answer in time.
    """

    def __init__(
        self,
        store: MongoStore,
        *,
        lease: timedelta,
        clock: Clock = utc_now,
        observer: Observer = _UNOBSERVED,
    ) -> None:
        """Make a limiter.

        Args:
            store: Where the streams are.
            lease: How long a stream stays active without a heartbeat.
            clock: Tells the time.
            observer: Told what is done.
        """
        self._store = store
        self._lease = lease
        self._clock = clock
        self._observer = observer
        self._seen = _SeenStreams()
        on_batch = observer.on_batch
        # No session fills a batch.
        of_start: Callable[[Start], str] = attrgetter("session")
        of_place: Callable[[Place], str] = itemgetter(0)
        self._starts: GroupCommit[Start, Outcome]
        self._starts = GroupCommit(self._try, account=of_start, observe=partial(on_batch, "start"))
        self._beats: GroupCommit[Place, Stream | Exception]
        self._beats = GroupCommit(
            self._renew, account=of_place, observe=partial(on_batch, "heartbeat")
        )
        self._stops = GroupCommit(self._end, account=of_place, observe=partial(on_batch, "stop"))
        self._stops_of_all: GroupCommit[str, int] = GroupCommit(
            self._end_all,
            account=str,
            max_batch=MAX_SESSIONS_ENDED_AT_ONCE,
            observe=partial(on_batch, "stop_all"),
        )
        self._lists = GroupCommit(self._read, account=str, observe=partial(on_batch, "list"))
        self._looks = GroupCommit(self._look, account=of_place, observe=partial(on_batch, "look"))
        # However many ask whether the store answers, one ping is under way at a time.
        self._pings: GroupCommit[None, None] = GroupCommit(self._ping, max_batch=MAX_WAITING)

    async def finish(self) -> None:
        """Return when everything that was accepted has been carried out."""
        for group in (self._starts, self._beats, self._stops, self._lists, self._looks):
            await group.finish()
        await self._stops_of_all.finish()
        await self._pings.finish()

    async def ping(self) -> None:
        """Return if the store answers a ping that is sent from now on."""
        await self._pings(None)

    async def start(self, start: Start) -> Started:
        """Admit one more stream.

        Raises:
            LimitReachedError: The session has as many as it may, by a view that was read after
                the start arrived.
            KeyReusedError: A start that said something else has a stream by the same key.
        """
        try:
            if start.idempotency_key is not None:
                await self._store.prepare()
            outcome = await self._starts(start)
        except StoreUnavailableError as unavailable:
            self._observer.on_start(unavailable)
            raise
        self._observer.on_start(outcome)
        if isinstance(outcome, Started):
            return outcome
        raise outcome

    async def active(self, session: str) -> list[Stream]:
        """The session's active streams, oldest first."""
        return await self._lists(session)

    async def get(self, session: str, stream_id: str) -> Stream:
        """One active stream.

        Raises:
            StreamEndedError: It is over.
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        if not is_stream_id(stream_id):
            raise StreamNotFoundError
        holder = await self._looks((session, stream_id))
        return self._still_active(holder, stream_id, self._clock())

    async def heartbeat(self, session: str, stream_id: str) -> Stream:
        """Renew the lease of a stream.

        Raises:
            StreamEndedError: It is over; a heartbeat never brings it back.
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        try:
            renewed = (
                await self._beats((session, stream_id))
                if is_stream_id(stream_id)
                else StreamNotFoundError()
            )
        except StoreUnavailableError as unavailable:
            self._observer.on_heartbeat(unavailable)
            raise
        self._observer.on_heartbeat(renewed)
        if isinstance(renewed, Stream):
            return renewed
        raise renewed

    async def stop(self, session: str, stream_id: str) -> bool:
        """End a stream; one that is over already stays as it ended.

        Returns:
            Whether it was active until now.

        Raises:
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        if not is_stream_id(stream_id):
            raise StreamNotFoundError
        was_active = await self._stops((session, stream_id))
        if was_active is None:
            raise StreamNotFoundError
        if was_active:
            self._observer.on_stop(1)
        return was_active

    async def stop_all(self, session: str) -> int:
        """End the streams that a session has now; one that starts meanwhile may stay.

        Returns:
            How many this ended.
        """
        ended = await self._stops_of_all(session)
        self._observer.on_stop(ended)
        return ended

    def heartbeat_in(self, expires_at: datetime | None = None) -> float:
        """Seconds until the next heartbeat is wanted: a third of what is left of the lease.

        Jittered by 10 %, so that players that start together do not send heartbeats together.

        Args:
            expires_at: End of the lease; None for one that begins right now.
        """
        left = self._lease if expires_at is None else expires_at - self._clock()
        third = max(left.total_seconds(), 0) / BEATS_PER_LEASE
        return round(third * (1 - JITTER + 2 * JITTER * random()), 3)  # noqa: S311 - no secret

    async def _try(  # noqa: C901 - a table of decisions
        self, starts: Sequence[Start]
    ) -> list[Outcome | Again]:
        """Read, plan, write: two commands, however many starts there are."""
        now = self._clock()
        decisions = await self._decide(starts, now)
        outcomes: list[Outcome | Again] = [AGAIN] * len(starts)
        changes: list[Change] = []
        # What each of them, if it is made, gives to which start.
        gains: list[tuple[int, Started]] = []
        closing: set[Stream] = set()
        # What one start is about to be answered with, no other start of the batch takes over.
        # Either change could be made first, and the other one would fail: then what was made is
        # not known, all look again, and in a busy session that need not end.
        kept = {one.stream.stream_id for one in decisions if isinstance(one, Settled)}
        for index, (start, decision) in enumerate(zip(starts, decisions, strict=True)):
            match decision:
                case Settled(stream, active, replay):
                    changes.append(Confirmation(stream))
                    gains.append((index, _started(start, stream, active, replay=replay)))
                case Refuse() | KeyReused():
                    outcomes[index] = _refusal(start, decision)
                case Claim(slot, active):
                    stream = self._stream(start, slot, now)
                    changes.append(Write(stream))
                    gains.append((index, _started(start, stream, active)))
                case TakeOver(victim, active, unless_renewed) if victim.stream_id not in kept:
                    stream = self._stream(start, victim.slot, now, victim.stream_id)
                    changes.append(Write(stream, victim, unless_renewed))
                    gains.append((index, _started(start, stream, active)))
                case Overtaken(slot, active):
                    stream = self._stream(start, slot, now)
                    outcomes[index] = _started(start, stream, active)
                case Close(lapsed):
                    closing.update(lapsed)
        changes.extend(Closing(stream) for stream in closing)
        if changes:
            made = await self._store.write(changes, now)
            # A start that had something closed looks again in any case.
            for (index, started), was_made in zip(gains, made, strict=False):
                if was_made:
                    self._seen.add(started.stream)
                    outcomes[index] = started
        return outcomes

    async def _decide(self, starts: Sequence[Start], now: datetime) -> list[Decision]:
        by_session: dict[str, list[int]] = {}
        for index, start in enumerate(starts):
            by_session.setdefault(start.session, []).append(index)
        views = await self._store.read(by_session.keys())
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
            device_id=start.device_id,
            fingerprint=start.fingerprint if start.idempotency_key is not None else None,
        )

    async def _renew(self, places: Sequence[Place]) -> list[Stream | Exception | Again]:
        """One command, and one read if a stream is over or its labels are not in memory."""
        now = self._clock()
        until = now + self._lease
        all_active = await self._store.renew(places, now, until)
        seen = [self._seen.get(place) if all_active else None for place in places]
        unseen = {place for place, stream in zip(places, seen, strict=True) if stream is None}
        holders = await self._store.slots(unseen) if unseen else {}
        outcomes: list[Stream | Exception | Again] = []
        for place, stream in zip(places, seen, strict=True):
            try:
                known = stream or self._still_active(holders.get(place), place[1], now)
            except (StreamEndedError, StreamNotFoundError) as over:
                outcomes.append(over)
                continue
            if stream is None:
                if known.expires_at < until:
                    # Active, and not renewed: a router missed it while its chunk moved, or it was
                    # read from another primary than the one that renewed it.
                    outcomes.append(AGAIN)
                    continue
                self._seen.add(known)
            outcomes.append(known._replace(expires_at=until))
        return outcomes

    async def _end(self, places: Sequence[Place]) -> list[bool | None]:
        """Whether each stream was active until now; None for one that is not known."""
        now = self._clock()
        if await self._store.end(places, now):
            return [True] * len(places)
        holders = await self._store.slots(set(places))
        stopped_at = now - TOLERATED_SKEW
        outcomes: list[bool | None] = []
        for place in places:
            holder, stream_id = holders.get(place), place[1]
            if holder is None or (
                stream_id != holder.stream_id and holder.reason_of(stream_id) is None
            ):
                outcomes.append(None)
            else:
                # Of several, those were active whose tombstone is of this millisecond.
                at_once = holder.stream_id == stream_id and holder.expires_at == stopped_at
                outcomes.append(at_once and len(places) > 1)
        return outcomes

    async def _end_all(self, sessions: Sequence[str]) -> list[int]:
        """Two commands. A stream that is over by the second one was ended by another request."""
        now = self._clock()
        views = await self._store.read(set(sessions))
        places = [
            (stream.session, stream.stream_id)
            for view in views.values()
            for stream in view
            if stream.is_active(now)
        ]
        ended = await self._end(places) if places else []
        counts = Counter(
            session for (session, _), was_active in zip(places, ended, strict=True) if was_active
        )
        # Of several who ask for one session, the first is told of them.
        return [counts.pop(session, 0) for session in sessions]

    async def _read(self, sessions: Sequence[str]) -> list[list[Stream]]:
        now = self._clock()
        views = await self._store.read(set(sessions))
        return [
            sorted(
                (stream for stream in views.get(session, ()) if stream.is_active(now)),
                key=lambda stream: (stream.started_at, stream.slot),
            )
            for session in sessions
        ]

    async def _look(self, places: Sequence[Place]) -> list[Stream | None]:
        holders = await self._store.slots(set(places))
        return [holders.get(place) for place in places]

    async def _ping(self, asked: Sequence[None]) -> Sequence[None]:
        await self._store.ping()
        return asked

    def _still_active(self, holder: Stream | None, stream_id: str, now: datetime) -> Stream:
        if holder is not None and holder.stream_id == stream_id:
            if holder.ended == "stopped":
                raise StreamEndedError("stopped")
            if holder.ended is None and holder.is_active(now):
                return holder
            last_beat = holder.expires_at - self._lease
            raise StreamEndedError("expired", silent_for=now - last_beat)
        reason = None if holder is None else holder.reason_of(stream_id)
        if reason is not None:
            raise StreamEndedError(reason, holder if reason == "replaced" else None)
        raise StreamNotFoundError


class _SeenStreams:
    """What never changes of the streams seen lately, so that a heartbeat need not read it.

    Whether a stream is active is the store's to say, each time. With `MAX_SEEN` streams it takes
    some 40 MB; a stream that has dropped out costs its next batch of heartbeats one read.
    """

    def __init__(self) -> None:
        self._streams: OrderedDict[str, Stream] = OrderedDict()

    def add(self, stream: Stream) -> None:
        self._streams[stream.stream_id] = stream
        if len(self._streams) > MAX_SEEN:
            self._streams.popitem(last=False)

    def get(self, place: Place) -> Stream | None:
        session, stream_id = place
        stream = self._streams.get(stream_id)
        if stream is None or stream.session != session:
            return None
        self._streams.move_to_end(stream_id)
        return stream


def _started(start: Start, stream: Stream, active: int, *, replay: bool = False) -> Started:
    spared: Literal["refusal", "replacement"] | None = None
    if not start.enforced and not replay and stream.replaced is None and active > start.limit:
        # With one of these the start would have been admitted, in place of another stream.
        replaces = OLDEST in start.replace or STALEST in start.replace
        spared = "replacement" if replaces else "refusal"
    return Started(stream, active, start.limit, replay, spared)


def _refusal(start: Start, decision: Refuse | KeyReused) -> LimitReachedError | KeyReusedError:
    if isinstance(decision, Refuse):
        return LimitReachedError(start.limit, decision.streams)
    return KeyReusedError()
