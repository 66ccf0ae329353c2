"""Streams in MongoDB. The only module that knows the driver.

Its verbs take everything that is wanted at one moment and spend one command on it, however many
sessions that concerns. What a command names is sorted: where the database carries a command out as
one transaction, two processes that took the same locks in another order would wait for each other.
Only plain operators are used, so that the same code is right on MongoDB, on a sharded cluster, on
the embedded server and on the test double.

Through a router every filter names `session`, the shard key, so that it can ask one shard alone.
Elsewhere what is looked up by `_id`, which begins with the session, goes without: that is half the
bytes, and no planner has another index to try. (A hint would say so too, but DocumentDB refuses one
in an update.)
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import randrange
from typing import TYPE_CHECKING, Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import (
    DeleteMany,
    IndexModel,
    ReadPreference,
    UpdateMany,
    UpdateOne,
    WriteConcern,
    timeout,
)
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidURI,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from stream_service.settings import SettingsError, unusable_file
from stream_service.streams import StoreConflictError, StoreUnavailableError, Stream, past_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from stream_service.streams import Reason

log = logging.getLogger(__name__)

COMMAND_TIMEOUT = timedelta(seconds=1.5)
"""How long one command may take, finding a server and all: within the deadline of a request."""

MONITOR_EVERY = timedelta(seconds=0.5)
"""How often the driver looks at a server that has nothing to tell: as often as drivers may.

A primary that steps down says so at once, but not each server that speaks the protocol does. One
that only answers "not primary" would be left alone until the driver looks again, by default for 10
seconds; now a retry still finds it in time.
"""

TOLERATED_SKEW = timedelta(seconds=10)
"""How far the clocks of two processes may be apart.

A stopped stream is dated this far back, so that its slot is free at once for a process whose clock
is behind the one that stopped it.
"""

INDEX_TIMEOUT = timedelta(hours=1)
"""How long the making of the indexes may take: on a large collection, far longer than a command."""

SWEEP_TIMEOUT = timedelta(seconds=20)
"""How long one sweep may take. What it did not get to is left to the next one."""

SWEEP_STEP = timedelta(minutes=10)
"""How often a stream that is active, or remembered, is looked at by a sweep.

So much longer than the retention may a stream be remembered; a retention of more than 40 minutes is
overrun by up to a quarter of it instead.
"""

REMEMBERED_PER_SLOT = 8
"""How many of the streams that had a slot before are known by the reason for which they ended.

A player asks within a third of a lease; until then its slot may have been taken again and again. It
has to be told that its stream was stopped or replaced: not knowing it, it would start anew.
"""

COUNTED_AT_MOST = 20_000
"""How many documents are looked at to tell how many streams are active."""

_INDEX_PATIENCE_SECONDS = 1.0
_INDEX_RETRY_SECONDS = 0.5
_LEAVE_SECONDS = 0.5
_DIGEST_DIGITS = 12
_DIGESTS = 16**_DIGEST_DIGITS
_DUPLICATE_KEY = 11000
_WRITE_CONFLICT = 112
_NO_SUCH_INDEX = 27
_INDEX_CONFLICTS = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict
_ALL_IN_FIRST_BATCH = 100_000

# A start that is tried again while its first try still waits in another process must not get a
# second slot. Unique per session, which a sharded cluster can enforce. The name tells it from the
# one of earlier versions, whose filter asked for a type, which Amazon does not document.
_KEY_ONCE = IndexModel(
    [("session", 1), ("idempotency_key", 1)],
    name="idempotency_key_once",
    unique=True,
    partialFilterExpression={"idempotency_key": {"$exists": True}},
)
_INDEXES = (IndexModel([("session", 1)]), IndexModel([("forget_at", 1)]), _KEY_ONCE)

_HINTS_BY_CODE = {
    13: "its user may not do this: give it the role readWrite on this database",
    18: "check user and password in MONGO_URL, and authSource",
}

_NO_SUCH_HOST = "no such host: check its name in MONGO_URL"
_HINTS_BY_WORD = {
    # As the resolvers of Linux and macOS say it.
    "name or service not known": _NO_SUCH_HOST,
    "name resolution": _NO_SUCH_HOST,
    "no address associated": _NO_SUCH_HOST,
    "nodename nor servname": _NO_SUCH_HOST,
    "connection refused": "nothing listens there: check host and port in MONGO_URL, and the server",
    "authentication failed": _HINTS_BY_CODE[18],
    "ssl handshake failed": "check the options for TLS in MONGO_URL, and the server's certificate",
    "no replica set members": "no member of that name: check replicaSet in MONGO_URL",
    "timed out": "no answer from there: check host and port in MONGO_URL, and firewalls",
}


Place = tuple[str, str]
"""Where a stream is: the digest of its session, and its id, which carries its slot."""

_Keys = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Write:
    """A stream to be put into its slot.

    Attributes:
        stream: What the slot shall hold.
        victim: The active stream whose slot it takes over; None claims a free slot.
        unless_renewed: Whether a victim that was renewed since it was read keeps its slot.
    """

    stream: Stream
    victim: Stream | None = None
    unless_renewed: bool = False


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A stream that was read, to be as durable as one that was just started.

    What a read shows may be on one machine only, and undone with it. The write waits for a
    majority, and the database keeps the order of its writes, so all that led to this stream is
    durable with it. It changes a counter rather than nothing, since no server's rules for what a
    write without effect waits for are needed then.
    """

    stream: Stream


@dataclass(frozen=True, slots=True)
class Closing:
    """A stream whose lease is over, to be ended for good, its idempotency key free."""

    stream: Stream


Change = Write | Confirmation | Closing


class MongoStore:
    """The collection `streams` of one database: one document is one stream in one slot.

    Every verb raises `StoreUnavailableError` when the database gives no answer in time. For a verb
    that writes the outcome is unknown then: the write may still be done. `StoreConflictError` is
    the one kind of it that says to do the same again.
    """

    def __init__(
        self, client: AsyncIOMotorClient[Any], database: str, retention: timedelta
    ) -> None:
        """Nothing is sent yet; the first verb that reaches the database has the indexes made.

        Args:
            client: A motor client whose commands end within `COMMAND_TIMEOUT`.
            database: Name of the database.
            retention: How long a stream that is over is remembered, at least.
        """
        self._client = client
        # Whatever the URL says: a stale read would refuse wrongly, and a write that a crash can
        # undo would admit one more.
        get = partial(
            client[database].get_collection,
            "streams",
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("local"),
        )
        self._streams = get(write_concern=WriteConcern(w="majority", j=True))
        # What a crash can undo of a renewal is a third of a lease, and the next one mends it.
        self._renewals = get(write_concern=WriteConcern(w=1, j=False))
        self._is_router = False
        self._retention = retention
        self._share = 1.0
        self._is_known = False
        self._prepared = False
        self._goes_ahead = False
        self._preparing: asyncio.Task[None] | None = None

    @classmethod
    def connect(cls, url: str, database: str, retention: timedelta) -> MongoStore:
        """Make a store on its own client. Connects in the background, and again when it has to.

        Raises:
            SettingsError: The driver cannot use the URL.
        """
        milliseconds = int(COMMAND_TIMEOUT.total_seconds() * 1000)
        try:
            client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(
                url,
                appname="stream-service",
                tz_aware=True,
                timeoutMS=milliseconds,
                # Closing the client looks for a server once more, by default for 30 s.
                serverSelectionTimeoutMS=milliseconds,
                heartbeatFrequencyMS=int(MONITOR_EVERY.total_seconds() * 1000),
            )
        except OSError as error:
            raise SettingsError(f"MONGO_URL {unusable_file(error)}") from None
        except (ConfigurationError, InvalidURI, ValueError) as error:
            raise SettingsError(
                f"MONGO_URL cannot be used by the driver ({type(error).__name__}): "
                "check its options and, for mongodb+srv, the DNS name"
            ) from None
        return cls(client, database, retention)

    def close(self) -> None:
        """Close the connections."""
        if self._preparing is not None and not self._preparing.done():
            self._preparing.cancel()
        # The driver ends its sessions at the server, and would wait 30 s for a frozen one.
        with timeout(_LEAVE_SECONDS):
            self._client.close()

    async def prepare(self, within: timedelta | None = COMMAND_TIMEOUT) -> None:
        """Wait until the indexes are there.

        Every verb is right without them, if slow in a large collection, but for one: two starts
        with the same idempotency key, tried at once in two processes, are told apart by an index
        alone. Starts with a key wait here first; all other requests are served meanwhile.

        Args:
            within: How long to wait at most; None waits as long as it takes once the database
                answers.

        Raises:
            StoreUnavailableError: They are not there yet; their making goes on.
        """
        if self._prepared:
            return
        await self._ready()
        try:
            async with asyncio.timeout(None if within is None else within.total_seconds()):
                await asyncio.shield(self._preparation())
        except TimeoutError:
            raise StoreUnavailableError("indexes are being made") from None

    async def _ready(self) -> None:
        """Make sure that the server answers and that its indexes are being made.

        That takes a moment as long as there are hardly any streams, and is worth waiting for: a
        collection without an index is slow, and SecantusDB 0.7.0b3 can lock up when indexes are
        made of a collection that is being written to.
        """
        if self._prepared or self._goes_ahead:
            return
        if not self._is_known:
            with _translated_errors():
                hello = await self._client.admin.command("hello")
            self._is_router = hello.get("msg") == "isdbgrid"
            self._is_known = True
        done, _ = await asyncio.wait((self._preparation(),), timeout=_INDEX_PATIENCE_SECONDS)
        if not done and not self._goes_ahead:
            self._goes_ahead = True
            log.info("indexes are being made: starts with an Idempotency-Key get 503 until then")

    def _preparation(self) -> asyncio.Task[None]:
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare_eventually())
        return self._preparing

    async def _prepare_eventually(self) -> None:
        said = ""
        while not self._prepared:
            try:
                with _translated_errors():
                    await self._make_indexes()
                self._prepared = True
                if self._goes_ahead:
                    log.info("indexes are there")
            except StoreUnavailableError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning(
                        "indexes could not be made, and will be tried again",
                        extra={"error": said},
                    )
                await asyncio.sleep(_INDEX_RETRY_SECONDS)

    async def _make_indexes(self) -> None:
        """Make what is missing, in one command, then drop what earlier versions needed."""
        names = await self._index_names()
        missing = [index for index in _INDEXES if not _is_among(index, names)]
        if missing:
            try:
                await self._create(missing)
            except OperationFailure as error:
                if error.code not in _INDEX_CONFLICTS:
                    raise
                # MongoDB before 5.0 takes one index on these fields, whatever its filter.
                await self._drop(names, _keys_of(_KEY_ONCE))
                await self._create(missing)
        # It moved with every heartbeat.
        await self._drop(names, (("expires_at", 1),))
        await self._drop(names, _keys_of(_KEY_ONCE))

    async def _create(self, indexes: list[IndexModel]) -> None:
        with timeout(INDEX_TIMEOUT.total_seconds()):
            await self._streams.create_indexes(indexes)

    async def _index_names(self) -> dict[str, _Keys]:
        indexes = await self._streams.index_information()
        return {name: tuple(map(tuple, index["key"])) for name, index in indexes.items()}

    async def _drop(self, names: dict[str, _Keys], keys: _Keys) -> None:
        """Drop the indexes on these fields that are not this version's own."""
        own = {index.document["name"] for index in _INDEXES}
        for name in [name for name, its_keys in names.items() if its_keys == keys]:
            if name not in own:
                try:
                    await self._streams.drop_index(name)
                except OperationFailure as error:
                    if error.code != _NO_SUCH_INDEX:
                        raise
                log.info("index dropped", extra={"index": name})

    async def ping(self) -> None:
        """Return if the database answers and is ready to be used."""
        await self._ready()
        with _translated_errors():
            await self._client.admin.command("ping")

    async def read(self, sessions: Collection[str]) -> dict[str, list[Stream]]:
        """Read what the slots of these sessions hold, in one command.

        Args:
            sessions: Digests of session ids.

        Returns:
            The streams by session, active or over; a session without any is absent.
        """
        await self._ready()
        found: dict[str, list[Stream]] = {}
        with _translated_errors():
            query = {"session": {"$in": sorted(sessions)}}
            cursor = self._streams.find(query, batch_size=_ALL_IN_FIRST_BATCH)
            for document in await cursor.to_list(None):
                found.setdefault(document["session"], []).append(_stream(document))
        return found

    async def write(self, changes: Sequence[Change], now: datetime) -> list[bool]:
        """Make changes to slots, each on its own condition, in one command.

        A claim succeeds if its slot is free at `now`, a take-over if its victim is still active
        there, a confirmation if its stream is, and a closing if its stream's lease is over.

        Returns:
            One answer per change: True if it was made, False if the caller has to look again. A
            change other than a claim can be among the latter though it was made, when another one
            beside it was not: the database counts those made but does not say which ones.
        """
        await self._ready()
        lost: set[int] = set()
        places = [(change.stream.session, change.stream.stream_id) for change in changes]
        order = sorted(range(len(changes)), key=lambda i: _id(places[i]))
        with _translated_errors():
            try:
                operations = [self._operation(changes[i], now) for i in order]
                done = await self._streams.bulk_write(operations, ordered=False)
                matched, upserted = done.matched_count, done.upserted_count
            except BulkWriteError as error:
                details = error.details
                errors = details["writeErrors"]
                if details["writeConcernErrors"] or any(
                    e["code"] not in (_DUPLICATE_KEY, _WRITE_CONFLICT) for e in errors
                ):
                    raise
                # Either key will do: the slot's, somebody has it, or the idempotency key's,
                # another try of this start was faster. A fresh view tells.
                lost = {order[e["index"]] for e in errors}
                matched, upserted = details["nMatched"], details["nUpserted"]
        claims = {i for i, change in enumerate(changes) if _is_claim(change)}
        others_made = matched + upserted - len(claims - lost)
        if others_made < len(changes) - len(claims):
            return [i in claims and i not in lost for i in range(len(changes))]
        return [i not in lost for i in range(len(changes))]

    def _operation(self, change: Change, now: datetime) -> UpdateOne:
        stream = change.stream
        place = stream.session, stream.stream_id
        match change:
            case Confirmation():
                where = {**self._at(place), "stream_id": stream.stream_id, **_active(now)}
                return UpdateOne(where, {"$inc": {"confirmed": 1}})
            case Closing():
                where = {**self._at(place), "stream_id": stream.stream_id}
                where |= {"expires_at": {"$lte": now}, "ended": None}
                update = {"$set": {"ended": "expired"}, "$unset": {"idempotency_key": ""}}
                return UpdateOne(where, update)
            case Write(victim=victim, unless_renewed=unless_renewed):
                update = _held_by(stream, self._retention)
                if victim is None:
                    if not self._is_router:
                        update["$setOnInsert"] = {"session": stream.session}
                    where = {**self._at(place), "expires_at": {"$lte": now}}
                    return UpdateOne(where, update, upsert=True)
                where = {**self._at(place), "stream_id": victim.stream_id, **_active(now)}
                update |= _remembering(victim.stream_id, "replaced")
                if unless_renewed:
                    where["expires_at"] = victim.expires_at
                return UpdateOne(where, update)

    def _at(self, place: Place) -> dict[str, Any]:
        """The filter for the slot of this stream."""
        if self._is_router:
            return {"_id": _id(place), "session": place[0]}
        return {"_id": _id(place)}

    async def renew(self, streams: Collection[Place], now: datetime, until: datetime) -> bool:
        """Let the leases of those that are active at `now` run on, never to an earlier end.

        It does not wait for a majority: a failover may undo it.

        Returns:
            Whether all of them were active. If not, `slots` tells which, and until when.
        """
        await self._ready()
        wanted = set(streams)
        update = {"$max": {"expires_at": until}}
        if self._is_router:
            # A router sends an update of many to several shards without their versions: while a
            # chunk moves, it may miss a document or count one twice. With the whole shard key each
            # statement goes to the shard that owns the document, and counts it or does not.
            statements = [
                UpdateOne({**self._at(place), "stream_id": place[1], **_active(now)}, update)
                for place in sorted(wanted, key=_id)
            ]
            with _translated_errors():
                renewed = await self._renewals.bulk_write(statements, ordered=False)
            return renewed.matched_count == len(wanted)
        # One update for all matches every session with every stream that is named. Should two
        # sessions name each other's streams, in one slot and one batch, both are renewed. That
        # harms nobody, and a caller asks `slots` about a stream not known to be its session's.
        where = {
            "_id": {"$in": sorted(map(_id, wanted))},
            "stream_id": {"$in": sorted(stream_id for _, stream_id in wanted)},
            **_active(now),
        }
        with _translated_errors():
            done = await self._renewals.update_many(where, update)
        return done.matched_count == len(wanted)

    async def end(self, streams: Collection[Place], now: datetime) -> bool:
        """Stop those that are active at `now`, leaving tombstones.

        Returns:
            Whether all of them were active. If not, `slots` tells which are not known at all.
        """
        await self._ready()
        update = {
            "$set": {"ended": "stopped", "expires_at": now - TOLERATED_SKEW},
            "$unset": {"idempotency_key": ""},
        }
        wanted = set(streams)
        operations = [
            UpdateOne(
                {**self._at(place), "stream_id": place[1], **_active(now)},
                update | _remembering(place[1], "stopped"),
            )
            for place in sorted(wanted, key=_id)
        ]
        with _translated_errors():
            done = await self._streams.bulk_write(operations, ordered=False)
        return done.matched_count == len(wanted)

    async def slots(self, streams: Collection[Place]) -> dict[Place, Stream]:
        """Read what the slots of these streams hold now: the stream, its tombstone, a successor.

        Returns:
            The holder by the stream that was asked for; one whose slot was never used, or has been
            swept, is absent.
        """
        await self._ready()
        with _translated_errors():
            where: dict[str, Any] = {"_id": {"$in": sorted({_id(place) for place in streams})}}
            if self._is_router:
                where["session"] = {"$in": sorted({session for session, _ in streams})}
            cursor = self._streams.find(where, batch_size=_ALL_IN_FIRST_BATCH)
            documents = {document["_id"]: document for document in await cursor.to_list(None)}
        return {
            place: _stream(documents[_id(place)]) for place in streams if _id(place) in documents
        }

    async def sweep(self) -> None:
        """Delete what has been over for the retention, by the clock of the database.

        `forget_at` says when to look at a stream next. Whether it is deleted then, its lease says,
        in the same step: a process of an earlier version, which shares the database while a new
        version is rolled out, renews leases and gives slots away without touching `forget_at`, and
        no TTL index could see that. So heartbeats change no index at all.
        """
        await self._ready()
        if not self._prepared:
            return
        with timeout(SWEEP_TIMEOUT.total_seconds()), _translated_errors():
            hello = await self._client.admin.command("hello")
            now = hello["localTime"].replace(tzinfo=UTC)
            over = {"$lte": now - max(self._retention, TOLERATED_SKEW)}
            later = {"$set": {"forget_at": now + max(SWEEP_STEP, self._retention / 4)}}
            await self._streams.bulk_write(
                [
                    DeleteMany({"forget_at": {"$lte": now}, "expires_at": over}),
                    UpdateMany({"forget_at": {"$lte": now}}, later),
                    # Made by an earlier version.
                    UpdateMany({"forget_at": None}, later),
                ]
            )

    async def count(self, *after: datetime) -> list[int]:
        """How many streams of all sessions have a lease that runs beyond each of these times.

        Exact as long as the collection has no more than `COUNTED_AT_MOST` documents. Of more, those
        in a slice of the sessions are counted, and say what all are: digests are spread evenly. The
        slice, in another place each time, holds 10,000 documents or so, which takes a database as
        long whether it has a hundred thousand or a hundred million. The standard error is then
        about 1 %, or 1.4 % where a session has several streams; twice that is rarely exceeded.
        """
        await self._ready()
        with _translated_errors():
            while True:
                where, share = _slice_of_sessions(self._share)
                size = await self._streams.count_documents(where, limit=COUNTED_AT_MOST + 1)
                if size <= COUNTED_AT_MOST:
                    break
                self._share = share / 4
            # For the next time.
            self._share = min(1.0, share * COUNTED_AT_MOST * 0.75 / max(size, 1))
            counts = [
                await self._streams.count_documents({**where, "expires_at": {"$gt": time}})
                for time in after
            ]
        return [round(count / share) for count in counts]


def _keys_of(index: IndexModel) -> _Keys:
    return tuple(index.document["key"].items())


def _is_among(index: IndexModel, names: dict[str, _Keys]) -> bool:
    # The one that guards the keys by its name: an earlier one on the same fields is to be replaced.
    if index is _KEY_ONCE:
        return index.document["name"] in names
    return _keys_of(index) in names.values()


def _slice_of_sessions(share: float) -> tuple[dict[str, Any], float]:
    """A filter for this share of all sessions, from somewhere among them, and the exact share."""
    if share >= 1:
        return {}, 1.0
    width = max(1, int(share * _DIGESTS))
    low = randrange(_DIGESTS - width)  # noqa: S311 - no secret
    digits = [f"{bound:0{_DIGEST_DIGITS}x}" for bound in (low, low + width)]
    return {"session": {"$gte": digits[0], "$lt": digits[1]}}, width / _DIGESTS


def _id(place: Place) -> str:
    session, stream_id = place
    return f"{session}/{stream_id.partition('-')[0]}"


def _active(now: datetime) -> dict[str, Any]:
    """What a stream must be for a command to renew, end or replace it.

    A tombstone is dated back, but not before a command that was sent earlier and is carried out
    only now: such a command must not find the stream active again.
    """
    return {"expires_at": {"$gt": now}, "ended": None}


def _is_claim(change: Change) -> bool:
    return isinstance(change, Write) and change.victim is None


def _held_by(stream: Stream, retention: timedelta) -> dict[str, Any]:
    """What makes a slot hold this stream, and nothing of the one before."""
    to_set: dict[str, Any] = {
        "slot": stream.slot,
        "stream_id": stream.stream_id,
        "device": stream.device,
        "content": stream.content,
        "started_at": stream.started_at,
        "expires_at": stream.expires_at,
        # If no heartbeat comes.
        "forget_at": stream.expires_at + retention,
    }
    to_unset = {"ended": ""}
    for name, value in (
        ("idempotency_key", stream.idempotency_key),
        ("replaced", stream.replaced),
        ("start", _start(stream)),
    ):
        if value is None:
            to_unset[name] = ""
        else:
            to_set[name] = value
    return {"$set": to_set, "$unset": to_unset}


def _remembering(stream_id: str, reason: Reason) -> dict[str, Any]:
    """What makes a slot remember this stream beyond the next that it holds."""
    latest = {"$each": [past_of(stream_id, reason)], "$slice": -REMEMBERED_PER_SLOT}
    return {"$push": {"past": latest}}


def _start(stream: Stream) -> dict[str, Any] | None:
    """What the start came with that no answer shows; None for nothing.

    It names its stream: a process of an older version, which does not know the field, leaves it
    standing when it gives the slot to another stream.
    """
    start = {"device_id": stream.device_id, "fingerprint": stream.fingerprint}
    given = {name: value for name, value in start.items() if value is not None}
    return {"stream_id": stream.stream_id, **given} if given else None


def _stream(document: dict[str, Any]) -> Stream:
    start = document.get("start")
    if start is None or start["stream_id"] != document["stream_id"]:
        start = {}
    return Stream(
        session=document["session"],
        stream_id=document["stream_id"],
        device=document["device"],
        content=document["content"],
        started_at=document["started_at"],
        expires_at=document["expires_at"],
        idempotency_key=document.get("idempotency_key"),
        ended=document.get("ended"),
        replaced=document.get("replaced"),
        device_id=start.get("device_id"),
        fingerprint=start.get("fingerprint"),
        past=tuple(document.get("past", ())),
    )


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        # The driver's own words can quote documents and the URL: its class and code say enough.
        code = getattr(error, "code", None)
        if isinstance(error, NotPrimaryError) and isinstance(error.details, dict):
            code = error.details.get("code")
        name = type(error).__name__
        message = name if code is None else f"{name} {code}"
        if _is_conflict(error):
            raise StoreConflictError(message) from error
        raise StoreUnavailableError(message, _hint(error)) from error


def _hint(error: PyMongoError) -> str | None:
    """What to look at. The driver's words are searched, and never passed on."""
    if isinstance(error, OperationFailure):
        return _HINTS_BY_CODE.get(error.code or 0)
    words = str(error).lower()
    return next((hint for word, hint in _HINTS_BY_WORD.items() if word in words), None)


def _is_conflict(error: PyMongoError) -> bool:
    if isinstance(error, BulkWriteError):
        codes = {e["code"] for e in error.details["writeErrors"]}
        return codes == {_WRITE_CONFLICT} and not error.details["writeConcernErrors"]
    return isinstance(error, OperationFailure) and error.code == _WRITE_CONFLICT
