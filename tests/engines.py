"""`make test-engines`: tests of the store, races and processes on every engine that is here.

An engine is a database server. `mongomock-motor` and `secantusd-py` are installed with the tests;
`secantusd-rs` is tested if it is in PATH, and the server that MONGO_URL names if it is set.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support.processes import ROOT, free_port, listening

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = (
    *("test_store", "test_commands", "test_conflicts", "test_late_commands", "test_interleavings"),
    *("test_forgetting", "test_races", "test_state_machine", "test_process_race", "test_count"),
    *("test_http_lifecycle", "test_policy", "test_heartbeats", "test_events", "test_shadow_mode"),
    *("test_fairness", "test_digests"),
)

EMBEDDED = "mongomock-motor, secantusd-py"
RUST = "secantusd-rs"
NAMED = "MONGO_URL"


@dataclass(frozen=True)
class Outcome:
    """What became of one engine.

    Attributes:
        engine: Its name.
        version: What it says of itself.
        summary: pytest's last line.
        reasons: Why tests were skipped.
        status: pytest's exit status.
    """

    engine: str
    version: str
    summary: str
    reasons: list[str]
    status: int


class MissingError(Exception):
    """The engine is not here; the message says what to do for it."""


@contextmanager
def running(engine: str) -> Iterator[str | None]:
    """Its URL; None for the one that the tests start by themselves."""
    if engine == EMBEDDED:
        yield None
    elif engine == NAMED:
        if "MONGO_URL" not in os.environ:
            raise MissingError("the variable is not set")
        yield os.environ["MONGO_URL"]
    else:
        program = shutil.which(RUST)
        if program is None:
            raise MissingError("not in PATH: cargo install secantus-mdb --version 0.5.3-beta.196")
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            data.mkdir()
            command = [program, "--port", str(port), "--storage-path", str(data)]
            with listening(port, *command, "--sync-on-commit", folder=Path(folder)):
                yield f"mongodb://127.0.0.1:{port}/?directConnection=true"


def version_of(url: str | None) -> str:
    """What the server says of its version; never its URL, which may hold a password."""
    if url is None:
        return "as locked"
    try:
        with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=5000) as client:
            about = client.admin.command("buildInfo")
            kind = "router" if client.admin.command("hello").get("msg") else "server"
    except PyMongoError as error:
        raise MissingError(f"no answer ({type(error).__name__})") from None
    return f"{kind}, says {about.get('version', 'nothing')}"


def run_tests(engine: str, url: str | None, arguments: list[str]) -> tuple[int, str, list[str]]:
    """Run pytest; returns its status, its last line, and why tests were skipped."""
    environment = {name: value for name, value in os.environ.items() if name != "MONGO_URL"}
    environment["ENGINE"] = engine
    if url is not None:
        environment["MONGO_URL"] = url
    files = [f"tests/fast/{name}.py" for name in FILES]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--quiet", *arguments, *files],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.strip())
    reasons = [re.sub(r"^SKIPPED \[(\d+)\] [^ ]+ ", r"\1 x ", line) for line in lines
               if line.startswith("SKIPPED")]  # fmt: skip
    last = next((line for line in reversed(lines) if line), "")
    return process.wait(), last, reasons


def main() -> int:
    """Test every engine that is here; returns 0 if all passed."""
    parser = argparse.ArgumentParser(prog="make test-engines", description=__doc__)
    parser.add_argument("engines", nargs="*", help=f"of: {EMBEDDED}; {RUST}; {NAMED}. All: none")
    parser.add_argument("--pytest", default="", help="further arguments for pytest")
    options = parser.parse_args()
    outcomes, missing = [], []
    for engine in options.engines or (EMBEDDED, RUST, NAMED):
        try:
            with running(engine) as url:
                version = version_of(url)
                print(f"\n== {engine}: {version}", flush=True)
                status, summary, reasons = run_tests(engine, url, options.pytest.split())
        except MissingError as why:
            missing.append(f"{engine}: {why}")
            continue
        outcomes.append(Outcome(engine, version, summary, reasons, status))
    print("\n== engines")
    for one in outcomes:
        print(f"  {one.engine} ({one.version}): {one.summary}")
        for reason in one.reasons:
            print(f"      skipped: {reason}")
    for line in missing:
        print(f"  not run: {line}")
    return max((one.status for one in outcomes), default=1)


if __name__ == "__main__":
    sys.exit(main())
