"""The player in Python against the real service: what its table of cases says of answers is so."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from aiohttp import ClientSession

from examples.player import Player, State
from tests.support.http_api import Api, Clock, open_api
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

LEASE_SECONDS = 5


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, wire_store: MongoStore) -> Api:
    return await open_api(
        aiohttp_client, wire_store, Clock(), stream_ttl_seconds=LEASE_SECONDS, stream_limit=1
    )


def _url(api: Api) -> str:
    return str(api.client.make_url("")).rstrip("/")


class Viewer:
    """A player of a session, and what it was told."""

    def __init__(self, api: Api, session: str = "viewer", **options: Any) -> None:
        self._told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._api = api
        self._options = {"headers": {"Session-Id": session}, **options}

    async def __aenter__(self) -> Self:
        self._client = ClientSession()
        self.player = Player(
            self._client,
            _url(self._api),
            tell=lambda *told: self._told.put_nowait(told),
            **self._options,
        )
        self._task = asyncio.create_task(self.player.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.close()

    async def told(self, wanted: str) -> Any:
        """What it was told with this event, once it is."""
        async with asyncio.timeout(30):
            while True:
                event, detail = await self._told.get()
                if event == wanted:
                    return detail


async def test_it_plays_beats_and_frees_its_slot_when_it_stops(api: Api) -> None:
    async with Viewer(api, device="TV") as viewer:
        stream = await viewer.told("started")
        beaten = await viewer.told("beat")
        [active] = await api.playing(session="viewer")
        assert (active["stream_id"], active["device"]) == (stream["stream_id"], "TV")
        # A heartbeat's answer says what changes; the rest is the start's, but for its counts.
        assert beaten.keys() == stream.keys() - {"active", "limit"}
        assert beaten["device"] == "TV"
        assert await viewer.player.stop() is True
        assert await api.playing(session="viewer") == []


async def test_a_lease_that_ran_out_is_started_anew(api: Api) -> None:
    async with Viewer(api) as viewer:
        lost = await viewer.told("started")
        api.clock.move_on(2 * LEASE_SECONDS)
        stream = await viewer.told("resumed")
        assert stream["stream_id"] != lost["stream_id"]
        assert viewer.player.state is State.PLAYING


async def test_a_lease_that_ran_out_takes_nobodys_place(api: Api) -> None:
    async with Viewer(api, replace="stalest") as viewer:
        await viewer.told("started")
        api.clock.move_on(2 * LEASE_SECONDS)
        await api.started(session="viewer", device="Phone")
        refusal = await viewer.told("refused")
        assert [one["device"] for one in refusal["streams"]] == ["Phone"]
        assert viewer.player.over


async def test_a_stream_that_was_replaced_is_over(api: Api) -> None:
    async with Viewer(api) as viewer:
        stream = await viewer.told("started")
        await api.started(session="viewer", device="Phone", replace=stream["stream_id"])
        problem = await viewer.told("ended")
        assert viewer.player.reason == problem["reason"] == "replaced"
        assert problem["replaced_by"]["device"] == "Phone"


async def test_a_stream_that_is_stopped_from_elsewhere_is_over(api: Api) -> None:
    async with Viewer(api) as viewer:
        stream = await viewer.told("started")
        await api.ask("DELETE", f"/streams/{stream['stream_id']}", session="viewer")
        await viewer.told("ended")
        assert viewer.player.reason == "stopped"


async def test_a_start_that_will_never_do_is_over(api: Api) -> None:
    async with Viewer(api, device_id="x" * 129) as viewer:
        error = await viewer.told("ended")
        assert viewer.player.reason == "rejected"
        assert error.problem["field"] == "device_id"


async def test_a_label_that_is_too_long_or_cut_in_an_emoji_is_no_reason_to_refuse(api: Api) -> None:
    async with Viewer(api, device="TV \ud83c", content="\U0001f3ac" * 201) as viewer:
        stream = await viewer.told("started")
        assert (stream["device"], stream["content"]) == ("TV \ufffd", "\U0001f3ac" * 200)


async def test_the_place_of_a_player_that_left_is_taken_first(api: Api) -> None:
    left = await api.started(session="viewer", device="TV")
    async with Viewer(api, abandoned=[left["stream_id"]]) as viewer:
        stream = await viewer.told("started")
        [active] = await api.playing(session="viewer")
        assert active["stream_id"] == stream["stream_id"] != left["stream_id"]


async def test_the_lease_id_is_told_to_nobody(api: Api) -> None:
    async with Viewer(api) as viewer:
        told = [await viewer.told(event) for event in ("started", "beat")]
        secret = viewer.player._lease_id  # noqa: SLF001 - what nobody is told
        assert len(secret) > len(told[0]["stream_id"])
        assert secret not in f"{told} {viewer.player.stream}"


async def test_a_stream_that_a_gateway_made_up_becomes_a_real_one(api: Api) -> None:
    # docs/integration.md tells gateways that want to fail open to answer so.
    async with Viewer(api) as viewer:
        await viewer.told("started")
        viewer.player.stream = {"stream_id": "open", "heartbeat_in": 1}
        viewer.player._lease_id = "0-" + "0" * 56  # noqa: SLF001 - as if a gateway had told it
        await api.ask("DELETE", "/streams", session="viewer")
        stream = await viewer.told("resumed")
        assert [one["stream_id"] for one in await api.playing(session="viewer")] == [
            stream["stream_id"]
        ]


async def test_it_can_be_run_and_an_interrupt_frees_the_slot(api: Api) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.player", _url(api), "--session", "viewer"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert (await process.stdout.readline()).startswith(b"started: ")
            assert len(await api.playing(session="viewer")) == 1
            process.send_signal(signal.SIGINT)
            await process.wait()
        assert await api.playing(session="viewer") == []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
