"""The limit, applied: what a handler calls, on top of the rules and of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from random import random
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from cachetools import LRUCache

from stream_service.admission import (
    NO_PLACES,
    OLDEST,
    STALEST,
    Claim,
    CloseFirst,
    Decision,
    KeyReused,
    Overtaken,
    Places,
    Refuse,
    Settled,
    Start,
    TakeOver,
    plan,
)
from stream_service.group_commit import AGAIN, Again, GroupCommit, late
from stream_service.store import Change, Confirm, Put
from stream_service.streams import (
    KeyReusedError,
    LimitReachedError,
    Place,
    Reason,
    Stream,
    StreamEndedError,
    StreamNotFoundError,
    Tombstone,
    TooManyRequestsError,
    stream_id_of,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stream_service.store import MongoStore

Clock = Callable[[], datetime]

BEATS_PER_LEASE = 3
JITTER = 0.1

SET_BACK = timedelta(seconds=1)
"""From which step on a clock counts as set back."""

MANY_AT_ONCE = 8
"""How many requests with many heartbeats share a command, if it has room for all of each."""

MANY_WAITING = 64
"""How many of them may be under way."""

FEWEST, MOST = 8, 1000
"""Of one request so many heartbeats are in a command, as fits the database's speed."""

SHORT_SECONDS = 0.01
"""How long such a command should take: half as long to twice as long. Others get a turn then."""

LABEL_BYTES = 16 * 1024 * 1024
"""How much memory a process spends on the labels that playback tokens name."""

_LABEL_OVERHEAD_BYTES = 510
"""What a label in memory costs beside its text: key, strings and entry, by `tracemalloc`."""


Ender = Literal["player", "account", "operator"]
"""Who stops a stream: who holds its lease, the gateway for the account, or an operator."""


class End(NamedTuple):
    """The end of a stream, told once, by whichever process ended it for good.

    Attributes:
        stream: As it was.
        reason: What ended it. One that was stopped after its lease was over had expired.
        at: When that was done or found, in UTC.
        last_heartbeat_at: When its lease was renewed for the last time, or began.
        by: Who stopped it, or found by stopping it that it had expired; else None.
        replaced_by: Id of the stream that took its slot over, or None.
    """

    stream: Stream
    reason: Reason
    at: datetime
    last_heartbeat_at: datetime
    by: Ender | None = None
    replaced_by: str | None = None


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
        beyond: The names of further limits that are only counted, and would have refused it.
    """

    stream: Stream
    active: int
    limit: int
    replay: bool
    spared: Literal["refusal", "replacement"] | None = None
    beyond: tuple[str, ...] = ()


class Beat(NamedTuple):
    """A request to renew a lease.

    Attributes:
        place: Of the stream.
        returning: Whether a stream whose lease merely ran out comes back.
    """

    place: Place
    returning: bool = False


class _Stop(NamedTuple):
    """A request to end a stream."""

    place: Place
    by: Ender


class _Many(NamedTuple):
    """Some of the streams that one request renews."""

    places: Sequence[Place]
    returning: Collection[Place]
    with_labels: bool


class Renewed(NamedTuple):
    """A lease that was renewed.

    Attributes:
        session: Digest of the session id.
        stream_id: Of the stream.
        expires_at: End of the lease.
        content: The stream's label, where labels are wanted; else None.
    """

    session: str
    stream_id: str
    expires_at: datetime
    content: str | None = None


class Observer:
    """Is told what a limiter does, to count it. This one counts nothing.

    Called on the event loop, before the caller has its answer: a method must neither wait nor
    raise.
    """

    def on_start(self, start: Start, outcome: Started | Exception) -> None:
        """A start was admitted, or ended with this exception."""

    def on_heartbeat(self, outcome: Renewed | Exception, times: int = 1) -> None:
        """So many heartbeats renewed their streams, or ended with this exception."""

    def on_end(self, end: End) -> None:
        """A stream ended, or was found to have expired."""

    def on_batch(self, kind: str, size: int, waited_seconds: float) -> None:
        """A batch of requests shared one command.

        Args:
            kind: Kind of command, of a few that the code names.
            size: How many requests shared it.
            waited_seconds: How long the first of them waited for it to be sent.
        """


class Observers(Observer):
    """Several, each of which is told."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_start(self, start: Start, outcome: Started | Exception) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.on_start(start, outcome)

    def on_heartbeat(self, outcome: Renewed | Exception, times: int = 1) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.on_heartbeat(outcome, times)

    def on_end(self, end: End) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.on_end(end)

    def on_batch(self, kind: str, size: int, waited_seconds: float) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.on_batch(kind, size, waited_seconds)


_UNOBSERVED = Observer()


class Limiter:
    """Starts, renews and ends streams. All times are UTC in whole milliseconds.

    Requests of one kind that wait at the same moment share one command (see `group_commit`).
    Every method raises `StoreUnavailableError` when the store gives no answer in time, and
    `TooManyRequestsError` when too much is asked at once for that.
    """

    def __init__(
        self,
        store: MongoStore,
        *,
        lease: timedelta,
        clock: Clock = utc_now,
        observer: Observer = _UNOBSERVED,
        with_labels: bool = False,
    ) -> None:
        """Make a limiter.

        Args:
            store: Where the streams are.
            lease: How long a stream stays active without a heartbeat.
            clock: Tells the time.
            observer: Told what is done.
            with_labels: Whether heartbeats are answered with the stream's `content`, which a
                playback token names.
        """
        self._store = store
        self._lease = lease
        self._clock = clock
        self._observer = observer
        # Whether a stream is active is the store's to say, each time; its label never changes. One
        # that has dropped out costs its next batch of heartbeats one read. "" stands for none.
        self._labels: LRUCache[Place, str] | None = None
        self._latest = clock()
        if with_labels:
            self._labels = LRUCache(LABEL_BYTES, _size)

        def group(kind: str) -> Callable[[int, float], None]:
            return partial(observer.on_batch, kind)

        self._start: GroupCommit[Start, Started] = GroupCommit(
            self._start_batch, account=lambda start: start.session, observe=group("start")
        )
        self._heartbeat: GroupCommit[Beat, Renewed] = GroupCommit(
            self._heartbeat_batch,
            account=lambda beat: beat.place.session,
            observe=group("heartbeat"),
        )
        self._at_once = FEWEST
        # Apart from the others, and one at a time: no single heartbeat waits behind a thousand.
        self._many: GroupCommit[_Many, list[Renewed | Exception]] = GroupCommit(
            self._many_batch, max_batch=MANY_AT_ONCE, observe=group("heartbeats")
        )
        self._many_under_way = 0
        self._turn = asyncio.Lock()
        self._stop: GroupCommit[_Stop, bool] = GroupCommit(
            self._stop_batch, account=lambda stop: stop.place.session, observe=group("stop")
        )
        self._list: GroupCommit[str, list[Stream]] = GroupCommit(
            self._list_batch, account=str, observe=group("list")
        )
        self._look: GroupCommit[Place, Stream | None] = GroupCommit(
            self._look_batch, account=lambda place: place.session, observe=group("look")
        )
        self._groups = (
            self._start,
            self._heartbeat,
            self._many,
            self._stop,
            self._list,
            self._look,
        )
        self._away: tuple[int, datetime] | None = None

    def away_since(self) -> datetime:
        """Since when the store, which has just failed, has given no answer."""
        answered = sum(group.answered for group in self._groups)
        if self._away is None or self._away[0] != answered:
            self._away = answered, self._clock()
        return self._away[1]

    async def finish(self) -> None:
        """Return when everything that was accepted has been carried out."""
        for group in self._groups:
            await group.finish()

    async def start(self, start: Start) -> Started:
        """Admit one more stream.

        Raises:
            LimitReachedError: The session has as many as it may, by a view that was read after
                the start arrived.
            KeyReusedError: A start that said something else has a stream by the same key.
        """
        try:
            if start.places or start.rules:
                # Two that claim the same place are told apart by its index.
                await self._store.prepare()
            started = await self._start(start)
        except Exception as error:
            self._observer.on_start(start, error)
            raise
        self._observer.on_start(start, started)
        return started

    async def active(self, session: str) -> list[Stream]:
        """The session's active streams, oldest first."""
        return (await self.held(session))[0]

    async def held(self, session: str) -> tuple[list[Stream], list[Stream]]:
        """What the session's slots hold, oldest first: active streams, and those that are over."""
        now, active, over = self._clock(), list[Stream](), list[Stream]()
        for stream in await self._list(session):
            (active if stream.is_active(now) else over).append(stream)
        return active, over

    async def get(self, place: Place) -> Stream:
        """One active stream.

        Raises:
            StreamEndedError: It is over.
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        return self._still_active(await self._look(place), place.stream_id, self._clock())

    async def heartbeat(self, place: Place, *, returning: bool = False) -> Renewed:
        """Renew the lease of a stream.

        Args:
            place: Of the stream.
            returning: Whether it comes back if its lease merely ran out: nothing ended it, and its
                slot still holds it. Such a renewal is to admission one that was sent in time and is
                carried out late.

        Raises:
            StreamEndedError: It is over.
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        try:
            renewed = await self._heartbeat(Beat(place, returning))
        except Exception as error:
            self._observer.on_heartbeat(error)
            raise
        self._observer.on_heartbeat(renewed)
        return renewed

    async def heartbeats(
        self, places: Sequence[Place], returning: Collection[Place] = (), *, with_labels: bool
    ) -> dict[Place, Renewed | Exception]:
        """Renew the leases of many streams, and answer when all is done.

        Args:
            places: Of the streams.
            returning: Those of them that come back if their lease merely ran out.
            with_labels: Whether the streams' `content` is wanted.

        Returns:
            For each what `heartbeat` returns, or the `StreamEndedError` or `StreamNotFoundError`
            that it raises.
        """
        answered, outcomes = self._many.answered, dict[Place, Renewed | Exception]()
        if self._many_under_way >= MANY_WAITING:
            too_many = TooManyRequestsError("queue")
            self._observer.on_heartbeat(too_many, len(places))
            raise too_many
        self._many_under_way += 1
        try:
            # Of those that would fill a command the next waits until the one before is done: if
            # they went part by part in turn, all would be late.
            is_large = len(places) * MANY_AT_ONCE > self._at_once
            async with (
                asyncio.timeout(self._many.deadline_seconds),
                self._turn if is_large else nullcontext(),
            ):
                left = list(places)
                while left:
                    some, left = left[: self._at_once], left[self._at_once :]
                    back = returning and set(some).intersection(returning)
                    many = _Many(some, back, with_labels)
                    outcomes.update(zip(some, await self._many(many), strict=True))
        except TimeoutError:
            error = late(self._many.answered - answered)
            self._observer.on_heartbeat(error, len(places))
            raise error from None
        except Exception as error:
            self._observer.on_heartbeat(error, len(places))
            raise
        finally:
            self._many_under_way -= 1
        over = [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]
        for outcome in over:
            self._observer.on_heartbeat(outcome)
        renewed = next((one for one in outcomes.values() if isinstance(one, Renewed)), None)
        if renewed is not None:
            self._observer.on_heartbeat(renewed, len(outcomes) - len(over))
        return outcomes

    async def stop(self, place: Place, *, by: Ender = "account") -> bool:
        """End a stream; one that is over already stays as it ended.

        Args:
            place: Of the stream.
            by: Who ends it.

        Returns:
            Whether it was active until now.

        Raises:
            StreamNotFoundError: It was never known to this session, or it has been forgotten.
        """
        return await self._stop(_Stop(place, by))

    async def stop_all(self, session: str, *, by: Ender = "account") -> int:
        """End the streams that a session has now; one that starts meanwhile may stay.

        Those whose lease has run out are ended too, so that none of them comes back.

        Args:
            session: Digest of the session id.
            by: Who ends them.

        Returns:
            How many this ended that were active.
        """
        answered = self._list.answered + self._stop.answered
        try:
            async with asyncio.timeout(self._stop.deadline_seconds):
                streams = await self._list(session)
                stops = [self._stop(_Stop(one.place, by)) for one in streams if one.ended is None]
                return sum(await asyncio.gather(*stops))
        except TimeoutError:
            raise late(self._list.answered + self._stop.answered - answered) from None

    async def forget(self, session: str) -> int:
        """Delete what is stored of a session, but for streams that are active.

        Returns:
            How many documents.
        """
        return await self._store.forget(session, self._clock())

    def heartbeat_in(self, expires_at: datetime | None = None) -> float:
        """Seconds until the next heartbeat is wanted: a third of what is left of the lease.

        Jittered by 10 %, so that players that start together do not send heartbeats together.

        Args:
            expires_at: End of the lease; None for one that begins right now.
        """
        left = self._lease if expires_at is None else expires_at - self._clock()
        third = max(left.total_seconds(), 0) / BEATS_PER_LEASE
        return round(third * (1 - JITTER + 2 * JITTER * random()), 3)  # noqa: S311 - no secret

    async def _start_batch(  # noqa: C901 - a table of decisions
        self, starts: Sequence[Start]
    ) -> list[Started | Exception | Again]:
        """Read, plan, write: two commands, however many starts there are."""
        now = self._clock()
        decisions = await self._decide(starts, now)
        outcomes: list[Started | Exception | Again] = [AGAIN] * len(starts)
        changes: list[Change] = []
        # What each of them, if it is made, gives to which start.
        gains: list[tuple[int, Started]] = []
        closing: dict[Place, Stream] = {}
        # What one start is about to be answered with, no other start of the batch takes over: of
        # two changes to one document in a batch either could be made first.
        kept = {one.stream.stream_id for one in decisions if isinstance(one, Settled)}
        for index, (start, decision) in enumerate(zip(starts, decisions, strict=True)):
            match decision:
                case Settled(stream, active, replay):
                    changes.append(Confirm(stream))
                    gains.append((index, _started(start, stream, active, replay=replay)))
                case Refuse(reached, active):
                    outcomes[index] = LimitReachedError(reached, active)
                case KeyReused():
                    outcomes[index] = KeyReusedError()
                case Claim(slot, active, expired, places):
                    stream = self._stream(start, slot, now, places)
                    changes.append(Put(stream, expired=expired))
                    gains.append((index, _started(start, stream, active, places.beyond)))
                case TakeOver(victim, active, if_unchanged, places) if victim.stream_id not in kept:
                    over = Tombstone(victim.stream_id, "replaced")
                    stream = self._stream(start, victim.slot, now, places, over)
                    changes.append(Put(stream, victim, if_unchanged))
                    gains.append((index, _started(start, stream, active, places.beyond)))
                case Overtaken(slot, active):
                    outcomes[index] = _started(start, self._stream(start, slot, now), active)
                case CloseFirst(lapsed):
                    closing.update((stream.place, stream) for stream in lapsed)
        # A start that has something closed looks again in any case.
        await self._expire(closing, now)
        if changes:
            made = await self._store.write(changes, now)
            self._tell_of_ends(changes, made, now)
            for (index, started), was_made in zip(gains, made, strict=True):
                if was_made:
                    outcomes[index] = started
                    if self._labels is not None:
                        self._labels[started.stream.place] = started.stream.content or ""
        return outcomes

    def _tell_of_ends(self, changes: Sequence[Change], made: Sequence[bool], now: datetime) -> None:
        for change, was_made in zip(changes, made, strict=True):
            match change:
                case Put(stream, victim) if was_made and victim is not None:
                    end = self._end(victim, "replaced", now, replaced_by=stream.stream_id)
                    self._observer.on_end(end)
                case Put(expired=expired) if was_made and expired and expired.ended is None:
                    self._observer.on_end(self._end(expired, "expired", now))

    async def _expire(
        self, lapsed: dict[Place, Stream], now: datetime, *, durable: bool = True
    ) -> None:
        if not lapsed:
            return
        for place in await self._store.expire(lapsed, now, durable=durable):
            self._observer.on_end(self._end(lapsed[place], "expired", now))

    def _end(
        self,
        stream: Stream,
        reason: Reason,
        now: datetime,
        *,
        by: Ender | None = None,
        replaced_by: str | None = None,
    ) -> End:
        return End(stream, reason, now, stream.expires_at - self._lease, by, replaced_by)

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
        self,
        start: Start,
        slot: int,
        now: datetime,
        places: Places = NO_PLACES,
        *before: Tombstone,
    ) -> Stream:
        return Stream(
            session=start.session,
            stream_id=stream_id_of(slot, start.token),
            started_at=now,
            expires_at=now + self._lease,
            device=start.device,
            content=start.content,
            platform=start.platform,
            device_id=start.device_id,
            places=(*start.places, *places.names),
            fingerprint=start.fingerprint,
            salt=start.salt,
            limit=start.limit,
            plan=start.plan,
            tombstones=before,
        )

    async def _heartbeat_batch(self, beats: Sequence[Beat]) -> list[Renewed | Exception | Again]:
        returning = {beat.place for beat in beats if beat.returning}
        return await self._renew([beat.place for beat in beats], returning, self._labels)

    async def _many_batch(
        self, batch: Sequence[_Many]
    ) -> list[list[Renewed | Exception] | Exception | Again]:
        places = [place for many in batch for place in many.places]
        returning = {place for many in batch for place in many.returning}
        labels = self._labels if any(many.with_labels for many in batch) else None
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            outcomes = iter(await self._renew(places, returning, labels))
        finally:
            took = loop.time() - began
            if took > 2 * SHORT_SECONDS:
                self._at_once = max(FEWEST, self._at_once // 2)
        # That a short one is quick says nothing of a long one.
        if took < SHORT_SECONDS / 2 and len(places) >= self._at_once:
            self._at_once = min(MOST, self._at_once * 2)
        results: list[list[Renewed | Exception] | Exception | Again] = []
        for many in batch:
            of_these = list(islice(outcomes, len(many.places)))
            # If one has to look again all do: renewed twice is renewed once.
            again = AGAIN in of_these
            results.append(AGAIN if again else cast("list[Renewed | Exception]", of_these))
        return results

    async def _renew(
        self,
        places: Sequence[Place],
        returning: Collection[Place],
        labels: LRUCache[Place, str] | None,
    ) -> list[Renewed | Exception | Again]:
        """One command, and one read if a stream is over or a label is not in memory."""
        now = self._clock()
        until = now + self._lease
        self._latest = max(self._latest, now)
        # A clock that was set back wants an end before the one that a lease has, which stays.
        set_back = self._latest - now > SET_BACK
        if await self._store.renew(places, now, until, returning=returning) and not set_back:
            if labels is None:
                return [Renewed(session, stream_id, until) for session, stream_id in places]
            known = {place: labels.get(place) for place in places}
            unknown = {place for place, content in known.items() if content is None}
        else:
            known, unknown = {}, set(places)
        holders = await self._store.slots(unknown) if unknown else {}
        lapsed = {
            place: holder
            for place, holder in holders.items()
            if holder.place == place and holder.ended is None
            if not holder.is_active(now) and place not in returning
        }
        # Their players are told that they are over, so that is what they are. It need not be
        # durable, and so, beside a database without a majority, the others are still renewed.
        await self._expire(lapsed, now, durable=False)
        outcomes: list[Renewed | Exception | Again] = []
        for place in places:
            content, ends = known.get(place), until
            if content is None:
                try:
                    stream = self._still_active(
                        holders.get(place), place.stream_id, now, or_lapsed=place in returning
                    )
                except (StreamEndedError, StreamNotFoundError) as over:
                    outcomes.append(over)
                    continue
                if stream.expires_at < until:
                    # Active, and not renewed: a router missed it while its chunk moved, or it was
                    # read from another primary than the one that renewed it.
                    outcomes.append(AGAIN)
                    continue
                content, ends = stream.content or "", stream.expires_at
                if labels is not None:
                    labels[place] = content
            outcomes.append(Renewed(*place, ends, content or None))
        return outcomes

    async def _stop_batch(self, stops: Sequence[_Stop]) -> list[bool | Exception]:
        """Two commands: what is there, and the end of what nothing has ended yet."""
        now = self._clock()
        holders = await self._store.slots({stop.place for stop in stops})
        there = {
            place: holder
            for place, holder in holders.items()
            if holder.place == place and holder.ended is None
        }
        # Of several who end one of them at the same moment, here or elsewhere, one is told so.
        ended = await self._store.end(there, now) if there else set()
        outcomes: list[bool | Exception] = []
        for place, by in stops:
            holder = holders.get(place)
            if holder is None or (
                holder.place != place and holder.reason_of(place.stream_id) is None
            ):
                outcomes.append(StreamNotFoundError())
            elif place in ended:
                ended.discard(place)
                reason: Reason = "stopped" if holder.is_active(now) else "expired"
                self._observer.on_end(self._end(holder, reason, now, by=by))
                outcomes.append(reason == "stopped")
            else:
                outcomes.append(False)
        return outcomes

    async def _list_batch(self, sessions: Sequence[str]) -> list[list[Stream]]:
        views = await self._store.read(set(sessions))
        return [
            sorted(views.get(session, ()), key=lambda stream: (stream.started_at, stream.slot))
            for session in sessions
        ]

    async def _look_batch(self, places: Sequence[Place]) -> list[Stream | None]:
        holders = await self._store.slots(set(places))
        return [holders.get(place) for place in places]

    def _still_active(
        self, holder: Stream | None, stream_id: str, now: datetime, *, or_lapsed: bool = False
    ) -> Stream:
        if holder is not None and holder.stream_id == stream_id:
            if holder.ended == "stopped":
                raise StreamEndedError("stopped")
            if holder.ended is None and (or_lapsed or holder.is_active(now)):
                return holder
            raise StreamEndedError("expired")
        reason = None if holder is None else holder.reason_of(stream_id)
        if reason is not None:
            raise StreamEndedError(reason, holder if reason == "replaced" else None)
        raise StreamNotFoundError


def _size(content: str) -> int:
    # Four bytes for each character is the most that Python's strings take.
    return _LABEL_OVERHEAD_BYTES + 4 * len(content)


def _started(
    start: Start,
    stream: Stream,
    active: int,
    beyond: tuple[str, ...] = (),
    *,
    replay: bool = False,
) -> Started:
    spared: Literal["refusal", "replacement"] | None = None
    if not start.enforced and not replay and stream.replaced is None and active > start.limit:
        # With one of these the start would have been admitted, in place of another stream.
        would_replace = OLDEST in start.replace or STALEST in start.replace
        spared = "replacement" if would_replace else "refusal"
    return Started(stream, active, start.limit, replay, spared, beyond)
