from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import TALLY, new_secret
from tests.support.database import Database
from tests.support.processes import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Serve = Callable[..., AbstractContextManager[Service]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database that runs and answers, of this test alone."""
    with Database(tmp_path) as made:
        yield made


@pytest.fixture
def token() -> str:
    return new_secret()


@pytest.fixture
def serve(token: str) -> Serve:
    """Runs a service, changed as `changes` say (see driver.py), and keeps its log for later."""

    @contextmanager
    def run(url: str, *changes: str, keep_log: bool = True, **variables: str) -> Iterator[Service]:
        # With -P, PYTHONPATH alone says which version of the service runs.
        program = ("-P", "-m", "tests.support.driver" if changes else "stream_service")
        variables = {
            "MONGO_URL": url,
            "MONGO_DB": Database.name,
            "STREAM_TTL_SECONDS": "600",
            "GATEWAY_TOKEN": f"{new_secret()},{token}",
            **variables,
        }
        with Service(*changes, program=program, **variables) as service:
            try:
                yield service
            finally:
                if keep_log:
                    TALLY.log.extend(service.log)
        if keep_log:
            TALLY.log.extend(service.log[-50:])
            TALLY.log.extend(service.output)

    return run


@asynccontextmanager
async def served(service: AbstractContextManager[Service]) -> AsyncIterator[Service]:
    """A service that starts and ends while this event loop, and a proxy on it, go on."""
    running = await asyncio.to_thread(service.__enter__)
    try:
        await asyncio.to_thread(lambda: running.url)
        yield running
    finally:
        await asyncio.to_thread(service.__exit__, None, None, None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        print(f"\n    {report.outcome} in {report.duration:.1f} s: {report.nodeid}", flush=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("what was asked of it, and what came of it")
    for line in [*TALLY.lines(), *TALLY.violations[:20]]:
        terminalreporter.write_line(line)
