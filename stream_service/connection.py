"""The connection to MongoDB: the client, what its errors mean, and the indexes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import IndexModel, ReadPreference, WriteConcern, timeout
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
from stream_service.streams import StoreConflictError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from motor.motor_asyncio import AsyncIOMotorCollection

log = logging.getLogger(__name__)

COMMAND_TIMEOUT = timedelta(seconds=1.5)
"""How long one command may take, finding a server and all: within the deadline of a request."""

MONITOR_EVERY = timedelta(seconds=0.5)
"""How often the driver looks at a server that has nothing to tell: as often as drivers may.

A primary that steps down says so at once, but not each server that speaks the protocol does. One
that only answers "not primary" would be left alone until the driver looks again, by default for 10
seconds; now a retry still finds it in time.
"""

INDEX_TIMEOUT = timedelta(hours=1)
"""How long the making of the indexes may take: on a large collection, far longer than a command."""

DUPLICATE_KEY = 11000
WRITE_CONFLICT = 112

_INDEX_PATIENCE_SECONDS = 1.0
_INDEX_RETRY_SECONDS = 0.5
INDEX_TROUBLE_SECONDS = 10.0
"""How long to wait after an unexpected error: each is logged with its traceback."""
_LEAVE_SECONDS = 0.5

_INDEXES = [
    IndexModel([("session", 1)]),
    # No two streams of an account hold the same place. A unique index of an array is enforced
    # element by element; unique per session, which a sharded cluster can enforce.
    IndexModel(
        [("session", 1), ("places", 1)],
        name="places",
        unique=True,
        partialFilterExpression={"places": {"$exists": True}},
    ),
    IndexModel([("forget_at", 1)], name="forget", expireAfterSeconds=0),
]

_PROCESSES_INDEXES = [IndexModel([("forget_at", 1)], name="forget", expireAfterSeconds=0)]

_OTHER_INDEX = (
    "the collection streams has an index of another layout, from before 1.0.0: drop the collection"
)
_HINTS_BY_CODE = {
    1: "the database fails inside: is its disk full? See its log",
    13: "its user may not do this: give it the role readWrite on this database",
    18: "check user and password in MONGO_URL, and authSource",
    67: _OTHER_INDEX,  # CannotCreateIndex, as some servers say it
    85: _OTHER_INDEX,  # IndexOptionsConflict
    86: _OTHER_INDEX,  # IndexKeySpecsConflict
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


class Connection:
    """One database of one server or cluster.

    Attributes:
        streams: The collection `streams`. Its writes wait for a majority.
        renewals: The same, whose writes do not.
        processes: The collection `processes`.
        is_router: Whether a router of a sharded cluster answers; known once `ready` returned.
    """

    def __init__(self, client: AsyncIOMotorClient[Any], database: str) -> None:
        """Nothing is sent yet.

        Args:
            client: A motor client whose commands end within `COMMAND_TIMEOUT`.
            database: Name of the database.
        """
        self._client = client
        self._database = client[database]
        durable = WriteConcern(w="majority", j=True)
        self.streams = self._collection("streams", durable)
        self.processes = self._collection("processes", durable)
        # What a crash can undo of a renewal is a third of a lease, and the next one mends it.
        self.renewals = self._collection("streams", WriteConcern(w=1, j=False))
        self.is_router = False
        self._is_known = False
        self._prepared = False
        self._goes_ahead = False
        self._preparing: asyncio.Task[None] | None = None

    def _collection(self, name: str, concern: WriteConcern) -> AsyncIOMotorCollection[Any]:
        # Whatever the URL says: a stale read would refuse wrongly, and a write that a crash can
        # undo would admit one more.
        return self._database.get_collection(
            name,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("local"),
            write_concern=concern,
        )

    @classmethod
    def to(cls, url: str, database: str) -> Connection:
        """Connect in the background, and again when it has to.

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
        return cls(client, database)

    def close(self) -> None:
        """Close the connections."""
        if self._preparing is not None and not self._preparing.done():
            self._preparing.cancel()
        # The driver ends its sessions at the server, and would wait 30 s for a frozen one.
        with timeout(_LEAVE_SECONDS):
            self._client.close()

    async def clock(self) -> datetime | None:
        """What the database's clock says; None where it does not tell."""
        with translated_errors():
            hello = await self._client.admin.command("hello")
        match hello.get("localTime"):
            case datetime() as told:
                # The driver leaves out the zone in what a command answers: it is UTC.
                return told.replace(tzinfo=UTC)
            case int() | float() as milliseconds:  # DocumentDB on PostgreSQL
                return datetime.fromtimestamp(milliseconds / 1000, UTC)
        return None

    async def prepare(self, within: timedelta | None) -> None:
        """Wait until the indexes are there.

        Args:
            within: How long to wait at most; None waits as long as it takes once the database
                answers.

        Raises:
            StoreUnavailableError: They are not there yet; their making goes on.
        """
        if self._prepared:
            return
        await self.ready()
        try:
            async with asyncio.timeout(None if within is None else within.total_seconds()):
                await asyncio.shield(self._preparation())
        except TimeoutError:
            raise StoreUnavailableError("indexes are being made") from None

    async def ready(self) -> None:
        """Make sure that the server answers and that its indexes are being made.

        That takes a moment as long as there are hardly any streams, and is worth waiting for: a
        collection without an index is slow, and SecantusDB 0.7.0b3 can lock up when indexes are
        made of a collection that is being written to.
        """
        if self._prepared or self._goes_ahead:
            return
        if not self._is_known:
            with translated_errors():
                hello = await self._client.admin.command("hello")
            self.is_router = hello.get("msg") == "isdbgrid"
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
                with translated_errors():
                    await self._make_indexes()
                self._prepared = True
                if self._goes_ahead:
                    log.info("indexes are there")
            except StoreUnavailableError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning(
                        "indexes could not be made, and will be tried again",
                        extra={"error": said, **({"hint": error.hint} if error.hint else {})},
                    )
                await asyncio.sleep(_INDEX_RETRY_SECONDS)
            except Exception:
                # A server that answers as none should: the next try may do.
                log.exception("indexes could not be made, and will be tried again")
                await asyncio.sleep(INDEX_TROUBLE_SECONDS)

    async def _make_indexes(self) -> None:
        for collection, wanted in (
            (self.streams, _INDEXES),
            (self.processes, _PROCESSES_INDEXES),
        ):
            # Those that are there are used though no majority can vouch for them at the moment.
            there = (await collection.index_information()).values()
            missing = [index for index in wanted if not any(_is(index, one) for one in there)]
            if missing:
                with timeout(INDEX_TIMEOUT.total_seconds()):
                    await collection.create_indexes(missing)


def _is(wanted: IndexModel, there: Mapping[str, Any]) -> bool:
    asked = wanted.document
    return list(asked["key"].items()) == [tuple(part) for part in there["key"]] and all(
        asked.get(option) == there.get(option) for option in ("unique", "expireAfterSeconds")
    )


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the driver's errors as `StoreUnavailableError` or `StoreConflictError`."""
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
        return codes == {WRITE_CONFLICT} and not error.details["writeConcernErrors"]
    return isinstance(error, OperationFailure) and error.code == WRITE_CONFLICT
