"""Traces reach a collector where one is configured, and hold no secret and no path."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream_service.settings import SettingsError
from stream_service.telemetry.tracing import start_tracing

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpServer

SESSION = "session-of-the-tracing-test"


@pytest.mark.parametrize("conventions", ["", "http", "http/dup"])
async def test_a_request_and_its_commands_are_one_trace_without_session_path_or_query(
    aiohttp_server: AiohttpServer, mongo_url: str, database: str, conventions: str
) -> None:
    received: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/v1/traces", collect)])
    collector = await aiohttp_server(app)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_service"),
        env={
            **os.environ,
            "MONGO_URL": mongo_url,
            "MONGO_DB": database,
            "PORT": "0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": str(collector.make_url("/")),
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_SEMCONV_STABILITY_OPT_IN": conventions,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        url = ""
        while not url:
            line = (await process.stderr.readline()).decode()
            assert line, "the service ended"
            url = line.partition('"url": "')[2].partition('"')[0]
        headers = {"Session-Id": SESSION, "Idempotency-Key": SESSION}
        async with ClientSession(url, headers=headers) as client:
            async with client.post("/streams") as got:
                assert got.status == 201
                secret = (await got.json())["lease_id"]
            async with client.post(f"/streams/{secret}/heartbeat?token={SESSION}") as got:
                assert got.status == 200
            async with client.get(f"/nowhere/{SESSION}") as got:
                assert got.status == 404
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    spans = [
        span
        for body in received
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    [request] = [span for span in spans if span.name == "POST /streams"]
    commands = [span for span in spans if span.trace_id == request.trace_id and span != request]
    assert commands
    assert all(span.parent_span_id == request.span_id for span in commands)
    assert {span.name for span in spans} >= {"POST /streams/{lease_id}/heartbeat", "GET"}
    sent = b"".join(received)
    assert b"/streams/{lease_id}/heartbeat" in sent
    assert SESSION.encode() not in sent
    assert secret.encode() not in sent


def test_without_a_collector_nothing_of_it_is_imported() -> None:
    code = (
        "import sys; from stream_service.__main__ import main; import stream_service.app;"
        "from stream_service.telemetry.tracing import start_tracing; start_tracing();"
        "print(sum(name.startswith('opentelemetry') for name in sys.modules))"
    )
    environment = {name: value for name, value in os.environ.items() if "OTEL" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"


def test_traces_that_are_wanted_without_the_extra_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.pymongo", None)
    with pytest.raises(SettingsError, match="make install TRACING=1"):
        start_tracing()
