"""Errors as callers see them: problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stream_service.api.representation import describe_all, encode, timestamp
from stream_service.streams import (
    KeyReusedError,
    LimitReachedError,
    StoreUnavailableError,
    StreamEndedError,
    StreamNotFoundError,
    TooManyRequestsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.typedefs import Handler, Middleware

    from stream_service.streams import Reached

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:stream-service:problem:"
RETRY_AFTER_SECONDS = 1
_RETRY = {"Retry-After": str(RETRY_AFTER_SECONDS)}

NO_ANSWER = "The database is unreachable or too slow. Try again."
_STOP_AGAIN = (
    "The database is unreachable or too slow: it is unknown whether the stream was stopped. Stop "
    "it again."
)
_START_AGAIN = (
    "The database is unreachable or too slow: it is unknown whether the stream was started. Try "
    "again; if it was, that stream ends with its lease."
)
_AGAIN: dict[tuple[str, str | None], str] = {
    ("POST", "/streams"): (
        "The database is unreachable or too slow: it is unknown whether the stream was started. "
        "Try again with the same Idempotency-Key; then it takes no second slot."
    ),
    ("GET", "/watch"): _START_AGAIN,
    ("POST", "/streams/{lease_id}/heartbeat"): (
        "The database is unreachable or too slow: it is unknown whether the lease was renewed. "
        "Send the heartbeat again; the stream is active until its lease is over."
    ),
    ("POST", "/heartbeats"): (
        "The database is unreachable or too slow: it is unknown which leases were renewed. Send "
        "the heartbeats again."
    ),
    ("POST", "/streams/{stream_id}/stop"): _STOP_AGAIN,
    ("DELETE", "/streams/{stream_id}"): _STOP_AGAIN,
    ("DELETE", "/streams"): (
        "The database is unreachable or too slow: it is unknown whether the streams were ended. "
        "End them again."
    ),
}
"""What a 503 says to each request that may have changed something, by method and route."""

# Python renamed it in 3.13; a problem's type has to stay what it is.
_PHRASES = {413: "Content Too Large"}


class Problem(Exception):  # noqa: N818 - the standard's word
    """An answer that is an error.

    Attributes:
        status: HTTP status.
        kind: Last part of the problem's `type`, stable, for programs.
        title: The kind in words, the same each time.
        detail: What is wrong this time and how to mend it.
        fields: Further members of the body.
        headers: Further headers of the answer.
    """

    def __init__(  # noqa: PLR0913 - the members of the standard
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        fields: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {kind}")
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.fields = fields or {}
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The members of the problem."""
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.fields,
        }

    def response(self) -> web.Response:
        """The problem as an answer."""
        return web.Response(
            status=self.status,
            body=encode(self.body),
            content_type=CONTENT_TYPE,
            headers=self.headers,
        )


def invalid(field: str, detail: str) -> Problem:
    """A part of the request that cannot be used: 400, naming it."""
    return Problem(400, "invalid-request", "Invalid request", detail, fields={"field": field})


def limit_reached(refused: LimitReachedError, *, of_watch: bool = False) -> Problem:
    """A refusal, with what an app needs to offer a way out."""
    first = refused.reached[0]
    active = len(first.streams)
    way_out = 'stop one, or start with "replace" to take one\'s place.'
    if active > first.limit:
        # The limit was lowered: a place that is taken over would still be one too many.
        way_out = f"stop {active - first.limit + 1} of them."
    if first.limit == 0:
        way_out = "its plan has no streams."
    streams = f"{active} active stream{'' if active == 1 else 's'}"
    under = "" if first.rule is None else f" under {first.rule}"
    fields = _reached(first)
    if len(refused.reached) > 1:
        fields["rules"] = [_reached(one) for one in refused.reached]
    return Problem(
        401 if of_watch else 409,
        "limit-reached",
        "Too many streams",
        f"This session already has {streams}{under} and may have {first.limit}: {way_out}",
        fields=fields,
        # A scheme that no browser knows: some HTTP clients cannot even read a 401 without any.
        headers={"WWW-Authenticate": 'StreamLimit realm="stream-service"'} if of_watch else {},
    )


def _reached(one: Reached) -> dict[str, Any]:
    rule = {} if one.rule is None else {"rule": one.rule}
    streams = describe_all(one.streams)
    return {**rule, "limit": one.limit, "active": len(streams), "streams": streams}


def unavailable(detail: str, *, headers: Mapping[str, str] | None = None) -> Problem:
    """No answer can be given now: 503, to be tried again."""
    return Problem(
        503,
        "unavailable",
        "Temporarily unavailable",
        detail,
        headers={**_RETRY, **(headers or {})},
    )


def too_many_requests(detail: str) -> Problem:
    """More than can be answered now: 429, to be tried again."""
    return Problem(429, "too-many-requests", "Too Many Requests", detail, headers=_RETRY)


def _ended(ended: StreamEndedError) -> Problem:
    fields: dict[str, Any] = {"reason": ended.reason}
    if ended.replaced_by is not None:
        fields["replaced_by"] = {
            "device": ended.replaced_by.device,
            "started_at": timestamp(ended.replaced_by.started_at),
        }
    return Problem(
        410,
        "stream-ended",
        "Stream ended",
        f"This stream is over ({ended.reason}): start a new one to go on.",
        fields=fields,
    )


def framework_problem(error: web.HTTPException) -> Problem:
    """The problem that an error of the framework's stands for."""
    phrase = _PHRASES.get(error.status, HTTPStatus(error.status).phrase)
    details = {
        404: "There is nothing at this path: see /docs.",
        405: f"This path takes {error.headers.get('Allow', 'other methods')}.",
        413: "The body is too large: see /docs.",
    }
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return Problem(
        error.status,
        phrase.lower().replace(" ", "-"),
        phrase,
        details.get(error.status, HTTPStatus(error.status).description or error.reason),
        headers=headers,
    )


def problem_of(error: Exception) -> Problem | None:  # noqa: PLR0911 - a table
    """The problem that an exception stands for; None for an unexpected one."""
    match error:
        case Problem():
            return error
        case LimitReachedError():
            return limit_reached(error)
        case KeyReusedError():
            return Problem(
                422,
                "idempotency-key-reused",
                "Idempotency key reused",
                "This Idempotency-Key has started a stream with another body: send a new key for "
                "each start, and the same body with each try of it.",
                fields={"field": "Idempotency-Key"},
            )
        case StreamNotFoundError():
            return Problem(
                404,
                "stream-not-found",
                "Stream not found",
                "There is no such stream: there never was, or it has been forgotten.",
            )
        case StreamEndedError():
            return _ended(error)
        case StoreUnavailableError():
            return unavailable(NO_ANSWER)
        case TooManyRequestsError():
            return too_many_requests(
                "Too much is asked at once. It is unknown whether this was done: try again, a "
                "start with the same Idempotency-Key."
            )
        case web.HTTPException():
            return framework_problem(error)
    return None


def internal_error() -> Problem:
    """An error in the service: 500, without any internals."""
    return Problem(
        500,
        "internal-error",
        "Internal error",
        "An error in the service. It is in the log under the X-Request-Id of this answer.",
    )


def _what_now(request: web.Request, route: str | None) -> str:
    if (request.method, route) == ("POST", "/streams") and "Idempotency-Key" not in request.headers:
        return _START_AGAIN
    return _AGAIN.get((request.method, route), NO_ANSWER)


def _nobody(*_: object) -> None:
    pass


def problems(
    *,
    on_problem: Callable[[int, str, str, str | None], None] = _nobody,
    on_unavailable: Callable[[StoreUnavailableError], None] = _nobody,
) -> Middleware:
    """Answer every error, the framework's own included, with a problem.

    Args:
        on_problem: Told of each: its status and kind, the request's method, and the template of
            its route or None.
        on_unavailable: Told of each request that the store failed.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                log.exception("unexpected error")
                problem = internal_error()
            resource = request.match_info.route.resource
            route = None if resource is None else resource.canonical
            if isinstance(error, StoreUnavailableError):
                problem = unavailable(_what_now(request, route))
            failed = error.__cause__ if isinstance(error, Problem) else error
            if isinstance(failed, StoreUnavailableError):
                on_unavailable(failed)
            on_problem(problem.status, problem.kind, request.method, route)
            return problem.response()

    return middleware
