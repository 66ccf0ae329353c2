"""Processes on one port take over from each other without losing a request."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import stat
import sys
import time
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from stream_service.api.health import HEALTH, Health
from stream_service.app import create_app
from stream_service.process import listener
from stream_service.process.listener import SharedListener, shared_listener
from stream_service.process.readiness import announce_ready
from stream_service.settings import Settings, SettingsError
from stream_service.streams import StoreUnavailableError
from tests.support.processes import free_port

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from stream_service.store import MongoStore


NO_DATABASE = "mongodb://127.0.0.1:9/?directConnection=true"


@dataclass
class Serving:
    """A process of the service. What it logs is read all the time, or it would wait for that."""

    process: Process
    seen: defaultdict[str, asyncio.Event] = field(
        default_factory=lambda: defaultdict(asyncio.Event)
    )

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.seen[json.loads(line)["event"]].set()

    async def logged(self, event: str) -> None:
        await asyncio.wait_for(self.seen[event].wait(), 30)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def serving(port: int, **environment: str) -> AsyncIterator[Serving]:
    """A process that answers /health/live, for which it needs no database."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_service"),
        env=os.environ | {"PORT": str(port), "MONGO_URL": NO_DATABASE} | environment,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=[int(fd) for name, fd in environment.items() if name == "NODE_CHANNEL_FD"],
    )
    service = Serving(process)
    reading = asyncio.create_task(service.read_log())
    try:
        await service.logged("serving")
        yield service
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def live(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Ask /health/live; returns the head of the answer."""
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(15) == b'{"status":"UP"}'
    return head.decode()


async def until_refused(port: int) -> None:
    async with asyncio.timeout(30):
        with suppress(ConnectionRefusedError):
            while True:
                async with connected(port):
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def share(directory: Path, port: int) -> SharedListener:
    shared = shared_listener(directory, "127.0.0.1", port)
    shared.answer(asyncio.get_running_loop())
    return shared


async def test_a_connection_that_waits_outlives_the_process_that_bound_the_port(
    tmp_path: Path,
) -> None:
    loop = asyncio.get_running_loop()
    first = share(tmp_path, 0)
    address = first.listener.getsockname()
    second = await asyncio.to_thread(shared_listener, tmp_path, "127.0.0.1", 0)
    assert second.listener.getsockname() == address
    with socket.create_connection(address) as waiting:
        waiting.sendall(b"still here")
        first.close(loop)
        accepted, _ = second.listener.accept()
        with accepted:
            assert accepted.recv(100) == b"still here"
    second.close(loop)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_of_many_that_start_at_once_one_binds_and_the_others_get_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    create_server = socket.create_server

    def create_server_slowly(*arguments: Any, **options: Any) -> socket.socket:
        time.sleep(0.2)  # So that the others are there before the first is done.
        return create_server(*arguments, **options)

    monkeypatch.setattr(socket, "create_server", create_server_slowly)

    async def start() -> SharedListener:
        shared = await asyncio.to_thread(shared_listener, tmp_path, "127.0.0.1", port)
        shared.answer(asyncio.get_running_loop())
        return shared

    started = await asyncio.gather(*(start() for _ in range(8)))
    inodes = {os.fstat(shared.listener.fileno()).st_ino for shared in started}
    for shared in started:
        shared.close(asyncio.get_running_loop())
    assert len(inodes) == 1


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_that_was_just_accepted_is_served_and_one_that_was_not_stays(
    tmp_path: Path, turns: int
) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response({"status": "UP"}, dumps=lambda _: '{"status":"UP"}')

    shared = share(tmp_path, 0)
    other = await asyncio.to_thread(shared_listener, tmp_path, "127.0.0.1", 0)
    other.listener.settimeout(0)
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.SockSite(runner, shared.listener)
    await site.start()
    with socket.create_connection(other.listener.getsockname()) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await shared.leave(site)
        try:
            waiting, _ = other.listener.accept()
        except BlockingIOError:
            reader, writer = await asyncio.open_connection(sock=client.dup())
            await live(reader, writer)
            writer.close()
            await writer.wait_closed()
            accepted = True
        else:
            waiting.close()
            accepted = False
    # In both cases nothing is lost; this is to know that both were seen.
    assert accepted == (turns > 1)
    other.close(asyncio.get_running_loop())
    await runner.cleanup()


async def test_what_a_killed_process_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    share(tmp_path, 0).close(loop)
    assert (tmp_path / "127.0.0.1-0.sock").exists()
    again = share(tmp_path, 0)
    again.close(loop)


async def test_a_process_that_asks_one_that_is_just_stopping_binds_the_port_itself(
    tmp_path: Path,
) -> None:
    port = free_port()
    stopping = shared_listener(tmp_path, "127.0.0.1", port)
    asking = asyncio.create_task(asyncio.to_thread(shared_listener, tmp_path, "127.0.0.1", port))
    await asyncio.to_thread(select.select, [stopping.door], [], [], 30)
    stopping.close(asyncio.get_running_loop())
    bound = await asking
    assert bound.listener.getsockname() == ("127.0.0.1", port)
    bound.close(asyncio.get_running_loop())


async def test_a_process_that_holds_the_socket_and_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "ANSWER_SECONDS", 0.2)
    hung = shared_listener(tmp_path, "127.0.0.1", 0)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(shared_listener, tmp_path, "127.0.0.1", 0)
    hung.close(asyncio.get_running_loop())


async def test_nobody_else_can_ask_for_the_socket(tmp_path: Path) -> None:
    shared = share(tmp_path / "made", 0)
    shared.close(asyncio.get_running_loop())
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701, 0o1777])
def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "made"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(PermissionError, match=f"others may enter it: chmod 700 {directory}"):
        shared_listener(directory, "127.0.0.1", 0)
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        shared_listener(tmp_path, "127.0.0.1", 0)


async def test_a_directory_that_cannot_be_used_ends_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_service"),
        env=os.environ
        | {"PORT": "0", "MONGO_URL": NO_DATABASE, "LISTENER_DIR": str(tmp_path / "file")},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    line = f"stream-service: LISTENER_DIR {tmp_path}/file: is not a directory"
    assert errors.decode().splitlines()[-1] == line


async def test_restarts_of_processes_that_share_a_socket_lose_no_fresh_connection(
    tmp_path: Path,
) -> None:
    port, over = free_port(), asyncio.Event()
    environment = {"LISTENER_DIR": str(tmp_path), "DRAIN_SECONDS": "5"}

    async def ask() -> int:
        answered = 0
        while not over.is_set():
            async with asyncio.timeout(20), connected(port) as connection:
                await live(*connection)
                answered += 1
        return answered

    async with serving(port, **environment) as stays:
        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for _ in range(3):
            async with serving(port, **environment) as restarted:
                restarted.stop()
                assert await restarted.ended() == 0
        over.set()
        assert min(await asyncio.gather(*asking)) > 0
        stays.stop()
        assert await stays.ended() == 0


async def test_a_client_on_an_open_connection_is_answered_and_told_to_close(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with (
        serving(port, LISTENER_DIR=str(tmp_path), DRAIN_SECONDS="300") as service,
        connected(port) as connection,
    ):
        assert "Connection: close" not in await live(*connection)
        service.stop()
        await until_refused(port)
        assert "Connection: close" in await live(*connection)
        # All are closed, so the drain is over long before its time.
        assert await service.ended() == 0


async def test_a_process_that_shares_its_port_but_not_its_metrics_says_so(tmp_path: Path) -> None:
    port, shared = free_port(), str(tmp_path)
    alone = "metrics are of one process of several: set PROMETHEUS_MULTIPROC_DIR"
    async with serving(port, LISTENER_DIR=shared) as service:
        assert service.seen[alone].is_set()
    async with serving(port, LISTENER_DIR=shared, PROMETHEUS_MULTIPROC_DIR=shared) as service:
        assert not service.seen[alone].is_set()


async def test_a_second_signal_cuts_the_drain_short(tmp_path: Path) -> None:
    port = free_port()
    async with (
        serving(port, LISTENER_DIR=str(tmp_path), DRAIN_SECONDS="300") as service,
        connected(port) as connection,
    ):
        await live(*connection)
        service.stop()
        await service.logged("stopping")
        service.stop()
        assert await service.ended() == 0


async def test_a_process_whose_pm2_is_gone_drains_and_ends() -> None:
    port = free_port()
    pm2, channel = socket.socketpair()
    with pm2, channel:
        async with (
            serving(
                port,
                NODE_CHANNEL_FD=str(channel.fileno()),
                DRAIN_SECONDS="300",
            ) as service,
            connected(port) as connection,
        ):
            channel.close()
            assert "Connection: close" not in await live(*connection)
            pm2.sendall(b"a message is no end\n")
            assert "Connection: close" not in await live(*connection)
            pm2.close()
            await service.logged("stopping")
            assert "Connection: close" in await live(*connection)
            assert await service.ended() == 0


async def test_a_process_alone_on_its_port_goes_on_accepting_while_it_drains() -> None:
    port = free_port()
    async with (
        serving(port, DRAIN_SECONDS="300") as service,
        connected(port) as open_connection,
    ):
        await live(*open_connection)
        service.stop()
        await service.logged("stopping")
        async with connected(port) as fresh:
            assert "Connection: close" in await live(*fresh)
        assert "Connection: close" in await live(*open_connection)
        assert await service.ended() == 0


@pytest.fixture
def health(double_store: MongoStore, monkeypatch: pytest.MonkeyPatch) -> Health:
    """Of a process whose store is away when it is looked at for the first two times."""
    monkeypatch.setattr("stream_service.process.readiness.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("stream_service.api.health.CHECK_SECONDS", 0)
    clock, looks = double_store.clock, iter(range(100))

    async def comes_up() -> datetime | None:
        if next(looks) < 2:
            raise StoreUnavailableError
        return await clock()

    monkeypatch.setattr(double_store, "clock", comes_up)
    return create_app(Settings(), store=double_store)[HEALTH]


async def test_pm2_is_told_only_when_the_store_answers(health: Health) -> None:
    reading, writing = os.pipe()
    try:
        await announce_ready(health, Settings(node_channel_fd=writing))
        assert os.read(reading, 100) == b'"ready"\n'
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told_when_the_store_answers(
    health: Health, tmp_path: Path, *, abstract: bool
) -> None:
    path = f"@stream-service-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path.replace("@", "\0"))
        systemd.settimeout(0)
        await announce_ready(health, Settings(notify_socket=path))
        assert systemd.recv(100) == b"READY=1"


async def test_a_parent_that_is_gone_is_logged_and_harms_nothing(
    health: Health, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await announce_ready(health, Settings(notify_socket=str(tmp_path / "gone")))
    assert "readiness could not be reported" in caplog.messages


def test_the_settings_of_a_reload_are_read_and_checked() -> None:
    settings = Settings.from_environment(
        {"LISTENER_DIR": "run", "DRAIN_SECONDS": "5", "NODE_CHANNEL_FD": "3"}
    )
    assert str(settings.listener_dir) == "run"
    assert settings.drain_seconds == 5
    assert settings.node_channel_fd == 3
    with pytest.raises(SettingsError, match="DRAIN_SECONDS"):
        Settings.from_environment({"DRAIN_SECONDS": "soon"})
