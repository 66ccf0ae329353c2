"""The layout of a document: one stream in one numbered slot of one account.

    _id          "<session>/<slot>": the slot, and so the cap, is the primary key
    session      digest of the session id; also the shard key
    stream_id    begins with its slot
    device, content, platform, device_id, fingerprint, salt   absent where there is none
    limit, plan  of the account when the stream started; likewise
    places       what it holds beside its slot, by a unique index; absent if nothing
    started_at
    expires_at   the stream is active if and only if this lies in the future; not indexed
    forget_at    bears the TTL index; never before expires_at + max(retention, TOLERATED_SKEW)
    ended        absent, "stopped" or "expired"
    ended_by     random; tells of several commands that end it at once which one did
    tombstones   [{id, reason}]: how the slot's earlier streams ended
    confirmed    counts replays that were made durable; absent if none

The TTL index deletes what has been over for the retention; it never judges whether a stream is
active. Each write that moves `expires_at` forward moves `forget_at` with it. That is rounded up to
`FORGET_STEP`, so of the heartbeats of a stream one in many moves an entry of the index.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from stream_service.streams import Place, Stream, Tombstone

if TYPE_CHECKING:
    from stream_service.streams import Reason

TOLERATED_SKEW = timedelta(seconds=10)
"""How far the clocks of two processes may be apart.

A stopped stream is dated this far back, so that its slot is free at once for a process whose clock
is behind the one that stopped it.
"""

FORGET_STEP = timedelta(minutes=10)
"""`forget_at` is a multiple of this, so a stream is remembered up to so much longer."""

REMEMBERED_PER_SLOT = 8
"""How many of the streams that had a slot before are known by the reason for which they ended.

A player asks within a third of a lease; until then its slot may have been taken again and again. It
has to be told that its stream was stopped or replaced: not knowing it, it would start anew.
"""

_OPTIONAL = ("device", "content", "platform", "device_id", "fingerprint", "salt", "limit", "plan")
_STEP_SECONDS = int(FORGET_STEP.total_seconds())


def id_of(place: Place) -> str:
    """The `_id` of the document that holds this stream, or whichever has its slot."""
    return f"{place.session}/{place.stream_id.partition('-')[0]}"


def forget_at(expires_at: datetime, retention: timedelta) -> datetime:
    """When a stream whose lease ends then may be deleted, rounded up to `FORGET_STEP`."""
    kept_until = expires_at + max(retention, TOLERATED_SKEW)
    return datetime.fromtimestamp(-(-kept_until.timestamp() // _STEP_SECONDS) * _STEP_SECONDS, UTC)


NOT_ENDED: dict[str, Any] = {"ended": None}
"""What a stream must be for a command to end it, or to bring it back: active or merely lapsed."""


def active(now: datetime) -> dict[str, Any]:
    """What a stream must be for a heartbeat to renew it or a start to replace it.

    A tombstone is dated back, but not before a command that was sent earlier and is carried out
    only now: such a command must not find the stream active again.
    """
    return {"expires_at": {"$gt": now}, **NOT_ENDED}


def renewing(until: datetime, retention: timedelta) -> dict[str, Any]:
    """The update that lets a lease run until then, never to an earlier end."""
    return {"$max": {"expires_at": until, "forget_at": forget_at(until, retention)}}


def stopping(stream_id: str, now: datetime, ended_by: bytes) -> dict[str, Any]:
    """The update that ends this stream and lets go of its places."""
    return {
        "$set": {"ended": "stopped", "ended_by": ended_by},
        # Never forward: of a stream that lapsed long ago, `forget_at` may be near.
        "$min": {"expires_at": now - TOLERATED_SKEW},
        "$unset": {"places": ""},
        **remembering(stream_id, "stopped"),
    }


def lapsed(now: datetime) -> dict[str, Any]:
    """What a stream must be for a command to find that its lease is over, and nothing more."""
    return {"expires_at": {"$lte": now}, **NOT_ENDED}


def expiring(ended_by: bytes) -> dict[str, Any]:
    """The update that ends a stream whose lease is over for good, and lets go of its places."""
    return {"$set": {"ended": "expired", "ended_by": ended_by}, "$unset": {"places": ""}}


def holding(stream: Stream, retention: timedelta) -> dict[str, Any]:
    """The update that makes a slot hold this stream, and nothing of the one before."""
    fields = {name: getattr(stream, name) for name in _OPTIONAL}
    fields["places"] = list(stream.places) or None
    return {
        "$set": {
            "stream_id": stream.stream_id,
            "started_at": stream.started_at,
            "expires_at": stream.expires_at,
            "forget_at": forget_at(stream.expires_at, retention),
            **{name: value for name, value in fields.items() if value is not None},
        },
        "$unset": {
            "ended": "",
            "ended_by": "",
            **{name: "" for name, value in fields.items() if value is None},
        },
    }


def remembering(stream_id: str, reason: Reason) -> dict[str, Any]:
    """The update that makes a slot remember this stream beyond the next that it holds."""
    latest = {"$each": [{"id": stream_id, "reason": reason}], "$slice": -REMEMBERED_PER_SLOT}
    return {"$push": {"tombstones": latest}}


def stream_of(document: dict[str, Any]) -> Stream:
    """The stream that a document holds."""
    return Stream(
        session=document["session"],
        stream_id=document["stream_id"],
        started_at=document["started_at"],
        expires_at=document["expires_at"],
        **{name: document.get(name) for name in _OPTIONAL},
        places=tuple(document.get("places", ())),
        ended=document.get("ended"),
        ended_by=document.get("ended_by"),
        tombstones=tuple(Tombstone(t["id"], t["reason"]) for t in document.get("tombstones", ())),
    )
