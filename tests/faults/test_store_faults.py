"""Faults of the store: killed, stopped, slow, cut off, absent."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.group_commit import DEADLINE_SECONDS
from tests.faults.conftest import served
from tests.faults.tally import TALLY, Tally, new_secret
from tests.faults.viewers import LIMIT, UNSURE, Viewers
from tests.support.database import Database, url_of
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.conftest import Serve

pytestmark = pytest.mark.timeout(800)

RECOVERY_SECONDS = 2.0


async def _recovered(viewers: Viewers, since: float) -> None:
    took = await viewers.next_good(since)
    viewers.tally.recoveries.append(took)
    if took > RECOVERY_SECONDS:
        viewers.tally.violations.append(f"the first good answer came after {took:.2f} s")


async def _settled(viewers: Viewers, database: Database) -> None:
    """Nothing that was acknowledged is lost, and no session has too many."""
    assert await viewers.all_sure_ones_beat() > 0
    counted = await asyncio.to_thread(database.active, database.name)
    too_many = [n for n in counted.values() if n > LIMIT]
    viewers.tally.violations += [f"{n} active streams in the database" for n in too_many]
    assert viewers.tally.violations == []


async def test_a_database_killed_under_load_ten_times_costs_no_promise(
    database: Database, serve: Serve, token: str
) -> None:
    with serve(database.url) as one, serve(database.url) as other:
        async with Viewers([one.url, other.url], 60, token=token) as viewers:
            for _ in range(10):
                async with viewers.playing():
                    await asyncio.sleep(1.0)
                    database.kill()
                    TALLY.fault("database killed")
                    await asyncio.sleep(0.3)
                    database.start()
                    await database.back()
                    await _recovered(viewers, time.monotonic())
                    await asyncio.sleep(0.5)
                await _settled(viewers, database)


async def test_a_database_that_stands_still_past_the_deadline_costs_no_promise(
    database: Database, serve: Serve, token: str
) -> None:
    with serve(database.url) as service:
        async with Viewers([service.url], 60, token=token) as viewers:
            for _ in range(2):
                async with viewers.playing():
                    await asyncio.sleep(0.5)
                    database.signal(signal.SIGSTOP)
                    TALLY.fault("database stopped")
                    before = TALLY.statuses[503]
                    await asyncio.sleep(2 * DEADLINE_SECONDS)
                    assert TALLY.statuses[503] > before
                    database.signal(signal.SIGCONT)
                    await database.back()
                    await _recovered(viewers, time.monotonic())
                    await asyncio.sleep(0.5)
                await _settled(viewers, database)


@pytest.mark.parametrize("fault", ["delays", "holds", "forgets", "cuts"])
async def test_a_bad_way_to_the_database_costs_no_promise(
    database: Database, serve: Serve, token: str, fault: str
) -> None:
    async with Proxy(database.port) as proxy, served(serve(url_of(proxy.port))) as service:
        url = service.url
        async with Viewers([url], 60, token=token) as viewers:
            async with viewers.playing():
                await asyncio.sleep(0.5)
                await _break(proxy, fault)
                await _recovered(viewers, time.monotonic())
                await asyncio.sleep(0.5)
            await _settled(viewers, database)


async def _break(proxy: Proxy, fault: str) -> None:
    before = TALLY.statuses[503]
    match fault:
        case "delays":
            for seconds in (0.1, 2.0):
                proxy.delay = seconds
                TALLY.fault("way to the database slow")
                await asyncio.sleep(DEADLINE_SECONDS + 1)
            proxy.delay = 0.0
        case "holds":
            proxy.hold()
            TALLY.fault("way to the database held")
            await asyncio.sleep(2 * DEADLINE_SECONDS)
            proxy.release()
        case "forgets":
            proxy.forgetful = True
            TALLY.fault("way to the database forgotten")
            await asyncio.sleep(2 * DEADLINE_SECONDS)
            proxy.forgetful = False
        case "cuts":
            for _ in range(10):
                cuts, proxy.cut_after = proxy.cuts, b"update"
                while proxy.cuts == cuts:  # noqa: ASYNC110 - the proxy tells nobody
                    await asyncio.sleep(0.005)
                proxy.cut_after = None
                await asyncio.sleep(0.1)
            TALLY.fault("answer of the database cut", proxy.cuts)
    assert TALLY.statuses[503] > before


async def test_a_service_whose_database_is_absent_at_start_comes_to_life_with_it(
    tmp_path: Path, serve: Serve, token: str
) -> None:
    database = Database(tmp_path)
    TALLY.fault("database absent at start")
    with serve(database.url) as service:
        url = await asyncio.to_thread(lambda: service.url)
        async with Viewers([url], 20, token=token) as viewers:
            try:
                async with viewers.playing():
                    before = TALLY.statuses[503]
                    await asyncio.sleep(DEADLINE_SECONDS + 0.5)
                    assert TALLY.statuses[503] > before
                    database.start()
                    await database.back()
                    await _recovered(viewers, time.monotonic())
                    await asyncio.sleep(1)
                await _settled(viewers, database)
            finally:
                await asyncio.to_thread(database.close)


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_a_start_whose_claim_was_cut_off_is_503_and_its_retry_takes_no_second_slot(
    database: Database, serve: Serve, token: str, share: float
) -> None:
    async with Proxy(database.port) as proxy:
        proxy.share = share
        async with served(serve(url_of(proxy.port))) as service:
            url = service.url
            async with Viewers([url], 8, token=token) as viewers:
                for family in viewers.families:
                    key, cuts = new_secret(), proxy.cuts
                    proxy.cut_after = b"update"
                    cut = await viewers.start(family, key=key)
                    proxy.cut_after = None
                    assert cut is not None
                    assert cut.status == 503
                    assert "Idempotency-Key" in cut.body["detail"]
                    assert proxy.cuts > cuts
                    TALLY.fault("claim cut off", proxy.cuts - cuts)
                    [found] = [d for d in database.documents(database.name) if not d.get("seen")]
                    retry = await _until_answered(viewers, family.session, key)
                    assert retry.status == 200
                    assert retry.body["stream_id"] == found["stream_id"]
                    assert retry.body["active"] == 1
                    await _mark_seen(database, found)
                assert len(database.documents(database.name)) == len(viewers.families)


async def _until_answered(viewers: Viewers, session: str, key: str) -> Any:
    while True:
        answer = await viewers.ask("POST", "/streams", session, key=key)
        assert answer is not None
        if answer.status not in UNSURE:
            return answer


async def _mark_seen(database: Database, document: dict[str, Any]) -> None:
    def mark() -> None:
        with database.client() as client:
            client[database.name]["streams"].update_one(
                {"_id": document["_id"]}, {"$set": {"seen": True}}
            )

    await asyncio.to_thread(mark)


@pytest.mark.parametrize("change", ["", "deadline=60"])
async def test_hundreds_who_wait_for_a_frozen_database_are_answered_in_time_by_the_deadline_alone(
    database: Database, serve: Serve, token: str, change: str
) -> None:
    tally = Tally() if change else TALLY
    with serve(database.url, *filter(None, [change])) as service:
        async with Viewers([service.url], 400, token=token, tally=tally) as viewers:
            # Their connections first, not more at once than a slow machine starts in time.
            for nth in range(0, 400, 50):
                some = viewers.families[nth : nth + 50]
                await asyncio.gather(*(viewers.start(family) for family in some))
            assert tally.violations == []
            database.signal(signal.SIGSTOP)
            tally.fault("database stopped")
            try:
                beats = [
                    viewers.beat(family, one) for family in viewers.families for one in family.sure
                ]
                answers = await asyncio.gather(*beats)
            finally:
                database.signal(signal.SIGCONT)
            assert {answer.status for answer in answers if answer} == {503}
    late = [violation for violation in tally.violations if "took" in violation]
    assert bool(late) == bool(change)
    TALLY.measured[f"frozen {change}"] = f"400 waited, longest {tally.longest:.2f} s"


async def _live(viewers: Viewers) -> None:
    async with viewers.client.get(f"{viewers.urls[0]}/health/live") as response:
        await response.read()


@pytest.mark.parametrize("bound", [100, 100_000])
async def test_whom_the_queue_has_no_room_for_is_told_so_at_once_by_its_bound_alone(
    database: Database, serve: Serve, token: str, bound: int
) -> None:
    with serve(database.url, f"bound={bound}") as service:
        async with Viewers([service.url], 400, token=token) as viewers:
            for nth in range(0, 400, 50):
                some = viewers.families[nth : nth + 50]
                await asyncio.gather(*(viewers.start(family) for family in some))
            # All connections are open then, so that all heartbeats come at once.
            await asyncio.gather(*(_live(viewers) for _ in range(400)))
            database.signal(signal.SIGSTOP)
            TALLY.fault("database stopped")
            try:
                beats = [
                    viewers.beat(family, one) for family in viewers.families for one in family.sure
                ]
                answers = await asyncio.gather(*beats)
            finally:
                database.signal(signal.SIGCONT)
    at_once = [a for a in answers if a is not None and a.status == 429 and a.took < 1.4]
    # Those in flight and those who wait are told when their time is up.
    assert (len(at_once) >= 150) == (bound == 100)
    TALLY.measured[f"bound {bound}"] = f"{len(at_once)} of {len(answers)} told at once"


async def test_the_keys_of_lapsed_streams_are_taken_off_in_the_commands_of_the_starts(
    database: Database, serve: Serve, token: str
) -> None:
    """One by one, on a way of 20 ms, 128 of them took longer than a start may wait."""
    async with (
        Proxy(database.port) as proxy,
        served(serve(url_of(proxy.port), STREAM_TTL_SECONDS="5")) as service,
        Viewers([service.url], 32, token=token) as viewers,
    ):
        keys = {family.session: new_secret() for family in viewers.families}

        async def start(session: str, key: str | None = None) -> int:
            answer = await viewers.ask("POST", "/streams", session, key=key)
            assert answer is not None
            return answer.status

        # The one with the key is in the second slot, and the next start takes the first.
        assert set(await asyncio.gather(*map(start, keys))) == {201}
        assert set(await asyncio.gather(*(start(*item) for item in keys.items()))) == {201}
        await asyncio.sleep(5.1)
        # So that they meet at the queue.
        proxy.delay, proxy.watch_for = 0.005, b"\x02update\x00"
        statuses = await asyncio.gather(*(start(*item) for item in keys.items()))
        assert set(statuses) <= {201, *UNSURE}
        assert 0 < proxy.seen < len(keys)
    assert TALLY.violations == []
