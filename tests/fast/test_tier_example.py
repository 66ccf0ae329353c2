"""The tier that holds many players' leases, against the real service."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web

from examples import tier as module
from examples.tier import Tier
from tests.support.http_api import Api, a_lease_id, open_api
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

LEASE_SECONDS = 5
SILENT = 11600
"""A code of the database's that the service takes for no answer."""

Told = dict[str, tuple[str, Any]]


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, wire_store: MongoStore) -> Api:
    return await open_api(aiohttp_client, wire_store, stream_ttl_seconds=LEASE_SECONDS)


def _url(api: Api) -> str:
    return str(api.client.make_url("")).rstrip("/")


@asynccontextmanager
async def _running(url: str) -> AsyncIterator[Tier]:
    async with ClientSession() as client:
        tier = Tier(client, url)
        task = asyncio.create_task(tier.run())
        try:
            yield tier
        finally:
            task.cancel()
            await asyncio.wait((task,))
    assert task.cancelled()


def _hold(tier: Tier, started: Any, told: Told) -> None:
    def on_ended(reason: str, problem: dict[str, Any]) -> None:
        told[started["stream_id"]] = (reason, problem)

    tier.add(started["lease_id"], on_ended)


async def _until(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not wanted():  # noqa: ASYNC110 - much else goes on
            await asyncio.sleep(0.02)


async def test_it_holds_its_leases_by_requests_of_as_many_as_one_may_hold(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_A_REQUEST", 10)
    monkeypatch.setattr(module, "FEWEST_TURNS", 1)
    told: Told = {}
    streams = await asyncio.gather(*(api.started(session=str(n)) for n in range(150)))
    async with _running(_url(api)) as tier:
        for stream in streams:
            _hold(tier, stream, told)
        for _ in range(2):
            api.clock.move_on(0.8 * LEASE_SECONDS)
            before = tier.renewed
            # What was under way then may have been renewed before.
            enough = before + len(streams) + 10 * module.MOST_AT_ONCE
            await _until(lambda: tier.renewed >= enough)  # noqa: B023
        assert tier.renewed == 10 * tier.requests
    playing = await asyncio.gather(*(api.playing(session=str(n)) for n in range(150)))
    assert [len(streams) for streams in playing] == [1] * 150
    assert (len(tier), told) == (150, {})


async def test_each_stream_that_is_over_is_told_why_and_harms_no_other(api: Api) -> None:
    told: Told = {}
    names = ("goes on", "stopped", "replaced", "removed")
    goes_on, stopped, replaced, removed = [await api.started(session=name) for name in names]
    unknown = {"lease_id": a_lease_id(), "stream_id": "unknown"}
    async with _running(_url(api)) as tier:
        for stream in (goes_on, stopped, replaced, removed, unknown):
            _hold(tier, stream, told)
        await api.ask("DELETE", f"/streams/{stopped['stream_id']}", session="stopped")
        await api.ask("DELETE", f"/streams/{removed['stream_id']}", session="removed")
        await api.started(session="replaced", device="TV", replace=replaced["stream_id"])
        tier.remove(removed["lease_id"])
        await _until(lambda: len(tier) == 1)
        reasons = {stream_id: reason for stream_id, (reason, _) in told.items()}
        assert reasons == {
            stopped["stream_id"]: "stopped",
            replaced["stream_id"]: "replaced",
            "unknown": "unknown",
        }
        assert told[replaced["stream_id"]][1]["replaced_by"]["device"] == "TV"

        api.clock.move_on(LEASE_SECONDS)
        await _until(lambda: len(tier) == 0)
        assert told[goes_on["stream_id"]][0] == "expired"


async def test_what_is_told_of_one_end_cannot_end_the_tier(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(reason: str, _: Any) -> None:
        raise RuntimeError(reason)

    async with _running(_url(api)) as tier:
        tier.add(a_lease_id("another"), fails)
        await _until(lambda: len(tier) == 0)
        _hold(tier, await api.started(), {})
        await _until(lambda: tier.renewed == 1)
    assert [record.message for record in caplog.records] == ["what is told of an end failed"]


async def test_after_a_503_it_tries_again_before_any_lease_is_over(
    api: Api, failing: Callable[..., None]
) -> None:
    told: Told = {}
    streams = [await api.started(session=str(n)) for n in range(20)]
    async with _running(_url(api)) as tier:
        for stream in streams:
            _hold(tier, stream, told)
        await _until(lambda: tier.renewed >= len(streams))
        failing("update", code=SILENT, times=30)
        await _until(lambda: tier.failed >= 3)
        failing("update", code=SILENT, times=0)
        before = tier.renewed
        await _until(lambda: tier.renewed >= before + 2 * len(streams))
    assert (len(tier), told) == (len(streams), {})


async def test_what_nobody_renews_for_a_whole_lease_is_let_go(
    api: Api, failing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEATS_PER_LEASE", 1)
    told: Told = {}
    async with _running(_url(api)) as tier:
        _hold(tier, stream := await api.started(), told)
        await _until(lambda: tier.renewed > 0)
        failing("update", code=SILENT, times=1000)
        await _until(lambda: len(tier) == 0)
    assert told == {stream["stream_id"]: ("unreachable", {})}


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "login"},
        {"text": "{}", "content_type": "application/json"},
        {"text": '{"results": [], "heartbeat_in": 9}', "content_type": "application/json"},
        {"text": "{", "content_type": "application/json"},
        {"status": 302, "headers": {"Location": "/elsewhere"}},
    ],
)
async def test_an_answer_of_somebody_else_is_none(
    aiohttp_client: AiohttpClient, answer: dict[str, Any]
) -> None:
    async def heartbeats(_: web.Request) -> web.Response:
        return web.Response(**answer)

    app = web.Application()
    app.router.add_post("/heartbeats", heartbeats)
    client = await aiohttp_client(app)
    async with _running(str(client.make_url(""))) as tier:
        tier.add("lease", lambda *_: None)
        await _until(lambda: tier.failed > 0)
    assert len(tier) == 1


async def test_few_of_its_requests_are_under_way_at_a_time(aiohttp_client: AiohttpClient) -> None:
    released, under_way = asyncio.Event(), 0

    async def heartbeats(request: web.Request) -> web.Response:
        nonlocal under_way
        under_way += 1
        await released.wait()
        results = [{"stream_id": "0"} for _ in (await request.json())["heartbeats"]]
        return web.json_response({"heartbeat_in": 20, "results": results})

    app = web.Application()
    app.router.add_post("/heartbeats", heartbeats)
    client = await aiohttp_client(app)
    async with _running(str(client.make_url(""))) as tier:
        for n in range(100):
            tier.add(str(n), lambda *_: None)
        # All are asked for, or wait for that.
        await _until(lambda: not tier._next and under_way >= module.MOST_AT_ONCE)  # noqa: SLF001
        assert under_way == module.MOST_AT_ONCE
        released.set()
        await _until(lambda: tier.renewed >= 100)


async def test_it_can_be_run(api: Api) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.tier", "--streams", "30", "--url", _url(api)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            report = (
                r"holds 30; in .* [1-9]\d* renewed by \d+ requests, 0 requests failed; ended: none"
            )
            while not re.match(report, (await process.stdout.readline()).decode()):
                pass
    finally:
        process.kill()
        await process.wait()
