"""Tasks that run as long as the process: none of them ends in silence."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""How long to wait before a task that failed is started again."""


async def watched(
    name: str, run: Callable[[], Coroutine[Any, Any, None]], on_failure: Callable[[str], None]
) -> None:
    """Run a task; if it fails by an unexpected exception, log that and start it again.

    Args:
        name: What it is called in the log and the metrics.
        run: Makes it.
        on_failure: Told the name of each that failed, to count it.
    """
    while True:
        try:
            return await run()
        except Exception:
            log.exception("background task failed, and is started again", extra={"task": name})
            on_failure(name)
            await asyncio.sleep(RESTART_SECONDS)
