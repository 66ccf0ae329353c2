"""One listening socket for several processes, which outlives each of them.

With `SO_REUSEPORT` every process has a queue of its own: when it stops, the kernel resets the
connections that wait there. Here the processes pass one socket, and so one queue, on to each other,
as systemd or HAProxy do at a reload: a process that starts asks one that serves for its listening
socket, and binds only if there is none. A process that stops closes its copy, and whoever waits in
the queue is taken by the next. While one process is left, no connection is refused or reset.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterator
    from pathlib import Path

    from aiohttp import web

BACKLOG = 1024
"""How many connections may wait to be accepted."""

ANSWER_SECONDS = 10.0
"""How long a serving process may take to pass its socket on: its event loop does it between
requests."""


@dataclass(frozen=True, slots=True)
class SharedListener:
    """The listening socket, and the Unix socket at which it is asked for.

    Attributes:
        listener: Listens on HOST and PORT, shared with the other processes.
        door: Listens on a path, shared too: whichever process is free answers there.
    """

    listener: socket.socket
    door: socket.socket

    def answer(self, loop: AbstractEventLoop) -> None:
        """Pass the sockets on to every process that asks, until `close`."""
        self.door.settimeout(0)
        loop.add_reader(self.door, self._pass_on)

    async def leave(self, site: web.BaseSite) -> None:
        """Accept no more, and leave what waits in the queue to the other processes.

        Args:
            site: Serves on `listener`.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.listener)
        for _ in range(2):
            # asyncio makes the transport of a connection one turn after it was accepted, and
            # drops the connection if its server is closed by then.
            await asyncio.sleep(0)
        await site.stop()
        self.close(loop)

    def close(self, loop: AbstractEventLoop) -> None:
        """Close this process's copies.

        Whoever finds nobody at the door binds the address itself, so `listener` is closed first.
        """
        loop.remove_reader(self.door)
        self.listener.close()
        self.door.close()

    def _pass_on(self) -> None:
        try:
            asking, _ = self.door.accept()
            with asking:
                socket.send_fds(asking, [b"."], [self.listener.fileno(), self.door.fileno()])
        except OSError:
            # Another process was faster, or the one that asked is gone. It asks again.
            return


def shared_listener(directory: Path, host: str, port: int) -> SharedListener:
    """Get the listening socket of the processes that serve already, or be the first. Blocks.

    Args:
        directory: Where the processes meet, made if missing; only their user may enter it.
        host: Name or address to listen on.
        port: Port to listen on.

    Raises:
        OSError: The address cannot be had, the directory cannot be used, or who holds the socket
            did not answer within `ANSWER_SECONDS`.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _only_ours(directory)
    path = directory / f"{host}-{port}.sock"
    with _alone(path.with_suffix(".lock")):
        shared = _ask(path)
        if shared is None:
            # Nobody holds it, so what lies there was left by a process that was killed.
            path.unlink(missing_ok=True)
            shared = SharedListener(_bind(host, port), _open_door(path))
        return shared


def _only_ours(directory: Path) -> None:
    """Raise `PermissionError` if others may enter: they could take the socket, or give theirs."""
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(0, f"it belongs to another user ({status.st_uid})")
    if status.st_mode & 0o077:
        raise PermissionError(0, f"others may enter it: chmod 700 {directory}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time find out whether it is the first."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ask(path: Path) -> SharedListener | None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(left)
            try:
                asking.connect(os.fspath(path))
                _, descriptors, _, _ = socket.recv_fds(asking, 1, 2)
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            except ConnectionResetError:
                continue
        if descriptors:
            listener, door = (socket.socket(fileno=number) for number in descriptors)
            return SharedListener(listener, door)
        # That process was just stopping: ask the next.
    raise TimeoutError(0, f"no answer at {path} from the process that listens there")


def _bind(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)


def _open_door(path: Path) -> socket.socket:
    door = socket.socket(socket.AF_UNIX)
    door.bind(os.fspath(path))
    door.listen()
    return door
