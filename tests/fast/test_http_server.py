"""What the service relies on beneath aiohttp's application: a release may change it."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from stream_service.process.http_server import Connection, HttpServer, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Asked = tuple[HttpServer, asyncio.StreamReader, asyncio.StreamWriter]

OPEN: dict[str, Any] = {"unfinished_seconds": 30, "most_connections": 1000}


@asynccontextmanager
async def _asked(app: web.Application, sent: bytes) -> AsyncIterator[Asked]:
    """A server for the application, and a connection to it on which this was sent."""
    async with running(app, idle_seconds=30, grace_seconds=30, **OPEN) as (runner, server):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(sent)
        try:
            yield server, reader, writer
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nSession-Id: a\x00secret\r\n\r\n", b"400 "),
        (b"\x16\x03\x01secret\r\n\r\n", b"400 "),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: secret\r\n\r\n", b"417 "),
    ],
    ids=["header", "no HTTP", "expectation"],
)
async def test_what_no_middleware_sees_is_answered_with_a_problem_that_quotes_nothing(
    sent: bytes, status: bytes
) -> None:
    async with _asked(web.Application(), sent) as (_, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 " + status, b"HTTP/1.0 " + status))
        assert b"Content-Type: application/problem+json" in head
        assert b"Cache-Control: no-store" in head
        writer.close()
        assert b"secret" not in head + await reader.read()


async def test_a_connection_is_of_our_class_and_counted_as_long_as_it_is_open() -> None:
    sent = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with _asked(web.Application(), sent) as (server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        [connection] = server.connections
        assert type(connection) is Connection
        assert connection.keepalive_timeout == 30
        writer.close()
        while server.connections:  # noqa: ASYNC110 - aiohttp tells nobody
            await asyncio.sleep(0.01)


async def test_a_request_in_flight_is_answered_before_the_application_ends() -> None:
    events, arrived = [], asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        arrived.set()
        await asyncio.sleep(0.1)
        events.append("answered")
        return web.Response()

    async def end(_: web.Application) -> None:
        events.append("ended")

    app = web.Application()
    app.router.add_get("/", slow)
    app.on_cleanup.append(end)
    async with running(app, idle_seconds=30, grace_seconds=30, **OPEN) as (runner, _):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await arrived.wait()
    assert events == ["answered", "ended"]
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_an_application_that_cannot_start_is_ended_all_the_same() -> None:
    events = []

    async def context(_: web.Application) -> AsyncIterator[None]:
        yield
        events.append("ended")

    async def fail(_: web.Application) -> None:
        raise LookupError

    app = web.Application()
    app.cleanup_ctx.append(context)
    app.on_startup.append(fail)
    with pytest.raises(LookupError):
        async with running(app, idle_seconds=30, grace_seconds=30, **OPEN):
            pass
    assert events == ["ended"]


async def test_a_body_that_nobody_reads_ends_the_connection_soon_after_its_answer() -> None:
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    async with _asked(web.Application(), sent) as (server, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert b"\r\nConnection: close\r\n" in head
        writer.write(b"not even a chunk")
        await reader.read()
        assert reader.at_eof()
        while server.connections:  # noqa: ASYNC110 - aiohttp tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["handle_error", "finish_response", "connection_made"])
def test_each_method_that_is_overridden_is_still_called_as_it_was(name: str) -> None:
    theirs = inspect.signature(getattr(web.RequestHandler, name))
    ours = inspect.signature(getattr(Connection, name))
    assert list(theirs.parameters) == list(ours.parameters)
    assert {"Server", "RequestHandler", "ServerRunner", "AppRunner"} <= set(web.__all__)
