"""A TCP proxy that delays, holds, forgets, and cuts in the middle of an answer."""

from __future__ import annotations

import asyncio
from typing import Self


class _Link:
    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.doomed = False
        self.forgotten = False

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Passes bytes on to a port of this machine, as badly as it is told to.

    Attributes:
        delay: Seconds that each piece waits, in both directions.
        forgetful: Whether what comes is dropped, with its connection dead for good.
        refusing: Whether new connections are cut at once.
        cut_after: What a piece for the database must hold for its answer to be cut; None cuts none.
        cuts: How many answers were cut.
        watch_for: What is looked for in the pieces for the database; None for nothing.
        seen: How many pieces had it.
        share: How much of a cut answer is passed on, from 0 to 1.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        self.forgetful = False
        self.refusing = False
        self.cut_after: bytes | None = None
        self.cuts = 0
        self.watch_for: bytes | None = None
        self.seen = 0
        self.share = 0.5

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._flows.set()
        for link in list(self._links):
            link.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def hold(self) -> None:
        """Pass nothing on until `release`: a network that loses every packet, for a while."""
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    def cut_all(self) -> None:
        """Cut every connection that there is; new ones are taken."""
        for link in list(self._links):
            link.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, to_there)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(link, reader, to_there, asked=True)),
            asyncio.create_task(self._pump(link, there, writer, asked=False)),
        ]
        self._tasks.update(pumps)
        await asyncio.gather(*pumps, return_exceptions=True)
        self._tasks.difference_update(pumps)
        self._links.discard(link)

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        asked: bool,
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                link.forgotten = link.forgotten or self.forgetful
                if link.forgotten:
                    continue
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flows.wait()
                if asked and self.watch_for is not None and self.watch_for in data:
                    self.seen += 1
                if asked and self.cut_after is not None and self.cut_after in data:
                    link.doomed = True
                if not asked and link.doomed:
                    self.cuts += 1
                    writer.write(data[: int(len(data) * self.share)])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            if not link.forgotten:
                link.abort()
