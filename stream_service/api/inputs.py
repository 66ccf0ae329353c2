"""What a request says, checked. Anything wrong raises a `Problem` that names it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import hdrs, web

from stream_service.admission import OLDEST, SAME_DEVICE, STALEST
from stream_service.api.problems import Problem, invalid
from stream_service.keys import DIGESTS, LEASE_IDS
from stream_service.settings import MAX_LIMIT
from stream_service.streams import Place, StreamNotFoundError, is_stream_id

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.typedefs import Handler

SESSION_HEADER = "Session-Id"
KEY_HEADER = "Idempotency-Key"

MAX_SESSION_LENGTH = 256
MAX_KEY_LENGTH = 256
MAX_LABEL_LENGTH = 200
MAX_DEVICE_ID_LENGTH = 128
MAX_CHOICES = 8
"""How many choices `replace` may list."""
MAX_BODY_BYTES = 16 * 1024
BODY_DEADLINE_SECONDS = 2.0
"""How long a client may take to send its body: as long as it may wait for the answer."""

_LIMIT = re.compile(r"[0-9]{1,3}")
_FIELDS = ("device", "content", "device_id", "replace")
_CHOICES = (SAME_DEVICE, OLDEST, STALEST)


@dataclass(frozen=True, slots=True)
class StartBody:
    """The body of `POST /streams`; every field may be absent."""

    device: str | None = None
    content: str | None = None
    device_id: str | None = None
    replace: tuple[str, ...] = ()


@web.middleware
async def uncompressed_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse every request that names a content coding, on every path, whatever it is.

    A megabyte can unpack to a gigabyte, and no request of this API is worth packing. `identity` is
    refused too: RFC 9110, section 8.4.1, has no use for it here.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "Compressed bodies are not accepted: send the body without Content-Encoding.",
            fields={"field": hdrs.CONTENT_ENCODING},
            headers={hdrs.ACCEPT_ENCODING: "identity"},
        )
    return await handler(request)


def session_of(request: web.Request) -> str:
    """The digest under which this request's session is kept."""
    session = _single(request, SESSION_HEADER, MAX_SESSION_LENGTH)
    if session is None:
        raise Problem(
            400,
            "no-session",
            "No session",
            "The header Session-Id is missing: the gateway sets it once the viewer has logged in.",
            fields={"field": SESSION_HEADER},
        )
    return request.app[DIGESTS](session)


def key_of(request: web.Request) -> str | None:
    """The request's idempotency key, as it was sent, or None."""
    return _single(request, KEY_HEADER, MAX_KEY_LENGTH)


def lease_of(request: web.Request) -> Place:
    """The stream whose lease id the path names.

    Raises:
        StreamNotFoundError: It is no lease id of ours, or the request has another session.
    """
    text = request.match_info["lease_id"]
    place = _leased(request, text)
    if place is not None:
        return place
    if is_stream_id(text):
        raise Problem(
            404,
            "stream-not-found",
            "Stream not found",
            "This is a stream_id, which renews nothing: send the lease_id, which the answer of the "
            "start has.",
        )
    raise StreamNotFoundError


def stream_of(request: web.Request) -> Place:
    """The stream that the path names: by its lease id, or as one of the request's session.

    Raises:
        StreamNotFoundError: It is neither.
    """
    text = request.match_info["stream_id"]
    return _leased(request, text) or account_stream_of(request)


def account_stream_of(request: web.Request) -> Place:
    """The stream of the request's session that the path names by its `stream_id`.

    Raises:
        StreamNotFoundError: It has not the form of one.
    """
    place = Place(session_of(request), request.match_info["stream_id"])
    if not is_stream_id(place.stream_id):
        raise StreamNotFoundError
    return place


def _leased(request: web.Request, text: str) -> Place | None:
    place = request.app[LEASE_IDS].place_of(text)
    if place is None:
        return None
    # Whoever sends a session too means this account's stream.
    if SESSION_HEADER in request.headers and session_of(request) != place.session:
        raise StreamNotFoundError
    return place


def device_of(request: web.Request, body: StartBody, session: str) -> str | None:
    """The digest of the device's id, another one in each session, or None."""
    if body.device_id is None:
        return None
    return request.app[DIGESTS](body.device_id, session)


def fingerprint_of(request: web.Request, body: StartBody, key: str) -> str:
    """A digest of what the body says, another one for each digest of a key.

    However it is written: a retry may order and space its JSON in another way.
    """
    said = orjson.dumps([body.device, body.content, body.device_id, body.replace])
    return request.app[DIGESTS](said.decode(), key)


def limit_of(request: web.Request, header: str | None, default: int) -> int:
    """How many streams this viewer may have: what the trusted header says, or the default."""
    text = None if header is None else _single(request, header, MAX_SESSION_LENGTH)
    if header is None or text is None:
        return default
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid(header, f"{header} must be a whole number from 1 to {MAX_LIMIT}.")
    return int(text)


async def start_body_of(request: web.Request) -> StartBody:
    """The body of a start, read within `BODY_DEADLINE_SECONDS`; none at all will do."""
    raw = await _read(request)
    if not raw:
        return StartBody()
    _require_json(request)
    body = _parse(raw)
    if not isinstance(body, dict):
        raise invalid("body", "The body must be a JSON object.")
    for name in body:
        if name not in _FIELDS:
            raise invalid(
                shown(name), f"The body may have {', '.join(_FIELDS)}; {shown(name)} is unknown."
            )
    device_id = _text(body, "device_id", MAX_DEVICE_ID_LENGTH)
    if device_id == "":
        raise invalid("device_id", "device_id is empty: leave it out, or send the device's own.")
    replace = _choices(body)
    if SAME_DEVICE in replace and device_id is None:
        raise invalid("device_id", f'replace "{SAME_DEVICE}" needs the device_id to look for.')
    return StartBody(
        device=_text(body, "device", MAX_LABEL_LENGTH),
        content=_text(body, "content", MAX_LABEL_LENGTH),
        device_id=device_id,
        replace=replace,
    )


def _choices(body: dict[str, Any]) -> tuple[str, ...]:
    value = body.get("replace")
    if value is None:
        return ()
    choices = value if isinstance(value, list) else [value]
    if len(choices) > MAX_CHOICES:
        raise invalid("replace", f"replace may list at most {MAX_CHOICES} choices.")
    for choice in choices:
        if not isinstance(choice, str) or not (choice in _CHOICES or is_stream_id(choice)):
            raise invalid(
                "replace",
                'replace must be a stream_id, "same-device", "oldest" or "stalest", '
                "or a list of these.",
            )
    return tuple(choices)


def _single(request: web.Request, name: str, longest: int) -> str | None:
    values = request.headers.getall(name, ())
    if not values:
        return None
    if len(values) > 1:
        raise invalid(name, f"The header {name} must be sent once.")
    value = values[0]
    if not value:
        raise invalid(name, f"The header {name} is empty.")
    if len(value) > longest:
        raise invalid(name, f"The header {name} must be at most {longest} characters long.")
    if not (value.isascii() and value.isprintable()):
        raise invalid(name, f"The header {name} must be printable ASCII.")
    return value


async def _read(request: web.Request) -> bytes:
    if not request.can_read_body:
        return b""
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            return await _read_all(request.content)
    except TimeoutError:
        raise Problem(
            408,
            "request-timeout",
            "Request timeout",
            f"The body did not arrive within {BODY_DEADLINE_SECONDS:g} seconds.",
        ) from None
    except web.RequestPayloadError:
        raise invalid("body", "The body is malformed: its transfer coding is invalid.") from None
    except ConnectionError:
        # Nobody is there to read this; it is no fault of the service's either.
        raise invalid("body", "The connection ended before the body did.") from None


async def _read_all(content: StreamReader) -> bytes:
    body = bytearray()
    while piece := await content.readany():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY_BYTES, actual_size=len(body))
        if not content.at_eof():
            # What comes in thousands of tiny chunks is there already, so that reading on would let
            # nobody else have a turn.
            await asyncio.sleep(0)
    return bytes(body)


def _require_json(request: web.Request) -> None:
    if "Content-Type" in request.headers and request.content_type != "application/json":
        raise Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "The body must be sent as Content-Type: application/json.",
            fields={"field": "Content-Type"},
        )
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "The body must be in UTF-8: leave the charset out of Content-Type.",
            fields={"field": "Content-Type"},
        )


def _parse(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise invalid("body", "The body is not JSON in UTF-8.") from None


def _text(body: dict[str, Any], name: str, longest: int) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(name, f"{name} must be a string.")
    if len(value) > longest:
        raise invalid(name, f"{name} must be at most {longest} characters long.")
    return value


def shown(name: str) -> str:
    """A name from outside, short and harmless enough to be quoted."""
    return ascii(name[:40])[1:-1]
