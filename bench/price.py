"""What the database pays: per request, and how that grows with the streams that are active.

    python -m bench.price [--streams 10000,100000] [--engines secantusd-py]

On each engine that is here (`secantusd-py`, `secantusd-rs` if it is in PATH, the server that
MONGO_URL names) and for each number of active streams: latency and CPU of the database for starts,
heartbeats and lists at 64 connections, the time of the count behind `/metrics`, and the index
entries that a start and a heartbeat change. The bytes that a request sends to the database are
counted by the null database.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from pymongo import MongoClient

from bench.engines import ENGINES, Engine, MadeUp, engine_named, entries, fill
from bench.load import name_streams, wrk
from bench.processes import free_port, running, usage
from stream_service.api.digests import Digests

CONNECTIONS = 64
BEATING = 2000
"""Of how many streams, spread over all of them, the heartbeats and lists are."""

COUNT = """
import asyncio, json, sys, time
from datetime import timedelta
from stream_service.store import MongoStore
from stream_service.streams import utc_now

async def main():
    store = MongoStore.connect(sys.argv[1], sys.argv[2], timedelta(minutes=5))
    await store.count(utc_now(), utc_now())
    took = []
    for _ in range(int(sys.argv[3])):
        began = time.perf_counter()
        try:
            await store.count(utc_now(), utc_now())
        except Exception as error:
            sys.exit(f"no answer: {error}")
        took.append((time.perf_counter() - began) * 1000)
    store.close()
    print(json.dumps(took))

asyncio.run(main())
"""
"""Run in a process of its own: the store's own count."""


def _null(stack: ExitStack) -> Engine:
    port = free_port()
    command = [sys.executable, "-m", "bench.null_mongod", str(port)]
    process = stack.enter_context(running(command, port))
    return Engine("null", f"mongodb://127.0.0.1:{port}/?directConnection=true", [process])


def _service(stack: ExitStack, url: str, database: str) -> int:
    """Run the service; returns its port."""
    port = free_port()
    environment = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MONGO_URL": url,
        "MONGO_DB": database,
        "STREAM_TTL_SECONDS": "7200",
    }
    command = [sys.executable, "-m", "stream_service"]
    stack.enter_context(running(command, port, environment))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60):
        return port


def _fill(url: str, database: str, count: int) -> list[tuple[str, str]]:
    """Put so many active streams there; returns some of them, spread evenly."""
    now = datetime.now(UTC)
    made_up = MadeUp(secrets.token_hex(6), now, now + timedelta(hours=2))
    with MongoClient[dict[str, Any]](url) as client:
        for _ in fill(client[database]["streams"], made_up, range(count)):
            pass
    chosen = range(0, count, max(1, count // BEATING))
    return [(made_up.login(number), made_up.lease_id(number)) for number in chosen]


def _entries_changed(url: str, database: str, port: int) -> dict[str, int]:
    """Index entries written and removed by one start and by one heartbeat, looked up afterwards."""
    login = f"entries-{secrets.token_hex(6)}"

    def ask(path: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", method="POST", headers={"Session-Id": login}
        )
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return json.load(response)

    with MongoClient[dict[str, Any]](url) as client:
        streams = client[database]["streams"]
        indexes = streams.index_information()
        seen = [entries(indexes, ())]

        def look() -> int:
            found = list(streams.find({"session": Digests()(login)}))
            seen.append(entries(indexes, found))
            return len(seen[-1] ^ seen[-2])

        stream = ask("/streams")
        changed = {"starts": look()}
        ask(f"/streams/{stream['lease_id']}/heartbeat")
        return changed | {"heartbeats": look()}


def _load(port: int, scenario: str, file: Path, seconds: int) -> Any:
    argument = secrets.token_hex(6) if scenario == "starts" else str(file)
    return wrk(scenario, port, CONNECTIONS, seconds, argument)


def _bytes_sent(seconds: int) -> dict[str, float]:
    """Bytes that a request sends to the database, with 64 under way."""
    sent = {}
    with ExitStack() as stack:
        engine = _null(stack)
        admin = stack.enter_context(MongoClient[dict[str, Any]](engine.url)).admin
        port = _service(stack, engine.url, "bench")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "streams"
            name_streams(file, BEATING)
            for scenario in ("starts", "heartbeats"):
                _load(port, scenario, file, 1)
                admin.command("nullCounters")
                run = _load(port, scenario, file, seconds)
                sent[scenario] = admin.command("nullCounters")["bytes"] / run.requests
    return sent


def _count(engine: Engine, database: str) -> tuple[list[float], str]:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", COUNT, engine.url, database, "10"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout), ""
    return [], done.stderr.strip().splitlines()[-1].rpartition(".")[2]


def _measure(engine: Engine, count: int, options: Any) -> None:
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "streams"
        database = f"stream_service_bench_{secrets.token_hex(4)}"
        port = _service(stack, engine.url, database)
        _say(f"{engine.name}: {count:,} streams")
        chosen = _fill(engine.url, database, count)
        file.write_text("\n".join(" ".join(stream) for stream in chosen) + "\n")
        entries = _entries_changed(engine.url, database, port)
        for scenario in ("heartbeats", "lists", "starts"):
            samples = []
            for round_ in range(options.rounds + 1):
                before = usage(engine.processes).cpu
                run = _load(port, scenario, file, options.seconds if round_ else 1)
                used = usage(engine.processes).cpu - before
                if round_:
                    rate, cpu = run.requests / run.seconds, used / run.requests * 1e6
                    samples.append((rate, run.p50_ms, run.p99_ms, cpu))
                    if run.bad_status or run.broken:
                        _say(f"{run.bad_status + run.broken} of {run.requests} failed")
            rate, p50, p99, cpu = (median(column) for column in zip(*samples, strict=True))
            print(
                f"| {engine.name} | {count:,} | {scenario} | {rate:,.0f} | {p50:.1f} | {p99:.1f} "
                f"| {_told(engine, cpu)} | {entries.get(scenario, '')} |",
                flush=True,
            )
        before = usage(engine.processes).cpu
        took, why = _count(engine, database)
        cpu = (usage(engine.processes).cpu - before) / 11 * 1e6
        told = f"{median(took):.1f} | {max(took):.1f}" if took else f"{why.strip()} |"
        print(
            f"| {engine.name} | {count:,} | count for /metrics | | {told} "
            f"| {_told(engine, cpu)} | |",
            flush=True,
        )
        _drop(engine, database)


def _drop(engine: Engine, database: str) -> None:
    # A server of our own ends with its files, which is quicker.
    if not engine.processes:
        with MongoClient[dict[str, Any]](engine.url) as client:
            client.drop_database(database)


def _told(engine: Engine, cpu: float) -> str:
    return f"{cpu:.0f}" if engine.processes else ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.price", description=__doc__)
    add = parser.add_argument
    add("--streams", default="10000,100000,1000000", help="how many are active, with commas")
    add("--engines", default=",".join(ENGINES), help=f"some of {','.join(ENGINES)}")
    add("--rounds", type=int, default=3)
    add("--seconds", type=int, default=2)
    options = parser.parse_args()
    print("bytes to the database, 64 connections, null database:")
    for scenario, sent in _bytes_sent(options.seconds).items():
        print(f"  {scenario} {sent:.0f}", flush=True)
    print(
        "\n| engine | active | scenario | req/s | p50 ms | p99 ms | db CPU us/req | index entries |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    missing = []
    for name in options.engines.split(","):
        for count in map(int, options.streams.split(",")):
            with ExitStack() as stack:
                engine = engine_named(stack, name)
                if engine is None:
                    missing.append(name)
                    break
                _measure(engine, count, options)
    for name in missing:
        print(f"not measured: {name}: not here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
