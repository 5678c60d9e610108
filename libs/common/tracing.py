"""Traces by OpenTelemetry: off unless the standard variables name where they go.

`OTEL_TRACES_EXPORTER` (otlp, console or none) or `OTEL_EXPORTER_OTLP_ENDPOINT` turn them on; `OTEL_SDK_DISABLED` turns
them off; protocol, headers, sampling and limits are the SDK's own. Source:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.

What waits in a row between two services is not one long span: the row keeps where its trace stood, and whoever works
on it later begins a trace that links back.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject

from libs.common import VERSION

_PARENT = "traceparent"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_tracer = trace.get_tracer("darkroom", VERSION)


class _Tracing:
    """What this process traces with; None: it does not."""

    sdk: Any = None


def exporter_of(environment: Mapping[str, str]) -> str | None:
    """What the environment wants: `console`, `grpc` or `http/protobuf`; None: no traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    chosen = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environment.get, _ENDPOINTS)) else "none")
    if chosen != "otlp":
        return "console" if chosen == "console" else None
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    return "http/protobuf" if protocol == "http/protobuf" else "grpc"


def configure(service: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Trace from now on, if the environment wants it: RPCs, HTTP both ways, SQL. Whether it does."""
    exporter = exporter_of(environment)
    if exporter is None:
        return False
    # Loaded for those alone who trace: it takes a third of a second and 20 MB.
    _Tracing.sdk = importlib.import_module("libs.common.tracing_sdk")
    _Tracing.sdk.start(service, exporter)
    return True


def is_on() -> bool:
    """Whether this process traces."""
    return _Tracing.sdk is not None


def client_interceptors() -> Sequence[Any]:
    """What carries a trace to the servers of a channel."""
    found: Sequence[Any] = _Tracing.sdk.client_interceptors() if is_on() else ()
    return found


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
    if is_on():
        _Tracing.sdk.stop()
