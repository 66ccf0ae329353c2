"""Takes leave of clients: they are told to close their connections before these are closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import hdrs

if TYPE_CHECKING:
    from aiohttp import web

_LOOK_AGAIN_SECONDS = 0.05


class Drain:
    """Sees a server through the time between the signal to stop and its end.

    A client may send its next request at the very moment in which its idle connection is closed,
    and cannot know whether it was done. So none is closed unasked: each answer says `Connection:
    close`, and only a client that sends nothing for the whole time finds its connection closed.
    """

    def __init__(self, app: web.Application) -> None:
        self._begun = False
        app.on_response_prepare.append(self._announce)

    async def _announce(self, _: web.Request, response: web.StreamResponse) -> None:
        if self._begun:
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    async def until_idle(self, server: web.Server, seconds: float, hurry: asyncio.Event) -> None:
        """Answer what still comes on open connections, until all of them are closed.

        Args:
            server: Whose connections.
            seconds: How long at most.
            hurry: Ends it at once.
        """
        self._begun = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # aiohttp tells nobody when a connection has ended.
        while server.connections and loop.time() < deadline and not hurry.is_set():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
