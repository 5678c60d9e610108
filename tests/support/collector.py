"""A collector of traces: real OTLP over gRPC, and what came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from sandbox.processes import free_port


@dataclass(frozen=True)
class CollectedSpan:
    """A span, with the service that it is of."""

    service: str
    name: str
    trace_id: str
    parent_id: str
    linked_trace_ids: tuple[str, ...]
    attributes: dict[str, str]

    @property
    def request_id(self) -> str:
        """The request that it was for; empty for none."""
        return self.attributes.get("darkroom.request_id", "")


@dataclass
class Collector(TraceServiceServicer):
    """Keeps what comes."""

    endpoint: str
    spans: list[CollectedSpan] = field(default_factory=list)

    async def Export(  # noqa: N802
        self, request: messages.ExportTraceServiceRequest, context: Any
    ) -> messages.ExportTraceServiceResponse:
        """See the proto."""
        for resource in request.resource_spans:
            named = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        CollectedSpan(
                            named["service.name"].removeprefix("darkroom-"),
                            span.name,
                            span.trace_id.hex(),
                            span.parent_span_id.hex(),
                            tuple(link.trace_id.hex() for link in span.links),
                            {item.key: item.value.string_value for item in span.attributes},
                        )
                    )
        return messages.ExportTraceServiceResponse()


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """One on the loopback interface."""
    port = free_port()
    found = Collector(f"http://127.0.0.1:{port}")
    server = grpc.aio.server()
    register: Any = add_TraceServiceServicer_to_server
    register(found, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield found
    finally:
        await server.stop(grace=None)
