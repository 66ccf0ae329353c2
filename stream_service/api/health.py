"""Health: what load balancers, supervisors and monitors ask."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stream_service import __version__
from stream_service.api.representation import json_response
from stream_service.streams import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stream_service.api.digests import Digests
    from stream_service.processes import Processes
    from stream_service.settings import Settings

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""However many ask, the database is looked at once in so long."""

CHECK_TIMEOUT_SECONDS = 2.0


class Health:
    """What a process knows of its health.

    Attributes:
        processes: This one among the others on the same database.
        error: What the database failed by when it was looked at last; None if it did not.
        has_served: Whether it has carried out a read and a write, at least once.
        draining: Whether the process was told to stop.
    """

    def __init__(self, processes: Processes) -> None:
        """Begin without having served."""
        self.processes = processes
        self.error: StoreUnavailableError | None = None
        self.has_served = False
        self.draining = False
        self._look_again = 0.0
        self._looking: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether requests may be sent to this process."""
        fit = self.processes.refusal is None and self.processes.clock_is_right
        return self.has_served and fit and not self.draining

    async def database_answers(self) -> bool:
        """Whether the database carries out in time what requests ask of it."""
        if self._looking is None or (self._looking.done() and monotonic() >= self._look_again):
            self._look_again = monotonic() + CHECK_SECONDS
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)
        return self.error is None

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await self.processes.meet()
        except TimeoutError:
            self.error = StoreUnavailableError("deadline")
        except StoreUnavailableError as error:
            self.error = error
        except Exception:
            # Whatever it is: what cannot be judged is not up, and is looked at again.
            log.exception("health could not be judged")
            self.error = StoreUnavailableError("unexpected error")
        else:
            self.error, self.has_served = None, True

    async def close(self) -> None:
        """Let the other processes forget this one."""
        if self._looking is not None:
            self._looking.cancel()
        if self.error is None:
            with suppress(StoreUnavailableError):
                await self.processes.leave()


def settings_to_agree_on(
    settings: Settings, digests: Digests, key_ids: Iterable[str]
) -> dict[str, Any]:
    """What all processes on one database should have alike, and no secret of it.

    Args:
        settings: Of this process.
        digests: By its `DIGEST_KEY`.
        key_ids: Of its `PLAYBACK_KEYS`.
    """
    return {
        "version": __version__,
        "STREAM_LIMIT": settings.stream_limit,
        "STREAM_TTL_SECONDS": settings.stream_ttl_seconds,
        "STREAM_RETENTION_SECONDS": settings.stream_retention_seconds,
        "ENFORCE": int(settings.enforce),
        "DIGEST_KEY": digests("the same key?", "processes")[:16],
        "PLAYBACK_KEYS": list(key_ids),
        "PLAYBACK_AUDIENCE": settings.playback_audience,
        "POLICY_FILE": _file_digest(settings.policy_file),
    }


def _file_digest(path: Path | None) -> str | None:
    return None if path is None else blake2b(path.read_bytes(), digest_size=8).hexdigest()


async def health(request: web.Request) -> web.Response:
    """`GET /health`: serving, the database included."""
    return _status(up=await request.app[HEALTH].database_answers())


async def ready(request: web.Request) -> web.Response:
    """`GET /health/ready`: has served, is not draining, and its clock is right.

    Whatever the state of the database since: an outage would make all processes unready at once,
    and a gateway that finds none cannot let viewers in who hold a good token.
    """
    return _status(up=request.app[HEALTH].ready)


async def live(_: web.Request) -> web.Response:
    """`GET /health/live`: the process runs, whatever the state of the database."""
    return _status(up=True)


def _status(*, up: bool) -> web.Response:
    return json_response({"status": "UP" if up else "DOWN"}, status=200 if up else 503)


HEALTH = web.AppKey("health", Health)
