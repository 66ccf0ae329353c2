"""What support sees of one account: what plays under which limits, and how the last ones ended."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from stream_service.api.handlers import ACCOUNT_DIGITS
from stream_service.api.inputs import limit_of, session_of
from stream_service.api.keys import LIMITER, SETTINGS
from stream_service.api.representation import json_response, timestamp
from stream_service.documents import TOLERATED_SKEW
from stream_service.streams import KEY_PREFIX

if TYPE_CHECKING:
    from aiohttp import web

    from stream_service.streams import Stream

MOST_ENDS = 20
"""How many ends are told, the latest first."""


async def console_account(request: web.Request) -> web.Response:
    """`GET /console/account`: the account that `Session-Id` names, as it is stored."""
    session, own = session_of(request), limit_of(request)
    active, over = await request.app[LIMITER].held(session)
    starts = sorted((*active, *over), key=lambda stream: stream.started_at)
    limit, plan, by_default = own.at_the_newest(starts)
    ends = [end for stream in starts for end in _before(stream)]
    ends += [_known(stream) for stream in over]
    ends = sorted(ends, key=itemgetter("by"))[::-1][:MOST_ENDS]
    return json_response(
        {
            "account": session[:ACCOUNT_DIGITS],
            "streams": [
                {
                    **_labels(stream),
                    "expires_at": timestamp(stream.expires_at),
                    "limit": stream.limit,
                    "plan": stream.plan,
                    "limits": _limits(stream),
                }
                for stream in active
            ],
            "active": len(active),
            "limit": limit,
            "plan": plan,
            "by_default": by_default,
            "ends": ends,
            "retention_seconds": request.app[SETTINGS].stream_retention_seconds,
        }
    )


def _labels(stream: Stream) -> dict[str, Any]:
    return {
        "stream_id": stream.stream_id,
        "device": stream.device,
        "content": stream.content,
        "platform": stream.platform,
        "started_at": timestamp(stream.started_at),
    }


def _limits(stream: Stream) -> list[str]:
    """The names of the further limits under which a stream counts; no digest is told."""
    names = (place.partition("/")[0] for place in stream.places)
    return sorted({name for name in names if name != KEY_PREFIX})


def _known(stream: Stream) -> dict[str, Any]:
    """How a stream ended that its slot still holds."""
    stopped = stream.ended == "stopped"
    at = stream.expires_at + TOLERATED_SKEW if stopped else stream.expires_at
    reason = "stopped" if stopped else "expired"
    return {**_labels(stream), "reason": reason, "by": timestamp(at), "exact": True}


def _before(stream: Stream) -> list[dict[str, Any]]:
    """How those ended that had this one's slot before, the latest last; all before it started."""
    unknown = {"device": None, "content": None, "platform": None, "started_at": None}
    by = {"by": timestamp(stream.started_at), "exact": False}
    return [
        {"stream_id": tombstone.stream_id, "reason": tombstone.reason, **unknown, **by}
        for tombstone in stream.tombstones
        if tombstone.stream_id != stream.stream_id  # What was stopped has one of its own, too.
    ]
