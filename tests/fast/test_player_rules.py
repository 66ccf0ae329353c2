"""The rules for players, by the cases that every client can run: client/cases."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPMessage
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientConnectionError, ClientSession
from jsonschema import Draft202012Validator

from examples.player import NoAnswerError, Player
from tests.support.processes import ROOT
from tests.support.virtual_time import run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

CASES = ROOT / "client" / "cases"
TABLE = json.loads((CASES / "cases.json").read_text())


class Asked(SimpleNamespace):
    """What was answered."""

    status: int
    headers: HTTPMessage
    raw: bytes


def ask(method: str, url: str, headers: Mapping[str, str], body: object = None) -> Asked:
    """Ask the stand-in, while no virtual time passes."""
    address = urlsplit(url)
    connection = HTTPConnection(str(address.hostname), int(address.port or 0))
    try:
        raw = None if body is None else json.dumps(body)
        connection.request(method, address.path, raw, dict(headers))
        response = connection.getresponse()
        return Asked(status=response.status, headers=response.headers, raw=response.read())
    finally:
        connection.close()


def _seconds() -> float:
    return round(asyncio.get_running_loop().time(), 3)


class Network:
    """Sends each request to the stand-in, with the virtual time."""

    is_left = False
    """The app is gone, and hears nothing."""
    last_words = 0
    """How many of its requests are still sent then."""

    @asynccontextmanager
    async def post(
        self, url: str, *, headers: Mapping[str, str] | None, json: dict[str, Any] | None, **_: Any
    ) -> AsyncIterator[Any]:
        left, forever = self.is_left, asyncio.get_running_loop().create_future()
        if left and not self.last_words:
            await forever
        self.last_words -= left
        asked = ask("POST", url, {**(headers or {}), "Case-Time": str(_seconds())}, json)
        if left or asked.headers["Case-Answer"] == "no answer":
            await forever
        if asked.headers["Case-Answer"] == "no network":
            raise ClientConnectionError

        await asyncio.sleep(float(asked.headers["Case-Answer-After"] or 0))

        async def read() -> bytes:
            return asked.raw

        kind = asked.headers["Content-Type"] or "application/octet-stream"
        yield SimpleNamespace(
            status=asked.status, headers=asked.headers, content_type=kind, read=read
        )


async def _headers(refused: bool) -> dict[str, str]:  # noqa: FBT001 - as the player calls it
    return {"Authorization": "new" if refused else "old"}


async def _broken_headers(_: bool) -> dict[str, str]:  # noqa: FBT001 - as the player calls it
    text = "the app's, not the service's"
    raise NoAnswerError(text, status=401, retry_after=float("nan"))


class Run:
    """One case, run with the Python player."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.told: list[list[Any]] = []
        self.stopped: list[Any] | None = None
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, after: Player | None = None) -> None:
        """Play, or play something else."""
        options = dict(self.case["options"] or {})
        if "headers" in options:
            options["headers"] = _broken_headers if options["headers"] == "broken" else _headers
        self.network = Network()
        self.player = player = Player(
            cast("ClientSession", self.network),
            self.case["url"],
            tell=lambda event, _: self._tell(player, event),
            spread=lambda: 0.5,
            after=after,
            **options,
        )
        self.running = asyncio.create_task(player.run())
        self.tasks.append(self.running)

    def _tell(self, player: Player, event: str) -> None:
        if event != "error":
            self.told.append([_seconds(), event, *([player.reason] if event == "ended" else [])])

    async def _stop(self) -> None:
        done = await self.player.stop()
        self.stopped = [_seconds(), done]

    def do(self, what: str) -> None:
        """What happens at the device."""
        match what:
            case "stop":
                self.tasks.append(asyncio.create_task(self._stop()))
            case "online":
                self.player.online()
            case "zap" | "play" if what == "zap" or self.player.over:
                # The next player stops this one first, if there is an app still.
                self.begin(after=None if self.network.is_left else self.player)
            case "close" | "kill":
                self.network.is_left, self.network.last_words = True, int(what == "close")
                self.running.cancel()
            case "pause" | "play":
                self.player.set_paused(paused=what == "pause")

    async def verdict(self) -> list[str]:
        """What was wrong."""
        self.begin()
        for at, what in self.case["do"] or []:
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            self.do(what)
        await asyncio.sleep(self.case["seconds"] - asyncio.get_running_loop().time())
        said = {"told": self.told, "stopped": self.stopped, "state": str(self.player.state)}
        asked = ask("POST", f"{self.case['url']}/done", {"Case-Time": "0"}, said)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return cast("list[str]", json.loads(asked.raw)["wrong"])


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, CASES / "stand_in.py", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.kill()


def test_the_python_player_keeps_the_rules(stand_in: str) -> None:
    wrong = {}
    for _ in TABLE["cases"]:
        case = json.loads(ask("GET", stand_in, {}).raw)
        said = run_in_virtual_time(Run(case).verdict())
        if said:
            wrong[case["name"]] = said
    assert wrong == {}


def test_the_table_has_the_form_of_its_schema() -> None:
    schema = json.loads((CASES / "cases.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(TABLE)
    assert len({case["name"] for case in TABLE["cases"]}) == len(TABLE["cases"])


def test_the_stand_in_says_what_a_client_did_wrong() -> None:
    with subprocess.Popen(
        [sys.executable, CASES / "stand_in.py", "--port", "0", "--only", "is over at the first"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = json.loads(ask("GET", process.stdout.readline().split()[-1], {}).raw)["url"]
        asked = ask("POST", f"{url}/done", {}, {"told": [], "state": "playing"})
        said = "".join(json.loads(asked.raw)["wrong"])
        assert 'state: "over" expected, "playing" seen' in said
        assert "1 failed" in process.stdout.read()
        assert process.wait() == 1
