"""deploy/nginx-gateway.conf in a real nginx, with a login, services and a database behind it."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import secrets
import signal
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDict

from demo.gateway import configure
from demo.login import login_app
from tests.support.playback import write_key
from tests.support.processes import PATIENCE_SECONDS, Service, free_port, listening
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

ORIGIN = "https://www.example.com"
LIMIT = 3
TOKEN = secrets.token_urlsafe(24)
PLAN_OF_TWO = "two-streams"
"""A household whose plan has two streams."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: CIMultiDict[str]
    body: Any

    def __str__(self) -> str:
        return f"{self.status} {self.body}"


@dataclass
class Gateway:
    """nginx, and what is behind it."""

    port: int
    h2_port: int
    nginx: subprocess.Popen[bytes]
    services: list[Service]
    folder: Path
    start_service: Callable[[], Service]
    run: Callable[[Coroutine[Any, Any, None]], None]
    database: Proxy

    def ask(
        self,
        method: str,
        path: str,
        *,
        login: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One request on a connection of its own; as a viewer who has logged in, if told so."""
        sent = dict(headers or {})
        if login is not None:
            sent["Cookie"] = f"login={login}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(method, path)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None or method == "POST":
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            response = connection.getresponse()
            raw = response.read()
            received = CIMultiDict(response.getheaders())
            is_json = "json" in received.get("Content-Type", "")
            return Answer(response.status, received, json.loads(raw) if raw and is_json else raw)
        finally:
            connection.close()

    def login(self, household: str | None = None) -> str:
        """Log in as a household of its own; returns the cookie."""
        name = household or f"house-{secrets.token_hex(4)}"
        answer = self.ask("POST", "/login", body=name.encode())
        assert answer.status == 204, answer
        [cookie] = re.findall(r"login=([^;]+)", answer.headers["Set-Cookie"])
        return str(cookie)

    def start(self, login: str, **headers: str) -> Answer:
        """Start a stream."""
        return self.ask("POST", "/streams", login=login, headers=headers)

    def reload_service(self) -> None:
        """Start one more process of the service, then end the oldest."""
        self.services.append(self.start_service())
        oldest = self.services.pop(0)
        oldest.signal(signal.SIGTERM)
        assert oldest.status() == 0

    def hold_database(self) -> None:
        """Let nothing pass between the service and its database until `release_database`."""
        self.run(_call(self.database.hold))

    def release_database(self) -> None:
        """Let everything pass again."""
        self.run(_call(self.database.release))


async def _call(function: Callable[[], None]) -> None:
    function()


@contextmanager
def background_loop() -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """A loop in a thread of its own; what is yielded runs a coroutine there and waits for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_SECONDS)
        loop.close()


async def listen(runner: web.AppRunner) -> int:
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


@contextmanager
def running_gateway(
    folder: Path, mongo_url: str, *, lease_seconds: int, services: int, pages: Path | None = None
) -> Iterator[Gateway]:
    """Run it, with processes of the service on one shared socket.

    Args:
        folder: For everything; the film is in its folder `film`.
        mongo_url: The database, which is reached by a proxy that can hold it.
        lease_seconds: The lease.
        services: How many processes.
        pages: Served at `/`.
    """
    key = write_key(folder / "playback.pem")
    service_port, port, h2_port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        run = stack.enter_context(background_loop())
        runner = web.AppRunner(login_app({PLAN_OF_TWO: 2}), access_log=None)
        login_port = run(listen(runner))
        stack.callback(lambda: run(runner.cleanup()))
        host = urlsplit(mongo_url).netloc.rpartition("@")[2]
        database = Proxy(int(host.rpartition(":")[2]))
        run(database.__aenter__())
        stack.callback(lambda: run(database.__aexit__()))

        name = f"stream_service_test_{secrets.token_hex(6)}"

        def start_service() -> Service:
            service = stack.enter_context(
                Service(
                    PORT=str(service_port),
                    MONGO_URL=mongo_url.replace(host, f"127.0.0.1:{database.port}"),
                    MONGO_DB=name,
                    GATEWAY_TOKEN=TOKEN,
                    STREAM_LIMIT=str(LIMIT),
                    STREAM_LIMIT_HEADER="X-Stream-Limit",
                    STREAM_TTL_SECONDS=str(lease_seconds),
                    PLAYBACK_KEYS=str(key),
                    LISTENER_DIR=str(folder / "run"),
                    DRAIN_SECONDS="5",
                )
            )
            assert service.url
            return service

        started = [start_service() for _ in range(services)]
        command = configure(
            folder / "nginx",
            listen=f"127.0.0.1:{port}; listen 127.0.0.1:{h2_port} http2",
            service_port=service_port,
            login_port=login_port,
            token=TOKEN,
            film_root=folder,
            pages=pages or folder / "pages",
            origin=ORIGIN,
            lease_seconds=lease_seconds,
        )
        nginx = stack.enter_context(listening(port, *command, folder=folder))
        yield Gateway(port, h2_port, nginx, started, folder, start_service, run, database)
