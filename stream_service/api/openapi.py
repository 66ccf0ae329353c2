"""The HTTP API as an OpenAPI 3.1 document, held to the code by tests/fast/test_openapi.py.

It is written, not generated: what makes this API worth describing (what a 409 offers, why a 410
came, which retry is safe) is in no type that a generator could read. It is written in Python so
that every limit in it is the code's own constant, and so that it tells of this deployment: the
gateway's token and the header of a viewer's own limit appear when they are configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_service import __version__
from stream_service.admission import OLDEST, STALEST
from stream_service.api.inputs import (
    BODY_DEADLINE_SECONDS,
    KEY_HEADER,
    MAX_BODY_BYTES,
    MAX_KEY_LENGTH,
    MAX_LABEL_LENGTH,
    MAX_SESSION_LENGTH,
    SESSION_HEADER,
)
from stream_service.api.problems import CONTENT_TYPE, RETRY_AFTER_SECONDS, TYPE_PREFIX
from stream_service.settings import MAX_LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stream_service.settings import Settings

Json = dict[str, Any]

_INTRODUCTION = f"""\
**The life of a stream.** `POST /streams` starts it and names, in `heartbeat_in`, when the first
heartbeat is wanted. Each heartbeat renews the lease until `expires_at`; a stream without heartbeats
is over when its lease is. `DELETE` (or `POST .../stop`, for `navigator.sendBeacon`) ends it now.

**At the limit** a start is refused with what is playing, so that an app can offer a way out;
started again with `replace`, it takes one's place in one step.

**Errors** are problems ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)): programs go by `type`,
which begins with `{TYPE_PREFIX}`. A path that is not here is answered with 404 `not-found`, a
method that is not here with 405 `method-not-allowed` and `Allow`, an `Expect` that cannot be met
with 417 `expectation-failed`. Every `GET` but `/watch` takes `HEAD`.
"""

_STARTED_AT = "2026-03-01T20:15:00.000Z"
_EXPIRES_AT = "2026-03-01T20:16:00.000Z"
_TV: Json = {
    "stream_id": "0-Zm9yLXRoZS1leGFtcGxlLg",
    "device": "Living-room TV",
    "content": "Evening news",
    "started_at": _STARTED_AT,
    "expires_at": _EXPIRES_AT,
}
_PHONE: Json = {
    "stream_id": "1-YW5vdGhlci1leGFtcGxlIQ",
    "device": "Phone",
    "content": None,
    "started_at": "2026-03-01T20:15:30.000Z",
    "expires_at": "2026-03-01T20:16:30.000Z",
}
_BEAT = {**_TV, "heartbeat_in": 20.412}
_STARTED = {**_BEAT, "active": 1, "limit": 3}


def _object(properties: Json, *, optional: Sequence[str] = ()) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _label(description: str) -> Json:
    return {
        "type": ["string", "null"],
        "maxLength": MAX_LABEL_LENGTH,
        "description": description,
    }


_TIME: Json = {"type": "string", "format": "date-time"}
_STREAM_FIELDS: Json = {
    "stream_id": {"type": "string", "description": "Opaque: never parse it."},
    "device": _label("What the client called the device, or null."),
    "content": _label("What the client called the content, or null."),
    "started_at": {**_TIME, "description": "RFC 3339, UTC."},
    "expires_at": {
        **_TIME,
        "description": "End of the lease: without a heartbeat until then the stream is over.",
    },
}
_BEAT_FIELDS: Json = _STREAM_FIELDS | {
    "heartbeat_in": {
        "type": "number",
        "minimum": 0,
        "description": "Seconds until the next heartbeat is wanted: a third of the lease, jittered "
        "by 10 % so that a fleet that restarts together does not beat together.",
    }
}
_COUNT_FIELDS: Json = {
    "active": {"type": "integer", "minimum": 0, "description": "Active streams of the session."},
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_LIMIT,
        "description": "How many the session may have.",
    },
}
_STREAMS: Json = {"type": "array", "items": _ref("Stream"), "description": "Oldest first."}
_FIELD: Json = {"type": "string", "description": "The header or member of the body that is wrong."}
_STATUS: Json = _object({"status": {"type": "string", "enum": ["UP", "DOWN"]}})


class _Problem:
    """One kind of problem: where it comes from in the code is checked by a test."""

    def __init__(  # noqa: PLR0913 - the members of the standard, and ours
        self,
        statuses: Sequence[int],
        title: str,
        detail: str,
        *,
        fields: Json | None = None,
        optional: Sequence[str] = (),
        example: Json | None = None,
    ) -> None:
        self.statuses = statuses
        self.title = title
        self.detail = detail
        self.fields = fields or {}
        self.optional = optional
        self.example = example or {}


_PROBLEMS: dict[str, _Problem] = {
    "no-session": _Problem(
        [400],
        "No session",
        "The header Session-Id is missing: the gateway sets it once the viewer has logged in.",
        fields={"field": _FIELD},
        example={"field": SESSION_HEADER},
    ),
    "invalid-request": _Problem(
        [400],
        "Invalid request",
        "device must be a string.",
        fields={"field": _FIELD},
        optional=["field"],
        example={"field": "device"},
    ),
    "unauthorized": _Problem(
        [401],
        "Unauthorized",
        "This service takes requests from its gateway only: send the gateway's token as "
        "Authorization: Bearer.",
    ),
    "limit-reached": _Problem(
        [401, 409],
        "Too many streams",
        "This session already has 2 active streams and may have 2: stop one, or start with "
        '"replace" to take one\'s place.',
        fields={**_COUNT_FIELDS, "streams": _STREAMS},
        example={"limit": 2, "active": 2, "streams": [_TV, _PHONE]},
    ),
    "stream-not-found": _Problem(
        [404],
        "Stream not found",
        "This session has no such stream: it never had, or it has been forgotten.",
    ),
    "not-found": _Problem([404], "Not Found", "There is nothing at this path."),
    "method-not-allowed": _Problem([405], "Method Not Allowed", "This path takes GET,POST."),
    "request-timeout": _Problem(
        [408],
        "Request timeout",
        f"The body did not arrive within {BODY_DEADLINE_SECONDS:g} seconds.",
    ),
    "stream-ended": _Problem(
        [410],
        "Stream ended",
        "This stream is over (replaced): start a new one to go on.",
        fields={
            "reason": {"type": "string", "enum": ["stopped", "expired", "replaced"]},
            "replaced_by": _object(
                {name: _STREAM_FIELDS[name] for name in ("device", "started_at")}
            ),
        },
        optional=["replaced_by"],
        example={
            "reason": "replaced",
            "replaced_by": {"device": "Phone", "started_at": _PHONE["started_at"]},
        },
    ),
    "content-too-large": _Problem([413], "Content Too Large", "The body is larger than 16 KiB."),
    "unsupported-media-type": _Problem(
        [415],
        "Unsupported media type",
        "The body must be sent as Content-Type: application/json.",
        fields={"field": _FIELD},
        example={"field": "Content-Type"},
    ),
    "internal-error": _Problem(
        [500],
        "Internal error",
        "The fault is ours and has been logged under the X-Request-Id of this answer.",
    ),
    "unavailable": _Problem(
        [503],
        "Temporarily unavailable",
        "The store gives no answer: whether a start was done is unknown. Try it again with the "
        "same Idempotency-Key; it then takes no second slot.",
    ),
}

_MEANINGS = {
    400: "Something in the request cannot be used; `field` names it. Nothing was changed.",
    401: "The gateway's token is missing or wrong.",
    404: "This session never had such a stream, or it has been forgotten.",
    408: f"The body took longer than {BODY_DEADLINE_SECONDS:g} s to arrive.",
    409: "The limit is reached. What is playing is listed, to offer a way out: start again with "
    "`replace`.",
    410: "The stream is over, and `reason` says why. A heartbeat never brings it back.",
    413: f"The body is larger than {MAX_BODY_BYTES // 1024} KiB.",
    415: "The body is not `application/json` in UTF-8.",
    500: "The service's own fault.",
    503: "The store is away or too slow. Try again after `Retry-After`; a start with the same "
    f"`{KEY_HEADER}` takes no second slot.",
}


def _pascal(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("-")) + "Problem"


def _problem_schema(kind: str, problem: _Problem) -> Json:
    schema = _object(
        {
            "type": {"const": TYPE_PREFIX + kind},
            "title": {"type": "string"},
            "status": {"type": "integer", "enum": list(problem.statuses)},
            "detail": {"type": "string", "description": "For people: it may change."},
            **problem.fields,
        },
        optional=problem.optional,
    )
    return {"title": problem.title, **schema}


def _header_refs(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


_ALWAYS = ("X-Request-Id", "Cache-Control")


def _problem_response(
    status: int, kinds: Sequence[str], *, of_session: bool, description: str | None = None
) -> Json:
    examples = {}
    for kind in kinds:
        problem = _PROBLEMS[kind]
        examples[kind] = {
            "summary": problem.title,
            "value": {
                "type": TYPE_PREFIX + kind,
                "title": problem.title,
                "status": status,
                "detail": problem.detail,
                **problem.example,
            },
        }
    refs = [_ref(_pascal(kind)) for kind in kinds]
    headers = [*_ALWAYS, *([SESSION_HEADER] if of_session else [])]
    if status == 503:  # noqa: PLR2004 - says itself
        headers.append("Retry-After")
    if "unauthorized" in kinds:
        headers.append("WWW-Authenticate")
    return {
        "description": description or _MEANINGS[status],
        "headers": _header_refs(*headers),
        "content": {
            CONTENT_TYPE: {
                "schema": refs[0] if len(refs) == 1 else {"oneOf": refs},
                "examples": examples,
            }
        },
    }


def _answer(  # noqa: PLR0913 - each names a part of the answer
    description: str,
    schema: Json | None = None,
    example: Any = None,
    *,
    of_session: bool = True,
    content_type: str = "application/json",
    headers: Sequence[str] = (),
) -> Json:
    answer: Json = {
        "description": description,
        "headers": _header_refs(*_ALWAYS, *([SESSION_HEADER] if of_session else []), *headers),
    }
    if schema is not None:
        media = {"schema": schema} | ({} if example is None else {"example": example})
        answer["content"] = {content_type: media}
    return answer


class _Writer:
    """Writes operations for one deployment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def operation(  # noqa: PLR0913 - the parts of an operation
        self,
        operation_id: str,
        tag: str,
        summary: str,
        answers: Mapping[int, Json],
        *,
        description: str | None = None,
        parameters: Sequence[str] = (),
        body: Json | None = None,
        problems: Mapping[int, Sequence[str]] | None = None,
        of_session: bool = False,
        open_to_all: bool = False,
    ) -> Json:
        """One operation, with the problems that every operation can have."""
        kinds = {status: list(those) for status, those in (problems or {}).items()}
        if of_session:
            parameters = [SESSION_HEADER, *parameters]
            kinds[400] = ["no-session", "invalid-request"]
            kinds[503] = ["unavailable"]
        if self._settings.gateway_tokens and not open_to_all:
            kinds.setdefault(401, []).append("unauthorized")
        kinds[500] = ["internal-error"]
        responses = {str(status): answer for status, answer in answers.items()}
        for status in sorted(kinds):
            described = None
            if "limit-reached" in kinds[status]:
                described = _MEANINGS[409]
                if "unauthorized" in kinds[status]:
                    described += " Or: " + _MEANINGS[401]
            responses[str(status)] = _problem_response(
                status,
                kinds[status],
                of_session=of_session
                and status not in (400, 500)
                and "unauthorized" not in kinds[status],
                description=described,
            )
        operation: Json = {"operationId": operation_id, "tags": [tag], "summary": summary}
        if description is not None:
            operation["description"] = description
        if parameters:
            operation["parameters"] = [
                {"$ref": f"#/components/parameters/{name}"} for name in parameters
            ]
        if body is not None:
            operation["requestBody"] = body
        operation["responses"] = dict(sorted(responses.items()))
        if open_to_all:
            operation["security"] = []
        return operation

    def paths(self) -> Json:
        """Every path."""
        return self._stream_paths() | self._health_paths() | self._page_paths()

    def _stream_paths(self) -> Json:
        limit = ["Limit"] if self._settings.stream_limit_header else []
        admitted = _answer("Admitted.", _ref("StartedStream"), _STARTED, headers=["Location"])
        known = {404: ["stream-not-found"]}
        ended = {**known, 410: ["stream-ended"]}
        stopped = {204: _answer("It is over, whether by this request or before it.")}
        return {
            "/streams": {
                "post": self.operation(
                    "startStream",
                    "Streams",
                    "Start a stream, or take another one's place",
                    {
                        201: admitted,
                        200: {
                            **admitted,
                            "description": f"An earlier try with the same `{KEY_HEADER}` had "
                            "started it: no second slot was taken.",
                        },
                    },
                    description=f"Send an `{KEY_HEADER}` with every start: one whose answer was "
                    "lost can then be tried again without taking a second slot.",
                    parameters=[KEY_HEADER, *limit],
                    body={
                        "description": "May be left out. Unknown members are refused: a misspelt "
                        "`replace` must not silently start a stream.",
                        "required": False,
                        "content": {
                            "application/json": {
                                "schema": _ref("StartRequest"),
                                "examples": _START_EXAMPLES,
                            }
                        },
                    },
                    problems={
                        408: ["request-timeout"],
                        409: ["limit-reached"],
                        413: ["content-too-large"],
                        415: ["unsupported-media-type"],
                    },
                    of_session=True,
                ),
                "get": self.operation(
                    "listStreams",
                    "Streams",
                    "What is playing",
                    {
                        200: _answer(
                            "The session's active streams.",
                            _ref("StreamList"),
                            {"streams": [_TV, _PHONE], "active": 2, "limit": 3},
                        )
                    },
                    parameters=limit,
                    of_session=True,
                ),
            },
            "/streams/{stream_id}": {
                "get": self.operation(
                    "getStream",
                    "Streams",
                    "Look at one stream",
                    {200: _answer("It is active.", _ref("Stream"), _TV)},
                    problems=ended,
                    parameters=["StreamId"],
                    of_session=True,
                ),
                "delete": self.operation(
                    "deleteStream",
                    "Streams",
                    "End a stream",
                    stopped,
                    problems=known,
                    parameters=["StreamId"],
                    of_session=True,
                ),
            },
            "/streams/{stream_id}/heartbeat": {
                "post": self.operation(
                    "heartbeat",
                    "Streams",
                    "Renew the lease",
                    {200: _answer("Renewed.", _ref("RenewedStream"), _BEAT)},
                    description="Send the next one in `heartbeat_in` seconds. A body is ignored.",
                    problems=ended,
                    parameters=["StreamId"],
                    of_session=True,
                )
            },
            "/streams/{stream_id}/stop": {
                "post": self.operation(
                    "stopStream",
                    "Streams",
                    "End a stream, for navigator.sendBeacon",
                    stopped,
                    description="The same as `DELETE`, for `navigator.sendBeacon`, which can send "
                    "nothing but `POST`. A body is ignored.",
                    problems=known,
                    parameters=["StreamId"],
                    of_session=True,
                )
            },
            "/watch": {
                "get": self.operation(
                    "watch",
                    "First version",
                    "Start a stream, in the words of the first version",
                    {200: _answer("Admitted.", _ref("StartedStream"), _STARTED)},
                    description="Kept as it was: 401 where `POST /streams` says 409. New clients "
                    "use `POST /streams`, whose retries are safe.",
                    parameters=limit,
                    problems={401: ["limit-reached"]},
                    of_session=True,
                )
            },
        }

    def _health_paths(self) -> Json:
        up = _answer("It is up.", _STATUS, {"status": "UP"}, of_session=False)
        down = _answer("The store is away.", _STATUS, {"status": "DOWN"}, of_session=False)
        return {
            "/health": {
                "get": self.operation(
                    "health",
                    "Health",
                    "Ready to answer, the store included",
                    {200: up, 503: down},
                    open_to_all=True,
                )
            },
            "/health/live": {
                "get": self.operation(
                    "live",
                    "Health",
                    "The process runs, whatever the store does",
                    {200: up},
                    open_to_all=True,
                )
            },
        }

    def _page_paths(self) -> Json:
        paths: Json = {}
        for path, operation_id, tag, summary, content_type in (
            ("/openapi.json", "openapi", "Integration", "This document", "application/json"),
            ("/docs", "docs", "Integration", "This document as a page to try it on", "text/html"),
            ("/client.js", "client", "Integration", "The player client", "text/javascript"),
            ("/metrics", "metrics", "Operation", "Figures for Prometheus", "text/plain"),
            *(_CONSOLE if self._settings.console else ()),
        ):
            schema: Json = {"type": "object" if "json" in content_type else "string"}
            if path == "/console/state":
                schema = _ref("ConsoleState")
            answer = _answer(summary + ".", schema, content_type=content_type, of_session=False)
            paths[path] = {"get": self.operation(operation_id, tag, summary, {200: answer})}
        asset = _answer("The file.", of_session=False)
        asset["content"] = {
            content_type: {"schema": {"type": "string"}}
            for content_type in ("text/css", "text/javascript", "image/svg+xml")
        }
        paths["/static/{file}"] = {
            "get": self.operation(
                "staticFile",
                "Integration",
                "A file that a page loads",
                {200: asset},
                parameters=["File"],
                problems={404: ["not-found"]},
            )
        }
        return paths


_CONSOLE = (
    ("/console", "console", "Operation", "A page: what is happening now", "text/html"),
    ("/console/state", "consoleState", "Operation", "What the console shows", "application/json"),
)

_START_EXAMPLES: Json = {
    "start": {
        "summary": "Start",
        "value": {"device": "Living-room TV", "content": "Evening news"},
    },
    "seek": {
        "summary": "Quality change or cast hand-over: this stream ends, the new one has its slot",
        "value": {"device": "Living-room TV", "replace": _TV["stream_id"]},
    },
    "oldest": {
        "summary": "At the limit, end the stream that started first",
        "value": {"device": "Phone", "replace": OLDEST},
    },
    "stalest": {
        "summary": "At the limit, end the likely ghost: the longest without a heartbeat",
        "value": {"device": "Phone", "replace": STALEST},
    },
}

_SCHEMAS: Json = {
    "StartRequest": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "device": _label("Shown to the viewer in lists and refusals."),
            "content": _label("Shown to the viewer in lists and refusals."),
            "replace": {
                "type": ["string", "null"],
                "description": "A `stream_id`: that stream ends and this one takes its place, in "
                f'one step. `"{OLDEST}"` or `"{STALEST}"`: the same, but only when at the limit, '
                "with the one that started first, or that has gone longest without a heartbeat. "
                "A `stream_id` that is not active is ignored.",
            },
        },
    },
    "Stream": _object(_STREAM_FIELDS),
    "RenewedStream": _object(_BEAT_FIELDS),
    "StartedStream": _object(_BEAT_FIELDS | _COUNT_FIELDS),
    "ConsoleState": _object(
        {
            "version": {"type": "string"},
            "process": {"type": "string", "description": "Whose figures these are."},
            "now": {**_TIME, "description": "The service's clock."},
            "limit": _COUNT_FIELDS["limit"],
            "lease_seconds": {"type": "integer"},
            "store": _STATUS["properties"]["status"],
            "active": {"type": ["number", "null"], "description": "Null: the store is away."},
            "silent": {
                "type": ["number", "null"],
                "description": "Active streams that have missed a heartbeat.",
            },
            **{
                name: {
                    "type": "object",
                    "additionalProperties": {"type": "number"},
                    "description": "Counts since the process started, by outcome.",
                }
                for name in ("starts", "heartbeats", "ends")
            },
            "problems": {
                "type": "array",
                "description": "What was answered last, kinds on routes, the latest first.",
                "items": _object(
                    {
                        "status": {"type": "integer"},
                        "kind": {"type": "string"},
                        "method": {"type": ["string", "null"]},
                        "route": {"type": ["string", "null"]},
                        "count": {"type": "integer"},
                        "last": _TIME,
                    }
                ),
            },
        }
    ),
    "StreamList": _object({"streams": _STREAMS, **_COUNT_FIELDS}),
    **{_pascal(kind): _problem_schema(kind, problem) for kind, problem in _PROBLEMS.items()},
}


def _text_header(
    description: str, example: str | None = None, *, longest: int | None = None
) -> Json:
    schema: Json = {"type": "string"}
    if longest is not None:
        schema |= {"minLength": 1, "maxLength": longest, "pattern": r"^[\x20-\x7e]+$"}
    header: Json = {"description": description, "schema": schema}
    return header if example is None else header | {"example": example}


def _parameters(limit_header: str | None) -> Json:
    parameters: Json = {
        SESSION_HEADER: {
            "name": SESSION_HEADER,
            "in": "header",
            "required": True,
            **_text_header(
                "The viewer's session, as the gateway knows it once the viewer has logged in.",
                "example-session",
                longest=MAX_SESSION_LENGTH,
            ),
        },
        KEY_HEADER: {
            "name": KEY_HEADER,
            "in": "header",
            "required": False,
            # No example: the page would fill it in, and every try would be a replay.
            **_text_header(
                "A value of the client's own (a UUID, say), new for each start and the same for "
                "each try of it.",
                longest=MAX_KEY_LENGTH,
            ),
        },
        "StreamId": {
            "name": "stream_id",
            "in": "path",
            "required": True,
            "description": "As a start, a list or a refusal gave it.",
            "schema": {"type": "string"},
            "example": _TV["stream_id"],
        },
        "File": {
            "name": "file",
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "example": "icon.svg",
        },
    }
    if limit_header is not None:
        parameters["Limit"] = {
            "name": limit_header,
            "in": "header",
            "required": False,
            "description": "This viewer's own limit (a plan), set by the trusted gateway.",
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
        }
    return parameters


_HEADERS: Json = {
    "X-Request-Id": {
        "required": True,
        **_text_header(
            "The gateway's, if it sent one of up to 64 characters A-Z a-z 0-9 . _ -, else a new "
            "one; the log has it too.",
            "9f86d081884c7d65",
        ),
    },
    "Cache-Control": {
        "required": True,
        **_text_header(
            "`no-store`: nothing is to be kept. Only files may be: `/client.js` for an hour, those "
            "of the pages as long as `If-None-Match` is answered with 304.",
            "no-store",
        ),
    },
    SESSION_HEADER: {
        "required": True,
        **_text_header("The request's own, once found valid.", "example-session"),
    },
    "Location": {
        "required": True,
        **_text_header("Where the stream is.", f"/streams/{_TV['stream_id']}"),
    },
    "Retry-After": {
        "required": True,
        "description": "Seconds to wait before trying again.",
        "schema": {"type": "integer"},
        "example": RETRY_AFTER_SECONDS,
    },
    "WWW-Authenticate": {
        "description": "With `unauthorized`: how to authenticate (RFC 6750).",
        "schema": {"type": "string"},
        "example": 'Bearer realm="stream-service"',
    },
}


def openapi_document(settings: Settings) -> Json:
    """The document for a service with these settings."""
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "stream-service",
            "version": __version__,
            "summary": "May this session watch one more stream?",
            "description": _INTRODUCTION,
            "license": {"name": "ISC", "identifier": "ISC"},
        },
        "servers": [{"url": "./", "description": "Where this document came from"}],
        "tags": [
            {"name": "Streams", "description": "The whole life of a stream."},
            {"name": "First version", "description": "Kept for the clients that know it."},
            {"name": "Health", "description": "For load balancers and supervisors."},
            {"name": "Integration", "description": "For those who build on it."},
            {"name": "Operation", "description": "For those who run it."},
        ],
        "paths": _Writer(settings).paths(),
        "components": {
            "schemas": _SCHEMAS,
            "parameters": _parameters(settings.stream_limit_header),
            "headers": _HEADERS,
        },
    }
    if settings.gateway_tokens:
        document["components"]["securitySchemes"] = {
            "gateway": {
                "type": "http",
                "scheme": "bearer",
                "description": "The gateway's token. Viewers never hold it.",
            }
        }
        document["security"] = [{"gateway": []}]
    return document
