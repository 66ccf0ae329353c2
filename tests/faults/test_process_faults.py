"""Faults of the service: killed, told to stop under load, and with clocks that differ."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import aiohttp
import pytest

from stream_service.process.server import GRACE_SECONDS
from tests.faults.conftest import served
from tests.faults.tally import TALLY
from tests.faults.viewers import LIMIT, Viewers
from tests.support.database import url_of
from tests.support.processes import free_port
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.conftest import Serve
    from tests.support.database import Database

pytestmark = pytest.mark.timeout(400)

EXIT_SECONDS = GRACE_SECONDS + 2.0


async def test_a_killed_one_of_three_processes_costs_only_its_open_connections(
    database: Database, serve: Serve, token: str, tmp_path: Path
) -> None:
    variables = {"PORT": str(free_port()), "LISTENER_DIR": str(tmp_path)}
    with ExitStack() as stack:
        three = [stack.enter_context(serve(database.url, **variables)) for _ in range(3)]
        [url] = {service.url for service in three}
        async with Viewers([url], 60, token=token) as viewers:
            viewers.may_lose = True
            async with viewers.playing():
                for victim in three[:2]:
                    await asyncio.sleep(1.0)
                    victim.signal(signal.SIGKILL)
                    TALLY.fault("service killed")
                    await viewers.next_good(time.monotonic())
                await asyncio.sleep(1.0)
            viewers.may_lose = False
            assert await viewers.all_sure_ones_beat() > 0
        assert max(database.active(database.name).values()) <= LIMIT
    assert TALLY.violations == []


async def test_a_service_told_to_stop_answers_all_it_has_and_takes_no_more(
    database: Database, serve: Serve, token: str
) -> None:
    async with (
        Proxy(database.port) as proxy,
        served(serve(url_of(proxy.port))) as service,
        Viewers([service.url], 64, token=token) as viewers,
    ):
        await viewers.start(viewers.families[0])
        proxy.delay = 0.15
        starts = [asyncio.create_task(viewers.start(family)) for family in viewers.families[1:]]
        await asyncio.sleep(0.3)
        assert not any(start.done() for start in starts)
        service.signal(signal.SIGTERM)
        TALLY.fault("service told to stop")
        began = time.monotonic()
        await asyncio.to_thread(service.wait_for, lambda e: e["event"] == "stopping")
        await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as late:
            with pytest.raises(aiohttp.ClientConnectorError):
                await late.get(f"{service.url}/health/live")
        answers = await asyncio.gather(*starts)
        assert [answer.status for answer in answers if answer] == [201] * 63
        assert await asyncio.to_thread(service.status) == 0
        assert time.monotonic() - began < EXIT_SECONDS
    assert TALLY.violations == []


async def test_a_service_told_to_stop_ends_in_time_without_its_database(
    database: Database, serve: Serve, token: str
) -> None:
    with serve(database.url) as service:
        async with Viewers([service.url], token=token) as viewers:
            await viewers.start(viewers.families[0])
        database.signal(signal.SIGSTOP)
        try:
            service.signal(signal.SIGTERM)
            TALLY.fault("service told to stop")
            began = time.monotonic()
            assert await asyncio.to_thread(service.status) == 0
            assert time.monotonic() - began < EXIT_SECONDS
        finally:
            database.signal(signal.SIGCONT)


async def test_clocks_that_differ_by_5_s_break_no_cap_and_take_no_stream_that_beats(
    database: Database, serve: Serve, token: str
) -> None:
    lease = {"STREAM_TTL_SECONDS": "15"}
    with serve(database.url, "clock=5", **lease) as ahead, serve(database.url, **lease) as behind:
        async with (
            Viewers([behind.url], 20, token=token) as theirs,
            Viewers([ahead.url], 20, token=token) as others,
        ):
            TALLY.fault("clocks 5 s apart")
            for family in theirs.families:
                for _ in range(LIMIT):
                    answer = await theirs.start(family)
                    assert answer is not None
                    assert answer.status == 201
            until = time.monotonic() + 18
            while time.monotonic() < until:
                for family in theirs.families:
                    # The process whose clock is ahead sees these leases end 5 s early.
                    refused = await others.ask("POST", "/streams", family.session)
                    assert refused is not None
                    assert refused.status == 409
                await theirs.all_sure_ones_beat()
                assert max(database.active(database.name).values()) == LIMIT
                await asyncio.sleep(1.5)
            # A stop by either frees the slot for the other at once.
            for stops, starts in ((theirs, others), (others, theirs)):
                for family in theirs.families:
                    one = family.sure.pop()
                    stopped = await stops.ask("DELETE", f"/streams/{one}", family.session)
                    started = await starts.ask("POST", "/streams", family.session)
                    assert stopped is not None
                    assert started is not None
                    assert (stopped.status, started.status) == (204, 201)
            assert max(database.active(database.name).values()) == LIMIT
    assert TALLY.violations == []
