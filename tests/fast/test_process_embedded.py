"""The service with its embedded database, as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from stream_service.process import embedded
from stream_service.process.embedded import EmbeddedError, embedded_database
from tests.support.database import url_of
from tests.support.disks import fill, small_disk
from tests.support.processes import (
    PATIENCE_SECONDS,
    SERVE,
    SERVE_WITHOUT_UVLOOP,
    Service,
    is_running,
)

SESSION = {"Session-Id": "lkjlkjely"}


def _embedded(directory: Path) -> Service:
    return Service("--embedded", "--data-dir", str(directory))


def _curl(*arguments: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--max-time", str(PATIENCE_SECONDS), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _walk(url: str) -> list[str]:
    status = ("--output", os.devnull, "--write-out", "%{http_code}")
    named = ("--header", "Session-Id: lkjlkjely")
    codes = [_curl(*status, f"{url}/watch")]
    return codes + [_curl(*status, *named, f"{url}/watch") for _ in range(4)]


@pytest.mark.parametrize("program", [SERVE, SERVE_WITHOUT_UVLOOP])
def test_it_serves_on_uvloop_and_on_asyncios_own_event_loop_where_that_is_missing(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    with Service("--embedded", "--data-dir", str(tmp_path / "data"), program=program) as service:
        assert _walk(service.url) == ["400", "200", "200", "200", "401"]
        libraries = Path(f"/proc/{service.pid}/maps").read_text()
        assert ("uvloop" in libraries) == (program == SERVE)
        [database] = service.children
        service.signal(signal.SIGTERM)
        assert service.status() == 0
    assert not is_running(database)


def test_the_curl_walk_of_the_first_version_and_its_streams_survive_a_restart(
    tmp_path: Path,
) -> None:
    with _embedded(tmp_path) as service:
        assert _curl(f"{service.url}/health") == '{"status":"UP"}'
        assert _walk(service.url) == ["400", "200", "200", "200", "401"]
        _, before = service.ask("GET", "/streams", SESSION)
        _, other = service.ask("POST", "/streams", {"Session-Id": "another"})
        [database] = service.children
        service.signal(signal.SIGTERM)
        assert service.status() == 0
        assert not is_running(database)
    said = "\n".join(service.output)
    assert f"Serving on {service.url}, streams in {tmp_path}." in said
    assert f"curl -i -H 'Session-Id: me' {service.url}/watch      # 200 3 times, then 401" in said
    assert f"{service.url}/docs " in said
    assert f"{service.url}/console " in said

    with _embedded(tmp_path) as again:
        assert again.ask("GET", "/streams", SESSION) == (200, before)
        assert again.ask("POST", f"/streams/{other['lease_id']}/heartbeat")[0] == 200
        assert again.ask("GET", "/watch", SESSION)[0] == 401
        [database] = again.children

        with _embedded(tmp_path) as third:
            assert third.status() == 1
        assert "Is another one running" in third.log[-1]
        assert again.ask("GET", "/health") == (200, {"status": "UP"})

        again.signal(signal.SIGINT)
        assert again.status() == 0
        assert not is_running(database)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_second_service_on_the_same_port_is_told_of_the_port_not_of_the_directory(
    tmp_path: Path, host: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("--embedded", "--data-dir", str(tmp_path))
        with Service(*arguments, HOST=host, PORT=port) as second:
            assert second.status() == 1
    [line] = second.log
    assert line.startswith(f"stream-service: HOST {host}, PORT {port}: address already in use.")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_ends_first_ends_the_service_which_says_so(tmp_path: Path) -> None:
    with _embedded(tmp_path) as service:
        assert service.url
        [database] = service.children
        os.kill(database, signal.SIGKILL)
        assert service.status() == 1
    [ended] = [line for line in service.events if line["event"] == "embedded database ended"]
    assert ended["level"] == "CRITICAL"


def test_on_a_full_disk_health_is_down_and_the_service_ends_and_says_why(tmp_path: Path) -> None:
    # The database has room to begin.
    with small_disk(tmp_path, "24m") as disk, _embedded(disk) as service:
        service.wait_for(lambda event: event["event"] == "ready")
        fill(disk)
        # The database's journal has some MB left, which others write full.
        [database] = service.children
        command = Path(f"/proc/{database}/cmdline").read_bytes().decode().split("\0")
        url = url_of(int(command[command.index("--port") + 1]))
        with MongoClient[Any](url) as client, contextlib.suppress(OperationFailure):
            while True:
                client.stream_service.processes.insert_one({"blob": os.urandom(400_000)})
        answers = set[int]()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while 503 not in answers:
                answers.add(service.ask("GET", "/health")[0])
                time.sleep(0.05)
        assert service.status() == 1
    assert 503 in answers
    assert "the embedded database answers, but fails every command" in service.log[-1]
    assert "is its disk full?" in service.log[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no PR_SET_PDEATHSIG")
def test_a_service_that_is_killed_takes_a_database_with_it_that_ignores_sigterm(
    tmp_path: Path,
) -> None:
    _stubborn_database(tmp_path)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PID_FILE": str(tmp_path / "pid")}
    arguments = ("--embedded", "--data-dir", str(tmp_path / "data"))
    with Service(*arguments, program=_embedding("stubborn-database"), **variables) as service:
        until_file = time.monotonic() + PATIENCE_SECONDS
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until_file
        ended = os.pidfd_open(int((tmp_path / "pid").read_text()))
        service.signal(signal.SIGKILL)
        try:
            assert select.select([ended], [], [], PATIENCE_SECONDS)[0] == [ended]
        finally:
            os.close(ended)


def test_a_stop_signal_while_the_database_starts_ends_both(tmp_path: Path) -> None:
    with _embedded(tmp_path) as service:
        while not service.children:
            assert service.process.poll() is None
        [database] = service.children
        service.signal(signal.SIGTERM)
        assert service.status() == 0
        assert not is_running(database)
    assert not any("serving" in line for line in service.log)


def test_the_data_directory_and_what_is_in_it_are_the_users_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    with _embedded(data) as service:
        service.wait_for(lambda event: event["event"] == "ready")
        found = [data, *data.rglob("*")]
        assert len(found) > 3
        assert [path for path in found if path.stat().st_mode & 0o077] == []


def _stubborn_database(directory: Path) -> None:
    """Put a program there that gives no answer, and does not end when it is asked to."""
    program = directory / "stubborn-database"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho $$ > \"$PID_FILE\"\nexec sleep 1000\n")
    program.chmod(0o755)


def _embedding(program: str) -> tuple[str, ...]:
    """The command line with another program for a database."""
    code = f"embedded.PROGRAM = {program!r}; sys.exit(__main__.main())"
    imports = "from stream_service import __main__; from stream_service.process import embedded"
    return "-c", f"import sys; {imports}; {code}"


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    arguments = ("--embedded", "--data-dir", str(tmp_path))
    with Service(*arguments, program=_embedding("no-such-database")) as service:
        assert service.status() == 1
    [line] = service.log
    assert "`make run`, which installs it" in line


def test_a_database_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    arguments = ("--embedded", "--data-dir", str(tmp_path))
    with Service(*arguments, program=_embedding("false")) as service:
        assert service.status() == 1
    assert service.log[-1].startswith("stream-service: the embedded database ended at once")
    assert str(tmp_path) in service.log[-1]


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with _embedded(tmp_path / "file" / "data") as service:
        assert service.status() == 1
    [line] = service.log
    assert line.startswith(f"stream-service: --data-dir {tmp_path}/file/data: ")


def test_a_data_directory_that_is_a_file_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with _embedded(tmp_path / "file") as service:
        assert service.status() == 1
    assert service.log == [f"stream-service: --data-dir {tmp_path}/file: is not a directory"]


async def test_a_database_that_gives_no_answer_and_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stubborn_database(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PID_FILE", str(tmp_path / "pid"))
    monkeypatch.setattr(embedded, "PROGRAM", "stubborn-database")
    monkeypatch.setattr(embedded, "START_SECONDS", 1.0)
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.2)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(EmbeddedError, match="gave no answer within 1 s"):
            async with embedded_database(tmp_path / "data"):
                pytest.fail("it has no answer to give")
    assert not is_running(int((tmp_path / "pid").read_text()))
