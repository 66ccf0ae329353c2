"""What a client still sends of a body that nobody will read: thrown away, within bounds.

A connection that is closed while bytes of the client are unread is reset, and that can overtake the
answer. So the rest is taken off the socket for a while (RFC 9112, section 9.6), but not parsed:
aiohttp would take each chunk apart, without a pause, for ten seconds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

MAX_LEFTOVER_BYTES = 4 * 1024 * 1024
"""How much is thrown away at most."""

LEFTOVER_SECONDS = 1.0
"""For how long at most."""


async def throw_away(protocol: web.RequestHandler, transport: asyncio.Transport) -> None:
    """Take off the socket what comes, until the client closes it or the bounds are reached.

    Args:
        protocol: Was told of what came on the connection, and will be told of its end.
        transport: The connection. Nothing else may be read from it any more.
    """
    leftovers = _Leftovers(protocol)
    transport.set_protocol(leftovers)
    transport.resume_reading()
    try:
        async with asyncio.timeout(LEFTOVER_SECONDS):
            await leftovers.over.wait()
    except TimeoutError:
        return


class _Leftovers(asyncio.Protocol):
    def __init__(self, protocol: web.RequestHandler) -> None:
        self._protocol = protocol
        self._left = MAX_LEFTOVER_BYTES
        self.over = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left <= 0:
            self.over.set()

    def eof_received(self) -> None:
        self.over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
