"""deploy/nginx-gateway.conf in a real nginx, in front of real services, with a login behind it."""

from __future__ import annotations

import asyncio
import http.client
import re
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from demo.gateway import nginx
from tests.support.gateway import LIMIT, ORIGIN, PLAN_OF_TWO, TOKEN, Gateway, running_gateway
from tests.support.processes import PATIENCE_SECONDS, ROOT, free_port, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, mongo_url: str) -> Iterator[Gateway]:
    """The gateway, over two processes of the service."""
    folder = tmp_path_factory.mktemp("gateway")
    film = folder / "film"
    film.mkdir()
    (film / "film.m3u8").write_text("#EXTM3U\n")
    (film / "1.m4s").write_bytes(bytes(1000))
    with running_gateway(folder, mongo_url, lease_seconds=600, services=2) as gateway:
        yield gateway


MADE_UP = f"/streams/0-{'A' * 56}"
"""Of the form of a lease id; nobody has it."""

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
    # By lease id, without a login: this one is not known.
    ("POST", f"{MADE_UP}/heartbeat", 404, 404),
    ("POST", f"{MADE_UP}/stop", 404, 404),
    ("DELETE", MADE_UP, 404, 404),
    ("POST", f"{MADE_UP}A/heartbeat", 404, 401),
    ("POST", f"{MADE_UP[:-1]}/heartbeat", 404, 401),
    ("GET", "/film/film.m3u8", 401, 401),
    ("GET", "/client.js", 200, 200),
    ("GET", "/client.tv.js", 200, 200),
    ("GET", "/.well-known/jwks.json", 200, 200),
    # Nobody's, but the operator's and the gateway's own.
    *(
        ("GET", path, 404, 404)
        for path in (
            *("/metrics", "/console", "/console/state", "/docs", "/openapi.json", "/health"),
            *("/health/live", "/static/console.js", "/playback/check", "/_login", "/_playback"),
            *("/let_in", "/film", "/film/../gateway.sock", "/streams/"),
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


def test_a_heartbeat_and_a_stop_by_lease_id_need_no_login(gateway: Gateway) -> None:
    login = gateway.login()
    stream = gateway.start(login).body
    lease = f"/streams/{stream['lease_id']}"
    for headers in ({}, {"Session-Id": "household:another"}, {"Cookie": "login=made-up"}):
        beaten = gateway.ask("POST", f"{lease}/heartbeat", headers=headers)
        assert beaten.status == 200, beaten
        assert beaten.body["playback_token"]
    # Nothing else is opened by it.
    assert gateway.ask("GET", lease).status in (400, 404)
    assert gateway.ask("POST", f"{lease}/stop").status == 204
    assert gateway.ask("GET", "/streams", login=login).body["active"] == 0
    again = gateway.start(login).body
    assert gateway.ask("DELETE", f"/streams/{again['lease_id']}").status == 204
    assert gateway.ask("GET", "/streams", login=login).body["active"] == 0


def test_the_public_id_of_a_stream_renews_nothing_and_ends_it_after_a_login_alone(
    gateway: Gateway,
) -> None:
    login = gateway.login()
    stream = gateway.start(login).body
    path = f"/streams/{stream['stream_id']}"
    for verb in ("heartbeat", "stop"):
        assert gateway.ask("POST", f"{path}/{verb}").status == 401
    beaten = gateway.ask("POST", f"{path}/heartbeat", login=login)
    assert (beaten.status, beaten.body["type"]) == (
        404,
        "urn:stream-service:problem:stream-not-found",
    )
    assert "lease" in beaten.body["detail"]
    [active] = gateway.ask("GET", "/streams", login=login).body["streams"]
    assert active["expires_at"] == stream["expires_at"]
    assert gateway.ask("POST", f"{path}/stop", login=login).status == 204


async def flood(gateway: Gateway, path: str, requests: int) -> tuple[list[int], float]:
    """Send as many as fast as it goes, from an address of their own; statuses, and seconds."""
    connector = aiohttp.TCPConnector(limit=32, local_addr=("127.0.0.3", 0))
    began = time.monotonic()
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask() -> int:
            async with session.post(f"http://127.0.0.1:{gateway.port}{path}") as answer:
                assert answer.status != 429 or answer.headers["Retry-After"] == "1"
                return answer.status

        statuses = await asyncio.gather(*(ask() for _ in range(requests)))
    return list(statuses), time.monotonic() - began


async def test_what_asks_no_login_is_limited_by_address_and_no_log_has_its_secret(
    gateway: Gateway,
) -> None:
    login = await asyncio.to_thread(gateway.login)
    stream = (await asyncio.to_thread(gateway.start, login)).body
    beat = f"/streams/{stream['lease_id']}/heartbeat"
    token = stream["playback_token"]
    statuses, took = await flood(gateway, beat, 1500)
    print(f"\n  {statuses.count(429)} of 1500 requests in {took:.1f} s were too many")
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 200 + 100 * took + 1
    # Another address has a budget of its own.
    assert (await asyncio.to_thread(gateway.ask, "POST", beat)).status == 200
    assert (
        await asyncio.to_thread(film, gateway, login, None, f"/film/1.m4s?playback_token={token}")
        == 200
    )
    assert (
        await asyncio.to_thread(gateway.ask, "POST", beat.replace("heartbeat", "stop"))
    ).status == 204

    logs = {file.name: file for file in gateway.folder.rglob("*.log")}
    lines = (
        '"POST /streams/{id}/heartbeat" 429',
        '"GET /film/" 200',
        '"POST /streams/{id}/stop" 204',
    )
    for line in lines:
        until(1, lambda line=line: min(1, logs["access.log"].read_text().count(line)))
    assert "error.log" in logs
    for file in (file for file in gateway.folder.rglob("*") if file.is_file()):
        text = file.read_bytes().decode(errors="replace")
        assert stream["lease_id"] not in text, file
        assert file.parent.name == "playback" or token not in text, file


def test_the_logs_before_the_service_alone_have_no_lease_id_either(tmp_path: Path) -> None:
    port, nobody = free_port(), free_port()
    site = (ROOT / "deploy" / "nginx.conf").read_text()
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("server 127.0.0.1:3001;", f"server 127.0.0.1:{nobody};"),
        ("/var/log/nginx/stream-service.log", "access.log"),
    ):
        assert old in site
        site = site.replace(old, new)
    temporary = " ".join(
        f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        "daemon off; pid nginx.pid; error_log error.log warn; events { }\n"
        f"http {{ {temporary}\n{site}\n}}\n"
    )
    command = [nginx() or "nginx", "-e", "error.log", "-p", str(tmp_path), "-c", "nginx.conf"]
    with listening(port, *command, folder=tmp_path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        for path in (
            f"{MADE_UP}/heartbeat",
            f"{MADE_UP}/heartbeat/",
            f"{MADE_UP}/stop",
            "/streams",
        ):
            connection.request("POST", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 502
        connection.close()
    logged = (tmp_path / "access.log").read_text()
    assert '"POST /streams/{id}/heartbeat" 502' in logged
    # Errors are told, but not of these.
    assert "POST /streams HTTP" in (tmp_path / "error.log").read_text()
    for file in tmp_path.glob("*.log"):
        assert "AAAA" not in file.read_text(), file


def test_the_login_decides_how_many_streams_an_account_may_have(gateway: Gateway) -> None:
    login = gateway.login(PLAN_OF_TWO)
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
    for path in ("/streams", f"{MADE_UP}/heartbeat", MADE_UP, "/film/1.m4s"):
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


def tampered(token: str) -> str:
    """The token with another signature. (The last characters are often the same in all of them.)"""
    head, _, signature = token.rpartition(".")
    return f"{head}.{signature[::-1]}"


def until(wanted: int, asked: Any) -> float:
    """Ask until the answer is the wanted one; returns how many seconds that took."""
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
    assert film(gateway, login, tampered(token)) == 401
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
    assert await under_load(gateway, gateway.reload_service) == []


def test_a_database_that_gives_no_answer_ends_no_film(gateway: Gateway) -> None:
    login = gateway.login()
    token = gateway.start(login).body["playback_token"]

    gateway.hold_database()
    try:
        # Longer than an answer is used again.
        time.sleep(1.1)
        assert film(gateway, login, token) == 200
        assert film(gateway, login, tampered(token)) == 401
        assert gateway.start(login).status == 503
    finally:
        gateway.release_database()


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
