"""Tracing with OpenTelemetry, where an exporter is configured; see docs/operations.md."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream_service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@contextmanager
def tracing() -> Iterator[None]:
    """Trace requests and commands, if OpenTelemetry's own variables name somebody who takes traces.

    To be entered before the application and the database's client are made. What has not been sent
    at the end is sent then. Otherwise nothing of OpenTelemetry is imported: off costs nothing.

    Raises:
        SettingsError: Traces are wanted, but the extra is not installed.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        yield
        return
    try:
        # ruff: disable[PLC0415]
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
        from opentelemetry.instrumentation.pymongo import PymongoInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        # ruff: enable[PLC0415]
    except ImportError:
        raise SettingsError(
            f"{' or '.join(_ENDPOINTS)} is set, but OpenTelemetry is not installed: "
            "run `make install TRACING=1`, or unset it"
        ) from None
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, where set, go before this name.
    provider = TracerProvider(resource=Resource.create({"service.name": "stream-service"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    instrumentors = (AioHttpServerInstrumentor(), PymongoInstrumentor())
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    try:
        yield
    finally:
        for instrumentor in instrumentors:
            instrumentor.uninstrument()
        provider.shutdown()
