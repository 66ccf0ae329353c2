"""deploy/nginx-regions.conf in a real nginx, with two services on two databases."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import pytest

from demo.gateway import nginx
from tests.support.playback import write_key
from tests.support.processes import ROOT, Service, free_port, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 3
ACCOUNTS = [f"account-{number}" for number in range(16)]
PHASES = ("before", "going", "away", "coming", "after")
MOVED, MOVING = "account-moved", "account-moving"


class Region:
    """A service with an embedded database of its own, which can be taken away and brought back."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        folder.mkdir()
        self.port = free_port()
        self._key = write_key(folder / "playback.pem")
        self._digest_key = secrets.token_hex(16)
        self._service: Service | None = None

    def bring(self) -> None:
        """Run it, and wait until it serves."""
        data = str(self._folder / "data")
        self._service = self._stack.enter_context(
            Service(
                *("--embedded", "--data-dir", data),
                PORT=str(self.port),
                DIGEST_KEY=self._digest_key,
                PLAYBACK_KEYS=str(self._key),
                STREAM_LIMIT=str(LIMIT),
                STREAM_TTL_SECONDS="600",
            )
        )
        assert self._service.url

    def take(self) -> None:
        """Kill it, with its database."""
        assert self._service is not None
        self._service.process.kill()
        self._service.status()


class Regions:
    """nginx and two regions."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.a, self.b = Region(folder / "a", stack), Region(folder / "b", stack)
        for region in (self.a, self.b):
            region.bring()
        self.port = free_port()
        homes = folder / "homes.map"
        text = (ROOT / "deploy" / "nginx-regions.conf").read_text()
        for old, new in (
            ("10.1.0.10:3001", f"127.0.0.1:{self.a.port}"),
            ("10.2.0.10:3001", f"127.0.0.1:{self.b.port}"),
            ("listen 127.0.0.1:3000;", f"listen 127.0.0.1:{self.port};"),
            ("/etc/nginx/stream-homes.map", str(homes)),
        ):
            assert old in text
            text = text.replace(old, new)
        homes.write_text(f'"{MOVED}" region_b;\n"{MOVING}" moving;\n')
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/nginx.pid; events {{}}\nhttp {{\n{text}\n}}\n"
        )
        command = [nginx() or "nginx", "-e", "error.log", "-p", str(folder), "-c", "nginx.conf"]
        stack.enter_context(listening(self.port, *command, folder=folder))


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    with ExitStack() as stack:
        yield Regions(tmp_path, stack)


async def ask(
    client: aiohttp.ClientSession, port: int, method: str, path: str, **headers: str
) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.request(method, f"http://127.0.0.1:{port}{path}", headers=named) as answer:
        return answer.status, await answer.json(content_type=None)


class Viewers:
    """Several viewers of each account, who start, beat, fetch and stop all the time."""

    def __init__(self, client: aiohttp.ClientSession, regions: Regions) -> None:
        self.phase = "before"
        self.answers: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.homes: dict[str, int] = {}
        self._client = client
        self._regions = regions
        self._done = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._watch(one)) for one in 2 * ACCOUNTS]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._done = True
        await asyncio.gather(*self._tasks)

    async def _told(self, account: str, method: str, path: str, **headers: str) -> tuple[int, Any]:
        phase = self.phase
        status, body = await ask(self._client, self._regions.port, method, path, **headers)
        if phase == self.phase:
            self.answers[account, phase].append(status)
        return status, body

    async def _watch(self, account: str) -> None:
        playing: list[dict[str, Any]] = []
        while not self._done:
            status, told = await self._told(account, "POST", "/streams", Session_Id=account)
            if status == 201:
                playing.append(told)
            for stream in playing[:2]:
                await self._told(account, "POST", f"/streams/{stream['lease_id']}/heartbeat")
                token = stream["playback_token"]
                check = "/playback/check?live=1"
                await self._told(account, "GET", check, Playback_Token=token)
            if status == 409 and playing:
                # Told or not: a stop that was told 503 may have been made.
                await self._told(account, "POST", f"/streams/{playing.pop(0)['lease_id']}/stop")

    async def until_each_was_told(self, often: int) -> None:
        """Wait, and look all the time that no account has more than it may in both regions."""
        while min(len(self.answers[account, self.phase]) for account in ACCOUNTS) < often:
            for account in ACCOUNTS:
                await self._look(account)

    async def _look(self, account: str) -> None:
        active = 0
        for region in (self._regions.a, self._regions.b):
            with suppress(aiohttp.ClientConnectionError):
                _, told = await ask(
                    self._client, region.port, "GET", "/streams", Session_Id=account
                )
                active += told["active"]
                if told["active"]:
                    assert self.homes.setdefault(account, region.port) == region.port
        assert active <= LIMIT


async def test_each_account_is_counted_at_home_while_a_region_goes_and_comes_back_under_load(
    regions: Regions,
) -> None:
    async with aiohttp.ClientSession() as client, Viewers(client, regions) as viewers:
        await viewers.until_each_was_told(20)
        viewers.phase = "going"
        regions.a.take()
        viewers.phase = "away"
        await viewers.until_each_was_told(20)
        viewers.phase = "coming"
        await asyncio.to_thread(regions.a.bring)
        viewers.phase = "after"
        await viewers.until_each_was_told(20)

    assert set(viewers.homes.values()) == {regions.a.port, regions.b.port}
    served, answers = {200, 201, 204, 409}, viewers.answers
    for account, home in viewers.homes.items():
        if home == regions.a.port:
            assert set(answers[account, "away"]) == {503}
        else:
            assert {status for phase in PHASES for status in answers[account, phase]} <= served
        assert set(answers[account, "after"]) <= served
        # What played before the outage counts after it.
        assert 409 in answers[account, "after"]


async def test_an_account_can_be_given_another_home_and_one_that_moves_is_asked_to_wait(
    regions: Regions,
) -> None:
    async with aiohttp.ClientSession() as client:
        status, told = await ask(client, regions.port, "POST", "/streams", Session_Id=MOVED)
        assert status == 201
        beat = f"/streams/{told['lease_id']}/heartbeat"
        assert (await ask(client, regions.port, "POST", beat))[0] == 200
        assert (await ask(client, regions.b.port, "POST", beat))[0] == 200
        assert (await ask(client, regions.a.port, "POST", beat))[0] == 404

        status, told = await ask(client, regions.port, "POST", "/streams", Session_Id=MOVING)
        assert (status, told["status"]) == (503, 503)


async def test_what_neither_region_knows_is_404_and_is_503_while_one_is_away(
    regions: Regions,
) -> None:
    made_up = f"/streams/0-{'A' * 56}/heartbeat"
    async with aiohttp.ClientSession() as client:
        assert (await ask(client, regions.port, "POST", made_up))[0] == 404
        assert (await ask(client, regions.port, "GET", "/playback/check"))[0] == 401
        for region in (regions.a, regions.b):
            region.take()
            assert (await ask(client, regions.port, "POST", made_up))[0] == 503
            assert (await ask(client, regions.port, "GET", "/playback/check"))[0] == 503
            await asyncio.to_thread(region.bring)
