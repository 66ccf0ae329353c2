"""Health: what load balancers, supervisors and monitors ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from stream_service.api.representation import json_response
from stream_service.streams import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Health:
    """What a process knows of its health.

    Attributes:
        has_served: Whether the database has answered, at least once.
        draining: Whether the process was told to stop.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        """Begin without having served.

        Args:
            ping: Raises `StoreUnavailableError` while the database is unreachable.
        """
        self._ping = ping
        self.has_served = False
        self.draining = False

    async def database_answers(self) -> bool:
        """Whether the database answers in time."""
        try:
            await self._ping()
        except StoreUnavailableError:
            return False
        self.has_served = True
        return True


async def health(request: web.Request) -> web.Response:
    """`GET /health`: serving, the database included."""
    return _status(up=await request.app[HEALTH].database_answers())


async def ready(request: web.Request) -> web.Response:
    """`GET /health/ready`: has served, and is not draining.

    Whatever the state of the database since: an outage would make all processes unready at once,
    and a gateway that finds none cannot let viewers in who hold a good token.
    """
    state = request.app[HEALTH]
    return _status(up=state.has_served and not state.draining)


async def live(_: web.Request) -> web.Response:
    """`GET /health/live`: the process runs, whatever the state of the database."""
    return _status(up=True)


def _status(*, up: bool) -> web.Response:
    return json_response({"status": "UP" if up else "DOWN"}, status=200 if up else 503)


HEALTH = web.AppKey("health", Health)
