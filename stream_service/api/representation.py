"""Streams as JSON."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from stream_service.streams import Stream


@lru_cache(maxsize=1024)  # All heartbeats of one batch end at the same time.
def timestamp(moment: datetime) -> str:
    """A UTC time as RFC 3339 with milliseconds and `Z`."""
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def describe(stream: Stream) -> dict[str, Any]:
    """What clients see of a stream."""
    return {
        "stream_id": stream.stream_id,
        "device": stream.device,
        "content": stream.content,
        "started_at": timestamp(stream.started_at),
        "expires_at": timestamp(stream.expires_at),
    }


def describe_all(streams: Iterable[Stream]) -> list[dict[str, Any]]:
    """What clients see of several."""
    return [describe(stream) for stream in streams]


def encode(body: Mapping[str, Any]) -> bytes:
    """JSON without blanks: `{"status":"UP"}`."""
    return orjson.dumps(body)


def json_response(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer that is no error."""
    return web.Response(
        status=status,
        body=encode(body),
        content_type="application/json",
        headers=headers,
    )
