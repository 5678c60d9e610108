"""Traces by OpenTelemetry: off unless the standard variables name where they go.

`OTEL_TRACES_EXPORTER` (otlp, console or none) or `OTEL_EXPORTER_OTLP_ENDPOINT` turn them on; `OTEL_SDK_DISABLED` turns
them off; protocol, headers, sampling and limits are the SDK's own. Source:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.

What waits in a row between two services is not one long span: the row keeps where its trace stood, and whoever works
on it later begins a trace that links back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from libs.common import VERSION
from libs.common.rpc.context import known_request_id

_PARENT = "traceparent"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_MS = 3_000
_tracer = trace.get_tracer("darkroom", VERSION)


class _Tracing:
    """What this process traces with; None: it does not."""

    provider: TracerProvider | None = None


class _NameRequest(SpanProcessor):
    """Puts the request id on each span, so that one search finds logs, rows and spans alike."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        del parent_context
        request_id = known_request_id()
        if request_id is not None:
            span.set_attribute("darkroom.request_id", request_id)

    def on_end(self, span: ReadableSpan) -> None:
        """Nothing is to be done."""


def _exporter(environment: Mapping[str, str]) -> SpanExporter | None:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    chosen = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environment.get, _ENDPOINTS)) else "none")
    if chosen == "console":
        return ConsoleSpanExporter()
    if chosen != "otlp":
        return None
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    return HttpExporter() if protocol == "http/protobuf" else GrpcExporter()


def configure(service: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Trace from now on, if the environment wants it: RPCs, HTTP both ways, SQL. Whether it does."""
    exporter = _exporter(environment)
    if exporter is None:
        return False
    named = {"service.name": f"darkroom-{service}", "service.version": VERSION}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(_NameRequest())
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _Tracing.provider = provider
    AioHttpClientInstrumentor().instrument()
    AioHttpServerInstrumentor().instrument()
    # It works with SQLAlchemy 2.1, which it does not name yet; a test sees that.
    SQLAlchemyInstrumentor().instrument(skip_dep_check=True)
    return True


def is_on() -> bool:
    """Whether this process traces."""
    return _Tracing.provider is not None


def client_interceptors() -> Sequence[Any]:
    """What carries a trace to the servers of a channel."""
    make: Any = aio_client_interceptors
    return cast("Sequence[Any]", make()) if is_on() else ()


@contextlib.contextmanager
def served(method: str, metadata: Mapping[str, str]) -> Iterator[Any]:
    """The span of an RPC that is answered: a child of its caller's."""
    service, _, name = method.lstrip("/").rpartition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    with _tracer.start_as_current_span(
        method.lstrip("/"), context=extract(metadata), kind=trace.SpanKind.SERVER, attributes=attributes
    ) as span:
        yield span


def here() -> str | None:
    """Where the present trace stands, for a row to keep (W3C Trace Context); None where nothing is traced."""
    if not is_on():
        return None
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get(_PARENT)


@contextlib.contextmanager
def resumed(name: str, trace_parent: str | None, generation_id: str) -> Iterator[None]:
    """Work on what a row kept: a trace of its own that links to the one that wrote the row."""
    if not is_on():
        yield
        return
    context = trace.get_current_span(extract({_PARENT: trace_parent})).get_span_context() if trace_parent else None
    links = [trace.Link(context)] if context is not None and context.is_valid else []
    attributes = {"darkroom.generation_id": generation_id}
    with _tracer.start_as_current_span(
        name, context=Context(), kind=trace.SpanKind.CONSUMER, links=links, attributes=attributes
    ):
        yield


def close() -> None:
    """Send what is left."""
    if _Tracing.provider is not None:
        _Tracing.provider.force_flush(_FLUSH_MS)
        _Tracing.provider.shutdown()
