"""deploy/nginx-film-log.conf in a real nginx, and the reader that renews by what it served."""

from __future__ import annotations

import getpass
import http.client
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from demo.gateway import nginx
from tests.support.playback import write_key
from tests.support.processes import (
    PATIENCE_SECONDS,
    ROOT,
    Service,
    end,
    environment,
    free_port,
    listening,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

LEASE_SECONDS = 5
TOKEN = secrets.token_urlsafe(24)
MAIN = """\
daemon off; pid nginx.pid; error_log error.log info; {user}
events {{ }}
http {{
    access_log access.log;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    {site}
}}
"""
SEGMENT: tuple[str, str, dict[str, str], int] = ("GET", "1.m4s", {}, 200)
FETCHES = {
    "plays": SEGMENT,
    "seeks": ("GET", "1.m4s", {"Range": "bytes=0-1"}, 206),
    "looks": ("HEAD", "1.m4s", {}, 200),
    "reloads": ("GET", "film.m3u8", {}, 200),
    "misses": ("GET", "2.m4s", {}, 404),
    "leaves": SEGMENT,
}


def _configure(folder: Path, port: int) -> list[str]:
    (folder / "film").mkdir()
    (folder / "film" / "film.m3u8").write_text("#EXTM3U\n")
    (folder / "film" / "1.m4s").write_bytes(bytes(1000))
    site = (ROOT / "deploy" / "nginx-film-log.conf").read_text()
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("root /srv;", f"root {folder};"),
        ("/run/stream-log/nginx.sock", str(folder / "nginx.sock")),
    ):
        assert old in site
        site = site.replace(old, new)
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(MAIN.format(user=user, site=site))
    return [nginx() or "nginx", "-e", "error.log", "-p", str(folder), "-c", "nginx.conf"]


@contextmanager
def _reading(url: str, folder: Path) -> Iterator[None]:
    command = ("-m", "examples.log_reader", "--url", url, "--socket", str(folder / "nginx.sock"))
    with (folder / "reader.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environment({"GATEWAY_TOKEN": TOKEN}),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _until((folder / "nginx.sock").exists)
        yield
    finally:
        end(process)
        (folder / "nginx.sock").unlink()


def _until(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_what_is_served_renews_and_nothing_else_does(
    tmp_path_factory: pytest.TempPathFactory, mongo_url: str
) -> None:
    folder, port = tmp_path_factory.mktemp("log"), free_port()
    with (
        Service(
            MONGO_URL=mongo_url,
            MONGO_DB=f"stream_service_test_{secrets.token_hex(6)}",
            GATEWAY_TOKEN=TOKEN,
            STREAM_TTL_SECONDS=str(LEASE_SECONDS),
            PLAYBACK_KEYS=str(write_key(folder / "playback.pem")),
        ) as service,
        listening(port, *_configure(folder, port), folder=folder),
    ):
        gateway = {"Authorization": f"Bearer {TOKEN}"}
        tokens: dict[str, str] = {}

        def expires(name: str) -> str | None:
            """When the stream's lease ends, or None if it has ended."""
            status, told = service.ask("GET", "/streams", {**gateway, "Session-Id": name})
            assert status == 200
            return told["streams"][0]["expires_at"] if told["streams"] else None

        def fetch(name: str) -> None:
            method, file, headers, wanted = FETCHES[name]
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
            connection.request(method, f"/film/{tokens[name]}/{file}", headers=headers)
            response = connection.getresponse()
            response.read()
            connection.close()
            assert response.status == wanted

        def fetch_until(wanted: Callable[[], bool]) -> None:
            def all_fetch() -> bool:
                for name in FETCHES.keys() - {"leaves"}:
                    fetch(name)
                return wanted()

            _until(all_fetch)

        with _reading(service.url, folder):
            for name in FETCHES:
                status, told = service.ask("POST", "/streams", {**gateway, "Session-Id": name})
                assert status == 201
                tokens[name] = told["playback_token"]
            fetch("leaves")
            # The others, which are of the same age, run out.
            fetch_until(lambda: not any(map(expires, ("looks", "reloads", "misses", "leaves"))))
            assert expires("plays")
            assert expires("seeks")

        # While nobody reads, the film goes on; and nginx finds the next reader.
        fetch("plays")
        before = expires("plays")
        with _reading(service.url, folder):
            fetch_until(lambda: (expires("plays") or "") > (before or ""))

    assert " renewed, refused: none" in (folder / "reader.log").read_text()
    for file in (file for file in folder.rglob("*") if file.is_file()):
        text = file.read_bytes().decode(errors="replace")
        assert not any(token in text for token in tokens.values()), file
