"""Streams as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from stream_service.streams import Stream


_ENCODER = json.JSONEncoder(separators=(",", ":"))


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
    return _ENCODER.encode(body).encode()


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
