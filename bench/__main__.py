"""The command line: what is measured, in which order, and where it goes.

Measures side by side, in one run: a bare aiohttp handler, this service with group commit and with
every request on its own, and fastapi-stream-lease on FastAPI, uvicorn and Redis. All of them stay
up for the whole run; each round asks each of them once, so that what happens to the machine
happens to all. Figures of different runs do not compare; ratios within one do.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NoReturn

from bench.load import LoadError, Run, name_streams, start_streams, wrk
from bench.processes import CannotStartError, usage
from bench.report import Report, Sample, as_json, machine, table
from bench.subjects import (
    ATTRIBUTES,
    DATABASES,
    EMBEDDED,
    GROUPED,
    LIMIT,
    LIMITED,
    MANY,
    NO_DATABASE,
    NULL,
    NULL_SCENARIOS,
    REDIS,
    Subject,
    UnavailableError,
    subjects_on,
)
from bench.tokens import write_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).with_name("results")
REFUSED_SESSIONS = 100
MOST_PER_SECOND = 15_000
"""More heartbeats than one process can answer in a second, on this machine and the next."""
QUIET = 0.3
"""Load average over one minute above which somebody else's work is measured too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: int
    warm_up: int
    connections: Sequence[int]
    scenarios: Sequence[str]
    beating: int


def main(arguments: list[str] | None = None) -> int:
    """Measure; returns the exit status."""
    options = _options(arguments)
    if options.show is not None:
        _print(json.loads(options.show.read_text()))
        return 0
    plan = Plan(
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up=options.warm_up,
        connections=options.connections,
        scenarios=options.scenarios,
        beating=options.streams,
    )
    signal.signal(signal.SIGTERM, _end)
    load_before = os.getloadavg()[0]
    if load_before > QUIET:
        _say(f"warning: the load average is {load_before:.1f} already; this will be noise")
    began = datetime.now(UTC)
    skipped: dict[str, str] = {}
    samples: list[Sample] = []
    fsync_ms = 0.0
    soak: list[dict[str, float]] = []
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            fsync_ms = _fsync_ms(directory)
            subjects = _start(stack, options.databases, directory, skipped)
            _measure(subjects, plan, samples)
            if options.soak:
                soak = _soak(subjects, options.soak)
    except KeyboardInterrupt:
        _say("stopped; this is what there is so far")
    except (CannotStartError, LoadError) as error:
        _say(f"error: {error}")
        return 1
    report = Report(samples)
    result = {
        "began": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": load_before,
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "machine": machine() | {"fsync_ms": fsync_ms},
        "skipped": skipped,
        "rows": report.rows(),
        "findings": [
            {"what": what, "figure": figure, "wanted": wanted}
            for what, figure, wanted in report.findings()
        ],
        "soak": soak,
        "samples": as_json(samples),
    }
    _print(result)
    path: Path = options.output or RESULTS / f"{began:%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    _say(f"written to {path}")
    return 0


_USUAL = {
    "rounds": 5,
    "seconds": 4,
    "warm_up": 2,
    "connections": [1, 16, 64, 256],
    "streams": 2000,
}
_QUICK = {"rounds": 1, "seconds": 1, "warm_up": 1, "connections": [1, 64], "streams": 200}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="MONGO_URL in the environment is one more database to measure on: name one that "
        "you can spare; its databases stream_service_bench_* are made and dropped. Progress goes "
        "to standard error, one Markdown table to standard output, everything to a JSON file.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke run of two minutes; figures are rough")
    add("--rounds", type=int, help="how often each cell is measured (default: 5)")
    add("--seconds", type=int, help="length of each measurement (default: 4)")
    add("--warm-up", type=int, help="seconds before the first round, per scenario (default: 2)")
    add(
        "--connections",
        type=_integers,
        help="requests under way at a time, with commas (default: 1,16,64,256)",
    )
    add(
        "--databases",
        type=_names(DATABASES),
        default=list(DATABASES),
        help=f"some of {','.join(DATABASES)} (default: all that are there)",
    )
    add(
        "--scenarios",
        type=_names(NULL_SCENARIOS),
        default=list(NULL_SCENARIOS),
        help=f"some of {','.join(NULL_SCENARIOS)} (default: all)",
    )
    add("--streams", type=int, help="streams that beat in turn (default: 2000)")
    add(
        "--soak",
        type=int,
        default=0,
        metavar="REQUESTS",
        help="afterwards send so many mixed requests to the grouped service on the null database, "
        "and look at its memory every tenth",
    )
    add("--output", type=Path, metavar="FILE", help="the JSON (default: bench/results/TIME.json)")
    add("--show", type=Path, metavar="FILE", help="measure nothing: print the table of that JSON")
    options = parser.parse_args(arguments)
    if options.quick and options.databases == list(DATABASES):
        options.databases = [NULL, EMBEDDED, REDIS]
    usual = _QUICK if options.quick else _USUAL
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _names(known: Sequence[str]) -> Any:
    def names(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return given

    return names


def _fsync_ms(directory: Path) -> float:
    """Milliseconds that the disk takes to keep a small record: the least of a durable write."""
    took = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 512)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return median(took)


def _start(
    stack: ExitStack, databases: Sequence[str], directory: Path, skipped: dict[str, str]
) -> list[Subject]:
    subjects: list[Subject] = []
    for number, name in enumerate((NO_DATABASE, *databases)):
        _say(f"starting what runs on {name}" if number else "starting the yardsticks")
        its_own = directory / str(number)
        its_own.mkdir()
        try:
            subjects += stack.enter_context(
                subjects_on(name, os.environ.get("MONGO_URL") or None, its_own)
            )
        except UnavailableError as why:
            skipped[name] = str(why)
            _say(f"skipped: {name}: {why}")
    return subjects


def _measure(subjects: Sequence[Subject], plan: Plan, samples: list[Sample]) -> None:
    # The yardsticks come with every scenario: what is near in time can be compared best.
    todo = [
        (subject, "plain" if "plain" in subject.scenarios else scenario)
        for scenario in plan.scenarios
        for subject in subjects
        if {"plain", scenario} & set(subject.scenarios)
    ]
    for subject, scenario in dict.fromkeys(todo):
        _warm_up(subject, scenario, plan)
    total = plan.rounds * len(plan.connections) * len(todo)
    began = time.monotonic()
    for number in range(1, plan.rounds + 1):
        for connections in plan.connections:
            for subject, scenario in todo:
                sample = _sample(subject, scenario, connections, number, plan.seconds)
                samples.append(sample)
                left = (time.monotonic() - began) / len(samples) * (total - len(samples))
                _say(f"[{len(samples)}/{total}, {left / 60:.0f} min left] {_told(sample)}")


def _warm_up(subject: Subject, scenario: str, plan: Plan) -> None:
    if scenario == "heartbeats" or scenario in MANY:
        streams = max(plan.beating, 2 * MANY.get(scenario, 0))
        start_streams(subject.port, _file(subject, scenario), streams)
    elif scenario in ("checks", "live-checks") and subject.key is not None:
        write_tokens(_file(subject, scenario), subject.key, plan.beating)
    elif scenario == "refusals":
        start_streams(subject.port, _file(subject, scenario), REFUSED_SESSIONS, LIMIT)
    sample = _sample(subject, scenario, max(plan.connections), 0, plan.warm_up)
    _say(f"warmed up: {_told(sample)}")


def _told(sample: Sample) -> str:
    return (
        f"round {sample.round}: {sample.subject} on {sample.database}: {sample.scenario}, "
        f"{sample.connections} connections: {sample.rate:,.0f}/s"
        + (f", {sample.failed} of {sample.requests} FAILED" if sample.failed else "")
    )


def _sample(subject: Subject, scenario: str, connections: int, number: int, seconds: int) -> Sample:
    run: Run
    database = subject.database
    if scenario == "mixed":
        # A run stops streams that it finds, so each needs its own.
        start_streams(subject.port, _file(subject, scenario), connections + 50)
    elif scenario == "unseen":
        name_streams(_file(subject, scenario), MOST_PER_SECOND * seconds)
    elif scenario == "new-checks" and subject.key is not None:
        write_tokens(_file(subject, scenario), subject.key, MOST_PER_SECOND * seconds)
    database.commands()
    before, database_before = usage(subject.processes), usage(database.processes)
    run = _run(subject, scenario, connections, seconds)
    after, database_after = usage(subject.processes), usage(database.processes)
    commands = database.commands()
    each = MANY.get(scenario, 1)
    requests = run.requests * each
    wanted = requests if scenario == "refusals" else 0
    answered = max(requests, 1)
    return Sample(
        database=database.name,
        subject=subject.name,
        scenario=scenario,
        connections=connections,
        round=number,
        requests=requests,
        seconds=run.seconds,
        rate=requests / run.seconds,
        p50_ms=run.p50_ms,
        p99_ms=run.p99_ms,
        failed=abs(wanted - run.bad_status * each) + run.broken * each,
        cpu_us=(after.cpu - before.cpu) / answered * 1e6,
        commands=None if commands is None else commands / answered,
        database_cpu=(database_after.cpu - database_before.cpu) / run.seconds
        if database.processes
        else None,
        wrk_cpu=run.cpu / run.seconds,
        rss_before=before.rss,
        rss_after=after.rss,
    )


def _run(subject: Subject, scenario: str, connections: int, seconds: int) -> Run:
    word = secrets.token_hex(6)
    file = str(_file(subject, scenario))
    script, arguments = scenario, [file]
    match scenario:
        case "plain":
            arguments = []
        case "starts":
            arguments = [word, *([ATTRIBUTES] if subject.name == LIMITED else [])]
        case "mixed":
            arguments = [file, word]
        case "unseen":
            script = "heartbeats"
        case _ if scenario in MANY:
            script, arguments = "heartbeats-many", [file, str(MANY[scenario])]
            # Who sends so many at once is few. The embedded server takes a second for a thousand.
            connections = min(connections, 8 if subject.database.name == NULL else 1)
        case "new-checks":
            script = "checks"
        case "live-checks":
            script, arguments = "checks", [file, "?live=1"]
    full = scenario == "refusals"
    if full:
        subject.database.show_active(LIMIT)
    try:
        return wrk(script, subject.port, connections, seconds, *arguments)
    finally:
        if full:
            subject.database.show_active(0)


def _file(subject: Subject, scenario: str) -> Path:
    return subject.directory / f"{subject.name}.{scenario}"


def _soak(subjects: Sequence[Subject], requests: int) -> list[dict[str, float]]:
    """Send many requests to one process and watch its memory."""
    subject = next(s for s in subjects if (s.database.name, s.name) == (NULL, GROUPED))
    seen: list[dict[str, float]] = []
    done = 0
    while done < requests:
        if not seen or done >= len(seen) * requests / 10:
            seen.append({"requests": done, "rss": usage(subject.processes).rss})
            _say(f"soak: {done:,} requests, {seen[-1]['rss'] / 1e6:.1f} MB")
        done += _sample(subject, "mixed", 64, 0, 5).requests
    seen.append({"requests": done, "rss": usage(subject.processes).rss})
    _say(f"soak: {done:,} requests, {seen[-1]['rss'] / 1e6:.1f} MB")
    return seen


def _print(result: dict[str, Any]) -> None:
    ran_on = result["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in ran_on["packages"].items())
    print(f"{ran_on['cores']} cores of {ran_on['cpu']}, {ran_on['python']}, {ran_on['system']}")
    print(packages)
    print(
        f"fsync {ran_on['fsync_ms']:.2f} ms; load average before: "
        f"{result['load_average_before']:.2f}\n"
    )
    print(table(result["rows"]))
    print()
    for finding in result["findings"]:
        figure = "not measured" if finding["figure"] is None else f"{finding['figure']:.3g}"
        print(f"{finding['what']}: {figure} (wanted: {finding['wanted']})")
    for seen in result["soak"]:
        print(f"after {seen['requests']:,} mixed requests: {seen['rss'] / 1e6:.1f} MB")
    for name, why in result["skipped"].items():
        print(f"not measured: {name}: {why}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _end(_number: int, _frame: object) -> NoReturn:
    """End what was started, as if by Ctrl-C."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
