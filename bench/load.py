"""The load: wrk, one thread of it, and the streams that it finds when it begins."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.null_mongod import SECRET, stream_id_in
from stream_service.api.digests import Digests
from stream_service.api.lease_ids import LeaseIds
from stream_service.streams import Place

SCRIPTS = Path(__file__).with_name("wrk")
CLIENTS = 32
"""How many requests at a time make the streams that a run begins with."""


class LoadError(Exception):
    """A run came to nothing. The message quotes what was said about it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of wrk.

    Attributes:
        requests: How many were answered.
        seconds: How long it took.
        p50_ms: Median latency in milliseconds.
        p99_ms: 99th percentile of latency in milliseconds.
        bad_status: How many answers had a status of 400 or more.
        broken: How many connections failed, and how many requests timed out (2 s).
        cpu: Seconds of CPU that wrk itself took.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad_status: int
    broken: int
    cpu: float


def wrk(script: str, port: int, connections: int, seconds: int, *arguments: str) -> Run:
    """Send requests for some seconds, each connection as soon as it has its answer.

    Args:
        script: Name of a file in `bench/wrk`, without its ending.
        port: Where, on 127.0.0.1.
        connections: How many requests are under way at a time.
        seconds: For how long.
        arguments: For the script.

    Raises:
        LoadError: wrk failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", f"{script}.lua"]
    child = subprocess.Popen(  # noqa: S603 - the benchmark's own command
        [*command, f"http://127.0.0.1:{port}/", "--", *arguments],
        cwd=SCRIPTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert child.stdout is not None  # noqa: S101 - for the type checker
        said = child.stdout.read()
        _, child.returncode, used = os.wait4(child.pid, 0)
    except BaseException:
        child.kill()
        child.wait()
        raise
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if child.returncode != 0 or not lines:
        raise LoadError(f"{' '.join(command)}: {said.strip()[-500:]}")
    result = json.loads(lines[-1])
    return Run(
        requests=result["requests"],
        seconds=result["microseconds"] / 1e6,
        p50_ms=result["p50_us"] / 1e3,
        p99_ms=result["p99_us"] / 1e3,
        bad_status=result["bad_status"],
        broken=result["broken"] + result["timeouts"],
        cpu=used.ru_utime + used.ru_stime,
    )


def start_streams(port: int, path: Path, sessions: int, each: int = 1) -> None:
    """Start streams and write them to a file, in lines "SESSION LEASE_ID".

    Args:
        port: Of the service, on 127.0.0.1.
        path: The file.
        sessions: How many sessions.
        each: How many streams in each of them.

    Raises:
        LoadError: A start was not admitted.
    """
    lines = asyncio.run(_start_streams(port, sessions, each))
    path.write_text("\n".join(lines) + "\n")


def name_streams(path: Path, count: int) -> None:
    """Write a file as `start_streams` does, of streams that only the null database knows."""
    word = secrets.token_hex(6)
    lines, digests = [], Digests()
    lease_ids = LeaseIds(digests)
    for number in range(count):
        session = f"{word}-{number}"
        place = Place(digests(session), stream_id_in(0))
        lines.append(f"{session} {lease_ids.lease_id(place, SECRET)}")
    path.write_text("\n".join(lines) + "\n")


async def _start_streams(port: int, sessions: int, each: int) -> list[str]:
    word = secrets.token_hex(6)
    waiting = [f"{word}-{number}" for number in range(sessions) for _ in range(each)]
    lines: list[str] = []

    async def client(http: aiohttp.ClientSession) -> None:
        while waiting:
            session = waiting.pop()
            async with http.post("/streams", headers={"Session-Id": session}) as answer:
                body: dict[str, Any] = await answer.json(content_type=None)
                if answer.status != 201:  # noqa: PLR2004 - Created
                    raise LoadError(f"POST /streams answered {answer.status}: {body}")
            lines.append(f"{session} {body['lease_id']}")

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return lines
