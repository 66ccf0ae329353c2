"""The problems that were answered last, for the console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

SHOWN = 10


@dataclass(slots=True)
class RecentProblem:
    """One kind of problem on one route.

    Attributes:
        status: HTTP status.
        kind: Last part of the problem's type.
        method: HTTP method, or None where no route took the request.
        route: Template of the route, or None.
        count: How often it was answered since the process started.
        last: When it was answered last, in UTC.
    """

    status: int
    kind: str
    method: str | None
    route: str | None
    count: int
    last: datetime


class RecentProblems:
    """Kinds of problems, as many as there are routes and kinds, in the order of their last time."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        """Start with none.

        Args:
            clock: Tells the time.
        """
        self._clock = clock
        self._problems: dict[tuple[str | None, str | None, str], RecentProblem] = {}

    def add(self, status: int, kind: str, method: str, route: str | None) -> None:
        """Remember one. Of a request that no route took, nothing that its sender chose is kept."""
        known_method = None if route is None else method
        key = (known_method, route, kind)
        # Put in again at the end: a dict keeps the order.
        problem = self._problems.pop(key, None)
        count = 1 if problem is None else problem.count + 1
        self._problems[key] = RecentProblem(status, kind, known_method, route, count, self._clock())

    def last(self) -> list[RecentProblem]:
        """The kinds that were answered last, the latest first, up to `SHOWN`."""
        return list(self._problems.values())[: -SHOWN - 1 : -1]
