"""What a request says, checked. Anything wrong raises a `Problem` that names it."""

from __future__ import annotations

import asyncio
import json
import re
from functools import lru_cache, partial
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from aiohttp import hdrs, web
from http_sf import StructuredFieldError, parse
from msgspec import DecodeError, Meta, Struct, ValidationError
from msgspec.json import Decoder
from msgspec.structs import astuple

from stream_service.admission import OLDEST, SAME_DEVICE, STALEST, Start
from stream_service.api.digests import DIGESTS
from stream_service.api.keys import SETTINGS
from stream_service.api.lease_ids import LEASE_IDS
from stream_service.api.policy import MAX_NAME_LENGTH, MAX_VALUE_LENGTH, PLANS, as_text
from stream_service.api.problems import Problem, invalid
from stream_service.api.representation import encode
from stream_service.settings import MAX_LIMIT
from stream_service.streams import (
    SECRET_BYTES,
    STREAM_ID,
    Place,
    StreamNotFoundError,
    is_stream_id,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import StreamReader

    from stream_service.api.policy import Plan
    from stream_service.streams import Rule, Stream

SESSION_HEADER = "Session-Id"
KEY_HEADER = "Idempotency-Key"
PLAN_HEADER = "Stream-Plan"
ATTRIBUTES_HEADER = "Stream-Attributes"

MAX_SESSION_LENGTH = 256
MAX_KEY_LENGTH = 256
MAX_LABEL_LENGTH = 200
MAX_PLATFORM_LENGTH = 40
PLATFORM = "[A-Za-z0-9._+-]+( [A-Za-z0-9._+-]+)?"
MAX_DEVICE_ID_LENGTH = 128
MAX_ATTRIBUTES_LENGTH = 1024
MAX_ATTRIBUTES = 16
MAX_CHOICES = 8
"""How many choices `replace` may list."""
MAX_BODY_BYTES = 16 * 1024
BODY_DEADLINE_SECONDS = 2.0
"""How long a client may take to send its body: as long as it may wait for the answer."""

PURPOSE_HEADERS = ("Sec-Purpose", "Purpose", "X-Moz", "X-Purpose")
"""In which browsers say that they fetch ahead: today, and formerly."""

_AHEAD = re.compile(r"\s*(prefetch|prerender|preview)", re.IGNORECASE)
_LIMIT = re.compile(r"[0-9]{1,3}")
_CHOICE = re.compile(rf"{SAME_DEVICE}|{OLDEST}|{STALEST}|{STREAM_ID.pattern}")
_AT = re.compile(r" - at `\$\.(\w+)")
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)

Label = Annotated[str, Meta(max_length=MAX_LABEL_LENGTH)]
Platform = Annotated[str, Meta(max_length=MAX_PLATFORM_LENGTH, pattern=rf"^{PLATFORM}\Z")]


class StartBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /streams`; every field may be absent, or null."""

    device: Label | None = None
    content: Label | None = None
    platform: Platform | None = None
    device_id: Annotated[str, Meta(min_length=1, max_length=MAX_DEVICE_ID_LENGTH)] | None = None
    # Bounded below: msgspec 0.22.0 breaks its memory on a union of a bounded list and a pattern.
    replace: list[str] | str | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """What `replace` lists."""
        replace = () if self.replace is None else self.replace
        return (replace,) if isinstance(replace, str) else tuple(replace)


_FIELDS = ", ".join(StartBody.__struct_fields__)
_RULES = {
    "device": f"device must be a string of at most {MAX_LABEL_LENGTH} characters.",
    "content": f"content must be a string of at most {MAX_LABEL_LENGTH} characters.",
    "platform": (
        f"platform must be a name and, after a blank, a version, {MAX_PLATFORM_LENGTH} characters "
        "of A-Z a-z 0-9 . _ + - at most, as in: web 3.4.1."
    ),
    "device_id": f"device_id must be a string of 1 to {MAX_DEVICE_ID_LENGTH} characters.",
    "replace": (
        f'replace must be a stream_id, "{SAME_DEVICE}", "{OLDEST}" or "{STALEST}", or a list of '
        f"at most {MAX_CHOICES} of these."
    ),
}
_START_BODY = Decoder(StartBody)


class StartRequest(NamedTuple):
    """A start as it was asked for, checked.

    Attributes:
        start: What is to be admitted.
        key: The idempotency key, as it was sent, or None.
    """

    start: Start
    key: str | None = None


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


def lease_of(request: web.Request) -> Place:
    """The stream whose lease id the path names.

    Raises:
        StreamNotFoundError: It is no lease id of ours, or the request has another session.
    """
    text = request.match_info["lease_id"]
    place = _leased(request, text)
    if place is None:
        raise no_lease(text)
    return place


def no_lease(text: str) -> Exception:
    """What is to be said of a text that is no lease id of ours."""
    if is_stream_id(text):
        return Problem(
            404,
            "stream-not-found",
            "Stream not found",
            "This is a stream_id, which renews nothing: send the lease_id, which the answer of the "
            "start has.",
        )
    return StreamNotFoundError()


def stream_of(request: web.Request) -> Place:
    """The stream that the path names: by its lease id, or as one of the request's session.

    Raises:
        StreamNotFoundError: It is neither.
    """
    return _leased(request, request.match_info["stream_id"]) or account_stream_of(request)


def account_stream_of(request: web.Request) -> Place:
    """The stream of the request's session that the path names by its `stream_id`.

    Raises:
        StreamNotFoundError: It has not the form of one.
    """
    text = request.match_info["stream_id"]
    if not is_stream_id(text):
        raise StreamNotFoundError  # A lease id that is not ours, say: no login would help.
    return Place(session_of(request), text)


def _leased(request: web.Request, text: str) -> Place | None:
    place = request.app[LEASE_IDS].place_of(text)
    if place is None:
        return None
    # Whoever sends a session too means this account's stream.
    if SESSION_HEADER in request.headers and session_of(request) != place.session:
        raise StreamNotFoundError
    return place


async def start_of(request: web.Request) -> StartRequest:
    """Read `POST /streams`: who asks, for what, and under which key."""
    _refuse_prefetch(request)
    session = session_of(request)
    limit, rules, plan = _limits_of(request, session)
    key = _single(request, KEY_HEADER, MAX_KEY_LENGTH)
    body = await _start_body_of(request)
    digests = request.app[DIGESTS]
    start = partial(
        Start,
        session,
        limit,
        rules,
        plan,
        enforced=request.app[SETTINGS].enforce,
        device=body.device,
        content=body.content,
        platform=body.platform,
        device_id=None if body.device_id is None else digests(body.device_id, session),
        replace=body.choices,
    )
    if key is None:
        return StartRequest(start())
    salt, digest = token_urlsafe(SECRET_BYTES), digests(key, session)
    # However the body is written: a retry may order and space its JSON in another way.
    # And under which limits: the player chooses the key, and must not get round one by it.
    limits = [rule.prefix for rule in rules]
    labels = [body.device, body.content, body.platform]
    said = encode([*labels, body.device_id, body.choices, *limits]).decode()
    keyed = start(
        idempotency_key=digest,
        fingerprint=digests(said, digest),
        salt=salt,
        secret=request.app[LEASE_IDS].secret_of(key, salt),
    )
    return StartRequest(keyed, key)


def plain_start_of(request: web.Request) -> StartRequest:
    """Read `GET /watch`, which says nothing but who asks."""
    _refuse_prefetch(request)
    session = session_of(request)
    enforced = request.app[SETTINGS].enforce
    return StartRequest(Start(session, *_limits_of(request, session), enforced=enforced))


def _refuse_prefetch(request: web.Request) -> None:
    if any(_AHEAD.match(request.headers.get(name, "")) for name in PURPOSE_HEADERS):
        raise Problem(
            403,
            "prefetch-refused",
            "Prefetch refused",
            "A prefetch starts no stream: ask again when the viewer presses play.",
        )


def forget_of(request: web.Request) -> bool:
    """Whether `DELETE /streams` shall leave nothing of the account."""
    value = request.query.get("forget", "0")
    if value not in ("0", "1"):
        raise invalid("forget", "forget must be 0 or 1.")
    return value == "1"


class AccountLimit(NamedTuple):
    """How many streams an account may have.

    Attributes:
        limit: So many.
        plan: The name of its plan, or None without a policy.
        default: Whether it is merely the default, while accounts may have limits of their own.
    """

    limit: int
    plan: str | None
    default: bool

    def at_the_newest(self, streams: Sequence[Stream]) -> AccountLimit:
        """This, or what the start of the newest stream said where this request says nothing.

        Args:
            streams: Of the account, oldest first.
        """
        newest = streams[-1] if streams else None
        if not self.default or newest is None or newest.limit is None:
            return self
        return AccountLimit(newest.limit, newest.plan, default=False)


def limit_of(request: web.Request) -> AccountLimit:
    """How many streams this account may have: what the trusted headers say, or the default."""
    name, plan = _plan_of(request)
    header = request.app[SETTINGS].stream_limit_header
    own = [one for one in (header, plan and PLAN_HEADER) if one]
    default = bool(own) and not any(request.headers.get(one) for one in own)
    return AccountLimit(_limit_of(request, plan), name, default)


def _limit_of(request: web.Request, plan: Plan | None) -> int:
    settings = request.app[SETTINGS]
    header, default = settings.stream_limit_header, settings.stream_limit
    if header is None or request.headers.getall(header, [""]) == [""]:
        # A gateway without a value for it may send it empty.
        return default if plan is None else plan.streams
    text = _single(request, header, MAX_SESSION_LENGTH) or ""
    if not _LIMIT.fullmatch(text) or int(text) > MAX_LIMIT:
        raise invalid(header, f"{header} must be a whole number from 0 to {MAX_LIMIT}.")
    return int(text)


def _plan_of(request: web.Request) -> tuple[str, Plan] | tuple[None, None]:
    """The account's plan and its name, as the gateway has it; None where there is no policy."""
    if PLANS not in request.app:
        return None, None
    plan = request.app[PLANS].named(_single(request, PLAN_HEADER, MAX_NAME_LENGTH))
    if plan is None:
        raise invalid(PLAN_HEADER, f"{PLAN_HEADER} names no plan of the policy.")
    return plan


def _limits_of(request: web.Request, session: str) -> tuple[int, tuple[Rule, ...], str | None]:
    """The number of all streams, the further limits of this start, and the name of their plan."""
    name, plan = _plan_of(request)
    limit = _limit_of(request, plan)
    if plan is None:
        return limit, (), None
    attributes = _attributes_of(request)
    for wanted in sorted(plan.require):
        if wanted not in attributes:
            raise invalid(ATTRIBUTES_HEADER, f"{ATTRIBUTES_HEADER} must name {wanted}.")
    digests = request.app[DIGESTS]
    return limit, tuple(plan.rules(attributes, lambda value: digests(value, session))), name


@lru_cache(maxsize=1024)  # Many watch the same, and the parser costs a tenth of a start.
def _parsed(text: str) -> dict[str, str]:
    members: Any = parse(text.encode(), tltype="dictionary")
    return {name: as_text(value) for name, (value, _) in members.items()}


def _attributes_of(request: web.Request) -> dict[str, str]:
    """What is to be watched, as the gateway says it: a dictionary of RFC 9651."""
    text = _single(request, ATTRIBUTES_HEADER, MAX_ATTRIBUTES_LENGTH)
    try:
        attributes = _parsed(text) if text else {}
    except (StructuredFieldError, ValueError):
        attributes = None
    if attributes is None or len(attributes) > MAX_ATTRIBUTES:
        raise invalid(
            ATTRIBUTES_HEADER,
            f"{ATTRIBUTES_HEADER} must be a dictionary of RFC 9651 with at most {MAX_ATTRIBUTES} "
            f"members: tokens, strings of 1 to {MAX_VALUE_LENGTH} characters, whole numbers and "
            'booleans, as in: quality=uhd, title="f1-2026-17".',
        )
    return attributes


async def _start_body_of(request: web.Request) -> StartBody:
    """The body of a start, read within `BODY_DEADLINE_SECONDS`; none at all will do."""
    raw = await read_body(request)
    if not raw:
        return StartBody()
    require_json(request)
    try:
        body = _START_BODY.decode(raw)
    except ValidationError as error:
        raise _refused(str(error)) from None
    except (DecodeError, RecursionError, UnicodeDecodeError):
        raise _malformed(raw) from None
    # Each member has a colon of its own, so that most bodies need no second look.
    values = astuple(body)
    if raw.count(b":") > len(values) - values.count(None):
        _NAMED_ONCE.decode(raw.decode())
    if len(body.choices) > MAX_CHOICES or not all(map(_CHOICE.fullmatch, body.choices)):
        raise invalid("replace", _RULES["replace"])
    if SAME_DEVICE in body.choices and body.device_id is None:
        raise invalid("device_id", f'replace "{SAME_DEVICE}" needs the device_id to look for.')
    return body


def _named_once(members: list[tuple[str, Any]]) -> None:
    """Refuse an object with a member twice: parsers differ in which of the two counts."""
    names = [name for name, _ in members]
    for name in names:
        if names.count(name) > 1:
            raise invalid(name, f"{name} must be named once.")


_NAMED_ONCE = json.JSONDecoder(object_pairs_hook=_named_once)


def _refused(said: str) -> Problem:
    """The problem that an error of the decoder's stands for."""
    unknown = _UNKNOWN.search(said)
    if unknown is not None:
        name = shown(unknown[1])
        return invalid(name, f"The body may have {_FIELDS}; {name} is unknown.")
    at = _AT.search(said)
    if at is None:
        return invalid("body", "The body must be a JSON object.")
    return invalid(at[1], _RULES[at[1]])


def _malformed(raw: bytes) -> Problem:
    """What is no JSON; of half a character, as of a title that was cut in two, the field."""
    try:
        body = json.loads(raw.decode())
        for name in _RULES:
            if isinstance(body, dict) and not _is_well_formed(body.get(name)):
                return invalid(
                    name, f"{name} must be well-formed Unicode: half of a character is not."
                )
    except (ValueError, RecursionError):
        pass
    return invalid("body", "The body is not JSON in UTF-8.")


def _is_well_formed(value: object) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


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


async def read_body(request: web.Request, longest: int = MAX_BODY_BYTES) -> bytes:
    """The body, read within `BODY_DEADLINE_SECONDS`; empty if there is none.

    Args:
        request: Whose.
        longest: How many bytes it may have.
    """
    # A megabyte can unpack to a gigabyte, and no body of this API is worth packing. `identity` is
    # refused too: RFC 9110, section 8.4.1, has no use for it here.
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "Compressed bodies are not accepted: send the body without Content-Encoding.",
            fields={"field": str(hdrs.CONTENT_ENCODING)},
            headers={hdrs.ACCEPT_ENCODING: "identity"},
        )
    if not request.can_read_body:
        return b""
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            return await _read_all(request.content, longest)
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


async def _read_all(content: StreamReader, longest: int) -> bytes:
    body = bytearray()
    while piece := await content.readany():
        body += piece
        if len(body) > longest:
            raise web.HTTPRequestEntityTooLarge(max_size=longest, actual_size=len(body))
        if not content.at_eof():
            # What comes in thousands of tiny chunks is there already, so that reading on would let
            # nobody else have a turn.
            await asyncio.sleep(0)
    return bytes(body)


def require_json(request: web.Request) -> None:
    """Refuse a body that is sent as something else."""
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


def shown(name: str) -> str:
    """A name from outside, short and harmless enough to be quoted."""
    return ascii(name[:40])[1:-1]
