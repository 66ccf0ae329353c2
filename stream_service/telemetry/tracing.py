"""Tracing with OpenTelemetry, where an exporter is configured; see docs/operations.md."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stream_service.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_OF_THE_PATH = ("http.target", "http.url", "url.path", "url.query")


def start_tracing() -> None:
    """Trace requests and commands, if OpenTelemetry's own variables name somebody who takes traces.

    To be called before the application and the database's client are made. What has not been sent
    at the end of the process is sent then. Otherwise nothing of OpenTelemetry is imported: off
    costs nothing.

    Raises:
        SettingsError: Traces are wanted, but the extra is not installed.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        # ruff: disable[PLC0415]
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
        from opentelemetry.instrumentation.pymongo import PymongoInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        # ruff: enable[PLC0415]
    except ImportError:
        raise SettingsError(
            f"{' or '.join(_ENDPOINTS)} is set, but OpenTelemetry is not installed: "
            "run `make install TRACING=1`, or unset it"
        ) from None

    class RoutesAlone(SpanProcessor):
        """Puts the route in the place of the path, which may hold what nobody else may know."""

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
            attributes = span.attributes or {}
            for name in _OF_THE_PATH:
                if name in attributes:
                    span.set_attribute(name, attributes.get("http.route", ""))

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, where set, go before this name.
    provider = TracerProvider(resource=Resource.create({"service.name": "stream-service"}))
    provider.add_span_processor(RoutesAlone())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    for instrumentor in (AioHttpServerInstrumentor(), PymongoInstrumentor()):
        instrumentor.instrument(tracer_provider=provider)
