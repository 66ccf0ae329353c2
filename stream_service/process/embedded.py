"""The embedded database: a MongoDB-compatible server as a child process.

SecantusDB is run, never imported: its licence is GPL-2, and over the wire it is one more server.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure, PyMongoError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable

    from stream_service.api.health import Health

log = logging.getLogger(__name__)

PROGRAM = "secantusd-py"
START_SECONDS = 60.0
"""How long it may take to answer: it recovers its journal first."""
STOP_SECONDS = 10.0
"""How long it may take to end; then it is killed. What it acknowledged is on disk either way."""
SICK_SECONDS = 5.0
"""How long it may fail every command before the service ends."""

_PR_SET_PDEATHSIG = 1


class EmbeddedError(Exception):
    """The embedded database cannot be run. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedDatabase:
    """A running embedded database.

    Attributes:
        url: Its MongoDB URL.
        pid: Its process id.
        exited: Done when the process has ended, with its exit status.
    """

    url: str
    pid: int
    exited: asyncio.Task[int]


@asynccontextmanager
async def embedded_database(directory: Path) -> AsyncIterator[EmbeddedDatabase]:
    """Run the embedded database on a free port of 127.0.0.1; it ends with the context.

    Args:
        directory: Where its data is, made if missing. Its own log goes there too.

    Raises:
        EmbeddedError: It is not installed, or did not come up.
    """
    program = _program()
    log_path = directory / "database.log"
    with _appending(log_path) as output:
        port = _free_port()
        process = await asyncio.create_subprocess_exec(
            program,
            *("--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"),
            # A start that was answered survives a crash.
            *("--storage-path", str(directory / "wiredtiger"), "--sync-on-commit"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C reaches the whole process group, but the database has to go last.
            start_new_session=True,
            preexec_fn=child_setup(),
        )
    exited = asyncio.create_task(process.wait())
    url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
    try:
        await _until_it_answers(url, exited, log_path)
        yield EmbeddedDatabase(url, process.pid, exited)
    finally:
        await _stop(process, exited)


def _appending(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        return open(path, "ab", opener=_private)
    except FileExistsError:
        raise EmbeddedError(f"--data-dir {path.parent}: is not a directory") from None
    except OSError as error:
        raise EmbeddedError(f"--data-dir {path.parent}: {error.strerror}") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _program() -> str:
    beside = Path(sys.executable).with_name(PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if program is None:
        raise EmbeddedError(
            "--embedded needs the embedded database, which is not installed: "
            "run `make run`, which installs it, or set MONGO_URL and leave --embedded out"
        )
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def child_setup() -> Callable[[], None]:
    """What a child process runs before its program: its files are private, and it ends with this.

    Killed by the kernel, not asked: SecantusDB does not always end on SIGTERM, and nobody is left
    to ask twice. What it acknowledged is on disk. It ends with the thread that starts it.
    """
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def prepare() -> None:
        os.umask(0o077)  # uvloop does not know that argument.
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                # It was gone before the kernel was asked.
                os._exit(1)

    return prepare


async def end_if_sick(health: Health) -> None:
    """Look on while the embedded database works.

    Raises:
        EmbeddedError: It has answered with nothing but errors for `SICK_SECONDS`, as SecantusDB
            does from a full disk on, until it is started again.
    """
    since: float | None = None
    while since is None or monotonic() - since < SICK_SECONDS:
        await asyncio.sleep(1)
        await health.database_answers()
        # One that is slow, or is not there, is told by others.
        failed = health.error is not None and isinstance(health.error.__cause__, OperationFailure)
        since = (since or monotonic()) if failed else None
    raise EmbeddedError(
        f"the embedded database answers, but fails every command ({health.error}): is its disk "
        "full? It has to be started again"
    )


async def _until_it_answers(url: str, exited: asyncio.Task[int], log_path: Path) -> None:
    client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(url, serverSelectionTimeoutMS=250)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not exited.done():
                try:
                    await client.admin.command("ping")
                except PyMongoError:
                    continue
                return
    except TimeoutError:
        raise EmbeddedError(
            f"the embedded database gave no answer within {START_SECONDS:g} s: see {log_path}"
        ) from None
    finally:
        client.close()
    raise EmbeddedError(
        f"the embedded database ended at once (status {exited.result()}). Is another one running "
        f"on the same --data-dir? Its log: {log_path}"
    )


async def _stop(process: Process, exited: asyncio.Task[int]) -> None:
    if exited.done():
        return
    process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(exited), STOP_SECONDS)
    except TimeoutError:
        log.warning("embedded database had to be killed", extra={"pid": process.pid})
        process.kill()
        await exited
