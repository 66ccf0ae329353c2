"""What Prometheus is told is what happened, and nothing that a client chose."""

from __future__ import annotations

import asyncio
import json
import math
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_service.admission import Start
from stream_service.app import create_app
from stream_service.group_commit import GroupCommit
from stream_service.settings import Settings
from stream_service.store import Counted
from stream_service.streams import LimitReachedError, Reached, StoreUnavailableError, utc_now
from stream_service.telemetry import metrics as metrics_module
from stream_service.telemetry.metrics import METRICS, Metrics, Sampler
from tests.support.http_api import a_lease_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

    Client = TestClient[web.Request, web.Application]

ROOT = Path(__file__).parent.parent.parent
VIEWER = {"Session-Id": "viewer-of-the-metrics-test"}
NEVER_STARTED = {"lease_id": a_lease_id(VIEWER["Session-Id"])}

Started = dict[str, Any]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = utc_now()  # the test double sweeps by the real time

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, store: MongoStore, clock: Clock) -> Client:
    return await aiohttp_client(create_app(Settings(), store=store, clock=clock))


async def scrape(client: Client) -> dict[str, float]:
    """Each sample's value by its name and labels, as Prometheus reads them."""
    response = await client.get("/metrics")
    assert response.status == 200
    values = {}
    for family in text_string_to_metric_families(await response.text()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}".replace("{}", "")] = sample.value
    return values


async def start(client: Client, **body: Any) -> Started:
    response = await client.post("/streams", headers=VIEWER, json=body)
    stream: Started = await response.json()
    return stream


async def beat(client: Client, stream: Started) -> int:
    return (await client.post(f"/streams/{stream['lease_id']}/heartbeat")).status


async def test_starts_are_counted_by_what_became_of_them(client: Client) -> None:
    key = {**VIEWER, "Idempotency-Key": "once"}
    await client.post("/streams", headers=key)
    await client.post("/streams", headers=key)
    assert (await client.post("/streams", headers=key, json={"device": "TV"})).status == 422
    first = await start(client)
    await start(client)
    assert (await client.post("/streams", headers=VIEWER)).status == 409
    assert (await client.get("/watch", headers=VIEWER)).status == 401
    await start(client, replace=first["stream_id"])
    values = await scrape(client)
    outcomes = {"admitted": 3, "replayed": 1, "refused": 2, "replacing": 1, "unavailable": 0}
    outcomes["key_reused"] = 1
    for outcome, count in outcomes.items():
        assert values[f'stream_service_starts_total{{outcome="{outcome}"}}'] == count
    assert values['stream_service_ends_total{reason="replaced"}'] == 1
    assert values["stream_service_active_streams"] == 3


async def test_heartbeats_and_ends_are_counted_by_what_became_of_them(
    client: Client, clock: Clock
) -> None:
    one, two, three = [await start(client) for _ in range(3)]
    assert await beat(client, one) == 200
    for _ in range(2):
        await client.delete(f"/streams/{two['stream_id']}", headers=VIEWER)
        clock.pass_seconds(0.001)
    assert await beat(client, two) == 410
    clock.pass_seconds(1)
    four = await start(client, replace=three["stream_id"])
    assert await beat(client, three) == 410
    assert await beat(client, NEVER_STARTED) == 404
    clock.pass_seconds(75)
    assert await beat(client, four) == 410
    values = await scrape(client)
    outcomes = {"renewed": 1, "stopped": 1, "replaced": 1, "expired": 1, "unknown": 1}
    for outcome, count in outcomes.items():
        assert values[f'stream_service_heartbeats_total{{outcome="{outcome}"}}'] == count
    for reason in ("stopped", "replaced", "expired"):
        assert values[f'stream_service_ends_total{{reason="{reason}"}}'] == 1
    assert values["stream_service_ghost_release_seconds_sum"] == 75


async def test_a_stream_that_expired_counts_once_whoever_finds_it(
    client: Client, clock: Clock
) -> None:
    by_heartbeat, by_stop, _by_start = [await start(client) for _ in range(3)]
    clock.pass_seconds(100)
    for _ in range(2):
        assert await beat(client, by_heartbeat) == 410
        await client.delete(f"/streams/{by_stop['stream_id']}", headers=VIEWER)
    for _ in range(3):
        await start(client)
    values = await scrape(client)
    assert values['stream_service_ends_total{reason="expired"}'] == 3
    assert values['stream_service_ends_total{reason="stopped"}'] == 0
    assert values["stream_service_ghost_release_seconds_sum"] == 300


async def test_platforms_that_are_set_are_told_apart_and_all_others_are_other(
    aiohttp_client: AiohttpClient, store: MongoStore, clock: Clock
) -> None:
    settings = Settings(platforms=("web", "ios"), stream_limit=4)
    client = await aiohttp_client(create_app(settings, store=store, clock=clock))
    for body in ({"platform": "web 3.4.1"}, {"platform": "WEB 2"}, {"platform": "tizen 4"}, {}):
        assert (await client.post("/streams", headers=VIEWER, json=body)).status == 201
    refused = {"platform": "ios"}
    assert (await client.post("/streams", headers=VIEWER, json=refused)).status == 409
    clock.pass_seconds(30)

    values = await scrape(client)
    by_platform = {
        'starts_total{outcome="admitted",platform="%s"}': {"web": 2, "ios": 0, "other": 2},
        'starts_total{outcome="refused",platform="%s"}': {"web": 0, "ios": 1, "other": 0},
        'silent_streams{platform="%s"}': {"web": 2, "ios": 0, "other": 2},
    }
    for name, expected in by_platform.items():
        for platform, count in expected.items():
            assert values[f"stream_service_{name % platform}"] == count

    await client.delete("/streams", headers=VIEWER)
    values = await scrape(client)
    assert values['stream_service_ends_total{platform="web",reason="stopped"}'] == 2
    assert values['stream_service_ends_total{platform="other",reason="stopped"}'] == 2
    state = await (await client.get("/console/state")).json()
    assert (state["starts"]["admitted"], state["ends"]["stopped"]) == (4, 4)


async def test_a_stop_of_all_counts_each_stream_that_it_ended(client: Client) -> None:
    for _ in range(3):
        await start(client)
    for _ in range(2):
        assert (await client.delete("/streams", headers=VIEWER)).status == 200
    values = await scrape(client)
    assert values['stream_service_ends_total{reason="stopped"}'] == 3
    assert values['stream_service_batch_size_sum{kind="stop"}'] == 3


async def test_starts_and_heartbeats_that_are_too_many_at_once_are_counted(
    aiohttp_client: AiohttpClient, double_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GroupCommit.__init__.__kwdefaults__ or {}, "max_waiting", 0)
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    assert (await client.post("/streams", headers=VIEWER)).status == 429
    assert await beat(client, NEVER_STARTED) == 429
    values = await scrape(client)
    assert values['stream_service_starts_total{outcome="throttled"}'] == 1
    assert values['stream_service_heartbeats_total{outcome="throttled"}'] == 1


async def test_a_store_that_is_away_is_counted_and_leaves_no_figure_of_streams(
    aiohttp_client: AiohttpClient,
) -> None:
    class Away:
        def __getattr__(self, verb: str) -> Callable[..., Awaitable[None]]:
            async def away(*_: object, **__: object) -> None:
                raise StoreUnavailableError("AutoReconnect 91")

            return away

    store: Any = Away()
    client = await aiohttp_client(create_app(Settings(), store=store))
    assert (await client.post("/streams", headers=VIEWER)).status == 503
    assert await beat(client, NEVER_STARTED) == 503
    values = await scrape(client)
    assert values['stream_service_store_errors_total{error="AutoReconnect"}'] == 2
    assert values['stream_service_starts_total{outcome="unavailable"}'] == 1
    assert values['stream_service_heartbeats_total{outcome="unavailable"}'] == 1
    assert math.isnan(values["stream_service_active_streams"])


async def test_active_streams_are_counted_and_the_silent_among_them(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "SAMPLE_SECONDS", -1)
    monkeypatch.setattr(metrics_module, "SAMPLE_COST", -1)
    beating, _ghost = await start(client), await start(client)
    assert (await scrape(client))["stream_service_silent_streams"] == 0
    clock.pass_seconds(30)
    await beat(client, beating)
    values = await scrape(client)
    assert values["stream_service_active_streams"] == 2
    assert values["stream_service_silent_streams"] == 1
    clock.pass_seconds(30)
    assert (await scrape(client))["stream_service_active_streams"] == 1


async def test_many_scrapes_ask_the_store_once() -> None:
    class Counting:
        asked = 0

        async def count(self, *_: datetime) -> Counted:
            self.asked += 1
            return Counted(7, {})

    store: Any = Counting()
    sampler = Sampler(store, Metrics(), lease=timedelta(seconds=60))
    for _ in range(100):
        await sampler.sample()
    assert store.asked == 1


async def test_no_label_holds_anything_that_a_client_chose(client: Client) -> None:
    secret = "Chosen-by-a-client"
    headers = {"Session-Id": secret, "Idempotency-Key": secret, "X-Request-Id": secret}
    await client.post(
        "/streams", headers=headers, json={"device": secret, "content": secret, "platform": secret}
    )
    for method in ("GET", "POST", "PROPFIND", "DELETE"):
        for path in (f"/{secret}", f"/streams/{secret}", f"/static/{secret}", f"/health?{secret}"):
            await client.request(method, path, headers=headers)
    text = await (await client.get("/metrics")).text()
    assert secret not in text
    state = await client.get("/console/state")
    assert secret not in await state.text()
    assert set(re.findall('method="([A-Z]*)"', text)) == {"", "GET", "POST", "DELETE"}


async def test_requests_are_timed_by_route_and_status(client: Client) -> None:
    for path in ("/health/live", "/health/live", "/nowhere"):
        await client.get(path)
    values = await scrape(client)
    name = "stream_service_request_seconds_count"
    assert values[f'{name}{{method="GET",route="/health/live",status="200"}}'] == 2
    assert values[f'{name}{{method="",route="unmatched",status="404"}}'] == 1


async def test_heartbeats_that_share_a_command_are_one_batch(client: Client) -> None:
    stream = await start(client)
    assert set(await asyncio.gather(*(beat(client, stream) for _ in range(20)))) == {200}
    values = await scrape(client)
    assert values['stream_service_batch_size_sum{kind="heartbeat"}'] == 20
    batches = values['stream_service_batch_size_count{kind="heartbeat"}']
    assert 1 <= batches < 20
    assert values['stream_service_batch_wait_seconds_count{kind="heartbeat"}'] == batches
    assert 0 <= values['stream_service_batch_wait_seconds_sum{kind="heartbeat"}'] < 20


def test_batches_are_measured_by_kind() -> None:
    metrics = Metrics()
    metrics.on_batch("renew", 50, 0.004)
    metrics.on_batch("renew", 1, 0.0)
    registry = metrics.registry()
    kind = {"kind": "renew"}
    assert registry.get_sample_value("stream_service_batch_size_sum", kind) == 51
    assert registry.get_sample_value("stream_service_batch_wait_seconds_sum", kind) == 0.004
    assert registry.get_sample_value("stream_service_batch_size_count", kind) == 2


async def test_applications_count_for_themselves(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    first = await aiohttp_client(create_app(Settings(), store=double_store))
    second = await aiohttp_client(create_app(Settings(), store=double_store))
    await start(first)
    assert (await scrape(second))['stream_service_starts_total{outcome="admitted"}'] == 0
    assert first.app is not None
    assert second.app is not None
    assert first.app[METRICS] is not second.app[METRICS]


@pytest.mark.parametrize(
    "file", ["deploy/grafana-dashboard.json", "deploy/alerts.yml", "docs/operations.md"]
)
async def test_dashboard_alerts_and_text_name_only_metrics_that_exist(
    client: Client, file: str
) -> None:
    assert client.app is not None
    # Only what has been counted has its labels.
    await client.get("/health/live")
    client.app[METRICS].on_batch("renew", 1, 0.0)
    client.app[METRICS].on_store_error(StoreUnavailableError("AutoReconnect"))
    client.app[METRICS].on_task_failure("history")
    client.app[METRICS].on_start(Start("s", 1), LimitReachedError([Reached("uhd", 1, [])], 1))
    exposed = {name.partition("{")[0] for name in await scrape(client)}
    families = {re.sub("_(total|count|sum|bucket|created)$", "", name) for name in exposed}
    named = set(re.findall(r"stream_service_[a-z_]+[a-z]", (ROOT / file).read_text()))
    assert named
    assert named <= exposed | families


async def test_the_guide_names_every_outcome_of_starts_and_heartbeats() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    families = {family.name: family for family in await Metrics().collect()}
    for name in ("stream_service_starts", "stream_service_heartbeats"):
        outcomes = {one.labels["outcome"] for one in families[name].samples}
        [told] = re.findall(rf"^- `{name}_total`: .*`outcome`: (.+)$", guide, re.MULTILINE)
        assert set(told.split(", ")) == outcomes


async def test_the_dashboard_shows_every_metric() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    shown = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    )
    for metric in await Metrics().collect():
        if metric.name.startswith("stream_service_"):
            assert metric.name in shown
