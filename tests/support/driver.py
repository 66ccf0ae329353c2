"""The service with something about it changed: `python -m tests.support.driver CHANGE...`.

Shows what each guard is good for, by what happens without it; and sets what no setting sets.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections import deque
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pymongo.errors import BulkWriteError

from stream_service import __main__, connection, documents, limiter, store
from stream_service.api import access, handlers, inputs, playback
from stream_service.group_commit import GroupCommit
from stream_service.limiter import Limiter
from stream_service.process import server
from stream_service.process.http_server import Connection, HttpServer
from stream_service.streams import new_secret, token_of, utc_now
from stream_service.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pymongo import UpdateOne

# What these modules import is theirs alone, by mypy.
_handlers: Any = handlers
_inputs: Any = inputs
_playback: Any = playback
_server: Any = server
_connection: Any = connection
_store: Any = store
_operation = store.MongoStore._operation  # noqa: SLF001 - the claim itself
_session_of = _inputs.session_of
_lease_of = _inputs.lease_of
_token_of = _playback._token_of  # noqa: SLF001
_group_init = GroupCommit.__init__
_group: dict[str, Any] = _group_init.__kwdefaults__ or {}


def _claims_whatever_is_there(
    self: store.MongoStore, change: store.Change, *args: Any
) -> UpdateOne:
    made: Any = _operation(self, change, *args)
    if store._is_claim(change):  # noqa: SLF001
        del made._filter["expires_at"]  # noqa: SLF001
    return made  # type: ignore[no-any-return]


def _claims_beside_what_is_there(
    self: store.MongoStore, change: store.Change, *args: Any
) -> UpdateOne:
    made: Any = _operation(self, change, *args)
    if store._is_claim(change):  # noqa: SLF001
        made._filter["_id"] += f"/{token_of(new_secret())}"  # noqa: SLF001
    return made  # type: ignore[no-any-return]


class _Impatient(deque[Any]):
    def extend(self, again: Iterable[Any]) -> None:
        self.extendleft(reversed(list(again)))


def _who_goes_again_comes_first(self: Any, *args: Any, **options: Any) -> None:
    _group_init(self, *args, **options)
    self._waiting = _Impatient()


_http_server_init = HttpServer.__init__


def _reads_on(self: HttpServer, application: web.Server, **options: Any) -> None:
    for bound in ("auto_decompress", "read_bufsize", "lingering_time"):
        del options[bound]
    _http_server_init(self, application, **options)


def _tells_the_session(request: Any) -> Any:
    logging.getLogger("tells").info("from %s", request.headers.get("Session-Id"))
    return _session_of(request)


def _tells_the_lease(request: Any) -> Any:
    logging.getLogger("tells").info("for %s", request.path)
    return _lease_of(request)


def _tells_the_token(request: Any) -> Any:
    logging.getLogger("tells").info("from %s", request.headers)
    return _token_of(request)


_looks: dict[str, int] = {}
_decide = Limiter._decide  # noqa: SLF001


async def _counts_looks(self: Limiter, starts: Any, now: Any) -> Any:
    """Logs each time that a start looks more often than any before it."""
    most = max(_looks.values(), default=0)
    for start in starts:
        _looks[start.token] = _looks.get(start.token, 0) + 1
    if (more := max(_looks[start.token] for start in starts)) > most:
        logging.getLogger("looks").info("looks", extra={"looks": more})
    return await _decide(self, starts, now)


def change(what: str) -> None:  # noqa: C901, PLR0912, PLR0915 - a table
    """Make one change to the service, in this process."""
    name, _, value = what.partition("=")
    match name:
        case "claim-overwrites":
            _store.MongoStore._operation = _claims_whatever_is_there  # noqa: SLF001
        case "claim-beside":
            _store.MongoStore._operation = _claims_beside_what_is_there  # noqa: SLF001
        case "patient":
            # As the fixture of this name: for a test that is not about time, on a slow machine.
            _connection.COMMAND_TIMEOUT = timedelta(seconds=25)
            _group["deadline_seconds"] = 30.0
        case "looks":
            Limiter._decide = _counts_looks  # type: ignore[method-assign]  # noqa: SLF001
        case "guesses":
            access.GUESS_SECONDS = 0
        case "deadline":
            _group["deadline_seconds"] = float(value)
        case "bound":
            _group["max_waiting"] = int(value)
        case "unfair":
            _group["max_share"] = 1_000_000
            GroupCommit.__init__ = _who_goes_again_comes_first  # type: ignore[method-assign]
        case "batches-whole":
            limiter.FEWEST = limiter.MOST
        case "clock":
            ahead = timedelta(seconds=float(value))
            shifted = functools.partial(_server.create_app, clock=lambda: utc_now() + ahead)
            _server.create_app = shifted
        case "idle":
            server.UNFINISHED_SECONDS = float(value)
        case "sample":
            metrics.SAMPLE_SECONDS = float(value)
            metrics.SAMPLE_COST = 0
        case "untranslated":
            _store.translated_errors = nullcontext
            _connection.translated_errors = nullcontext
        case "not-durable":
            details: Any = BulkWriteError.details
            BulkWriteError.details = property(  # type: ignore[assignment]
                lambda error: {**details.fget(error), "writeConcernErrors": []}
            )
        case "forget-step":
            documents._STEP_SECONDS = int(value)  # noqa: SLF001
        case "monitor":
            _connection.MONITOR_EVERY = timedelta(seconds=float(value))
        case "reads-on":
            Connection.finish_response = web.RequestHandler.finish_response  # type: ignore[method-assign]
            HttpServer.__init__ = _reads_on  # type: ignore[method-assign]
        case "tells":
            _inputs.session_of = _tells_the_session
            _handlers.lease_of = _tells_the_lease
            _playback._token_of = _tells_the_token  # noqa: SLF001
        case _:
            raise ValueError(what)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        change(argument)
    sys.exit(__main__.main([]))
