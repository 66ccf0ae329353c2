"""The embedded server as a process of the tests: it can be killed, and started where it was."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from stream_service.process.embedded import PROGRAM, START_SECONDS, STOP_SECONDS, child_setup
from stream_service.streams import utc_now
from tests.support.processes import end, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence


class Database:
    """The embedded server on one directory and one port; leaving the context ends it.

    Not `stream_service.process.embedded`: its process belongs to one event loop, and each test has
    its own.
    """

    name = "faults"

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        """Do not start it yet.

        Args:
            directory: Where its files and its log are.
            options: Further arguments of its command line.
            port: A free one by default.
        """
        self._directory = directory
        self._options = options
        self.port = free_port() if port is None else port
        self.url = url_of(self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting."""
        with (self._directory / "database.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    Path(sys.executable).with_name(PROGRAM),
                    *("--host", "127.0.0.1", "--port", str(self.port), "--log-level", "WARNING"),
                    *("--storage-path", self._directory / "wiredtiger", "--sync-on-commit"),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The tests may be killed. No lock of another thread's is asked for before it runs.
                preexec_fn=child_setup(),  # noqa: PLW1509
            )

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def back(self) -> None:
        """Return as soon as it answers a ping."""
        await asyncio.to_thread(self.wait)

    def wait(self) -> None:
        """As `back`, blocking."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            # A new client each time: one that has failed looks again only after half a second.
            with MongoClient[Any](self.url, serverSelectionTimeoutMS=100) as client:
                try:
                    client.admin.command("ping")
                except PyMongoError:
                    time.sleep(0.02)
                else:
                    return
        raise RuntimeError(f"{PROGRAM} does not answer (status {self._process.poll()})")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        end(self._process, STOP_SECONDS)

    def client(self) -> MongoClient[Any]:
        return MongoClient(self.url, tz_aware=True)

    def fail(self, commands: Sequence[str], how: dict[str, Any], times: int = 0) -> None:
        """Have the next of these commands of the service fail: MongoDB's own way to test drivers.

        Args:
            commands: Their names.
            how: What to do to them, as for `configureFailPoint: "failCommand"`.
            times: How many of them; 0 for all until `heal`.
        """
        with self.client() as client:
            client.admin.command(
                "configureFailPoint",
                "failCommand",
                mode={"times": times} if times else "alwaysOn",
                data={"failCommands": list(commands), "appName": "stream-service", **how},
            )

    def heal(self) -> None:
        """Have no command fail any more."""
        with self.client() as client:
            client.admin.command("configureFailPoint", "failCommand", mode="off")

    def documents(self, name: str) -> list[dict[str, Any]]:
        with self.client() as client:
            return list(client[name]["streams"].find())

    def active(self, name: str) -> dict[str, int]:
        """How many active streams each session has, by its digest."""
        now, counted = utc_now(), dict[str, int]()
        for document in self.documents(name):
            if document["expires_at"] > now:
                counted[document["session"]] = counted.get(document["session"], 0) + 1
        return counted


def url_of(port: int) -> str:
    return f"mongodb://127.0.0.1:{port}/?directConnection=true"
