"""Processes that are measured: started, watched from outside, and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_SECONDS = 60.0
STOP_SECONDS = 20.0


class CannotStartError(Exception):
    """A process did not come up. The message says how to see why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes had used at one moment.

    Attributes:
        cpu: Seconds of CPU, user and system.
        rss: Resident memory in bytes.
    """

    cpu: float
    rss: int


def usage(processes: Sequence[psutil.Process]) -> Usage:
    """What these processes have used together, their children not counted."""
    cpu = rss = 0.0
    for process in processes:
        with process.oneshot():
            times = process.cpu_times()
            cpu += times.user + times.system
            rss += process.memory_info().rss
    return Usage(cpu, int(rss))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Run a program that listens on a port of 127.0.0.1; it ends with the context.

    Raises:
        CannotStartError: It ended, or did not listen within `START_SECONDS`.
    """
    child = subprocess.Popen(  # noqa: S603 - the benchmark's own commands
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # A line per request is part of what is measured; where it is kept is not.
        stderr=subprocess.DEVNULL,
        # Ctrl-C is for the benchmark, which then ends what it has started.
        start_new_session=True,
    )
    try:
        _until_it_listens(child, command, port)
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _until_it_listens(child: subprocess.Popen[bytes], command: Sequence[str], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    how = "ended" if child.poll() is not None else f"did not listen within {START_SECONDS:g} s"
    raise CannotStartError(f"{' '.join(command)} {how}; run it by hand to see why")
