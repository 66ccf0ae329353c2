"""The rules for players, by the table that the JavaScript client is held to as well."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import ClientConnectionError, ClientSession

from examples.player import NoAnswerError, Player
from tests.support.processes import ROOT
from tests.support.virtual_time import run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TABLE = json.loads((ROOT / "client" / "test" / "cases.json").read_text())


class Network:
    """Answers each request with the next answer of the case, and the last one for ever."""

    def __init__(self, answers: list[str]) -> None:
        self.requests: list[list[Any]] = []
        self.labels: list[list[str | None]] = []
        self._lease = ""
        self._answers = answers
        self._keys: list[str] = []

    @asynccontextmanager
    async def post(
        self, url: str, *, headers: Mapping[str, str] | None, json: dict[str, Any] | None, **_: Any
    ) -> AsyncIterator[Any]:
        answer = TABLE["answers"][self._answers[min(len(self.requests), len(self._answers) - 1)]]
        self.requests.append([_seconds(), *self._told(url, headers or {}, json)])
        if json is not None:
            body = answer.get("body")
            self._lease = body.get("lease_id", "") if isinstance(body, dict) else ""
        if "hangs" in answer:
            await asyncio.get_running_loop().create_future()
        if "error" in answer:
            raise ClientConnectionError
        yield _response(answer)

    def _told(self, url: str, headers: Mapping[str, str], body: dict[str, Any] | None) -> list[str]:
        what = []
        if url.endswith("/streams"):
            assert body is not None
            if headers["Idempotency-Key"] not in self._keys:
                self._keys.append(headers["Idempotency-Key"])
            what.append(f"start {'abc'[self._keys.index(headers['Idempotency-Key'])]}")
            self.labels.append([body.get("device"), body.get("content")])
            sent = ["replace", *body["replace"]] if "replace" in body else []
            sent += ["device_id"] if "device_id" in body else []
            what += [" ".join(sent)] if sent else []
        else:
            path = url.removeprefix("http://service")
            known = {"heartbeat": "beat", "stop": "stop"}
            ours = {f"/streams/{self._lease}/{verb}": name for verb, name in known.items()}
            what.append(ours.get(path, path))
        return what + ([headers["Authorization"]] if "Authorization" in headers else [])


def _response(answer: dict[str, Any]) -> Any:
    body = answer.get("body")
    raw = (body if isinstance(body, str) else json.dumps(body)).encode()
    kind = answer.get("type", "application/octet-stream")

    async def read() -> bytes:
        return raw

    headers = {"Content-Type": kind, **answer.get("headers", {})}
    return SimpleNamespace(status=answer["status"], headers=headers, content_type=kind, read=read)


def _seconds() -> float:
    return round(asyncio.get_running_loop().time(), 3)


async def _headers(refused: bool) -> dict[str, str]:  # noqa: FBT001 - as the player calls it
    return {"Authorization": "new" if refused else "old"}


async def _broken_headers(_: bool) -> dict[str, str]:  # noqa: FBT001 - as the player calls it
    text = "the app's, not the service's"
    raise NoAnswerError(text, status=401, retry_after=float("nan"))


async def play(case: dict[str, Any]) -> dict[str, Any]:  # noqa: C901 - a table of acts
    """What the player asks and tells in this case, and the state that it ends in."""
    network, told = Network(case["answers"]), []
    stopped: list[Any] = []
    options = dict(case.get("options", {}))
    if "headers" in options:
        options["headers"] = _broken_headers if options["headers"] == "broken" else _headers

    def tell(event: str, _: Any) -> None:
        if event == "ended":
            told.append([_seconds(), event, player.reason])
        elif event != "error":
            told.append([_seconds(), event])

    async def stop_quietly(player: Player) -> None:
        await player.stop()

    async def stop() -> None:
        done = await player.stop()
        stopped.extend([_seconds(), done])

    def begin(after: Player | None = None) -> Player:
        player = Player(
            cast("ClientSession", network),
            "http://service",
            tell=tell,
            spread=lambda: 0.5,
            after=after,
            **options,
        )
        tasks.append(asyncio.create_task(player.run()))
        return player

    tasks: list[asyncio.Task[None]] = []
    player = begin()
    for at, what in case.get("do", []):
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        if what == "stop":
            tasks.append(asyncio.create_task(stop()))
        elif what == "zap":
            tasks.append(asyncio.create_task(stop_quietly(player)))
            player = begin(after=player)
        elif what == "online":
            player.online()
        else:
            player.set_paused(paused=what == "pause")
    await asyncio.sleep(case["seconds"] - asyncio.get_running_loop().time())
    outcome = {"requests": list(network.requests), "told": told, "state": str(player.state)}
    outcome |= {"labels": network.labels} if "labels" in case else {}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return outcome | ({"stopped": stopped} if stopped else {})


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_the_python_player_keeps_the_rules(case: dict[str, Any]) -> None:
    expected = {
        name: case[name]
        for name in ("requests", "told", "state", "stopped", "labels")
        if name in case
    }
    assert run_in_virtual_time(play(case)) == expected
