"""The heavy part of tracing: OpenTelemetry's SDK, exporters and instrumentation. Loaded by `tracing` where it is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from libs.common import VERSION
from libs.common.rpc.context import known_request_id

_FLUSH_MS = 3_000


class _NameRequest(SpanProcessor):
    """Puts the request id on each span, so that one search finds logs, rows and spans alike."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """See the base."""
        del parent_context
        request_id = known_request_id()
        if request_id is not None:
            span.set_attribute("darkroom.request_id", request_id)

    def on_end(self, span: ReadableSpan) -> None:
        """Nothing is to be done."""


def _exporter(kind: str) -> SpanExporter:
    if kind == "console":
        return ConsoleSpanExporter()
    return HttpExporter() if kind == "http/protobuf" else GrpcExporter()


def start(service: str, exporter: str) -> None:
    """Trace from now on: RPCs, HTTP both ways, SQL.

    Args:
        service: what this process is.
        exporter: `console`, `grpc` or `http/protobuf`.
    """
    named = {"service.name": f"darkroom-{service}", "service.version": VERSION}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(_NameRequest())
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter)))
    trace.set_tracer_provider(provider)
    AioHttpClientInstrumentor().instrument()
    AioHttpServerInstrumentor().instrument()
    # It works with SQLAlchemy 2.1, which it does not name yet; a test sees that.
    SQLAlchemyInstrumentor().instrument(skip_dep_check=True)


def client_interceptors() -> Sequence[Any]:
    """What carries a trace to the servers of a channel."""
    make: Any = aio_client_interceptors
    return cast("Sequence[Any]", make())


def stop() -> None:
    """Send what is left, and end."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()
