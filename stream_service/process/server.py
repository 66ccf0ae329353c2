"""A process that serves: socket, signals, and the order in which things start and stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from contextlib import AsyncExitStack, suppress
from errno import EADDRINUSE, EADDRNOTAVAIL
from ipaddress import ip_address
from pathlib import Path
from socket import (
    AF_INET6,
    AI_PASSIVE,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_STREAM,
    SOL_SOCKET,
    gaierror,
    getaddrinfo,
    socket,
)
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stream_service import __version__
from stream_service.api.health import HEALTH
from stream_service.api.keys import STORE
from stream_service.app import create_app
from stream_service.connection import COMMAND_TIMEOUT
from stream_service.process.draining import Drain
from stream_service.process.embedded import EmbeddedDatabase, embedded_database, end_if_sick
from stream_service.process.http_server import let_wait, running
from stream_service.process.listener import BACKLOG, SharedListener, shared_listener
from stream_service.process.open_files import (
    ACCEPTED_AT_ONCE,
    LoopErrors,
    most_connections,
    raise_limit,
)
from stream_service.process.readiness import announce_ready, when_pm2_is_gone
from stream_service.settings import SettingsError
from stream_service.streams import StoreUnavailableError
from stream_service.telemetry.background import watched
from stream_service.telemetry.metrics import METRICS
from stream_service.telemetry.outages import OUTAGES
from stream_service.telemetry.shared_files import prepare_metrics

if TYPE_CHECKING:
    from stream_service.settings import Settings

log = logging.getLogger(__name__)

UNFINISHED_SECONDS = 75.0
"""How long a request may take to arrive, and a client to take its answer."""

GRACE_SECONDS = 5.0
"""How long requests that are being answered may still take after a signal to stop."""

_TRY_IT = """\
Serving on {url}, streams in {directory}. Ctrl-C stops it. In another terminal, {more} times:
    curl -i -H 'Session-Id: me' {url}/watch      # 200 {limit} times, then 401: too many streams
    curl -s -H 'Session-Id: me' {url}/streams    # what is playing
In a browser:
    {url}/docs       # every request, to try
    {url}/console    # what is happening now"""


class CannotServeError(Exception):
    """The socket cannot be had. The message names HOST and PORT."""


async def serve(settings: Settings, *, embedded_in: Path | None = None) -> int:
    """Serve until SIGINT or SIGTERM, or until the embedded database ends by itself.

    A second signal cuts the drain short.

    Args:
        settings: Checked settings.
        embedded_in: Data directory for an embedded database to be run, which then takes the place
            of `settings.mongo_url`.

    Returns:
        The exit status: 0, or 1 if the embedded database ended first.

    Raises:
        CannotServeError: The socket cannot be had.
        EmbeddedError: The embedded database cannot be run, or fails every command.
        SettingsError: The driver cannot use `settings.mongo_url`, or another process on the same
            database has another `DIGEST_KEY`.
    """
    stopped, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopErrors())
    if settings.prometheus_multiproc_dir is not None:
        prepare_metrics(Path(settings.prometheus_multiproc_dir))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: hurry.set() if stopped.is_set() else stopped.set())
    if settings.node_channel_fd is not None:
        when_pm2_is_gone(settings.node_channel_fd, stopped.set)
    async with AsyncExitStack() as stack:
        database: EmbeddedDatabase | None = None
        if embedded_in is not None:
            _refuse_a_taken_port(settings)
            database = await _unless_stopped(stack, embedded_in, stopped)
            if database is None:
                return 0
            settings = settings.model_copy(update={"mongo_url": database.url})
            database.exited.add_done_callback(lambda _: stopped.set())
        url, watching = await _listen(stack, settings, hurry, embedded=embedded_in is not None)
        watching.add_done_callback(lambda one: stopped.set() if _has_failed(one) else None)
        about = {
            "version": __version__,
            "limit": settings.stream_limit,
            "enforced": settings.enforce,
            "lease_seconds": settings.stream_ttl_seconds,
            "database": settings.database,
        }
        log.info("serving", extra={"url": url} | about)
        if embedded_in is not None:
            limit = settings.stream_limit
            text = _TRY_IT.format(url=url, directory=embedded_in, limit=limit, more=limit + 1)
            with suppress(OSError):  # Whoever started it may not look on.
                # Standard output is for the events, where they are wanted.
                out = sys.stdout if settings.events == "0" else sys.stderr
                print(text, file=out, flush=True)
        await stopped.wait()
        if _has_failed(watching):
            hurry.set()
            watching.result()
        if database is not None and database.exited.done():
            log.critical("embedded database ended", extra={"status": database.exited.result()})
            hurry.set()
            return 1
    return 0


def _has_failed(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None


async def _unless_stopped(
    stack: AsyncExitStack, directory: Path, stopped: asyncio.Event
) -> EmbeddedDatabase | None:
    """Enter the embedded database; None if a signal came while it was starting."""
    starting = asyncio.create_task(stack.enter_async_context(embedded_database(directory)))
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return None
    return starting.result()


def _refuse_a_taken_port(settings: Settings) -> None:
    """Raise `CannotServeError` if another process listens there.

    Found out before the embedded database is started: a second service on the same directory would
    be told of that directory, and not of the port.
    """
    if settings.listener_dir is not None or settings.port == 0:
        return
    try:
        addresses = getaddrinfo(settings.host, settings.port, type=SOCK_STREAM, flags=AI_PASSIVE)
        for family, _, _, _, address in addresses:
            with socket(family) as probe:
                probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
                if family == AF_INET6:
                    probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        raise _cannot_serve(settings, error) from None


def _cannot_serve(settings: Settings, error: OSError) -> CannotServeError:
    where = f"HOST {settings.host}, PORT {settings.port}"
    # Without a number: asyncio found none of the addresses of HOST on this machine.
    if error.errno == EADDRNOTAVAIL or (error.errno is None and settings.listener_dir is None):
        return CannotServeError(
            f"{where}: this machine has no such address. HOST=127.0.0.1 can be reached from this "
            "machine only, HOST=0.0.0.0 from others too"
        )
    if isinstance(error, gaierror):
        return CannotServeError(f"{where}: HOST is neither an address nor a known name")
    if settings.listener_dir is not None:
        where = f"LISTENER_DIR {settings.listener_dir}"
    if isinstance(error, FileExistsError):
        why = "is not a directory"
    elif error.errno == EADDRINUSE:
        why = "address already in use. Is the service running already? PORT=... takes another port"
    else:
        why = error.strerror or str(error)
    return CannotServeError(f"{where}: {why}")


def _only_this_machine(runner: web.BaseRunner) -> bool:
    return all(ip_address(address[0].partition("%")[0]).is_loopback for address in runner.addresses)


async def _listen(
    stack: AsyncExitStack, settings: Settings, hurry: asyncio.Event, *, embedded: bool
) -> tuple[str, asyncio.Future[Any]]:
    """Serve; returns where, and what fails if the process has to end."""
    limit = raise_limit()
    app = create_app(settings)
    drain = Drain(app)
    runner, server = await stack.enter_async_context(
        running(
            app,
            idle_seconds=settings.keepalive_seconds,
            grace_seconds=GRACE_SECONDS,
            unfinished_seconds=UNFINISHED_SECONDS,
            most_connections=most_connections(limit),
        )
    )
    closing = asyncio.create_task(
        watched("unfinished requests", server.close_unfinished, app[METRICS].on_task_failure)
    )
    stack.callback(closing.cancel)
    try:
        # The embedded database can lock up when indexes are made of what is being written to.
        await app[STORE].prepare(None if embedded else COMMAND_TIMEOUT)
        await app[HEALTH].database_answers()
        if app[HEALTH].processes.refusal is not None:
            raise SettingsError(app[HEALTH].processes.refusal)
    except StoreUnavailableError as error:
        # Serving 503 and coming back by itself is better than a restart loop.
        app[OUTAGES].failed(error, requests=0)
    site, shared = await _start_site(runner, settings)
    host, port = runner.addresses[0][:2]
    if not settings.enforce:
        log.warning("the limit is only counted, not enforced: ENFORCE is 0")
    if settings.listener_dir is not None and settings.prometheus_multiproc_dir is None:
        log.warning("metrics are of one process of several: set PROMETHEUS_MULTIPROC_DIR")
    if not _only_this_machine(runner):
        if not settings.gateway_tokens and not settings.operator_tokens:
            log.warning("anybody may send any session: set GATEWAY_TOKEN", extra={"host": host})
        if settings.digest_key is None:
            log.warning(
                "session ids can be guessed from a copy of the database: set DIGEST_KEY",
                extra={"host": host},
            )

    async def take_leave() -> None:
        log.info("stopping")
        app[HEALTH].draining = True
        if shared is not None:
            await shared.leave(site)
        await drain.until_idle(server, settings.drain_seconds, hurry)

    stack.push_async_callback(take_leave)
    # What is there now stays. Collections that walk it again and again cost a start a fifth of its
    # time, and are the longest waits: bench/README.md.
    gc.collect()
    gc.freeze()
    sick = [end_if_sick(app[HEALTH])] if embedded else []
    watching = asyncio.gather(announce_ready(app[HEALTH], settings), *sick)
    stack.callback(watching.cancel)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", watching


async def _start_site(
    runner: web.BaseRunner, settings: Settings
) -> tuple[web.BaseSite, SharedListener | None]:
    host, port, directory = settings.host, settings.port, settings.listener_dir
    shared: SharedListener | None = None
    try:
        if directory is None:
            site: web.BaseSite = web.TCPSite(runner, host, port, backlog=ACCEPTED_AT_ONCE)
        else:
            shared = await asyncio.to_thread(shared_listener, directory, host, port)
            shared.answer(asyncio.get_running_loop())
            site = web.SockSite(runner, shared.listener, backlog=ACCEPTED_AT_ONCE)
        await site.start()
        let_wait(site, BACKLOG)
    except OSError as error:
        raise _cannot_serve(settings, error) from None
    return site, shared
