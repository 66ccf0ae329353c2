"""Real services, a gateway as a site would have one, and Debian's Chromium."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from aiohttp import ClientSession, web
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

from tests.support import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SCREENSHOTS = Path(__file__).parent.parent.parent / ".e2e"
PLAYER = Path(__file__).with_name("player.html")
COOKIE = "login"
BY_LEASE_ID = re.compile(r"/streams/[0-9]+-[A-Za-z0-9_-]{56}/(heartbeat|stop)")
"""Needs no login: a gateway lets it through."""

# Generous: it is only waited for when something is broken, or when the machine is busy.
expect.set_options(timeout=40_000)

ARGUMENTS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    # Chromium's sandbox does not work for root, as whom CI may run.
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]


class Service:
    """A running service, asked from outside the browser."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.words_take = 0.0
        """Seconds that a stop of a player's takes on its way through the gateway."""

    def ask(self, method: str, path: str, session: str, **how: Any) -> requests.Response:
        headers = {"Session-Id": session}
        return requests.request(method, self.url + path, headers=headers, timeout=10, **how)

    def active(self, session: str) -> list[dict[str, Any]]:
        streams: list[dict[str, Any]] = self.ask("GET", "/streams", session).json()["streams"]
        return streams


@contextmanager
def serving(directory: Path, **environment: str) -> Iterator[Service]:
    """A service on an embedded database; both end with the context."""
    with processes.Service(
        *("--embedded", "--data-dir", str(directory)),
        program=("-m", "stream_service"),
        **environment,
    ) as process:
        yield Service(process.url)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose lease is so long that no test sees it run out."""
    with serving(tmp_path_factory.mktemp("service"), STREAM_TTL_SECONDS="600") as service:
        yield service


@pytest.fixture(scope="session")
def hasty_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a lease of 5 seconds."""
    with serving(tmp_path_factory.mktemp("hasty"), STREAM_TTL_SECONDS="5") as service:
        yield service


@contextmanager
def gateway(service: Service) -> Iterator[str]:
    """A gateway that knows its viewers by a cookie and tells the service their session.

    What a browser says of the session itself is not passed on.
    """
    # In a thread: the browser's library has a loop of its own in this one.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = web.AppRunner(_gateway_app(service), access_log=None, handler_cancellation=True)
    try:
        asyncio.run_coroutine_threadsafe(_listen(runner), loop).result(30)
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _listen(runner: web.AppRunner) -> None:
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()


def _gateway_app(service: Service) -> web.Application:
    async def player(_: web.Request) -> web.Response:
        return web.Response(text=PLAYER.read_text(), content_type="text/html")

    async def login(_: web.Request) -> web.Response:
        return web.Response(text="<h1>Log in</h1>", content_type="text/html")

    async def login_needed(_: web.Request) -> web.Response:
        raise web.HTTPFound("/login")

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    async def preflight(_: web.Request) -> web.Response:
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def passed_on(request: web.Request) -> web.Response:
        viewer = request.cookies.get(COOKIE)
        headers = _those(request.headers, "Content-Type", "Idempotency-Key")
        if BY_LEASE_ID.fullmatch(request.path):
            await asyncio.sleep(service.words_take if request.path.endswith("/stop") else 0)
        elif viewer is None:
            return web.Response(status=HTTPStatus.FORBIDDEN)
        else:
            headers["Session-Id"] = viewer
        async with (
            ClientSession() as client,
            client.request(
                request.method,
                service.url + request.path,
                headers=headers,
                data=await request.read(),
            ) as answer,
        ):
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers=_those(answer.headers, "Content-Type", "Location", "Retry-After"),
            )

    app = web.Application()
    app.on_response_prepare.append(_cross_origin)
    app.add_routes(
        [
            web.get("/player", player),
            web.get("/hang", hang),
            web.get("/login", login),
            web.route("*", "/login-needed/{path:.+}", login_needed),
            web.options("/{path:.+}", preflight),
            web.route("*", "/{path:.+}", passed_on),
        ]
    )
    return app


async def _cross_origin(request: web.Request, response: web.StreamResponse) -> None:
    """What docs/integration.md asks of a gateway that pages of other origins use."""
    if "Origin" in request.headers:
        response.headers.update(
            {
                "Access-Control-Allow-Origin": request.headers["Origin"],
                "Vary": "Origin",
                "Access-Control-Allow-Credentials": "true",
                "Access-Control-Allow-Methods": "POST",
                "Access-Control-Allow-Headers": "Content-Type, Idempotency-Key, X-Player",
                "Access-Control-Expose-Headers": "Retry-After",
                "Access-Control-Max-Age": "7200",
            }
        )


def _those(headers: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


@pytest.fixture(scope="session")
def site(service: Service) -> Iterator[str]:
    """A gateway in front of the service."""
    with gateway(service) as url:
        yield url


@pytest.fixture(scope="session")
def other_site(service: Service) -> Iterator[str]:
    """Another gateway in front of the same service: for a page of `site`, another origin."""
    with gateway(service) as url:
        yield url


@pytest.fixture(scope="session")
def hasty_site(hasty_service: Service) -> Iterator[str]:
    """A gateway in front of the service whose lease is short."""
    with gateway(hasty_service) as url:
        yield url


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """The library that drives the browser."""
    with sync_playwright() as playwright:
        yield playwright


def launch(playwright: Playwright, **how: Any) -> Browser:
    """Debian's Chromium, with an empty profile of its own."""
    program = shutil.which("chromium")
    assert program is not None, "make test-e2e installs Chromium"
    return playwright.chromium.launch(executable_path=program, args=ARGUMENTS, **how)


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """One browser for all tests."""
    browser = launch(playwright)
    yield browser
    browser.close()


class Visit:
    """Pages opened for one test, and what the browser complained of."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.complaints: list[str] = []

    def open(self, url: str, *, viewer: str | None = None, **how: Any) -> Page:
        """Open a page in a fresh profile; as a viewer who has logged in at the gateway."""
        context = self._browser.new_context(**how)
        if viewer is not None:
            origin = "/".join(url.split("/")[:3])
            context.add_cookies([{"name": COOKIE, "value": viewer, "url": origin}])
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def close(self) -> None:
        for context in self._browser.contexts:
            context.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens pages."""
    visit = Visit(browser)
    yield visit
    visit.close()


@pytest.fixture
def screenshot() -> Callable[[Page, str], None]:
    """Keeps a picture in .e2e, to be looked at."""
    SCREENSHOTS.mkdir(exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=not name.startswith("docs-re"))

    return take
