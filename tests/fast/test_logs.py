"""The log: one JSON line per request, and never a secret in clear."""

from __future__ import annotations

import json
import re
import secrets
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api.digests import Digests
from stream_service.api.handlers import audit
from tests.support.processes import PATIENCE_SECONDS, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient

SESSION = "s3cret-session"
KEY = "s3cret-key"
TOKEN = "s3cret-token-0123"
FAILING = """
import sys
from stream_service import __main__
from stream_service.api import handlers

async def failing(request):
    try:
        raise ValueError(f"while reading {dict(request.headers)}")
    except ValueError as error:
        raise RuntimeError(request.headers["Session-Id"]) from error

handlers.show = failing
sys.exit(__main__.main())
"""
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
NAMED = {**AUTHORIZED, "Session-Id": SESSION}


@pytest.fixture(scope="module")
def service(mongo_url: str, mongo: MongoClient[Any]) -> Iterator[Service]:
    """At its most talkative, with a handler that fails. What it logs is searched for secrets."""
    name = f"stream_service_test_{secrets.token_hex(6)}"
    with Service(
        program=("-c", FAILING),
        MONGO_URL=mongo_url,
        MONGO_DB=name,
        GATEWAY_TOKEN=TOKEN,
        LOG_LEVEL="DEBUG",
    ) as service:
        # Whichever of the tests this worker runs: something is stored.
        service.ask("POST", "/streams", {**AUTHORIZED, "Session-Id": "s3cret other session"})
        yield service
        service.process.terminate()
        service.status()
        kept = list(mongo[name]["streams"].find())
    mongo.drop_database(name)
    assert kept
    for told in ("\n".join(service.log), "\n".join(service.output), repr(kept)):
        assert "s3cret" not in told


def _logged(service: Service, request_id: str) -> dict[str, Any]:
    """The one line of a request; a later line shows that no second one is to come."""
    line = service.wait_for(lambda event: event.get("request_id") == request_id)
    later = f"after-{request_id}"
    service.ask("GET", "/health/live", {"X-Request-Id": later})
    service.wait_for(lambda event: event.get("request_id") == later)
    assert [e for e in service.events if e.get("request_id") == request_id] == [line]
    return line


def _has_logged_no_secret(service: Service) -> None:
    last = secrets.token_hex(8)
    service.ask("GET", "/health/live", {"X-Request-Id": last})
    service.wait_for(lambda event: event.get("request_id") == last)
    assert "s3cret" not in json.dumps(service.events)


@pytest.mark.parametrize(
    ("method", "path", "status", "route"),
    [
        ("GET", "/watch", 200, "/watch"),
        ("POST", "/streams", 201, "/streams"),
        ("GET", "/streams?q=s3cret", 200, "/streams"),
        ("POST", "/streams/s3cret/heartbeat", 404, "/streams/{lease_id}/heartbeat"),
        ("DELETE", "/streams/s3cret", 404, "/streams/{stream_id}"),
        ("PUT", "/streams/s3cret", 405, "unmatched"),
        ("GET", "/s3cret", 404, "unmatched"),
        ("GET", "/health", 200, "/health"),
        ("GET", "/health/live", 200, "/health/live"),
    ],
)
def test_a_request_is_one_line_with_its_route_and_without_its_path(
    service: Service, method: str, path: str, status: int, route: str
) -> None:
    request_id = f"id-{method}{path.replace('/', '.')}".replace("?q=", "").replace("s3cret", "x")
    answered, _ = service.ask(method, path, {**NAMED, "X-Request-Id": request_id})
    assert answered == status
    line = _logged(service, request_id)
    assert set(line) == {
        *("level", "logger", "event", "time"),
        *("method", "route", "status", "ms", "request_id"),
    }
    assert (line["level"], line["event"]) == ("INFO", "request")
    assert (line["method"], line["route"], line["status"]) == (method, route, status)
    assert 0 < line["ms"] < 10_000
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(\+00:00|Z)", line["time"])


def test_the_parser_of_a_guide_does_not_log_its_states(service: Service) -> None:
    request_id = "reads-a-guide"
    asked = urllib.request.Request(
        f"{service.url}/docs/integration", headers={**AUTHORIZED, "X-Request-Id": request_id}
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
        assert b"<h1" in answer.read()
    _logged(service, request_id)
    assert not [e for e in service.events if e["logger"].startswith("markdown_it")]


def test_a_start_with_a_key_tells_neither_the_key_nor_the_session(service: Service) -> None:
    headers = {**NAMED, "Idempotency-Key": KEY, "X-Request-Id": "keyed"}
    status, _ = service.ask("POST", "/streams", headers)
    assert status == 201
    assert "s3cret" not in json.dumps(_logged(service, "keyed"))


def test_a_failing_handler_is_logged_with_its_frames_and_without_its_message(
    service: Service,
) -> None:
    status, body = service.ask("GET", "/streams/any", {**NAMED, "X-Request-Id": "failing"})
    assert status == 500
    assert "s3cret" not in json.dumps(body)
    assert _logged(service, "failing")["status"] == 500
    [fault] = [e for e in service.events if e["event"] == "unexpected error"]
    assert fault["level"] == "ERROR"
    assert "builtins.RuntimeError" in fault["exc_info"]
    assert "builtins.ValueError" in fault["exc_info"]
    assert "in failing" in fault["exc_info"]
    assert "s3cret" not in json.dumps(fault)


@pytest.mark.parametrize(
    "headers",
    [
        b"Session-Id: s3cret\0session",
        b"Session-Id: s3cret\nsession",
        b"Idempotency-Key: s3cret\x01",
        b"Authorization: Bearer s3cret\0",
        b"s3cret header: 1",
        b"X-Long: " + b"s3cret" * 3000,
        b"Content-Length: s3cret",
    ],
)
def test_headers_that_cannot_be_parsed_are_not_quoted(service: Service, headers: bytes) -> None:
    status, _, body = service.exchange(
        b"GET /watch HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n"
    )
    assert status == 400
    assert "s3cret" not in json.dumps(body)
    _has_logged_no_secret(service)


@pytest.mark.parametrize(
    "secret",
    [
        {"Session-Id": "s3cret-uuid"},
        {"Idempotency-Key": "s3cret-uuid"},
        {"Authorization": "Bearer s3cret-uuid"},
    ],
)
def test_a_secret_that_is_sent_as_the_request_id_too_is_not_logged(
    service: Service, secret: dict[str, str]
) -> None:
    service.ask("POST", "/streams", {**NAMED, **secret, "X-Request-Id": "s3cret-uuid"})
    _has_logged_no_secret(service)


def test_two_sessions_and_a_wrong_token_are_not_logged(service: Service) -> None:
    status, _, _ = service.exchange(
        b"GET /watch HTTP/1.1\r\nHost: x\r\nSession-Id: s3cret-1\r\nSession-Id: s3cret-2\r\n"
        b"X-Request-Id: s3cret-2\r\nAuthorization: Bearer %s\r\n\r\n" % TOKEN.encode()
    )
    assert status == 400
    status, _ = service.ask("GET", "/watch", {"Authorization": "Bearer s3cret-wrong"})
    assert status == 401
    _has_logged_no_secret(service)


def test_a_password_in_the_url_of_a_database_that_is_away_is_not_logged() -> None:
    with Service(MONGO_URL="mongodb://user:s3cret@127.0.0.1:9", LOG_LEVEL="DEBUG") as service:
        event = service.wait_for(lambda event: event["event"] == "database unreachable")
        assert event["database"] == "127.0.0.1:9/stream_service"
        assert "MONGO_URL" in event["hint"]
        assert event["level"] == "WARNING"
        assert service.url
        service.process.terminate()
        service.status()
    assert service.events
    assert "s3cret" not in "\n".join(service.log)


def _audited(service: Service, request_id: str) -> list[dict[str, Any]]:
    """The audit lines so far, once those of this request are written."""
    service.wait_for(lambda event: event.get("request_id") == request_id)
    return [e for e in service.events if e["logger"] == "stream_service.audit"]


def test_a_stop_of_all_leaves_a_line_of_who_ended_how_many_of_which_account(
    service: Service,
) -> None:
    headers = {**NAMED, "Session-Id": "s3cret-household"}
    for _ in range(2):
        assert service.ask("POST", "/streams", headers)[0] == 201
    told = service.ask("DELETE", "/streams", {**headers, "X-Request-Id": "all"})
    assert told == (200, {"ended": 2})
    [line] = _audited(service, "all")
    assert (line["event"], line["level"]) == ("streams ended", "INFO")
    assert (line["by"], line["which"], line["ended"]) == ("gateway", "all", 2)
    account = Digests()("s3cret-household")
    assert account.startswith(line["account"])
    assert len(line["account"]) == 12


@pytest.mark.parametrize(("which", "logged"), [("errors", [404]), ("off", [])])
def test_the_request_log_can_be_of_errors_alone_or_off_and_the_audit_is_written_all_the_same(
    mongo_url: str, database: str, which: str, logged: list[int]
) -> None:
    with Service(MONGO_URL=mongo_url, MONGO_DB=database, REQUEST_LOG=which) as service:
        assert service.ask("GET", "/health/live")[0] == 200
        assert service.ask("GET", "/nowhere")[0] == 404
        assert service.ask("DELETE", "/streams", {"Session-Id": "a"})[0] == 200
        service.process.terminate()
        service.status()
        assert [e["status"] for e in service.events if e["event"] == "request"] == logged
        assert [e["which"] for e in service.events if e["event"] == "streams ended"] == ["all"]


def test_the_audit_is_written_whatever_the_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    caplog.handler.setLevel("NOTSET")
    audit.info("streams ended")
    assert [record.message for record in caplog.records] == ["streams ended"]
