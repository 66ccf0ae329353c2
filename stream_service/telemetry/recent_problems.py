"""The problems of the last hour, for the console."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

SHOWN = 20

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

_GRAIN = timedelta(seconds=5)
"""Problems are counted together for so long: 720 counts of each kind are kept at most."""

_FAULT = 500
_NORMAL = frozenset({"limit-reached", "stream-ended", "stream-not-found"})

Severity = Literal["fault", "client error", "normal"]
_ORDER: tuple[Severity, ...] = ("fault", "client error", "normal")


def severity_of(status: int, kind: str) -> Severity:
    """How bad a problem is.

    A fault is ours, a client error is a request that was wrong, and normal is what viewers bring
    about every day: a refusal, a stream that is over.
    """
    if status >= _FAULT:
        return "fault"
    return "normal" if kind in _NORMAL else "client error"


class RecentProblem(NamedTuple):
    """One kind of problem on one route.

    Attributes:
        severity: How bad it is.
        status: HTTP status.
        kind: Last part of the problem's type.
        method: HTTP method, or None where no route took the request.
        route: Template of the route, or None.
        last_minute: How often it was answered in the last minute, to 5 seconds.
        last_hour: The same of the last hour.
        last: When it was answered last, in UTC.
    """

    severity: Severity
    status: int
    kind: str
    method: str | None
    route: str | None
    last_minute: int
    last_hour: int
    last: datetime


class _Counts:
    """When something happened in the last hour, to `_GRAIN`."""

    def __init__(self, status: int, now: datetime) -> None:
        self.status = status
        self.last = now
        self._counts: deque[tuple[datetime, int]] = deque()

    def add(self, now: datetime) -> None:
        self.last = now
        if self._counts and now - self._counts[-1][0] < _GRAIN:
            since, count = self._counts[-1]
            self._counts[-1] = since, count + 1
        else:
            self._counts.append((now, 1))
        while self._counts[0][0] <= now - HOUR:
            self._counts.popleft()

    def after(self, since: datetime) -> int:
        return sum(count for at, count in self._counts if at > since)


class RecentProblems:
    """Kinds of problems, as many as there are routes and kinds."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        """Start with none.

        Args:
            clock: Tells the time.
        """
        self._clock = clock
        self._counts: dict[tuple[str | None, str | None, str], _Counts] = {}

    def add(self, status: int, kind: str, method: str, route: str | None) -> None:
        """Remember one. Of a request that no route took, nothing that its sender chose is kept."""
        known_method = None if route is None else method
        key = (known_method, route, kind)
        now = self._clock()
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts(status, now)
        counts.add(now)

    def of_the_last_hour(self) -> list[RecentProblem]:
        """The worst first, and of those the latest; up to `SHOWN`."""
        now = self._clock()
        recent = [
            RecentProblem(
                severity=severity_of(counts.status, kind),
                status=counts.status,
                kind=kind,
                method=method,
                route=route,
                last_minute=counts.after(now - MINUTE),
                last_hour=counts.after(now - HOUR),
                last=counts.last,
            )
            for (method, route, kind), counts in self._counts.items()
            if counts.last > now - HOUR
        ]
        recent.sort(key=lambda problem: problem.last, reverse=True)
        recent.sort(key=lambda problem: _ORDER.index(problem.severity))
        return recent[:SHOWN]


RECENT = web.AppKey("recent", RecentProblems)
