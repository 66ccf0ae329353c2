"""Players that nobody wrote for this service play through the gateway, without a heartbeat."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from demo.film import make_film
from tests.support.gateway import LIMIT, Gateway, running_gateway
from tests.support.processes import PATIENCE_SECONDS, end

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEASE_SECONDS = 6
FILM_SECONDS = 120
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
# VLC refuses to run as root.
AS_NOBODY = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.geteuid() == 0 else {}
PLAYERS = (
    ["ffmpeg", "-re", "-i", "{film}", "-f", "null", "-"],
    ["cvlc", "--play-and-exit", "--vout=dummy", "--aout=dummy", "{film}"],
    ["mpv", "--no-config", "--vo=null", "--ao=null", "--cache-secs=4", "{film}"],
)


def _until(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _film_answers(gateway: Gateway) -> list[str]:
    log = (gateway.folder / "nginx" / "access.log").read_text()
    return re.findall(r'"GET /film/" (\d+)', log)


@pytest.mark.timeout(180)
def test_any_player_plays_without_a_heartbeat_and_no_outage_ends_it(
    tmp_path: Path, mongo_url: str
) -> None:
    make_film(tmp_path / "film" / "film-1", FILM_SECONDS)
    with ExitStack() as stack:
        gateway = stack.enter_context(
            running_gateway(tmp_path, mongo_url, lease_seconds=LEASE_SECONDS, services=1)
        )
        login = gateway.login()

        def start(body: bytes = b'{"content":"film-1"}') -> tuple[int, str]:
            answer = gateway.ask(
                "POST",
                "/streams",
                login=login,
                headers={"Content-Type": "application/json"},
                body=body,
            )
            token = answer.body.get("playback_token")
            return answer.status, f"http://127.0.0.1:{gateway.port}/film/{token}/media_0.m3u8"

        def active() -> int:
            count: int = gateway.ask("GET", "/streams", login=login).body["active"]
            return count

        playing = []
        for command in PLAYERS:
            status, film = start()
            assert status == 201
            filled = [part.format(film=film) for part in command]
            playing.append(subprocess.Popen(filled, **QUIET, **AS_NOBODY))  # type: ignore[call-overload]
            stack.callback(end, playing[-1])
        _until(lambda: len(_film_answers(gateway)) > 4 * LIMIT)

        # The database is away for two leases: what plays is let on, and comes back.
        gateway.hold_database()
        before = len(_film_answers(gateway))
        try:
            time.sleep(2 * LEASE_SECONDS)
        finally:
            gateway.release_database()
        assert len(_film_answers(gateway)) > before
        _until(lambda: active() == LIMIT)
        assert start()[0] == 409

        # A pause of two leases lets the slot go, and the film goes on after it.
        playing[-1].send_signal(signal.SIGSTOP)
        paused = time.monotonic()
        _until(lambda: active() == LIMIT - 1)
        time.sleep(max(0.0, paused + 2 * LEASE_SECONDS - time.monotonic()))
        playing[-1].send_signal(signal.SIGCONT)
        _until(lambda: active() == LIMIT)

        # No process at all: the gateway goes on with what it knows.
        ended = gateway.services.pop()
        ended.signal(signal.SIGKILL)
        ended.status()
        before = len(_film_answers(gateway))
        _until(lambda: len(_film_answers(gateway)) > before + 2 * LIMIT)
        gateway.services.append(gateway.start_service())
        assert set(_film_answers(gateway)) <= {"200", "206"}
        assert [player.poll() for player in playing] == [None] * LIMIT

        # A crash frees its slot when the lease is over.
        playing[0].kill()
        _until(lambda: active() == LIMIT - 1)
        assert start()[0] == 201
        # What is replaced gets no further segment.
        assert start(b'{"content":"film-1","replace":"oldest"}')[0] == 201
        _until(lambda: "401" in _film_answers(gateway))
        log = (gateway.folder / "nginx" / "access.log").read_text()
        assert "heartbeat" not in log
