"""The service killed together with its embedded database, as by the kernel short of memory."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.faults.conftest import served
from tests.faults.tally import TALLY
from tests.faults.viewers import Viewers
from tests.support.processes import PATIENCE_SECONDS, Service

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 4

pytestmark = [
    pytest.mark.timeout(800),
    pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no PR_SET_PDEATHSIG"),
]


def _is_readable(descriptor: int) -> bool:
    return select.select([descriptor], [], [], PATIENCE_SECONDS)[0] == [descriptor]


async def test_kills_leave_no_database_behind_and_lose_no_stream_that_was_answered(
    tmp_path: Path, token: str
) -> None:
    def embedded() -> Service:
        return Service(
            *("--embedded", "--data-dir", str(tmp_path)),
            GATEWAY_TOKEN=token,
            STREAM_TTL_SECONDS="3600",
        )

    async with Viewers([], 200, token=token) as viewers:
        for _ in range(ROUNDS):
            async with served(embedded()) as service:
                viewers.urls = [service.url]
                # All that was answered in the rounds before.
                await viewers.all_sure_ones_beat()
                [database] = service.children
                ended = os.pidfd_open(database)
                viewers.may_lose = True
                async with viewers.playing():
                    await asyncio.sleep(1.0)
                    service.signal(signal.SIGKILL)
                    TALLY.fault("service and database killed")
                    assert await asyncio.to_thread(_is_readable, ended)
                os.close(ended)
                viewers.may_lose = False
        async with served(embedded()) as service:
            viewers.urls = [service.url]
            assert await viewers.all_sure_ones_beat() > 0
    assert TALLY.violations == []
