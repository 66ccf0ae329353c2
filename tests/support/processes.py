"""Running the service as a process of its own, and speaking to it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from stream_service.settings import VARIABLES

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parent.parent.parent
SERVE = ("-m", "stream_service")
_WITHOUT_UVLOOP = """
import sys
sys.modules["uvloop"] = None
from stream_service.__main__ import main
sys.exit(main())
"""
SERVE_WITHOUT_UVLOOP = ("-c", _WITHOUT_UVLOOP)
"""The service of a Python that has no uvloop."""
TESTED = SERVE_WITHOUT_UVLOOP if os.environ.get("TEST_LOOP") == "asyncio" else SERVE

PATIENCE_SECONDS = 40.0
"""Generous: it is only waited for when something is broken."""


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This environment with these variables, and no others of the service."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**inherited, "PYTHONPATH": str(ROOT), "PORT": "0", **variables}


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end(process: subprocess.Popen[Any], seconds: float = PATIENCE_SECONDS) -> None:
    """Have a process end, the hard way if it has not after so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def listening(port: int, *command: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on this port, run in this folder, with its output in a file there."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield process
    finally:
        end(process)


class Service:
    """A running service; leaving the context ends it, the hard way if it has to be."""

    def __init__(
        self, *arguments: str, program: tuple[str, ...] = TESTED, **variables: str
    ) -> None:
        """Start it, without waiting.

        Args:
            arguments: Of the command line.
            program: What Python runs. By default the service, without uvloop if TEST_LOOP=asyncio.
            variables: Of the environment. PORT is a free one by default.
        """
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=environment(variables),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.log: list[str] = []
        self.output: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=pipe)
            for pipe in ((self.process.stderr, self.log), (self.process.stdout, self.output))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: Any, lines: list[str]) -> None:
        for line in pipe:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            end(self.process)
        self.status()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its log so far; every line of it is a JSON object."""
        with self._changed:
            return [json.loads(line) for line in self.log]

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first log line that is wanted, waited for."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        seen = 0
        with self._changed:
            while True:
                for line in self.log[seen:]:
                    seen += 1
                    event: dict[str, Any] = json.loads(line)
                    if wanted(event):
                        return event
                left = deadline - time.monotonic()
                ended = not any(reader.is_alive() for reader in self._readers)
                if left <= 0 or (ended and seen == len(self.log)):
                    raise AssertionError(f"not logged: {self.log}")
                self._changed.wait(min(left, 1.0))

    @property
    def url(self) -> str:
        """Where it serves, once it does."""
        url: str = self.wait_for(lambda event: event["event"] == "serving")["url"]
        return url

    @property
    def children(self) -> list[int]:
        """The ids of its child processes."""
        listed = subprocess.run(
            ["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in listed.stdout.split()]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def status(self) -> int:
        """Its exit status, waited for; its output is complete then."""
        status = self.process.wait(PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return status

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: str = ""
    ) -> tuple[int, Any]:
        """Status and JSON of one request, on a connection of its own."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            str(address.hostname), address.port, timeout=PATIENCE_SECONDS
        )
        try:
            connection.request(method, path, body or None, dict(headers or {}))
            response = connection.getresponse()
            raw = response.read()
            return response.status, json.loads(raw) if raw else None
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A raw connection."""
        address = urlsplit(self.url)
        return socket.create_connection(
            (str(address.hostname), address.port or 0), timeout=PATIENCE_SECONDS
        )

    def exchange(self, request: bytes) -> tuple[int, dict[str, str], Any]:
        """Status, headers (in lower case) and JSON of the answer to these very bytes."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers (in lower case) and JSON of the next answer on a raw connection."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        raw = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.loads(raw) if raw else None
    finally:
        response.close()


def is_running(pid: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
