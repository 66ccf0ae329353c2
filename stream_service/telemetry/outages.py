"""Two lines for an outage of the database, however many requests it fails."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web

from stream_service.streams import StoreUnavailableError
from stream_service.telemetry.background import watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often to check whether an outage is over."""


class Outages:
    """Logs when the database begins to fail requests, and when it answers them again.

    An outage is over when a look at it succeeds after `LOOK_SECONDS` in which no request failed.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[None]],
        database: str,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin without an outage.

        Args:
            look: Raises `StoreUnavailableError` while the database fails what requests do.
            database: Its hosts and name, to be shown.
            on_failure: Told if the watch itself fails.
        """
        self._on_failure = on_failure
        self._look = look
        self._database = database
        self._requests = 0
        self._failed_lately = False
        self._watching: asyncio.Task[None] | None = None

    def failed(self, error: StoreUnavailableError, *, requests: int = 1) -> None:
        """Take note that the database gave no answer.

        Args:
            error: Why not.
            requests: How many requests of clients that failed.
        """
        self._failed_lately = True
        self._requests += requests
        if self._watching is None:
            about = {"database": self._database, "error": str(error)}
            if error.hint is not None:
                about["hint"] = error.hint
            log.warning("database unreachable", extra=about)
            self._watching = asyncio.create_task(
                watched("outage", self._until_it_is_over, self._on_failure)
            )

    def close(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()

    async def _until_it_is_over(self) -> None:
        began = monotonic()
        while self._failed_lately:
            self._failed_lately = False
            await asyncio.sleep(LOOK_SECONDS)
            if not self._failed_lately:
                try:
                    await self._look()
                except StoreUnavailableError:
                    self._failed_lately = True
        seconds, requests = round(monotonic() - began, 1), self._requests
        self._requests, self._watching = 0, None
        # A warning too: who reads of the beginning has to read of the end.
        log.warning(
            "database reachable again",
            extra={"database": self._database, "seconds": seconds, "requests": requests},
        )


OUTAGES = web.AppKey("outages", Outages)
