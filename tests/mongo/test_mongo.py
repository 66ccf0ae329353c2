"""MongoDB as a replica set whose primary fails, and as shards whose ranges move."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from stream_service.streams import utc_now
from tests.faults.tally import TALLY
from tests.faults.viewers import LIMIT, Viewers
from tests.mongo.clusters import PATIENCE_SECONDS, Cluster
from tests.support.database import Database
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.conftest import Serve

pytestmark = pytest.mark.timeout(1800)

VERSIONS = os.environ.get("MONGO_VERSIONS", "6 7 8").split()
FAULTS = 4
NAME = Database.name


@pytest.fixture(scope="module", params=VERSIONS)
def replica_set(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param) as cluster:
        cluster.make_replica_set()
        yield cluster


@pytest.fixture(scope="module", params=VERSIONS)
def shards(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param) as cluster:
        cluster.make_shards()
        yield cluster


def _suite(url: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "tests.engines", "MONGO_URL"],
        cwd=ROOT,
        env={**os.environ, "MONGO_URL": url},
        check=False,
    ).returncode


async def _settled(viewers: Viewers, cluster: Cluster) -> None:
    """All serve again, nothing that was acknowledged is lost, and no session has too many."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for url in viewers.urls:
        while True:
            async with viewers.client.get(url + "/health") as response:
                if response.status == 200:
                    break
            assert time.monotonic() < deadline, "a service does not come back"
    assert await viewers.all_sure_ones_beat() > 0
    counted = await asyncio.to_thread(_active, cluster)
    assert counted
    assert max(counted.values()) <= LIMIT
    assert viewers.tally.violations == []


def _active(cluster: Cluster) -> dict[str, int]:
    counted: dict[str, int] = {}
    with cluster.client() as client:
        for document in client[NAME]["streams"].find({"expires_at": {"$gt": utc_now()}}):
            counted[document["session"]] = counted.get(document["session"], 0) + 1
    return counted


def test_the_suite_passes_on_a_replica_set(replica_set: Cluster) -> None:
    assert _suite(replica_set.url) == 0


@pytest.mark.parametrize("fault", ["stepped down", "killed"])
async def test_a_primary_that_fails_under_load_costs_no_promise(
    replica_set: Cluster, serve: Serve, token: str, fault: str
) -> None:
    cluster = replica_set
    with serve(cluster.url) as one, serve(cluster.url) as other:
        async with Viewers([one.url, other.url], 60, token=token) as viewers:
            for _ in range(FAULTS):
                primary = await asyncio.to_thread(cluster.primary_of, cluster.members)
                async with viewers.playing():
                    await viewers.next_good(time.monotonic())
                    if fault == "killed":
                        await asyncio.to_thread(cluster.kill, primary)
                    else:
                        await asyncio.to_thread(cluster.step_down)
                    TALLY.fault(f"primary {fault}")
                    await asyncio.to_thread(cluster.primary_of, cluster.members)
                    await viewers.next_good(time.monotonic())
                if fault == "killed":
                    await asyncio.to_thread(cluster.start, primary)
                await asyncio.to_thread(cluster.until_all_are_back)
                await _settled(viewers, cluster)


def test_the_suite_passes_through_a_router(shards: Cluster) -> None:
    assert _suite(shards.url) == 0


async def test_ranges_that_move_and_a_shard_that_is_killed_under_load_cost_no_promise(
    shards: Cluster, serve: Serve, token: str
) -> None:
    firsts = await asyncio.to_thread(shards.spread, NAME)
    with serve(shards.url) as one, serve(shards.url) as other:
        async with Viewers([one.url, other.url], 60, token=token) as viewers:
            for round_ in range(1, 3):
                async with viewers.playing():
                    for number, first in enumerate(firsts):
                        await asyncio.to_thread(shards.move, NAME, first, (number + round_) % 2)
                        TALLY.fault("range moved under load")
                await _settled(viewers, shards)
            for shard in shards.members:
                async with viewers.playing():
                    await viewers.next_good(time.monotonic())
                    await asyncio.to_thread(shards.kill, shard)
                    TALLY.fault("shard killed")
                    await asyncio.to_thread(shards.start, shard)
                    await asyncio.to_thread(shards.primary_of, [shard])
                    await viewers.next_good(time.monotonic())
                await _settled(viewers, shards)
