"""The service; with every request on its own; or on asyncio's event loop.

    python -m bench.service grouped|alone|asyncio [ARGUMENTS]

Environment and further arguments are those of `python -m stream_service`. The one place of the
benchmarks that knows the inside of the service.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from stream_service import __main__ as service
from stream_service import limiter
from stream_service.group_commit import AGAIN, DEADLINE_SECONDS
from stream_service.streams import StoreConflictError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import ModuleType


class Alone:
    """Stands in for `GroupCommit`: a command for each item, at once.

    A group with batches of one would also keep the commands waiting for one another, which no
    service without group commit would do: that would flatter group commit on a slow database.
    """

    deadline_seconds = DEADLINE_SECONDS
    answered = 0

    def __init__(
        self, commit: Callable[[list[Any]], Awaitable[Sequence[Any]]], **_options: int
    ) -> None:
        self._commit = commit

    async def __call__(self, item: Any) -> Any:
        """Have the item carried out by itself."""
        while True:
            try:
                [result] = await self._commit([item])
            except StoreConflictError:
                continue
            if isinstance(result, Exception):
                raise result
            if result is not AGAIN:
                return result

    async def finish(self) -> None:
        """Return at once: aiohttp waits for the requests in flight."""


def main() -> int:
    """Serve until a signal."""
    match sys.argv[1]:
        case "alone":
            _replace(limiter, "GroupCommit", Alone)
        case "asyncio":
            _replace(service, "new_event_loop", asyncio.new_event_loop)
    return service.main(sys.argv[2:])


def _replace(module: ModuleType, name: str, by: Any) -> None:
    if name not in vars(module):
        sys.exit(f"bench.service: {module.__name__} has no {name} to be replaced")
    setattr(module, name, by)


if __name__ == "__main__":
    sys.exit(main())
