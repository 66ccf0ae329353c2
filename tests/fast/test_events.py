"""Events tell what happened, once, and nothing that is secret."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from stream_service.api import openapi
from stream_service.api.digests import Digests
from stream_service.telemetry import events as events_module
from tests.support.processes import Service

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = json.loads(Path(openapi.__file__).with_name("events.schema.json").read_text())
VALID = Draft202012Validator(SCHEMA, format_checker=FormatChecker())
DATA: dict[str, type[msgspec.Struct]] = {
    "started": events_module.StartedData,
    "refused": events_module.RefusedData,
    "ended": events_module.EndedData,
    "dropped": events_module.DroppedData,
}


def told(*services: Service) -> list[dict[str, Any]]:
    """All that the services wrote, once they have ended as they should."""
    for service in services:
        service.process.terminate()
    for service in services:
        assert service.status() == 0
    events = [json.loads(line) for service in services for line in service.output]
    for event in events:
        VALID.validate(event)
    assert len({event["id"] for event in events}) == len(events)
    return events


@pytest.fixture
def run(mongo_url: str, database: str) -> Callable[..., Service]:
    """Starts services on one database."""

    def run(**variables: Any) -> Service:
        return Service(MONGO_URL=mongo_url, MONGO_DB=database, **variables)

    return run


def test_each_start_that_was_decided_and_each_end_is_one_event(
    run: Callable[..., Service], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        "[plans.default]\nstreams = 2\n"
        "[plans.default.limits.uhd]\nwhen = { quality = 'uhd' }\nstreams = 1\n"
    )
    with run(EVENTS="labels", POLICY_FILE=str(policy), STREAM_TTL_SECONDS="5") as service:

        def start(**body: Any) -> dict[str, Any]:
            headers = {"Session-Id": "s", "Idempotency-Key": body["device"]}
            if body.pop("uhd", 0):
                headers["Stream-Attributes"] = "quality=uhd"
            status, answer = service.ask("POST", "/streams", headers, json.dumps(body))
            return {"status": status, **answer}

        tv = {"device": "TV", "content": "Film", "platform": "tizen 4", "device_id": "s3cret"}
        first = start(**tv, uhd=1)
        assert start(**tv, uhd=1)["status"] == 200  # A replay is no start.
        assert start(device="phone", uhd=1)["status"] == 409
        second = start(device="phone")
        assert start(device="tablet")["status"] == 409
        third = start(device="tablet", replace="oldest")
        assert service.ask("POST", f"/streams/{third['lease_id']}/stop")[0] == 204
        assert service.ask("POST", f"/streams/{third['lease_id']}/stop")[0] == 204
        deadline = time.monotonic() + 60
        while service.ask("GET", "/streams", {"Session-Id": "s"})[1]["active"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for _ in range(2):
            late = service.ask("POST", f"/streams/{second['lease_id']}/heartbeat")
            assert (late[0], late[1]["reason"]) == (410, "expired")
        events = told(service)

    assert [event["type"] for event in events] == [
        "stream.started",
        "stream.refused",
        "stream.started",
        "stream.refused",
        "stream.ended",
        "stream.started",
        "stream.ended",
        "stream.ended",
    ]
    data = [event["data"] for event in events]
    assert {one.pop("account") for one in data} == {Digests()("s")}
    for one in data:
        for moment in ("started_at", "last_heartbeat_at", "expires_at"):
            one.pop(moment, None)
    phone, tablet = {"plan": "default", "device": "phone"}, {"plan": "default", "device": "tablet"}
    of_tv = {"device": "TV", "content": "Film", "platform": "tizen 4"}
    assert data == [
        {**of_tv, "plan": "default", "stream_id": first["stream_id"], "active": 1, "limit": 2},
        {**phone, "active": 1, "limit": 1, "rule": "uhd"},
        {**phone, "stream_id": second["stream_id"], "active": 2, "limit": 2},
        {**tablet, "active": 2, "limit": 2},
        {
            **of_tv,
            "plan": "default",
            "stream_id": first["stream_id"],
            "reason": "replaced",
            "replaced_by": third["stream_id"],
        },
        {
            **tablet,
            "stream_id": third["stream_id"],
            "active": 2,
            "limit": 2,
            "replaced": first["stream_id"],
        },
        {
            **tablet,
            "stream_id": third["stream_id"],
            "reason": "stopped",
            "by": "player",
        },
        {**phone, "stream_id": second["stream_id"], "reason": "expired"},
    ]


def test_without_labels_events_name_no_device_and_no_film_and_never_a_secret(
    run: Callable[..., Service],
) -> None:
    with run(EVENTS="1", STREAM_LIMIT="1", OPERATOR_TOKEN="s3cret-operators-token") as service:
        headers = {"Authorization": "Bearer s3cret-operators-token", "Session-Id": "s3cret account"}
        body = {"device": "s3cret", "content": "s3cret", "device_id": "s3cret"}
        keyed = {**headers, "Idempotency-Key": "s3cret-key"}
        status, first = service.ask("POST", "/streams", keyed, json.dumps(body))
        assert status == 201
        assert service.ask("POST", "/streams", headers, json.dumps(body))[0] == 409
        assert service.ask("DELETE", "/streams", headers)[1] == {"ended": 1}
        events = told(service)
        lines = "".join(service.output)
    assert [event["data"].get("by") for event in events] == [None, None, "operator"]
    assert "s3cret" not in lines
    assert first["lease_id"] not in lines


def test_events_are_written_only_where_they_are_wanted(run: Callable[..., Service]) -> None:
    with run() as service:
        assert service.ask("POST", "/streams", {"Session-Id": "s"})[0] == 201
        assert told(service) == []


def test_what_would_have_been_refused_in_shadow_mode_says_so(
    run: Callable[..., Service], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        "[plans.default]\nstreams = 2\n"
        "[plans.default.limits.one]\neach = 'title'\nstreams = 1\nenforce = false\n"
    )
    with run(EVENTS="1", ENFORCE="0", POLICY_FILE=str(policy)) as service:
        headers = {"Session-Id": "s", "Stream-Attributes": "title=a"}
        for body in ({}, {}, {}, {"replace": "oldest"}):
            assert service.ask("POST", "/streams", headers, json.dumps(body))[0] == 201
        data = [event["data"] for event in told(service)]
    assert [one.get("would") for one in data] == [None, None, "refuse", "replace"]
    assert [one.get("beyond") for one in data] == [None, ["one"], ["one"], ["one"]]


async def test_an_end_is_told_once_however_many_end_it_and_nothing_is_lost_at_a_stop(
    run: Callable[..., Service],
) -> None:
    accounts = [f"account-{number}" for number in range(10)]
    with (
        run(EVENTS="1", STREAM_LIMIT="100") as one,
        run(EVENTS="1", STREAM_LIMIT="100") as two,
    ):
        async with aiohttp.ClientSession() as client:

            async def ask(service: Service, method: str, path: str, account: str) -> Any:
                # A lease id needs no session.
                headers = {"Session-Id": account} if account else {}
                url = f"{service.url}{path}"
                async with client.request(method, url, headers=headers) as answer:
                    return answer.status, json.loads(await answer.read() or b"{}")

            answers = await asyncio.gather(
                *(ask(s, "POST", "/streams", a) for a in accounts for s in (one, two) * 4)
            )
            # On a slow machine some are told to ask again; whether those were done is unknown.
            started = {told["stream_id"]: told["lease_id"] for code, told in answers if code == 201}
            ends = [("POST", f"/streams/{lease}/stop", "") for lease in started.values()]
            ends += [("DELETE", "/streams", account) for account in accounts]
            await asyncio.gather(*(ask(s, *end) for end in ends for s in (one, two)))
            for account in accounts:
                while (await ask(one, "DELETE", "/streams", account))[0] != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        events = told(one, two)
    ids = {
        kind: [event["data"]["stream_id"] for event in events if event["type"] == f"stream.{kind}"]
        for kind in ("started", "ended")
    }
    assert len(started) > 10
    assert set(started) <= set(ids["started"]) <= set(ids["ended"])
    assert len(ids["ended"]) == len(set(ids["ended"]))


def test_the_schema_names_what_the_code_writes_and_nothing_else() -> None:
    for name, struct in DATA.items():
        described = SCHEMA["$defs"][name]
        assert sorted(described["properties"]) == sorted(struct.__struct_fields__)
        assert described["additionalProperties"] is False
        required = [field.name for field in msgspec.structs.fields(struct) if field.required]
        assert sorted(described["required"]) == sorted(required)
    assert sorted(SCHEMA["properties"]) == sorted(events_module.Event.__struct_fields__)
    VALID.validate(json.loads(events_module.EVENTS_OUTPUT._tell(3)))  # noqa: SLF001
