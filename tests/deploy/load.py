"""A steady load that counts every request that got no good answer, and tries none again."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_SECONDS = 10.0
KEPT_ALIVE = 12
FRESH = 4
PAUSE_SECONDS = 0.01


@dataclass(slots=True)
class Tally:
    """What became of the requests of one kind of connection.

    Attributes:
        sent: Requests sent, or tried to be sent.
        lost: Those that got no answer of the API in time, by reason.
        connections: How many connections were opened.
        slowest: The longest time to an answer, in seconds.
    """

    sent: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    slowest: float = 0.0

    def __str__(self) -> str:
        reasons = "".join(f", {count} x {reason}" for reason, count in self.lost.items())
        return (
            f"{self.sent} requests sent, {self.lost.total()} lost{reasons} "
            f"({self.connections} connections, slowest answer {self.slowest * 1000:.0f} ms)"
        )


@dataclass(slots=True)
class Load:
    """The tallies of a load on connections that are kept, and on one connection per request."""

    kept_alive: Tally = field(default_factory=Tally)
    fresh: Tally = field(default_factory=Tally)

    def report(self, title: str) -> None:
        """Print the figures."""
        print(f"\n  {title}")
        print(f"    keep-alive connections: {self.kept_alive}")
        print(f"    fresh connections:      {self.fresh}", flush=True)

    @property
    def lost(self) -> int:
        """All that were lost."""
        return self.kept_alive.lost.total() + self.fresh.lost.total()


@asynccontextmanager
async def steady_load(port: int) -> AsyncIterator[Load]:
    """Start streams at 127.0.0.1:`port` for as long as the context lasts.

    `POST /streams` is used because no client and no proxy may try it again by itself.
    """
    load, over = Load(), asyncio.Event()
    # Streams of the load before this one may still be active: each load has sessions of its own.
    run = secrets.token_hex(4)
    workers = [
        asyncio.create_task(_work(port, f"{run}-kept-{n}", load.kept_alive, over, keep=True))
        for n in range(KEPT_ALIVE)
    ] + [
        asyncio.create_task(_work(port, f"{run}-fresh-{n}", load.fresh, over, keep=False))
        for n in range(FRESH)
    ]
    try:
        yield load
    finally:
        over.set()
        await asyncio.gather(*workers)


async def _work(port: int, name: str, tally: Tally, over: asyncio.Event, *, keep: bool) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    number = 0
    while not over.is_set():
        number += 1
        tally.sent += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if connection is None:
                    tally.connections += 1
                    connection = await asyncio.open_connection("127.0.0.1", port)
                status, closing = await _start_stream(*connection, f"{name}-{number}", keep=keep)
        except (OSError, EOFError, TimeoutError) as error:
            tally.lost[type(error).__name__] += 1
            closing = True
        else:
            tally.slowest = max(tally.slowest, time.monotonic() - began)
            if status != 201:
                tally.lost[f"status {status}"] += 1
        if connection is not None and closing:
            await _close(connection[1])
            connection = None
        await asyncio.sleep(PAUSE_SECONDS)
    if connection is not None:
        await _close(connection[1])


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _start_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: str, *, keep: bool
) -> tuple[int, bool]:
    """Returns the status, and whether the connection is to be closed."""
    connection = "keep-alive" if keep else "close"
    writer.write(
        f"POST /streams HTTP/1.1\r\nHost: 127.0.0.1\r\nSession-Id: {session}\r\n"
        f"Content-Length: 0\r\nConnection: {connection}\r\n\r\n".encode()
    )
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in head)}
    body = await reader.readexactly(int(fields["content-length"]))
    if fields["content-type"].startswith("application/json"):
        json.loads(body)
    return int(head[0].split()[1]), fields.get("connection", "").lower() == "close"
