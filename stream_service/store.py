"""Streams in MongoDB, by verbs.

Each takes everything that is wanted at one moment and spends one command on it, however many
sessions that concerns. What a command names is sorted: where the database carries a command out as
one transaction, two processes that took the same locks in another order would wait for each other.
Only plain operators are used, so that the same code is right on MongoDB, on a sharded cluster, on
the embedded server and on the test double.

Filters name `session`, the shard key, so that a router can ask one shard alone. Only the renewals
off a router go without: that is half the bytes, and no planner has another index to try. (A hint
would say so too, but DocumentDB refuses one in an update.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import randrange
from secrets import token_bytes
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from stream_service import documents
from stream_service.connection import (
    COMMAND_TIMEOUT,
    DUPLICATE_KEY,
    WRITE_CONFLICT,
    Connection,
    translated_errors,
)
from stream_service.documents import id_of, stream_of
from stream_service.streams import Place

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from stream_service.streams import Stream

COUNTED_AT_MOST = 30_000
"""About how many documents are looked at to tell how many streams are active."""

_COUNTED_AT_ONCE = 10_000
"""How many of them a command should look at, at most; not less than a tenth of that."""

_COUNT_SECONDS = 0.3
"""How long such a command should take, at most."""

_FIRST_SHARE = 4096
"""Of the sessions, the first that are looked at, one in so many: how many documents there are is
not known yet."""

_GROWTH = 16
"""How much larger the next slice is at most, and how much smaller after one that was too large."""

_NEVER_USED = Place("", "0-")
_MARK_BYTES = 8
_DIGEST_DIGITS = 12
_DIGESTS = 16**_DIGEST_DIGITS
_ALL_IN_FIRST_BATCH = 100_000


@dataclass(frozen=True, slots=True)
class Put:
    """Put a stream into its slot.

    Attributes:
        stream: What the slot shall hold.
        victim: The active stream whose slot it takes over; None claims a free slot.
        if_unchanged: Whether a victim that was renewed since it was read keeps its slot.
        expired: Of a claim: the stream whose lease ran out in this slot, to be remembered; or None.
            If the slot holds anything else by then, it is not claimed.
    """

    stream: Stream
    victim: Stream | None = None
    if_unchanged: bool = False
    expired: Stream | None = None


@dataclass(frozen=True, slots=True)
class Confirm:
    """Make a stream that was read as durable as one that was just started.

    What a read shows may be on one machine only, and undone with it. The write waits for a
    majority, and the database keeps the order of its writes, so all that led to this stream is
    durable with it. It changes a counter rather than nothing, since no server's rules for what a
    write without effect waits for are needed then.
    """

    stream: Stream


Change = Put | Confirm


class Counted(NamedTuple):
    """How many streams of all sessions there are.

    Attributes:
        active: Those whose lease runs.
        silent: Those of them whose lease ends soon, by platform; none where there are none.
    """

    active: int
    silent: dict[str | None, int]


class MongoStore:
    """The collection `streams` of one database.

    Every verb raises `StoreUnavailableError` when the database gives no answer in time. For a verb
    that writes the outcome is unknown then: the write may still be done. `StoreConflictError` is
    the one kind of it that says to do the same again.
    """

    def __init__(self, connection: Connection, retention: timedelta) -> None:
        """Nothing is sent yet; the first verb that reaches the database has the indexes made.

        Args:
            connection: To the database.
            retention: How long a stream that is over is remembered, at least.
        """
        self._connection = connection
        self._streams = connection.streams
        self._retention = retention
        self._width = _DIGESTS // _FIRST_SHARE

    @classmethod
    def connect(cls, url: str, database: str, retention: timedelta) -> MongoStore:
        """Make a store on its own client. Connects in the background, and again when it has to.

        Raises:
            SettingsError: The driver cannot use the URL.
        """
        return cls(Connection.to(url, database), retention)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    async def prepare(self, within: timedelta | None = COMMAND_TIMEOUT) -> None:
        """Wait until the indexes are there.

        Every verb is right without them, if slow in a large collection, but for one: two starts
        that claim the same place, tried at once in two processes, are told apart by an index alone.
        Such starts wait here first; all other requests are served meanwhile.

        Args:
            within: How long to wait at most; None waits as long as it takes once the database
                answers.

        Raises:
            StoreUnavailableError: They are not there yet; their making goes on.
        """
        await self._connection.prepare(within)

    async def clock(self) -> datetime | None:
        """What the database's clock says, in UTC; None where it does not tell."""
        return await self._connection.clock()

    async def meet(
        self, own_id: str, own: Mapping[str, Any], now: datetime
    ) -> list[dict[str, Any]]:
        """Read by `_id` and write as requests do, and exchange the documents of processes by it.

        Args:
            own_id: `_id` of this process.
            own: The rest of its document.
            now: By the database's clock, where that is known.

        Returns:
            The documents of the others.
        """
        await self.slots([_NEVER_USED])
        processes = self._connection.processes
        with translated_errors():
            await processes.update_one({"_id": own_id}, {"$set": own}, upsert=True)
            others = processes.find({"_id": {"$ne": own_id}, "forget_at": {"$gt": now}})
            return await others.to_list(None)

    async def leave(self, own_id: str, now: datetime) -> None:
        """Have the others forget this process."""
        with translated_errors():
            await self._connection.processes.update_one(
                {"_id": own_id}, {"$set": {"forget_at": now - documents.TOLERATED_SKEW}}
            )

    async def read(self, sessions: Collection[str]) -> dict[str, list[Stream]]:
        """Read what the slots of these sessions hold, in one command.

        Args:
            sessions: Digests of session ids.

        Returns:
            The streams by session, active or over; a session without any is absent.
        """
        found: dict[str, list[Stream]] = {}
        for stream in await self._find({"session": {"$in": sorted(sessions)}}):
            found.setdefault(stream.session, []).append(stream)
        return found

    async def slots(self, places: Collection[Place]) -> dict[Place, Stream]:
        """Read what the slots of these streams hold now: the stream, its tombstone, a successor.

        Returns:
            The holder by the stream that was asked for; one whose slot was never used, or has been
            forgotten, is absent.
        """
        where = {
            "_id": {"$in": sorted({id_of(place) for place in places})},
            "session": {"$in": sorted({place.session for place in places})},
        }
        holders = {id_of(stream.place): stream for stream in await self._find(where)}
        return {place: holders[id_of(place)] for place in places if id_of(place) in holders}

    async def _find(self, where: dict[str, Any]) -> list[Stream]:
        await self._connection.ready()
        with translated_errors():
            cursor = self._streams.find(where, batch_size=_ALL_IN_FIRST_BATCH)
            return [stream_of(document) for document in await cursor.to_list(None)]

    async def write(self, changes: Sequence[Change], now: datetime) -> list[bool]:
        """Make changes to slots, each on its own condition, in one command.

        A claim succeeds if its slot is free at `now`, a take-over if its victim is still active
        there, and a confirmation if its stream is.

        The database says which claims failed. Of the other changes it counts those made and does
        not say which: if any was not, a second command asks what their slots hold now.

        Returns:
            One answer per change: whether it was made. If not, the caller has to look again.
        """
        await self._connection.ready()
        failed: set[int] = set()
        order = sorted(range(len(changes)), key=lambda i: id_of(changes[i].stream.place))
        with translated_errors():
            try:
                operations = [self._operation(changes[i], now) for i in order]
                done = await self._streams.bulk_write(operations, ordered=False)
                matched, upserted = done.matched_count, done.upserted_count
            except BulkWriteError as error:
                details = error.details
                errors = details["writeErrors"]
                if details["writeConcernErrors"] or any(
                    e["code"] not in (DUPLICATE_KEY, WRITE_CONFLICT) for e in errors
                ):
                    raise
                # Either key will do: the slot's, another start has it, or a place's, another
                # stream of the account holds it. A fresh view tells.
                failed = {order[e["index"]] for e in errors}
                matched, upserted = details["nMatched"], details["nUpserted"]
        made = [i not in failed for i in range(len(changes))]
        if matched + upserted < sum(made):
            others = [i for i, change in enumerate(changes) if made[i] and not _is_claim(change)]
            held = await self.slots({changes[i].stream.place for i in others})
            for i in others:
                made[i] = _shows(held.get(changes[i].stream.place), changes[i], now)
        return made

    def _operation(self, change: Change, now: datetime) -> UpdateOne:
        stream = change.stream
        where = _at(stream.place)
        match change:
            case Confirm():
                where |= {"stream_id": stream.stream_id, **documents.active(now)}
                return UpdateOne(where, {"$inc": {"confirmed": 1}})
            case Put(victim=victim, if_unchanged=if_unchanged, expired=expired):
                update = documents.holding(stream, self._retention)
                if victim is None:
                    where["expires_at"] = {"$lte": now}
                    if expired is not None:
                        where |= {"stream_id": expired.stream_id, "ended": expired.ended}
                        update |= documents.remembering(expired.stream_id, "expired")
                    return UpdateOne(where, update, upsert=True)
                update |= documents.remembering(victim.stream_id, "replaced")
                where |= {"stream_id": victim.stream_id, **documents.active(now)}
                if if_unchanged:
                    where["expires_at"] = victim.expires_at
                return UpdateOne(where, update)

    async def renew(
        self,
        places: Collection[Place],
        now: datetime,
        until: datetime,
        *,
        returning: Collection[Place] = (),
    ) -> bool:
        """Let the leases of those that are active at `now` run on, never to an earlier end.

        It does not wait for a majority: a failover may undo it.

        Args:
            places: Of the streams.
            now: The time.
            until: End of the leases.
            returning: Those of them that are renewed also if their lease has run out, as long as
                nothing ended them and their slot still holds them.

        Returns:
            Whether all of them were renewed. If not, `slots` tells which, and until when.
        """
        await self._connection.ready()
        lapsed_too = set(returning)
        beating = set(places) - lapsed_too
        matched = 0
        for these, state in (
            (beating, documents.active(now)),
            (lapsed_too, documents.NOT_ENDED),
        ):
            if these:
                update = documents.renewing(until, self._retention)
                matched += await self._update(these, state, update, durable=False)
        return matched == len(beating) + len(lapsed_too)

    async def _update(
        self, places: set[Place], state: dict[str, Any], update: dict[str, Any], *, durable: bool
    ) -> int:
        """Update those that are in this state; returns how many they were."""
        streams = self._streams if durable else self._connection.renewals
        if self._connection.is_router:
            # A router sends an update of many to several shards without their versions: while a
            # chunk moves, it may miss a document or count one twice. With the whole shard key each
            # statement goes to the shard that owns the document, and counts it or does not.
            statements = [
                UpdateOne({**_at(place), "stream_id": place.stream_id, **state}, update)
                for place in sorted(places, key=id_of)
            ]
            with translated_errors():
                return (await streams.bulk_write(statements, ordered=False)).matched_count
        # One update for all matches every session with every stream that is named. A stream id is
        # the digest of a secret, so a stream of another session is named by who holds its lease or
        # its token.
        where = {
            "_id": {"$in": sorted(map(id_of, places))},
            "stream_id": {"$in": [place.stream_id for place in places]},
            **state,
        }
        with translated_errors():
            return (await streams.update_many(where, update)).matched_count

    async def end(self, places: Collection[Place], now: datetime) -> set[Place]:
        """Stop those that nothing has ended yet, active or lapsed, leaving tombstones.

        Returns:
            Those that this ended, and nobody else at the same moment.
        """
        await self._connection.ready()
        mark = token_bytes(_MARK_BYTES)
        operations = [
            UpdateOne(
                {**_at(place), "stream_id": place.stream_id, **documents.NOT_ENDED},
                documents.stopping(place.stream_id, now, mark),
            )
            for place in sorted(set(places), key=id_of)
        ]
        with translated_errors():
            done = await self._streams.bulk_write(operations, ordered=False)
        return await self._marked(set(places), done.matched_count, mark)

    async def expire(
        self, places: Collection[Place], now: datetime, *, durable: bool = True
    ) -> set[Place]:
        """End for good those whose lease is over, and free their places.

        Args:
            places: Of the streams.
            now: The time.
            durable: Whether no failover may undo it.

        Returns:
            Those that this ended, and nobody else at the same moment.
        """
        await self._connection.ready()
        these, mark = set(places), token_bytes(_MARK_BYTES)
        matched = await self._update(
            these, documents.lapsed(now), documents.expiring(mark), durable=durable
        )
        return await self._marked(these, matched, mark)

    async def _marked(self, places: set[Place], matched: int, mark: bytes) -> set[Place]:
        """Which of these bear the mark of a command that matched so many of them."""
        if matched in (0, len(places)):
            return places if matched else set()
        held = await self.slots(places)
        return {
            place
            for place, holder in held.items()
            if holder.place == place and holder.ended_by == mark
        }

    async def forget(self, session: str, now: datetime) -> int:
        """Delete the slots of this session in which nothing is active; returns how many."""
        await self._connection.ready()
        with translated_errors():
            where = {"session": session, "expires_at": {"$lte": now}}
            return (await self._streams.delete_many(where)).deleted_count

    async def count(self, now: datetime, before: datetime) -> Counted:
        """How many streams of all sessions are active, and of how many the lease ends until then.

        Exact as long as the collection has no more than `COUNTED_AT_MOST` documents. Of more, about
        so many are looked at, from another place each time, and say what all are: digests of
        sessions are spread evenly. That takes a database as long whether it has a hundred thousand
        or a hundred million. The standard error is then 0.6 %, or 0.8 % where a session has several
        streams; three times that is rarely exceeded.

        They are looked at slice by slice, so that a slow database answers each in time.
        """
        await self._connection.ready()
        at = 0 if self._width == _DIGESTS else randrange(_DIGESTS)  # noqa: S311 - no secret
        covered = seen = active = 0
        silent = Counter[str | None]()
        with translated_errors():
            while covered < _DIGESTS and seen < COUNTED_AT_MOST:
                width = min(self._width, _DIGESTS - at, _DIGESTS - covered)
                # For the next time, if this is too much.
                self._width = max(1, width // _GROWTH)
                began = monotonic()
                groups = await self._streams.aggregate(
                    [
                        {"$match": {"session": _slice(at, at + width)}},
                        {"$limit": 2 * _COUNTED_AT_ONCE},
                        {"$group": _counting(now, before)},
                    ]
                ).to_list(None)
                size = sum(group["documents"] for group in groups)
                if size == 2 * _COUNTED_AT_ONCE:
                    continue
                seen, covered, at = seen + size, covered + width, (at + width) % _DIGESTS
                active += sum(group["active"] for group in groups)
                silent.update({group["_id"]: group["silent"] for group in groups})
                in_time = size * _COUNT_SECONDS / max(monotonic() - began, 0.001)
                wanted = min(_COUNTED_AT_ONCE, max(_COUNTED_AT_ONCE / 10, in_time))
                growth = min(_GROWTH, wanted / max(seen, 1))
                self._width = max(1, min(_DIGESTS, int(covered * growth)))
        share = covered / _DIGESTS
        return Counted(
            round(active / share),
            {platform: round(streams / share) for platform, streams in silent.items() if streams},
        )


def _at(place: Place) -> dict[str, Any]:
    """The filter for the slot of this stream."""
    return {"_id": id_of(place), "session": place.session}


def _slice(low: int, high: int) -> dict[str, str]:
    """What the sessions whose digests begin so are: from `low`, up to and without `high`."""
    first = {"$gte": f"{low:0{_DIGEST_DIGITS}x}"}
    # Beyond the last there are no more.
    return first if high == _DIGESTS else {**first, "$lt": f"{high:0{_DIGEST_DIGITS}x}"}


def _counting(now: datetime, before: datetime) -> dict[str, Any]:
    """How documents are counted, by platform: all, active ones, and of those the silent ones."""
    active = {"$gt": ["$expires_at", now]}
    silent = {"$and": [active, {"$lte": ["$expires_at", before]}]}
    return {
        "_id": "$platform",
        "documents": {"$sum": 1},
        "active": {"$sum": {"$cond": [active, 1, 0]}},
        "silent": {"$sum": {"$cond": [silent, 1, 0]}},
    }


def _shows(holder: Stream | None, change: Change, now: datetime) -> bool:
    """Whether what a slot holds shows that this change, which is no claim, was made."""
    if holder is None or holder.place != change.stream.place:
        return False
    return holder.ended is None and holder.is_active(now)


def _is_claim(change: Change) -> bool:
    return isinstance(change, Put) and change.victim is None
