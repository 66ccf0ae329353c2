"""Answers as JSON."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from stream_service.streams import Stream

encode = Encoder().encode
"""JSON without blanks: `{"status":"UP"}`."""


class StreamAnswer(Struct):
    """What clients see of a stream."""

    stream_id: str
    device: str | None
    content: str | None
    started_at: str
    expires_at: str


class StartedAnswer(StreamAnswer, kw_only=True):
    """What a start answers."""

    lease_id: str
    heartbeat_in: float
    playback_token: str | UnsetType = UNSET
    film: str | UnsetType = UNSET
    active: int
    limit: int


class RenewedAnswer(Struct):
    """What a heartbeat answers."""

    stream_id: str
    expires_at: str
    heartbeat_in: float
    playback_token: str | UnsetType = UNSET


@lru_cache(maxsize=1024)  # All heartbeats of one batch end at the same time.
def timestamp(moment: datetime) -> str:
    """A UTC time as RFC 3339 with milliseconds and `Z`."""
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def describe(stream: Stream) -> StreamAnswer:
    """What clients see of a stream."""
    return StreamAnswer(
        stream.stream_id,
        stream.device,
        stream.content,
        timestamp(stream.started_at),
        timestamp(stream.expires_at),
    )


def describe_all(streams: Iterable[Stream]) -> list[StreamAnswer]:
    """What clients see of several."""
    return [describe(stream) for stream in streams]


def json_response(
    body: Struct | Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """An answer that is no error."""
    return web.Response(
        status=status,
        body=encode(body),
        content_type="application/json",
        headers=headers,
    )
