"""The domain: a stream in a slot, how it can end, and what can be said of it."""

from __future__ import annotations

import re
import secrets
from binascii import b2a_base64
from datetime import UTC, datetime
from hashlib import blake2b
from time import time_ns
from typing import Literal, NamedTuple

Reason = Literal["stopped", "expired", "replaced"]
Ended = Literal["stopped", "expired"]

# Copied for each, which is quicker than to begin with the size each time.
_DIGEST = blake2b(digest_size=16)
_URLSAFE = bytes.maketrans(b"+/", b"-_")

STREAM_ID = re.compile(r"(0|[1-9][0-9]?)-[A-Za-z0-9_-]{22}")


class Place(NamedTuple):
    """Where a stream is.

    Attributes:
        session: Digest of the session id.
        stream_id: Id of the stream, which begins with its slot.
    """

    session: str
    stream_id: str


class Tombstone(NamedTuple):
    """How an earlier stream of a slot ended.

    Attributes:
        stream_id: Its id.
        reason: What ended it.
    """

    stream_id: str
    reason: Reason


class Stream(NamedTuple):
    """One stream in one numbered slot of one session, active or over.

    Attributes:
        session: Digest of the session id; the id itself is never kept.
        stream_id: `<slot>-<digest of its lease's secret>`, opaque to clients.
        started_at: UTC, whole milliseconds.
        expires_at: UTC, whole milliseconds. The stream is active while this lies in the future.
        device: Label that the client gave, or None.
        content: Label that the client gave, or None.
        platform: What it plays on, `<name>` or `<name> <version>`, or None.
        device_id: Digest of the id of the device that started it, or None.
        places: What it holds beside its slot: `key/<digest>`, the idempotency key of its start, and
            one numbered place under each further limit, `<prefix>/<number>`.
        fingerprint: Digest of what the start with that key said, or None without a key.
        salt: Random value from which, with that key, the lease's secret is made; or None.
        limit: How many streams the account might have when this one started; None of one that was
            started by a version without this.
        plan: The name of the account's plan then, or None without a policy.
        ended: What ended it for good: a stop, or a start or heartbeat that found its lease over
            and made sure that nothing brings it back. None: its lease alone says whether it is
            active.
        ended_by: Random; tells which command ended it for good. None: nothing has.
        tombstones: How the streams that had this slot before ended, the latest last.
    """

    session: str
    stream_id: str
    started_at: datetime
    expires_at: datetime
    device: str | None = None
    content: str | None = None
    platform: str | None = None
    device_id: str | None = None
    places: tuple[str, ...] = ()
    fingerprint: str | None = None
    salt: str | None = None
    limit: int | None = None
    plan: str | None = None
    ended: Ended | None = None
    ended_by: bytes | None = None
    tombstones: tuple[Tombstone, ...] = ()

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.session, self.stream_id)

    @property
    def slot(self) -> int:
        """The slot's number, counted from 0."""
        return int(self.stream_id.partition("-")[0])

    @property
    def replaced(self) -> str | None:
        """The id of the stream whose place this one took, or None."""
        last = self.tombstones[-1] if self.tombstones else None
        return last.stream_id if last is not None and last.reason == "replaced" else None

    def is_active(self, now: datetime) -> bool:
        """Whether the lease runs at `now`."""
        return self.expires_at > now

    def reason_of(self, stream_id: str) -> Reason | None:
        """Why this earlier stream of the slot ended; None if that is not known."""
        # Of two tombstones the first counts: an end that was meant, before one that was found.
        return next((t.reason for t in self.tombstones if t.stream_id == stream_id), None)


KEY_PREFIX = "key"
"""Begins the places that idempotency keys hold; no limit has this name."""


def key_place(digest: str) -> str:
    """The place that a start with this idempotency key holds; no two streams of a session do."""
    return f"{KEY_PREFIX}/{digest}"


def place_number(stream: Stream, prefix: str) -> str | None:
    """The number of the place that a stream holds under a rule with this prefix, or None."""
    for place in stream.places:
        before, _, number = place.rpartition("/")
        if before == prefix:
            return number
    return None


SECRET_BYTES = 16
"""Length of a lease's secret."""


def new_secret() -> bytes:
    """The secret of a new lease: 128 random bits."""
    return secrets.token_bytes(SECRET_BYTES)


def token_of(secret: bytes) -> str:
    """The part of a stream id that its lease's secret makes: a digest, in 22 characters."""
    digest = _DIGEST.copy()
    digest.update(secret)
    return b2a_base64(digest.digest())[:22].translate(_URLSAFE).decode()


def stream_id_of(slot: int | str, token: str) -> str:
    """The id of the stream in this slot whose lease's secret has this digest."""
    return f"{slot}-{token}"


def is_stream_id(text: str) -> bool:
    """Whether the text has the form of a stream id."""
    return STREAM_ID.fullmatch(text) is not None


def utc_now() -> datetime:
    """The time, cut to the milliseconds that a MongoDB date can hold."""
    return datetime.fromtimestamp(time_ns() // 1_000_000 / 1000, UTC)


class Rule(NamedTuple):
    """A limit beside the number of all streams, as it applies to one start.

    A stream that it applies to holds one of its places, `<prefix>/<number>`.

    Attributes:
        name: As the policy has it.
        prefix: The name, and for a limit on each value of an attribute the value's digest.
        limit: How many streams may hold a place, 0 to 100.
        enforced: Whether a start beyond that is refused.
    """

    name: str
    prefix: str
    limit: int
    enforced: bool = True


class Reached(NamedTuple):
    """A limit that stands in the way of a start.

    Attributes:
        rule: Its name; None for the number of all streams.
        limit: How many streams it allows.
        streams: The active ones that count under it, oldest first.
    """

    rule: str | None
    limit: int
    streams: list[Stream]


class LimitReachedError(Exception):
    """The session already has as many active streams as it may.

    Attributes:
        reached: The limits in the way, the one that hinders most first.
        active: How many streams the session has.
    """

    def __init__(self, reached: list[Reached], active: int) -> None:
        super().__init__(f"{len(reached[0].streams)} of {reached[0].limit} streams are active")
        self.reached = reached
        self.active = active


class KeyReusedError(Exception):
    """The idempotency key has started a stream of this session, for a start that said otherwise."""


class StreamNotFoundError(Exception):
    """This session never had such a stream, or it has been forgotten."""


class StreamEndedError(Exception):
    """The stream is over.

    Attributes:
        reason: Why.
        replaced_by: The stream that took its slot over, when `reason` is "replaced".
    """

    def __init__(self, reason: Reason, replaced_by: Stream | None = None) -> None:
        super().__init__(f"the stream is over: {reason}")
        self.reason = reason
        self.replaced_by = replaced_by


class StoreUnavailableError(Exception):
    """The store gave no answer, or none in time: whether a write was done is unknown.

    Attributes:
        hint: What an operator may look at, where the cause is known.
    """

    def __init__(self, reason: str = "", hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


class TooManyRequestsError(Exception):
    """More is asked at once than is carried out in time. No fault of the store's.

    Whether a write was done is unknown, as with `StoreUnavailableError`.
    """


class StoreConflictError(StoreUnavailableError):
    """A write conflict with another command: nothing is wrong, and the same can be tried again."""
