"""aiohttp's server, with what it has no hook for: the one module that goes beneath its application.

aiohttp answers by itself, ahead of the application and its middlewares, what it cannot parse (in
plain text, quoting what was sent) and an `Expect` that cannot be met. Here both are answered with
problems. And aiohttp reads on, for seconds, in a body that nobody wants; here little of it is read.
It is done in aiohttp's public names alone, but with four that its documentation does not promise:
`RequestHandler.handle_error` and `finish_response`, what `Server.__call__` makes for each
connection, and `BaseSite._server`.
tests/fast/test_http_server.py fails if a release changes them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any, cast

from aiohttp import hdrs, web

from stream_service.api.inputs import BODY_DEADLINE_SECONDS, MAX_BODY_BYTES
from stream_service.api.problems import Problem, framework_problem, internal_error
from stream_service.process.leftovers import throw_away
from stream_service.telemetry.request_log import REQUEST_ID_HEADER, SERVER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)


READ_BUFFER_BYTES = 4096
"""How much of a body waits to be read before the client has to wait: so much, or a sixteenth of it
in chunks, each of which costs as much as thousands of bytes."""


class Connection(web.RequestHandler):
    """One connection, on which errors of aiohttp's own are problems too, and reading has bounds."""

    __slots__ = ("_server", "began")

    def __init__(self, server: HttpServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self.began: float | None = None
        """When the request that is not whole yet began; None between requests."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the kernel end the connection of a client that takes nothing off it any more."""
        connection = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(self._server.unfinished_seconds * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        super().connection_made(transport)
        self.began = asyncio.get_running_loop().time()
        self._server.make_room(self)

    def data_received(self, data: bytes) -> None:
        """Remember when a request began."""
        if self.began is None and self in self._server.idle:
            self.began = asyncio.get_running_loop().time()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self._server.idle.pop(self, None)
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; then end the connection if much of the request's body is to come."""
        if request.content.is_eof() or (request.content_length or sys.maxsize) <= MAX_BODY_BYTES:
            try:
                return await super().finish_response(request, resp, start_time)
            finally:
                self._server.is_idle(self)
        resp.force_close()
        sent, reset = await super().finish_response(request, resp, start_time)
        if not reset and self.transport is not None:
            await throw_away(self, self.transport)
        return sent, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes what was sent
    ) -> web.StreamResponse:
        """Make the answer to a request that could not be parsed, or could not be answered."""
        if status < 500:  # noqa: PLR2004 - the client's fault
            problem = Problem(
                status,
                "invalid-request",
                "Invalid request",
                "The request line or a header is not HTTP: see that header values, Session-Id "
                "among them, hold no control characters and are not over-long.",
            )
        else:
            problem = internal_error()
        if request.writer.output_size > 0:
            raise ConnectionError("the answer is under way already")
        response = _past_the_middlewares(problem, exc)
        response.force_close()
        return response


class HttpServer(web.Server):
    """Answers for an application, on connections of the class above."""

    def __init__(
        self,
        application: web.Server,
        *,
        unfinished_seconds: float,
        most_connections: int,
        **options: Any,
    ) -> None:
        """Make a server.

        Args:
            application: The server that aiohttp made for the application.
            unfinished_seconds: How long a request may take to arrive, without its body.
            most_connections: Beyond so many, the one that has been idle for longest is closed.
            options: Of each connection, as for `aiohttp.web.AppRunner`.
        """
        self._answer = application.request_handler
        self._options = options
        self._most_connections = most_connections
        self.unfinished_seconds = unfinished_seconds
        self.idle: dict[Connection, None] = {}
        """On which no request is being answered, the longest first."""
        super().__init__(self._handle, request_factory=application.request_factory)

    def __call__(self) -> Connection:
        """Make what asyncio asks for at each new connection."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def make_room(self, new: Connection) -> None:
        """Take a new connection in; if there are too many, close the one that is idle longest."""
        self.idle[new] = None
        if len(self.connections) > self._most_connections:
            self._close(next(iter(self.idle)))

    def is_idle(self, connection: Connection) -> None:
        """Take note that a request was answered."""
        if connection.transport is not None:
            self.idle[connection] = None

    async def close_unfinished(self) -> None:
        """Close the connections on which a request has begun and does not end, for ever."""
        while True:
            await asyncio.sleep(self.unfinished_seconds / 10)
            since = asyncio.get_running_loop().time() - self.unfinished_seconds
            for one in [one for one in self.idle if one.began is not None and one.began < since]:
                self._close(one)

    def _close(self, connection: Connection) -> None:
        self.idle.pop(connection, None)
        if connection.transport is not None:
            connection.transport.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        connection.began = None
        self.idle.pop(connection, None)
        try:
            return await self._answer(request)
        except web.HTTPExpectationFailed as error:
            # Raised ahead of the middlewares.
            return _past_the_middlewares(framework_problem(error), error)
        except UnicodeEncodeError as error:
            # aiohttp quotes what was expected, and fails where that is no text.
            if hdrs.EXPECT not in request.headers:
                raise
            return _past_the_middlewares(framework_problem(web.HTTPExpectationFailed()), error)


def _past_the_middlewares(problem: Problem, error: BaseException | None) -> web.Response:
    """An answer that no middleware sees, with what they would have done for it."""
    # Nothing of what was sent can be taken for an id.
    request_id = token_hex(8)
    about = {"status": problem.status, "error": type(error).__name__, "request_id": request_id}
    if problem.status < 500:  # noqa: PLR2004
        log.info("bad request", extra=about)
    else:
        log.error("unexpected error", extra=about, exc_info=error)
    response = problem.response()
    response.headers["Cache-Control"] = "no-store"
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers[hdrs.SERVER] = SERVER
    return response


def let_wait(site: web.BaseSite, connections: int) -> None:
    """Let so many connections wait to be accepted at a site that has started.

    asyncio takes one figure for this and for how many it accepts at once, each of which would be an
    error of its own where no file is left.
    """
    server = getattr(site, "_server")  # noqa: B009 - as said above: aiohttp tells only addresses
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as same:
            same.listen(connections)


@asynccontextmanager
async def running(
    app: web.Application,
    *,
    idle_seconds: float,
    grace_seconds: float,
    unfinished_seconds: float,
    most_connections: int,
) -> AsyncIterator[tuple[web.ServerRunner, HttpServer]]:
    """Start an application, and a server for the sites that are added to the runner.

    At the end the sites are closed, the requests in flight answered, and the application ended.

    Args:
        app: Not started yet.
        idle_seconds: How long a connection may stay open between requests.
        grace_seconds: How long requests in flight may take at the end.
        unfinished_seconds: How long a request may take to arrive, without its body.
        most_connections: How many connections there may be.
    """
    application = web.AppRunner(app)
    try:
        await application.setup()
        if application.server is None:
            raise RuntimeError("aiohttp made no server for the application")
        server = HttpServer(
            application.server,
            unfinished_seconds=unfinished_seconds,
            most_connections=most_connections,
            access_log=None,
            keepalive_timeout=idle_seconds,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            lingering_time=BODY_DEADLINE_SECONDS,
        )
        runner = web.ServerRunner(server, shutdown_timeout=grace_seconds)
        await runner.setup()
        try:
            yield runner, server
        finally:
            await runner.cleanup()
    finally:
        await application.cleanup()
