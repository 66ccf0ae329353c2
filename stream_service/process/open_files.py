"""How many connections there may be: fewer than files, so that the database has some too."""

from __future__ import annotations

import logging
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

FEW_FILES = 4096
"""A limit below this is said to be low."""

RESERVE = 24
"""How many files are kept for the database's connections, metrics and what comes up."""

ACCEPTED_AT_ONCE = 16
"""How many connections are accepted before the first of them is looked at."""

QUIET_SECONDS = 10.0
"""For how long an error of the event loop that comes again is only counted."""


def raise_limit() -> int:
    """Raise the limit of open files as far as the process may; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < FEW_FILES:
        log.warning("few files may be open: raise LimitNOFILE, or ulimit -n", extra={"limit": hard})
    return hard


def most_connections(limit: int) -> int:
    """How many connections there may be beside what is open now, at least one."""
    try:
        now = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        now = RESERVE
    return max(1, limit - now - RESERVE - ACCEPTED_AT_ONCE)


class LoopErrors:
    """Logs what the event loop cannot raise anywhere: an error that comes again is counted."""

    def __init__(self) -> None:
        self._again: dict[str, int] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take one, as `loop.set_exception_handler` wants it."""
        message = str(context["message"])
        if message in self._again:
            self._again[message] += 1
            return
        self._again[message] = 0
        log.error(message, exc_info=context.get("exception"))
        loop.call_later(QUIET_SECONDS, self._tell, message)

    def _tell(self, message: str) -> None:
        again = self._again.pop(message)
        if again:
            log.error(message, extra={"again": again})
