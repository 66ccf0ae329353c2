"""The reader of a log, against the real service: how it takes lines, and what it makes of answers.

tests/deploy has it read what nginx sends.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from examples import log_reader as module
from examples.log_reader import LONGEST_LINE, LogReader
from tests.support.http_api import Api, open_api
from tests.support.playback import write_key
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

LEASE_SECONDS = 60


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, wire_store: MongoStore, tmp_path: Path) -> Api:
    keys = (write_key(tmp_path / "key.pem"),)
    return await open_api(
        aiohttp_client, wire_store, playback_keys=keys, stream_ttl_seconds=LEASE_SECONDS
    )


def _url(api: Api) -> str:
    return str(api.client.make_url("")).rstrip("/")


async def _read(api: Api, *parts: bytes) -> None:
    """Have it read these parts of standard input, to its end."""
    async with ClientSession() as client:
        reader = LogReader(client, _url(api))
        for part in parts:
            reader.data_received(part)
        reader.connection_lost(None)
        await reader.run()


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == module.__name__]


async def _ends(api: Api, *names: str) -> list[str]:
    return [(await api.playing(session=name))[0]["expires_at"] for name in names]


async def test_the_last_word_of_a_line_renews_however_the_lines_arrive(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_A_REQUEST", 2)
    names = ("a", "b", "c", "d")
    started = [await api.started(session=name) for name in names]
    api.clock.move_on(LEASE_SECONDS / 2)
    a, b, c, d = (one["playback_token"].encode() for one in started)
    await _read(
        api,
        b"<190>Nov 26 17:07:30 film: " + a + b"\n" + b[:20],
        b[20:] + b"\r\nno token\n\n" + b"x" * LONGEST_LINE,
        b"x\n" + c + b"\n" + c + b" is no last word\n" + d,
    )
    ends = await _ends(api, *names)
    assert len(set(ends)) == 1
    assert ends[0] > started[0]["expires_at"]


async def test_one_that_is_refused_harms_no_other_and_no_token_is_told(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", module.__name__)
    playing, stopped = [await api.started(session=name) for name in ("a", "b")]
    await api.ask("DELETE", "/streams", session="b")
    api.clock.move_on(LEASE_SECONDS / 2)
    tokens = [one["playback_token"] for one in (playing, stopped)]
    await _read(api, "\n".join([*tokens, "made.up.token"]).encode())
    assert await _ends(api, "a") > [playing["expires_at"]]
    [told] = _told(caplog)
    assert re.fullmatch(r"1 renewed, refused: \{'\w+': 1, '\w+': 1\}", told)
    assert "'stopped': 1" in told
    assert "'invalid': 1" in told


async def test_what_fails_is_left_to_the_next_segment(
    api: Api, failing: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    started: Any = await api.started(session="a")
    api.clock.move_on(LEASE_SECONDS / 2)
    token = started["playback_token"].encode()
    async with ClientSession() as client:
        reader = LogReader(client, _url(api))
        failing("update", code=11600, times=30)
        running = asyncio.create_task(reader.run())
        reader.datagram_received(token, None)
        async with asyncio.timeout(30):
            while not _told(caplog):  # noqa: ASYNC110 - much else goes on
                await asyncio.sleep(0.02)
        failing("update", code=11600, times=0)
        reader.datagram_received(token, None)
        reader.connection_lost(None)
        await running
    assert _told(caplog)[0] == "1 streams are not renewed: HTTP 503"
    assert await _ends(api, "a") > [started["expires_at"]]


async def test_it_can_be_run_on_standard_input(api: Api) -> None:
    token = (await api.started())["playback_token"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.log_reader", "--url", _url(api)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        _, said = await process.communicate(f"200 1.m4s {token}\n".encode())
    assert (process.returncode, said) == (0, b"1 renewed, refused: none\n")
