"""What was measured, made readable: medians with their spread, and what they say."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.subjects import (
    ALONE,
    EMBEDDED,
    GROUPED,
    MANY,
    MONGO,
    NULL,
    PEER,
    REDIS,
    RUST,
    SIGNING,
    YARDSTICK,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PACKAGES = (
    *("aiohttp", "motor", "pymongo", "secantusdb"),
    *("fastapi", "uvicorn", "fastapi-stream-lease", "redis"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one scenario, and what it cost.

    Attributes:
        database: What the subject runs on.
        subject: What was asked.
        scenario: What for.
        connections: How many requests were under way at a time.
        round: Counted from 1.
        requests: How many were answered.
        seconds: How long the run took.
        rate: Requests per second.
        p50_ms: Median latency.
        p99_ms: 99th percentile of latency.
        failed: Answers that were not as the scenario wants them, broken connections, time-outs.
        cpu_us: Microseconds of CPU per request in the subject's processes.
        commands: Commands to the database per request, if it can tell.
        database_cpu: Part of one core that the database took, 1 being all of it.
        wrk_cpu: Part of one core that the load generator took.
        rss_before: Resident memory of the subject's processes, in bytes.
        rss_after: As rss_before, after the run.
    """

    database: str
    subject: str
    scenario: str
    connections: int
    round: int
    requests: int
    seconds: float
    rate: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float
    commands: float | None
    database_cpu: float | None
    wrk_cpu: float
    rss_before: int
    rss_after: int

    @property
    def cell(self) -> tuple[str, str, str, int]:
        """What its rounds have in common."""
        return self.database, self.subject, self.scenario, self.connections


class Report:
    """Every sample of a run."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._cells: dict[tuple[str, str, str, int], list[Sample]] = {}
        for sample in samples:
            self._cells.setdefault(sample.cell, []).append(sample)

    def rows(self) -> list[dict[str, Any]]:
        """A row per cell: medians over its rounds, the spread of the rate, the ratio of rates."""
        return [self._row(cell, samples) for cell, samples in self._cells.items()]

    def _row(self, cell: tuple[str, str, str, int], samples: list[Sample]) -> dict[str, Any]:
        database, subject, scenario, connections = cell
        return {
            "database": database,
            "subject": subject,
            "scenario": scenario,
            "connections": connections,
            "samples": len(samples),
            "rate": _median(samples, lambda s: s.rate),
            "rate_min": min(s.rate for s in samples),
            "rate_max": max(s.rate for s in samples),
            "of_aiohttp": self.ratio(cell, ("-", YARDSTICK, "plain", connections)),
            "p50_ms": _median(samples, lambda s: s.p50_ms),
            "p99_ms": _median(samples, lambda s: s.p99_ms),
            "cpu_us": _median(samples, lambda s: s.cpu_us),
            "busy": _median(samples, lambda s: s.cpu_us / 1e6 * s.rate),
            "commands": _median(samples, lambda s: s.commands),
            "database_cpu": _median(samples, lambda s: s.database_cpu),
            "wrk_cpu": _median(samples, lambda s: s.wrk_cpu),
            "rss_before": samples[0].rss_before,
            "rss_after": samples[-1].rss_after,
            "failed": sum(s.failed for s in samples),
            "requests": sum(s.requests for s in samples),
        }

    def ratio(
        self, cell: tuple[str, str, str, int], base: tuple[str, str, str, int]
    ) -> float | None:
        """The median over the rounds of one rate divided by the other; None without both."""
        rates, bases = self._rates(cell), self._rates(base)
        ratios = [rates[number] / bases[number] for number in rates if bases.get(number)]
        return median(ratios) if ratios else None

    def _rates(self, cell: tuple[str, str, str, int]) -> dict[int, float]:
        """The median rate of each round; a yardstick is measured several times in one."""
        rounds: dict[int, list[float]] = {}
        for sample in self._cells.get(cell, ()):
            rounds.setdefault(sample.round, []).append(sample.rate)
        return {number: median(rates) for number, rates in rounds.items()}

    def findings(self) -> list[tuple[str, float | None, str]]:
        """What the run says of what is promised: what, the figure, what it should be."""
        found = []
        bare = ("-", YARDSTICK, "plain", 64)
        for scenario, floor in (("heartbeats", 0.6), ("starts", 0.4)):
            grouped = (NULL, GROUPED, scenario, 64)
            text = f"{scenario}, grouped, null database, 64 connections"
            found.append((f"{text} / bare aiohttp", self.ratio(grouped, bare), f">= {floor}"))
            alone = (NULL, ALONE, scenario, 64)
            found.append((f"{text} / each request alone", self.ratio(grouped, alone), ">= 4"))
        single = _median(self._cells.get((NULL, GROUPED, "heartbeats", 64), []), _cpu)
        for scenario, wanted in zip(MANY, ("<= 1/10", "<= 1/15"), strict=True):
            many = _median(self._cells.get((NULL, GROUPED, scenario, 64), []), _cpu)
            figure = many / single if many and single else None
            found.append(
                (f"{scenario}: CPU for each stream / for a single heartbeat", figure, wanted)
            )
        for signing, kind in SIGNING.items():
            for scenario, base, wanted in (
                ("heartbeats", (NULL, GROUPED, "heartbeats", 64), "told"),
                ("checks", bare, ">= 0.6"),
                ("new-checks", bare, "told"),
                ("live-checks", bare, "told"),
            ):
                against = "bare aiohttp" if base is bare else "without tokens"
                figure = self.ratio((NULL, signing, scenario, 64), base)
                found.append((f"{scenario}, {kind}, 64 connections / {against}", figure, wanted))
        beats = self._cells.get((NULL, GROUPED, "heartbeats", 64), [])
        commands = _median(beats, lambda s: s.commands)
        found.append(("commands per heartbeat, 64 connections", commands, "<= 0.06"))
        found.extend(
            (
                f"starts, grouped, {store}, 64 connections / {PEER} on Redis",
                self.ratio((store, GROUPED, "starts", 64), (REDIS, PEER, "starts", 64)),
                ">= 3, or the store is the bound",
            )
            for store in (EMBEDDED, RUST, MONGO)
            if (store, GROUPED, "starts", 64) in self._cells
        )
        for scenario in ("starts", "heartbeats"):
            p50 = [
                _median(self._cells.get((NULL, how, scenario, 1), []), lambda s: s.p50_ms)
                for how in (GROUPED, ALONE)
            ]
            figure = p50[0] / p50[1] if p50[0] and p50[1] else None
            found.append(
                (f"{scenario}, 1 connection: p50 grouped / alone, null database", figure, "<= 1")
            )
        return found


def _cpu(sample: Sample) -> float:
    return sample.cpu_us


def _median(samples: Iterable[Sample], of: Callable[[Sample], float | None]) -> float | None:
    figures = [figure for figure in map(of, samples) if figure is not None]
    return median(figures) if figures else None


_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("database", lambda row: row["database"]),
    ("subject", lambda row: row["subject"]),
    ("scenario", lambda row: row["scenario"]),
    ("conns", lambda row: str(row["connections"])),
    ("req/s", lambda row: f"{row['rate']:,.0f}"),
    ("min-max", lambda row: f"{row['rate_min']:,.0f}-{row['rate_max']:,.0f}"),
    ("/aiohttp", lambda row: _figure(row["of_aiohttp"], ".2f")),
    ("p50 ms", lambda row: _figure(row["p50_ms"], ".2f")),
    ("p99 ms", lambda row: _figure(row["p99_ms"], ".2f")),
    ("CPU us/req", lambda row: _figure(row["cpu_us"], ".0f")),
    ("CPU", lambda row: _figure(row["busy"], ".0%")),
    ("cmds/req", lambda row: _figure(row["commands"], ".3f")),
    ("db CPU", lambda row: _figure(row["database_cpu"], ".0%")),
    ("wrk CPU", lambda row: _figure(row["wrk_cpu"], ".0%")),
    ("RSS MB", lambda row: f"{row['rss_before'] / 1e6:.0f}-{row['rss_after'] / 1e6:.0f}"),
    ("failed", lambda row: str(row["failed"])),
)


def _figure(figure: float | None, form: str) -> str:
    return "" if figure is None else format(figure, form)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    cells = [[name for name, _ in _COLUMNS], *([of(row) for _, of in _COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = 3  # The columns that are words go left, figures go right.
    lines = [
        "| "
        + " | ".join(
            text.ljust(width) if i < words else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in cells
    ]
    rule = [("-" * (w + 2) if i < words else "-" * (w + 1) + ":") for i, w in enumerate(widths)]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {package: version(package) for package in PACKAGES},
        "wrk": _first_line("wrk", "--version"),
        "redis-server": _first_line("redis-server", "--version"),
        "secantusd-rs": _first_line("secantusd-rs", "--version"),
        "commit": _first_line("git", "describe", "--always", "--dirty"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _first_line(*command: str) -> str | None:
    try:
        # wrk ends with 1 after it has told its version.
        told = subprocess.run(  # noqa: S603 - the benchmark's own commands
            command, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return next(iter((told.stdout or told.stderr).splitlines()), None)


def as_json(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Every sample, for whoever wants to reckon with them."""
    return [asdict(sample) for sample in samples]
