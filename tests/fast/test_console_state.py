"""What the console is told: what is known, by how bad it is, and nothing that is not known."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api import health
from stream_service.api.health import HEALTH
from stream_service.api.representation import timestamp
from stream_service.app import create_app
from stream_service.pages.console_account import MOST_ENDS
from stream_service.settings import Settings
from stream_service.streams import StoreUnavailableError, utc_now
from stream_service.telemetry import history as history_module
from stream_service.telemetry.history import quantile
from stream_service.telemetry.recent_problems import SHOWN, RecentProblems
from tests.support.http_api import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import web
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

    Client = TestClient[web.Request, web.Application]

VIEWER = {"Session-Id": "viewer"}


@pytest.fixture
async def client(
    aiohttp_client: AiohttpClient, double_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> Client:
    """A service whose history has an entry for every twentieth of a second."""
    monkeypatch.setattr(history_module, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0)
    return await aiohttp_client(create_app(Settings(), store=double_store))


async def state_when(
    client: Client, wanted: Callable[[dict[str, Any]], bool], seconds: float = 40
) -> dict[str, Any]:
    """The first state that is wanted."""
    async with asyncio.timeout(seconds):
        while True:
            state: dict[str, Any] = await (await client.get("/console/state")).json()
            if wanted(state):
                return state
            await asyncio.sleep(0.01)


async def test_the_history_tells_what_happened_in_each_interval(client: Client) -> None:
    # What is before the first reading happened in no interval.
    await state_when(client, lambda state: bool(state["history"]["at"]))
    for _ in range(4):
        response = await client.post("/streams", headers=VIEWER)
        if response.status == 201:
            lease_id = (await response.json())["lease_id"]
    await client.post(f"/streams/{lease_id}/heartbeat")
    state = await state_when(client, lambda state: any(state["history"]["heartbeats"]))
    history = state["history"]
    assert {len(column) for column in history.values() if isinstance(column, list)} == {
        len(history["at"])
    }
    assert history["at"] == sorted(history["at"])
    assert any(history["starts"])
    assert max(ratio for ratio in history["refusal_ratio"] if ratio is not None) > 0
    [p50, p99] = [max(value or 0 for value in history[name]) for name in ("p50", "p99")]
    assert 0 < p50 <= p99
    assert max(size or 0 for size in history["batch_size"]) >= 1
    assert max(wait or 0 for wait in history["database_wait"]) > 0
    assert not any(history["errors"])
    assert all(history["database"])


async def test_what_is_not_known_is_null_and_not_zero(client: Client) -> None:
    state = await state_when(client, lambda state: len(state["history"]["at"]) > 2)
    history = state["history"]
    for name in ("refusal_ratio", "p50", "p99", "database_wait", "batch_size"):
        assert set(history[name]) == {None}
    assert history["starts"][-1] == 0
    client.app[HEALTH].processes._store = Away()  # type: ignore[assignment]  # noqa: SLF001
    state = await state_when(client, lambda state: state["history"]["database"][-1] is False)
    assert state["database"] == "DOWN"


async def test_the_database_is_unreachable_since_its_first_silence(client: Client) -> None:
    processes = client.app[HEALTH].processes
    store = processes._store  # noqa: SLF001
    processes._store = Away()  # type: ignore[assignment]  # noqa: SLF001
    first = await state_when(client, lambda state: state["database"] == "DOWN")
    assert first["unreachable_since"] <= first["now"]
    count = len(first["history"]["at"])
    later = await state_when(client, lambda state: len(state["history"]["at"]) > count)
    assert later["unreachable_since"] == first["unreachable_since"]
    processes._store = store  # noqa: SLF001
    again = await state_when(client, lambda state: state["database"] == "UP")
    assert again["unreachable_since"] is None


class Away:
    """A database that gives no answer."""

    async def clock(self) -> None:
        raise StoreUnavailableError("away")


def test_quantiles_are_estimated_within_the_bucket_where_they_lie() -> None:
    buckets = {0.001: 0.0, 0.01: 50.0, 0.1: 99.0, float("inf"): 100.0}
    assert quantile(buckets, 0.25) == pytest.approx(0.0055)
    assert quantile(buckets, 0.5) == pytest.approx(0.01)
    assert quantile(buckets, 0.99) == pytest.approx(0.1)
    # Beyond the last bound no more is known than that bound.
    assert quantile(buckets, 1.0) == pytest.approx(0.1)
    assert quantile(dict.fromkeys(buckets, 0.0), 0.5) is None
    assert quantile({}, 0.5) is None


def test_a_refusal_never_stands_above_a_fault() -> None:
    clock = Clock()
    recent = RecentProblems(clock)
    for status, kind in (
        (500, "internal-error"),
        (503, "unavailable"),
        (400, "invalid-request"),
        (409, "limit-reached"),
    ):
        recent.add(status, kind, "POST", "/streams")
        clock.move_on(1)
    problems = [(problem.severity, problem.kind) for problem in recent.of_the_last_hour()]
    assert problems == [
        ("fault", "unavailable"),
        ("fault", "internal-error"),
        ("client error", "invalid-request"),
        ("normal", "limit-reached"),
    ]


def test_problems_are_counted_in_the_last_minute_and_the_last_hour() -> None:
    clock = Clock()
    recent = RecentProblems(clock)
    for seconds in (0, 1, 1790, 1790):
        clock.move_on(seconds)
        recent.add(503, "unavailable", "POST", "/streams")
    [problem] = recent.of_the_last_hour()
    assert (problem.last_minute, problem.last_hour) == (1, 4)
    clock.move_on(61)
    [problem] = recent.of_the_last_hour()
    assert (problem.last_minute, problem.last_hour) == (0, 2)
    clock.move_on(3600)
    assert recent.of_the_last_hour() == []


def test_of_many_kinds_the_latest_are_shown() -> None:
    clock = Clock()
    recent = RecentProblems(clock)
    for number in range(2 * SHOWN):
        recent.add(404, f"kind-{number}", "GET", "/streams")
        clock.move_on(0.001)
    shown = recent.of_the_last_hour()
    assert len(shown) == SHOWN
    assert shown[0].kind == f"kind-{2 * SHOWN - 1}"


def test_of_a_request_that_no_route_took_not_even_the_method_is_kept() -> None:
    recent = RecentProblems(utc_now)
    recent.add(404, "not-found", "CHOSEN", None)
    [problem] = recent.of_the_last_hour()
    assert problem.method is None
    assert utc_now() - problem.last < timedelta(minutes=1)


async def test_support_is_told_an_accounts_own_limit_its_streams_and_its_last_ends(
    aiohttp_client: AiohttpClient, double_store: MongoStore, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(
        "[plans.default]\nstreams = 3\n[plans.basic]\nstreams = 2\n"
        '[plans.basic.limits.uhd]\nwhen = { quality = "uhd" }\nstreams = 1\n'
        '[plans.basic.limits.same-title]\neach = "title"\nstreams = 1\n'
    )
    settings, clock = Settings(policy_file=tmp_path / "policy.toml"), Clock()
    began = clock.now
    client = await aiohttp_client(create_app(settings, store=double_store, clock=clock))
    basic = {**VIEWER, "Stream-Plan": "basic", "Stream-Attributes": 'quality=uhd, title="secret"'}

    async def start(device: str, **more: str) -> str:
        clock.move_on(1)
        headers = {**basic, "Idempotency-Key": device}
        answer = await client.post("/streams", headers=headers, json={"device": device, **more})
        return str((await answer.json())["stream_id"])

    async def account() -> dict[str, Any]:
        told: dict[str, Any] = await (await client.get("/console/account", headers=VIEWER)).json()
        return told

    def at(seconds: float) -> str:
        return timestamp(began + timedelta(seconds=seconds))

    told = await account()
    assert (told["limit"], told["plan"], told["by_default"]) == (3, "default", True)
    assert (told["streams"], told["ends"]) == ([], [])
    first, second = await start("TV"), await start("Phone", platform="ios 18", replace="oldest")
    told = await account()
    assert (told["active"], told["limit"], told["plan"], told["by_default"]) == (
        *(1, 2, "basic"),
        False,
    )
    [playing] = told["streams"]
    assert (playing["stream_id"], playing["platform"]) == (second, "ios 18")
    assert (playing["limit"], playing["plan"]) == (2, "basic")
    # Names alone: neither the key's digest nor the title's.
    assert playing["limits"] == ["same-title", "uhd"]
    [replaced] = told["ends"]
    assert (replaced["stream_id"], replaced["reason"]) == (first, "replaced")
    assert (replaced["by"], replaced["exact"], replaced["device"]) == (at(2), False, None)
    clock.move_on(1)
    await client.delete(f"/streams/{second}", headers=VIEWER)
    # Once, though its slot has a tombstone of it, too; and what it was is still known.
    stopped, before = (await account())["ends"]
    assert before == replaced
    assert (stopped["reason"], stopped["by"], stopped["exact"]) == ("stopped", at(3), True)
    assert (stopped["device"], stopped["platform"]) == ("Phone", "ios 18")
    # Nothing plays, but its last start said what it may have.
    assert ((await account())["limit"], (await account())["active"]) == (2, 0)
    third = await start("Tablet")
    clock.move_on(settings.stream_ttl_seconds)
    ends = [(end["stream_id"], end["reason"], end["by"]) for end in (await account())["ends"]]
    assert ends == [
        (third, "expired", at(4 + settings.stream_ttl_seconds)),
        (second, "stopped", at(4)),
        (first, "replaced", at(4)),
    ]


async def test_support_is_told_the_latest_ends_and_no_more_than_fit_a_page(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    clock = Clock()
    settings = Settings(stream_limit=MOST_ENDS + 5)
    client = await aiohttp_client(create_app(settings, store=double_store, clock=clock))
    started = []
    for _ in range(settings.stream_limit):
        clock.move_on(1)
        started.append((await (await client.post("/streams", headers=VIEWER)).json())["stream_id"])
    clock.move_on(settings.stream_ttl_seconds)
    told = await (await client.get("/console/account", headers=VIEWER)).json()
    ends = [end["stream_id"] for end in told["ends"]]
    assert ends == started[::-1][:MOST_ENDS]
