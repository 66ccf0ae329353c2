"""What happened in the last quarter of an hour, for the console: one entry for each 5 seconds.

Of this process, or of all that share PROMETHEUS_MULTIPROC_DIR. What is not known is None, never 0.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import pairwise
from math import isnan
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from datetime import datetime

    from prometheus_client.metrics_core import Metric

INTERVAL_SECONDS = 5.0
WINDOW_SECONDS = 900.0

_API = ("/streams", "/watch", "/playback")
"""Begin the routes whose answers viewers wait for."""

_BEGUN = ("admitted", "replacing", "would_refuse", "would_replace")
_REFUSED = ("refused", "would_refuse")
_DECIDED = (*_BEGUN, "refused")

Buckets = dict[float, float]
"""How many observations were at most so big, by that size."""


class Reading(NamedTuple):
    """The counts of a process since it started."""

    starts: float
    refused: float
    decided: float
    heartbeats: float
    errors: float
    latency: Buckets
    wait: Buckets
    batches: float
    batched: float


class Entry(NamedTuple):
    """What happened in one interval. Seconds are estimated from histograms.

    Attributes:
        at: When it ended, in UTC.
        starts: Streams started, per second.
        heartbeats: Heartbeats, per second, whatever became of them.
        errors: Answers of 500 and above to viewers, per second.
        refusal_ratio: Refusals (in shadow mode: what would be refused) of the starts that were
            decided; None if there were none.
        p50: Seconds within which half of the viewers' requests were answered; None without any.
        p99: The same of 99 %.
        database_wait: Seconds within which 99 % of the batches had their command sent; None if
            there was none.
        batch_size: Requests for each command, on average; None without commands.
        active: Active streams of the whole database; None if nobody counted.
        database: Whether the database answered.
    """

    at: datetime
    starts: float
    heartbeats: float
    errors: float
    refusal_ratio: float | None
    p50: float | None
    p99: float | None
    database_wait: float | None
    batch_size: float | None
    active: float | None
    database: bool


class History:
    """Keeps the entries of one process."""

    def __init__(
        self,
        collect: Callable[[], Awaitable[Iterable[Metric]]],
        database_answers: Callable[[], Awaitable[bool]],
        active: Callable[[], float | None],
        clock: Callable[[], datetime],
    ) -> None:
        """Make a history without entries.

        Args:
            collect: Gives the metrics as they are now.
            database_answers: Whether the database answers.
            active: The active streams, if they were counted lately.
            clock: Tells the time.
        """
        self._collect = collect
        self._database_answers = database_answers
        self._active = active
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=int(WINDOW_SECONDS / INTERVAL_SECONDS))
        self.unreachable_since: datetime | None = None
        """When the database first gave no answer, if it has given none since."""

    async def keep(self) -> None:
        """Add an entry for each interval, for ever."""
        before, began = reading(await self._collect()), monotonic()
        while True:
            await asyncio.sleep(INTERVAL_SECONDS - (monotonic() - began) % INTERVAL_SECONDS)
            now, ended = reading(await self._collect()), monotonic()
            await self._add(before, now, ended - began)
            before, began = now, ended

    async def ask_database(self) -> bool:
        """Whether the database answers; remembers since when it does not."""
        asked_at = self._clock()
        answers = await self._database_answers()
        if answers:
            self.unreachable_since = None
        elif self.unreachable_since is None:
            self.unreachable_since = asked_at
        return answers

    async def _add(self, before: Reading, now: Reading, seconds: float) -> None:
        at = self._clock()
        decided = now.decided - before.decided
        batches = now.batches - before.batches
        latency = _between(before.latency, now.latency)
        self._entries.append(
            Entry(
                at=at,
                starts=(now.starts - before.starts) / seconds,
                heartbeats=(now.heartbeats - before.heartbeats) / seconds,
                errors=(now.errors - before.errors) / seconds,
                refusal_ratio=(now.refused - before.refused) / decided if decided else None,
                p50=quantile(latency, 0.5),
                p99=quantile(latency, 0.99),
                database_wait=quantile(_between(before.wait, now.wait), 0.99),
                batch_size=(now.batched - before.batched) / batches if batches else None,
                active=self._active(),
                database=await self.ask_database(),
            )
        )

    def columns(self) -> dict[str, list[Any]]:
        """Each figure's values, the oldest first."""
        columns = zip(*self._entries, strict=True) if self._entries else ((),) * len(Entry._fields)
        return {name: list(column) for name, column in zip(Entry._fields, columns, strict=True)}


def reading(metrics: Iterable[Metric]) -> Reading:
    """What the history needs of the metrics."""
    starts: dict[str, float] = {}
    heartbeats = errors = batches = batched = 0.0
    latency: Buckets = {}
    wait: Buckets = {}
    for metric in metrics:
        for sample in metric.samples:
            labels, value = sample.labels, sample.value
            match sample.name.removeprefix("stream_service_"):
                case "starts_total":
                    outcome = labels["outcome"]  # By platform, too.
                    starts[outcome] = starts.get(outcome, 0) + value
                case "heartbeats_total":
                    heartbeats += value
                case "request_seconds_bucket" if labels["route"].startswith(_API):
                    _add_to(latency, labels, value)
                case "request_seconds_count" if labels["route"].startswith(_API):
                    errors += value if labels["status"] >= "500" else 0
                case "batch_wait_seconds_bucket":
                    _add_to(wait, labels, value)
                case "batch_size_sum":
                    batched += value
                case "batch_size_count":
                    batches += value
    return Reading(
        starts=sum(starts.get(outcome, 0) for outcome in _BEGUN),
        refused=sum(starts.get(outcome, 0) for outcome in _REFUSED),
        decided=sum(starts.get(outcome, 0) for outcome in _DECIDED),
        heartbeats=heartbeats,
        errors=errors,
        latency=latency,
        wait=wait,
        batches=batches,
        batched=batched,
    )


def _add_to(buckets: Buckets, labels: Mapping[str, str], value: float) -> None:
    bound = float(labels["le"])
    buckets[bound] = buckets.get(bound, 0) + value


def _between(before: Buckets, now: Buckets) -> Buckets:
    return {bound: count - before.get(bound, 0) for bound, count in now.items()}


def quantile(buckets: Buckets, share: float) -> float | None:
    """The size that this share does not exceed, as Prometheus' `histogram_quantile` estimates it.

    Args:
        buckets: How many observations were at most so big, by that size, the last infinite.
        share: From 0 to 1.

    Returns:
        The estimate, at most the biggest finite bound; None if nothing was observed.
    """
    bounds = [0.0, *sorted(buckets)]
    wanted = share * buckets.get(bounds[-1], 0)
    if wanted <= 0 or isnan(wanted):
        return None
    below = 0.0
    for low, high in pairwise(bounds):
        if buckets[high] >= wanted:
            if high == bounds[-1]:
                return low
            return low + (high - low) * (wanted - below) / (buckets[high] - below)
        below = buckets[high]
    return None


HISTORY = web.AppKey("history", History)
