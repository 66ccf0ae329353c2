"""A limit that is counted and not enforced, and the way from there to one that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_api import Api, open_api

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, store: MongoStore) -> Api:
    return await open_api(aiohttp_client, store, enforce=False)


@pytest.fixture
async def enforcing(aiohttp_client: AiohttpClient, store: MongoStore, api: Api) -> Api:
    """Another process on the same database, which enforces the limit."""
    return await open_api(aiohttp_client, store, api.clock)


async def counted(api: Api) -> dict[str, float]:
    async with api.client.get("/metrics") as response:
        text = await response.text()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix("stream_service_"): float(value) for name, _, value in lines}


async def outcomes(api: Api) -> dict[str, float]:
    prefix, values = 'starts_total{outcome="', await counted(api)
    named = {name[len(prefix) : -2]: n for name, n in values.items() if name.startswith(prefix)}
    return {outcome: n for outcome, n in named.items() if n}


async def test_starts_beyond_the_limit_are_admitted_and_answered_as_always(api: Api) -> None:
    within = [await api.started() for _ in range(3)]
    beyond = [await api.started(), (await api.ask("GET", "/watch")).body]
    assert [set(stream) for stream in beyond] == [set(within[0])] * 2
    assert [(stream["active"], stream["limit"]) for stream in beyond] == [(4, 3), (5, 3)]
    listed = (await api.ask("GET", "/streams")).body
    assert (listed["active"], listed["limit"]) == (5, 3)
    for stream in (*within, *beyond):
        path = f"/streams/{stream['stream_id']}"
        beat = await api.ask("POST", f"/streams/{stream['lease_id']}/heartbeat")
        assert beat.status == 200
        assert (await api.ask("DELETE", path)).status == 204


async def test_what_the_limit_would_have_done_is_counted(api: Api) -> None:
    first = await api.started()
    for _ in range(2):
        await api.started(replace="oldest")
    await api.start(key="k")
    await api.start(key="k")
    await api.ask("GET", "/watch")
    for replace in ("oldest", ["same-device", "stalest"]):
        await api.started(device_id="d", replace=replace)
    await api.started(replace=first["stream_id"])
    assert await outcomes(api) == {
        "admitted": 3,
        "replayed": 1,
        "would_refuse": 2,
        "would_replace": 1,
        # The last device came back, and the first stream was named.
        "replacing": 2,
    }


async def test_the_number_of_streams_at_each_start_tells_what_any_limit_would_have_refused(
    api: Api,
) -> None:
    for session, starts in (("one", 5), ("another", 2)):
        for n in range(starts):
            await api.start(session=session, key=str(n))
            await api.start(session=session, key=str(n))
    values = await counted(api)
    admitted = {limit: values[f'active_at_start_bucket{{le="{limit}.0"}}'] for limit in range(1, 7)}
    assert admitted == {1: 2, 2: 4, 3: 5, 4: 6, 5: 7, 6: 7}
    assert values["active_at_start_count"] == 7


async def test_a_start_that_is_refused_counts_as_one_more_than_there_are(enforcing: Api) -> None:
    for _ in range(5):
        await enforcing.start()
    values = await counted(enforcing)
    assert values['active_at_start_bucket{le="3.0"}'] == 3
    assert values['active_at_start_bucket{le="4.0"}'] == 5


async def test_the_hundred_slots_of_an_account_are_an_end(api: Api) -> None:
    for _ in range(100):
        await api.started()
    refused = await api.start()
    assert (refused.status, refused.body["limit"], refused.body["active"]) == (409, 3, 100)
    assert (await outcomes(api))["refused"] == 1


async def test_once_enforced_those_beyond_the_limit_play_on_and_count(
    api: Api, enforcing: Api
) -> None:
    streams: list[Any] = [await api.started() for _ in range(5)]
    listed = (await enforcing.ask("GET", "/streams")).body
    assert (listed["active"], listed["limit"]) == (5, 3)
    assert (await enforcing.start()).status == 409
    assert (await enforcing.start(replace="oldest")).status == 409
    enforcing.clock.move_on(30)
    for stream in streams:
        beat = await enforcing.ask("POST", f"/streams/{stream['lease_id']}/heartbeat")
        assert beat.status == 200
    for stream in streams[:2]:
        await enforcing.ask("DELETE", f"/streams/{stream['stream_id']}")
        assert (await enforcing.start()).status == 409
    await enforcing.ask("DELETE", f"/streams/{streams[2]['stream_id']}")
    assert (await enforcing.start()).status == 201
    assert (await enforcing.start()).status == 409
    # And off again.
    assert (await api.start()).status == 201
