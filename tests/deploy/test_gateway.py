"""deploy/nginx-gateway.conf in a real nginx, in front of real services, with a login behind it."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from demo.gateway import configure
from demo.login import login_app
from tests.support.playback import write_key
from tests.support.processes import PATIENCE_SECONDS, Service, free_port, listening
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

ORIGIN = "https://www.example.com"
LIMIT = 3
TOKEN = secrets.token_urlsafe(24)


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
        return self.ask("POST", "/streams", login=login, headers=headers)


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


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, mongo_url: str) -> Iterator[Gateway]:
    """The gateway, over two processes of the service on one shared socket."""
    folder = tmp_path_factory.mktemp("gateway")
    key = write_key(folder / "playback.pem")
    film = folder / "film"
    film.mkdir()
    (film / "film.m3u8").write_text("#EXTM3U\n")
    (film / "1.m4s").write_bytes(bytes(1000))
    service_port, port, h2_port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        run = stack.enter_context(background_loop())
        runner = web.AppRunner(login_app({"two-streams": 2}), access_log=None)
        login_port = run(listen(runner))
        stack.callback(lambda: run(runner.cleanup()))
        host = urlsplit(mongo_url).netloc.rpartition("@")[2]
        database = Proxy(int(host.rpartition(":")[2]))
        run(database.__aenter__())
        stack.callback(lambda: run(database.__aexit__()))

        def start_service() -> Service:
            service = stack.enter_context(
                Service(
                    PORT=str(service_port),
                    MONGO_URL=mongo_url.replace(host, f"127.0.0.1:{database.port}"),
                    MONGO_DB="stream_service_test_gateway",
                    GATEWAY_TOKEN=TOKEN,
                    STREAM_LIMIT=str(LIMIT),
                    STREAM_LIMIT_HEADER="X-Stream-Limit",
                    STREAM_TTL_SECONDS="600",
                    PLAYBACK_KEYS=str(key),
                    LISTENER_DIR=str(folder / "run"),
                    DRAIN_SECONDS="5",
                )
            )
            assert service.url
            return service

        services = [start_service(), start_service()]
        command = configure(
            folder / "nginx",
            listen=f"127.0.0.1:{port}; listen 127.0.0.1:{h2_port} http2",
            service_port=service_port,
            login_port=login_port,
            token=TOKEN,
            film_root=folder,
            pages=folder / "pages",
            origin=ORIGIN,
        )
        nginx = stack.enter_context(listening(port, *command, folder=folder))
        yield Gateway(port, h2_port, nginx, services, folder, start_service, run, database)


# What a viewer may ask for, and what comes back with and without a login.
ROUTES = [
    ("GET", "/watch", 200, 401),
    ("POST", "/streams", 201, 401),
    ("GET", "/streams", 200, 401),
    ("DELETE", "/streams", 200, 401),
    ("GET", "/streams/0-AAAAAAAAAAAAAAAAAAAAAA", 404, 401),
    ("POST", "/streams/0-AAAAAAAAAAAAAAAAAAAAAA/heartbeat", 404, 401),
    ("POST", "/streams/0-AAAAAAAAAAAAAAAAAAAAAA/stop", 404, 401),
    ("DELETE", "/streams/0-AAAAAAAAAAAAAAAAAAAAAA", 404, 401),
    ("GET", "/film/film.m3u8", 401, 401),
    ("GET", "/client.js", 200, 200),
    ("GET", "/.well-known/jwks.json", 200, 200),
    # Nobody's, but the operator's and the gateway's own.
    *(
        ("GET", path, 404, 404)
        for path in (
            *("/metrics", "/console", "/console/state", "/docs", "/openapi.json", "/health"),
            *("/health/live", "/static/console.js", "/playback/check", "/_login", "/_playback"),
            *("/by_lease", "/film", "/film/../gateway.sock", "/streams/"),
        )
    ),
]


@pytest.mark.parametrize(("method", "path", "logged_in", "nobody"), ROUTES)
def test_viewers_reach_their_routes_after_a_login_and_no_other_route_ever(
    gateway: Gateway, method: str, path: str, logged_in: int, nobody: int
) -> None:
    assert gateway.ask(method, path).status == nobody
    assert gateway.ask(method, path, login="made-up").status == nobody
    assert gateway.ask(method, path, login=gateway.login()).status == logged_in


SPOOFED = [
    {"Session-Id": "household:another"},
    {"session-id": "household:another"},
    {"Session_Id": "household:another"},
    {"Account": "household:another"},
    {"X-Stream-Limit": "100"},
    {"Account-Limit": "100"},
    {"Authorization": "Bearer made-up"},
    {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1", "X-Real-IP": "10.0.0.1"},
    {"X-Original-URI": "/film/?playback_token=made-up", "Playback-Token": "made-up"},
    {"X-Original-URL": "/metrics", "X-Rewrite-URL": "/metrics"},
    {"Connection": "close, Session-Id"},
    {"Content-Encoding": "gzip"},
]


@pytest.mark.parametrize("spoofed", SPOOFED, ids=[", ".join(one) for one in SPOOFED])
def test_no_header_of_a_client_changes_who_pays_or_how_much(
    gateway: Gateway, spoofed: dict[str, str]
) -> None:
    login = gateway.login()
    statuses = [gateway.start(login, **spoofed).status for _ in range(LIMIT + 2)]
    assert statuses == [201] * LIMIT + [409] * 2
    playing = gateway.ask("GET", "/streams", login=login)
    assert playing.body["limit"] == LIMIT
    # The account is nobody's business, not even the viewer's.
    assert "Session-Id" not in playing.headers


def test_the_login_decides_how_many_streams_an_account_may_have(gateway: Gateway) -> None:
    login = gateway.login("two-streams")
    gateway.ask("DELETE", "/streams", login=login)
    assert [gateway.start(login).status for _ in range(3)] == [201, 201, 409]


def test_the_gateways_token_is_told_to_nobody(gateway: Gateway) -> None:
    login = gateway.login()
    for path in ("/watch", "/streams", "/client.js", "/film/film.m3u8", "/metrics"):
        answer = gateway.ask("GET", path, login=login)
        assert TOKEN not in f"{answer.headers} {answer.body}"
    assert (gateway.folder / "nginx" / "token.conf").stat().st_mode & 0o077 == 0


def test_pages_of_a_named_origin_may_ask_with_cookies_and_all_others_may_not(
    gateway: Gateway,
) -> None:
    login = gateway.login()
    preflight = {"Access-Control-Request-Method": "POST"}
    for path in ("/streams", "/streams/0-AAAAAAAAAAAAAAAAAAAAAA/heartbeat", "/film/1.m4s"):
        named = gateway.ask("OPTIONS", path, headers={"Origin": ORIGIN, **preflight})
        assert named.status == 204
        assert named.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert named.headers["Access-Control-Allow-Credentials"] == "true"
        allowed = named.headers["Access-Control-Allow-Headers"]
        for header in ("Content-Type", "Idempotency-Key", "Playback-Token"):
            assert header in allowed
        other = gateway.ask("OPTIONS", path, headers={"Origin": "https://evil.test", **preflight})
        assert "Access-Control-Allow-Origin" not in other.headers
        assert "Access-Control-Allow-Credentials" not in other.headers
    started = gateway.start(login, Origin=ORIGIN)
    assert started.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert started.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Origin" not in gateway.start(login, Origin="null").headers
    refused = gateway.ask("GET", "/streams", headers={"Origin": ORIGIN})
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, ORIGIN)


def test_an_account_that_asks_too_often_slows_nobody_else_down(gateway: Gateway) -> None:
    greedy, other = gateway.login(), gateway.login()
    statuses = [gateway.start(greedy).status for _ in range(60)]
    assert statuses.count(201) == LIMIT
    assert 429 in statuses
    assert gateway.start(other).status == 201
    # Heartbeats and lists have a budget of their own: what plays goes on.
    assert gateway.ask("GET", "/streams", login=greedy).status == 200


def film(gateway: Gateway, login: str, token: str | None, path: str = "/film/1.m4s") -> int:
    headers = {} if token is None else {"Playback-Token": token}
    return gateway.ask("GET", path, login=login, headers=headers).status


def until(wanted: int, asked: Any) -> float:
    """Ask until the status is the wanted one; returns how many seconds that took."""
    began = time.monotonic()
    while asked() != wanted:
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.05)
    return time.monotonic() - began


def test_a_segment_is_sent_while_its_stream_is_active_and_not_afterwards(gateway: Gateway) -> None:
    login = gateway.login()
    stream = gateway.start(login).body
    token = stream["playback_token"]
    assert film(gateway, login, token) == 200
    assert film(gateway, login, token, f"/film/1.m4s?playback_token={token}") == 200
    assert film(gateway, login, None, f"/film/1.m4s?a=b&playback_token={token}") == 200
    # What was found for one token is never used for another, nor for none.
    assert film(gateway, login, None) == 401
    assert film(gateway, login, None, "/film/1.m4s?playback_token=made-up") == 401
    assert film(gateway, login, token[:-2] + "AA") == 401
    gateway.ask("DELETE", f"/streams/{stream['stream_id']}", login=login)
    took = until(401, lambda: film(gateway, login, token))
    print(f"\n  a stopped stream's segments were refused after {took:.2f} s")


def test_a_replaced_stream_gets_no_further_segment(gateway: Gateway) -> None:
    login = gateway.login()
    streams = [gateway.start(login).body for _ in range(LIMIT)]
    assert film(gateway, login, streams[0]["playback_token"]) == 200
    replacing = gateway.ask(
        "POST",
        "/streams",
        login=login,
        headers={"Content-Type": "application/json"},
        body=b'{"replace": "oldest"}',
    )
    assert replacing.status == 201
    until(401, lambda: film(gateway, login, streams[0]["playback_token"]))
    assert film(gateway, login, replacing.body["playback_token"]) == 200
    assert film(gateway, login, streams[1]["playback_token"]) == 200


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_both_versions_of_http_are_served_alike(gateway: Gateway, version: str) -> None:
    login = gateway.login()
    port = gateway.h2_port if "2" in version else gateway.port
    spoofed = ["-H", "Session-Id: household:another", "-H", "X-Stream-Limit: 100"]
    command = ["curl", "--silent", "--show-error", version, "-H", f"Cookie: login={login}"]
    command += ["-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    codes = [
        subprocess.run(
            [*command, *spoofed, "-X", "POST", f"http://127.0.0.1:{port}/streams"],
            check=True, capture_output=True, text=True,
        ).stdout
        for _ in range(LIMIT + 1)
    ]  # fmt: skip
    number = "2" if "2" in version else "1.1"
    assert codes == [f"{number} 201"] * LIMIT + [f"{number} 409"]


def test_slow_clients_keep_nobody_waiting(gateway: Gateway) -> None:
    login = gateway.login()
    slow = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(100)]
    try:
        for number, connection in enumerate(slow):
            head = b"POST /streams HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n"
            connection.sendall(head if number % 2 else head + b"\r\n{")
        assert gateway.start(login).status == 201
        assert gateway.ask("POST", "/streams", login=login, body=b" " * 20_000).status == 413
    finally:
        for connection in slow:
            connection.close()


async def steady_load(gateway: Gateway, login: str, over: asyncio.Event) -> list[str]:
    """Ask for the list on a connection of its own, again and again; returns what was lost."""
    lost: list[str] = []
    url = f"http://127.0.0.1:{gateway.port}/streams"
    sent = 0
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        while not over.is_set():
            sent += 1
            try:
                async with session.get(url, headers={"Cookie": f"login={login}"}) as answer:
                    await answer.read()
                    if answer.status != 200:
                        lost.append(str(answer.status))
            except aiohttp.ClientError as error:
                lost.append(type(error).__name__)
            # Below the account's rate.
            await asyncio.sleep(0.1)
    assert sent > 5
    return lost


async def under_load(gateway: Gateway, disturbance: Any) -> list[str]:
    over = asyncio.Event()
    logins = [await asyncio.to_thread(gateway.login) for _ in range(8)]
    loads = [asyncio.create_task(steady_load(gateway, login, over)) for login in logins]
    await asyncio.sleep(1)
    for _ in range(3):
        await asyncio.to_thread(disturbance)
        await asyncio.sleep(1)
    over.set()
    return [one for lost in await asyncio.gather(*loads) for one in lost]


async def test_a_reload_of_nginx_loses_no_request(gateway: Gateway) -> None:
    lost = await under_load(gateway, lambda: gateway.nginx.send_signal(signal.SIGHUP))
    assert lost == []


@pytest.mark.timeout(300)
async def test_a_reload_of_the_service_loses_no_request(gateway: Gateway) -> None:
    def reload() -> None:
        gateway.services.append(gateway.start_service())
        oldest = gateway.services.pop(0)
        oldest.signal(signal.SIGTERM)
        assert oldest.status() == 0

    assert await under_load(gateway, reload) == []


def test_a_database_that_gives_no_answer_ends_no_film(gateway: Gateway) -> None:
    login = gateway.login()
    token = gateway.start(login).body["playback_token"]

    async def hold() -> None:
        gateway.database.hold()

    async def release() -> None:
        gateway.database.release()

    gateway.run(hold())
    try:
        # Longer than an answer is used again.
        time.sleep(1.1)
        assert film(gateway, login, token) == 200
        assert film(gateway, login, token[:-2] + "AA") == 401
        assert gateway.start(login).status == 503
    finally:
        gateway.run(release())


def test_a_login_that_does_not_answer_is_told_as_such(gateway: Gateway) -> None:
    config = gateway.folder / "nginx" / "nginx.conf"
    text = config.read_text()
    config.write_text(re.sub(r"(upstream stream_login \{\s+server 127.0.0.1:)\d+", r"\g<1>9", text))
    try:
        gateway.nginx.send_signal(signal.SIGHUP)
        until(503, lambda: gateway.ask("GET", "/streams").status)
        answer = gateway.ask("GET", "/streams")
        assert answer.headers["Retry-After"] == "2"
        assert answer.headers["Content-Type"] == "application/problem+json"
    finally:
        config.write_text(text)
        gateway.nginx.send_signal(signal.SIGHUP)
        until(401, lambda: gateway.ask("GET", "/streams").status)
