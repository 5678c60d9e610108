"""All that REST serves: the routes of the protos, their document, health, and metrics for admins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
from aiohttp import web
from darkroom.experiments.v1 import experiments_pb2
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from prometheus_client import CONTENT_TYPE_LATEST

from libs.common.rpc.deadlines import GRACE_SECONDS
from libs.common.rpc.metrics_server import COLLECTION
from libs.common.rpc.service import Frame
from services.gateway.access import permission_denied
from services.gateway.authentication import Authentication
from services.gateway.own_server import OwnServer
from services.gateway.rest.bindings import Binding, bindings_of
from services.gateway.rest.bodies import Bodies
from services.gateway.rest.callers import caller_of
from services.gateway.rest.health import Health
from services.gateway.rest.openapi import document
from services.gateway.rest.transcoder import Transcoder

_DOCUMENT_SECONDS = 300
_DETAILED = "/api/health/detailed"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Peers:
    """Channels to services whose RPCs are passed on to."""

    monitor: grpc.aio.Channel
    experiments: grpc.aio.Channel


def all_bindings() -> list[Binding]:
    """The routes of the services that the gateway serves itself, and of those that it passes on to."""
    found = bindings_of(
        [
            gateway_pb2.DESCRIPTOR.services_by_name["GenerationService"],
            admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
            monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"],
            experiments_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
        ]
    )
    # Its status says how everything is, and it answers without the monitor too: `health` serves it.
    return [binding for binding in found if binding.path != _DETAILED]


def rest_routes(own: OwnServer, peers: Peers, authentication: Authentication, frame: Frame) -> list[web.RouteDef]:
    """What is served under /api."""
    settings = frame.settings
    bindings = all_bindings()
    bodies = Bodies(limit_bytes=settings.http_body_limit_bytes, timeout_seconds=settings.http_body_timeout_seconds)
    transcoder = Transcoder(
        own.channel,
        {
            monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"].full_name: peers.monitor,
            experiments_pb2.DESCRIPTOR.services_by_name["ExperimentService"].full_name: peers.experiments,
        },
        authentication,
        bodies,
        timeout_seconds=settings.rpc_timeout_seconds + GRACE_SECONDS,
        send_timeout_seconds=settings.watch_write_timeout_seconds,
    )
    return [
        web.get("/api/openapi.json", _document_of(bindings)),
        *Health(frame, MonitorServiceStub(peers.monitor)).routes(authentication),
        web.get("/api/metrics", _metrics_for(authentication)),
        *transcoder.routes(bindings),
    ]


def _document_of(bindings: list[Binding]) -> Handler:
    body = json.dumps(document(bindings), ensure_ascii=False).encode()

    async def serve(_: web.Request) -> web.StreamResponse:
        headers = {"cache-control": f"public, max-age={_DOCUMENT_SECONDS}"}
        return web.Response(body=body, content_type="application/json", headers=headers)

    return serve


def _metrics_for(authentication: Authentication) -> Handler:
    collecting = ThreadPoolExecutor(2, thread_name_prefix="metrics")

    async def serve(request: web.Request) -> web.StreamResponse:
        caller = await caller_of(request, authentication)
        if not caller.is_admin:
            raise permission_denied()
        # Not in the threads of other work, which callers that wait for a collection would occupy.
        text = await asyncio.get_running_loop().run_in_executor(collecting, COLLECTION.latest)
        return web.Response(body=text, headers={"content-type": CONTENT_TYPE_LATEST})

    return serve
