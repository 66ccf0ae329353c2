"""The domain: a stream in a slot, how it can end, and what can be said of it."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from time import time_ns
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import timedelta

Reason = Literal["stopped", "expired", "replaced"]
Ended = Literal["stopped", "expired"]

STREAM_ID = re.compile(r"(0|[1-9][0-9]?)-[A-Za-z0-9_-]{22}")


class Stream(NamedTuple):
    """One stream in one numbered slot of one session, active or over.

    Attributes:
        session: Digest of the session id; the id itself is never kept.
        stream_id: `<slot>-<128 random bits>`, opaque to clients.
        device: Label that the client gave, or None.
        content: Label that the client gave, or None.
        started_at: UTC, whole milliseconds.
        expires_at: UTC, whole milliseconds. The stream is active while this lies in the future.
        idempotency_key: Digest of the key that the start came with, or None.
        ended: What ended it for good: a stop, or a start that found its lease over and made sure
            that no late heartbeat brings it back. None: its lease alone says whether it is active.
        replaced: The id of the stream whose slot this one took over, or None.
        device_id: Digest of the id of the device that started it, or None.
        fingerprint: Digest of what the start with the idempotency key said, or None if that is not
            known.
        past: How the streams that had this slot before were ended, the latest last: for each its
            id, a blank, and the reason. Those whose lease ran out are not among them.
    """

    session: str
    stream_id: str
    device: str | None
    content: str | None
    started_at: datetime
    expires_at: datetime
    idempotency_key: str | None = None
    ended: Ended | None = None
    replaced: str | None = None
    device_id: str | None = None
    fingerprint: str | None = None
    past: tuple[str, ...] = ()

    @property
    def slot(self) -> int:
        """The slot's number, counted from 0."""
        return int(self.stream_id.partition("-")[0])

    def is_active(self, now: datetime) -> bool:
        """Whether the lease runs at `now`."""
        return self.expires_at > now

    def reason_of(self, stream_id: str) -> Reason | None:
        """Why this earlier stream of the slot was ended; None if that is not known."""
        if stream_id == self.replaced:
            return "replaced"
        if not self.past:
            return None
        if past_of(stream_id, "replaced") in self.past:
            return "replaced"
        return "stopped" if past_of(stream_id, "stopped") in self.past else None


def past_of(stream_id: str, reason: Reason) -> str:
    """What is kept in `Stream.past` of a stream that was ended for this reason."""
    return f"{stream_id} {reason}"


def new_token() -> str:
    """The unguessable part of a stream id: 128 random bits in 22 characters."""
    return secrets.token_urlsafe(16)


def stream_id_of(slot: int, token: str) -> str:
    """The id of the stream with this token in this slot."""
    return f"{slot}-{token}"


def is_stream_id(text: str) -> bool:
    """Whether the text has the form of a stream id."""
    return STREAM_ID.fullmatch(text) is not None


def utc_now() -> datetime:
    """The time, cut to the milliseconds that a MongoDB date can hold."""
    return datetime.fromtimestamp(time_ns() // 1_000_000 / 1000, UTC)


class LimitReachedError(Exception):
    """The session already has as many active streams as it may.

    Attributes:
        limit: How many it may have.
        streams: The active ones, oldest first.
    """

    def __init__(self, limit: int, streams: list[Stream]) -> None:
        super().__init__(f"{len(streams)} of {limit} streams are active")
        self.limit = limit
        self.streams = streams


class KeyReusedError(Exception):
    """The idempotency key has started a stream of this session, for a start that said otherwise."""


class StreamNotFoundError(Exception):
    """This session never had such a stream, or it has been forgotten."""


class StreamEndedError(Exception):
    """The stream is over.

    Attributes:
        reason: Why.
        replaced_by: The stream that took its slot over, when `reason` is "replaced".
        silent_for: Time since its last heartbeat, when `reason` is "expired".
    """

    def __init__(
        self,
        reason: Reason,
        replaced_by: Stream | None = None,
        *,
        silent_for: timedelta | None = None,
    ) -> None:
        super().__init__(f"the stream is over: {reason}")
        self.reason = reason
        self.replaced_by = replaced_by
        self.silent_for = silent_for


class StoreUnavailableError(Exception):
    """The store gave no answer, or none in time: whether a write was done is unknown.

    Attributes:
        hint: What an operator may look at, where the cause is known.
    """

    def __init__(self, reason: str = "", hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


class StoreConflictError(StoreUnavailableError):
    """A write conflict with another command: nothing is wrong, and the same can be tried again."""
