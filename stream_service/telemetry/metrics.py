"""What the service tells Prometheus: docs/operations.md says what each figure is good for.

No label has a value that a client chose: of platforms, those are told apart that are set. The
children that requests need are looked up once, so that a heartbeat pays for three additions:
bench/README.md has the measurement.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Counts
from platform import python_version
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import (
    GC_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from stream_service import __version__
from stream_service.limiter import End, Observer, Renewed, Started
from stream_service.streams import (
    KeyReusedError,
    LimitReachedError,
    StoreUnavailableError,
    StreamEndedError,
    StreamNotFoundError,
    TooManyRequestsError,
    utc_now,
)
from stream_service.telemetry.shared_files import VARIABLE, SharedCollector

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import timedelta

    from prometheus_client.metrics_core import Metric

    from stream_service.admission import Start
    from stream_service.limiter import Clock
    from stream_service.store import MongoStore

SAMPLE_SECONDS = 5.0
"""How long a count of the active streams is good for: the database is asked no more often."""

FRESH_SECONDS = 30.0
"""How old a count may be to be drawn as of now."""

SAMPLE_COST = 20
"""Nor more often than this many times what a count takes, so that it costs 5 % of its time."""

SILENT_SHARE = 0.6
"""Share of the lease below which a stream has missed a heartbeat: heartbeats come with 2/3 left."""

OTHER = "other"
"""The platform of streams on none that is set, or that name none."""

_FAILED = {
    LimitReachedError: "refused",
    KeyReusedError: "key_reused",
    StoreUnavailableError: "unavailable",
    TooManyRequestsError: "throttled",
}
_OUTCOMES = (
    "admitted",
    "would_refuse",
    "would_replace",
    "replacing",
    "replayed",
    *_FAILED.values(),
)
_WITHIN = {None: "admitted", "refusal": "would_refuse", "replacement": "would_replace"}
_REASONS = ("stopped", "expired", "replaced")

_LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_STREAMS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 75, 100)
_RELEASES = (5, 10, 20, 30, 45, 60, 75, 90, 120, 180, 300, 600, 1800)


class Metrics(Observer):
    """The metrics of one application, in a registry of its own."""

    def __init__(self, platforms: Collection[str] = ()) -> None:
        """Nothing is counted yet.

        Args:
            platforms: Names that are told apart; with none, no metric has the label `platform`.
        """
        self._registry = registry = CollectorRegistry()
        self._platforms = frozenset(platforms)
        # For each platform that is told apart, the labels that its figures have for it.
        self._labels: dict[str, tuple[str, ...]] = (
            {name: (name,) for name in (*platforms, OTHER)} if platforms else {OTHER: ()}
        )
        by_platform = ("platform",) if platforms else ()
        # These two read the process at the time of a scrape.
        registry.register(PROCESS_COLLECTOR)
        registry.register(GC_COLLECTOR)
        self._requests = Histogram(
            "stream_service_request_seconds",
            "Time to answer a request, by route and status.",
            ("method", "route", "status"),
            buckets=_LATENCIES,
            registry=registry,
        )
        self._by_request: dict[tuple[str, str, int], Histogram] = {}
        starts = Counter(
            "stream_service_starts",
            "Starts, by what became of them.",
            ("outcome", *by_platform),
            registry=registry,
        )
        self._starts = self._children(starts, _OUTCOMES)
        self._limits = Counter(
            "stream_service_limits",
            "Starts that a limit of the policy stood in the way of, by its name: refused, or in "
            "shadow mode would_refuse.",
            ("limit", "outcome"),
            registry=registry,
        )
        self._task_failures = Counter(
            "stream_service_task_failures",
            "Background tasks that failed unexpectedly and were started again.",
            ("task",),
            registry=registry,
        )
        dropped = Counter(
            "stream_service_lines_dropped",
            "Lines of the log or of the events that were dropped, because nothing took them.",
            ("output",),
            registry=registry,
        )
        self._dropped_lines = {name: dropped.labels(name) for name in ("log", "events")}
        self._unknown_plans = Counter(
            "stream_service_unknown_plans",
            "Requests whose plan the policy does not have.",
            registry=registry,
        )
        self._active_at_start = Histogram(
            "stream_service_active_at_start",
            "Active streams of the account at a start, that one among them, also if it was "
            "refused.",
            buckets=_STREAMS,
            registry=registry,
        )
        heartbeats = Counter(
            "stream_service_heartbeats",
            "Heartbeats, by what became of them.",
            ("outcome",),
            registry=registry,
        )
        self._renewed = heartbeats.labels("renewed")
        self._ended = {reason: heartbeats.labels(reason) for reason in _REASONS}
        self._unknown = heartbeats.labels("unknown")
        self._heartbeat_unavailable = heartbeats.labels("unavailable")
        self._heartbeat_throttled = heartbeats.labels("throttled")
        ends = Counter(
            "stream_service_ends",
            "Streams that ended: stopped and replaced by a request, expired as found by the next "
            "that concerned them.",
            ("reason", *by_platform),
            registry=registry,
        )
        self._ends = self._children(ends, _REASONS)
        self._ghost_release = Histogram(
            "stream_service_ghost_release_seconds",
            "Time from the last heartbeat of an expired stream until a late one, a stop or a start "
            "found it over.",
            buckets=_RELEASES,
            registry=registry,
        )
        self._batch_sizes = Histogram(
            "stream_service_batch_size",
            "Requests that shared one command to the store, by kind of command.",
            ("kind",),
            buckets=_SIZES,
            registry=registry,
        )
        self._batch_waits = Histogram(
            "stream_service_batch_wait_seconds",
            "Time that the first request of a batch waited for its command to be sent.",
            ("kind",),
            buckets=_LATENCIES,
            registry=registry,
        )
        self._by_kind: dict[str, tuple[Histogram, Histogram]] = {}
        self._store_errors = Counter(
            "stream_service_store_errors",
            "Requests that the store failed, by the driver's error.",
            ("error",),
            registry=registry,
        )
        # These two are the whole database's: every process tells the same. Take max, not sum.
        self._active = Gauge(
            "stream_service_active_streams",
            "Active streams in the database, as of a moment ago; NaN if it gave no answer.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._silent = Gauge(
            "stream_service_silent_streams",
            "Those of them that have missed a heartbeat: probably ghosts.",
            by_platform,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        Gauge(
            "stream_service_build_info",
            "1; the labels tell what runs.",
            ("version", "python"),
            registry=registry,
            multiprocess_mode="mostrecent",
        ).labels(__version__, python_version()).set(1)

    def _children(self, counter: Counter, values: Iterable[str]) -> dict[tuple[str, str], Counter]:
        return {
            (value, platform): counter.labels(value, *labels)
            for value in values
            for platform, labels in self._labels.items()
        }

    def platform(self, platform: str | None) -> str:
        """As which platform a stream counts that says it plays on this one."""
        name = platform.partition(" ")[0].lower() if platform else OTHER
        return name if name in self._platforms else OTHER

    def on_task_failure(self, task: str) -> None:
        """Count a background task that failed, and is started again."""
        self._task_failures.labels(task).inc()

    def on_lines_dropped(self, output: str, lines: int) -> None:
        """Count lines that could not be written.

        Args:
            output: Which: `log` or `events`.
            lines: How many.
        """
        self._dropped_lines[output].inc(lines)

    def on_unknown_plan(self) -> None:
        """Count a request whose plan the policy does not have."""
        self._unknown_plans.inc()

    def on_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            method: The request's; looked at only where a route took it.
            route: Template of the route, or None if none took the request.
            status: The answer's.
            seconds: How long it took.
        """
        key = (method, route, status) if route is not None else ("", "unmatched", status)
        child = self._by_request.get(key)
        if child is None:
            child = self._by_request[key] = self._requests.labels(*key)
        child.observe(seconds)

    def on_start(self, start: Start, outcome: Started | Exception) -> None:
        """Count a start."""
        became = _became(outcome)
        if became is not None:
            self._starts[became, self.platform(start.platform)].inc()
        match outcome:
            case Started(replay=False, active=active, beyond=beyond):
                self._active_at_start.observe(active)
                for rule in beyond:
                    self._limits.labels(rule, "would_refuse").inc()
            case LimitReachedError(reached=reached, active=active):
                self._active_at_start.observe(active + 1)
                for one in reached:
                    if one.rule is not None:
                        self._limits.labels(one.rule, "refused").inc()

    def on_heartbeat(self, outcome: Renewed | Exception, times: int = 1) -> None:
        """Count heartbeats."""
        match outcome:
            case Renewed():
                self._renewed.inc(times)
            case StreamEndedError(reason=reason):
                self._ended[reason].inc()
            case StreamNotFoundError():
                self._unknown.inc()
            case StoreUnavailableError():
                self._heartbeat_unavailable.inc(times)
            case TooManyRequestsError():
                self._heartbeat_throttled.inc(times)

    def on_end(self, end: End) -> None:
        """Count a stream that ended."""
        self._ends[end.reason, self.platform(end.stream.platform)].inc()
        if end.reason == "expired":
            self._ghost_release.observe((end.at - end.last_heartbeat_at).total_seconds())

    def on_batch(self, kind: str, size: int, waited_seconds: float) -> None:
        """Count a batch."""
        children = self._by_kind.get(kind)
        if children is None:
            children = self._batch_sizes.labels(kind), self._batch_waits.labels(kind)
            self._by_kind[kind] = children
        sizes, waits = children
        sizes.observe(size)
        waits.observe(waited_seconds)

    def on_store_error(self, error: StoreUnavailableError) -> None:
        """Count a request that the store failed, by the driver's class of error."""
        self._store_errors.labels(str(error).partition(" ")[0]).inc()

    def set_streams(self, active: int | None, silent: Mapping[str | None, int]) -> None:
        """Set the gauges: how many are active, and by platform how many of them are silent.

        None: the database gave no answer.
        """
        unknown = float("nan")
        self._active.set(unknown if active is None else active)
        counts = Counts[str]()
        for platform, count in silent.items():
            counts[self.platform(platform)] += count
        for platform, labels in self._labels.items():
            gauge = self._silent.labels(*labels) if labels else self._silent
            gauge.set(unknown if active is None else counts[platform])

    def registry(self) -> CollectorRegistry:
        """What to expose: of all processes that share PROMETHEUS_MULTIPROC_DIR, if it is set."""
        if VARIABLE not in os.environ:
            return self._registry
        shared = CollectorRegistry()
        SharedCollector(shared)
        return shared

    async def collect(self) -> list[Metric]:
        """Everything, as it is now. Files are read off the event loop."""
        return await asyncio.to_thread(lambda: list(self.registry().collect()))

    async def expose(self) -> bytes:
        """The same in Prometheus' words."""
        return await asyncio.to_thread(lambda: generate_latest(self.registry()))


def _became(start: Started | Exception) -> str | None:
    """One of `_OUTCOMES`, or None."""
    match start:
        case Started(replay=True):
            return "replayed"
        case Started(stream=stream, spared=spared):
            return "replacing" if stream.replaced is not None else _WITHIN[spared]
    return next((outcome for kind, outcome in _FAILED.items() if isinstance(start, kind)), None)


class Sampler:
    """Counts the active streams of the whole database, as often as that is cheap.

    They are counted when somebody looks, and by nobody else. Of many, a slice is counted and says
    what all are: see `MongoStore.count`.
    """

    def __init__(
        self, store: MongoStore, metrics: Metrics, *, lease: timedelta, clock: Clock = utc_now
    ) -> None:
        """Make a sampler.

        Args:
            store: Where the streams are.
            metrics: Whose gauges are to be set.
            lease: How long a stream stays active without a heartbeat.
            clock: Tells the time.
        """
        self._store = store
        self._metrics = metrics
        self._lease = lease
        self._clock = clock
        self._good_until = float("-inf")
        self._counted_at = float("-inf")
        self._active: float | None = None

    def active(self) -> float | None:
        """The active streams, if somebody had them counted in the last `FRESH_SECONDS`."""
        return self._active if monotonic() - self._counted_at <= FRESH_SECONDS else None

    async def sample(self) -> None:
        """Set the gauges, unless they were set a moment ago."""
        if monotonic() < self._good_until:
            return
        began = monotonic()
        # Those who come while it is being counted do not count too.
        self._good_until = float("inf")
        now = self._clock()
        try:
            active, silent = await self._store.count(now, now + self._lease * SILENT_SHARE)
        except StoreUnavailableError:
            self._metrics.set_streams(None, {})
            self._active = None
            return
        finally:
            took = monotonic() - began
            self._good_until = monotonic() + max(SAMPLE_SECONDS, SAMPLE_COST * took)
        self._active, self._counted_at = active, monotonic()
        self._metrics.set_streams(active, silent)


METRICS = web.AppKey("metrics", Metrics)
SAMPLER = web.AppKey("sampler", Sampler)
