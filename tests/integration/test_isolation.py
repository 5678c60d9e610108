"""Who gets in where: for every RPC and every route, a foreign key, no key, a revoked key, and a client key on admin."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
import pytest
from darkroom.gateway.v1 import admin_pb2
from google.protobuf.message_factory import GetMessageClass

from bench.imaging.pictures import quarters, written
from libs.common.settings import ServiceName
from sandbox.plan import SERVICES
from services.gateway.batches.routes import ROUTES as BATCH_ROUTES
from services.gateway.openai.routes import ROUTES as OPENAI_ROUTES
from services.gateway.rest.routes import all_bindings
from tests.conftest import StartStack
from tests.contract.test_protos import FILES
from tests.support.closing import cancelling
from tests.support.http import call
from tests.support.running import Running

# own: names something that belongs to an owner. list: shows what the caller has. any: belongs to nobody.
Audience = Literal["own", "list", "any", "admin"]
_NOT_FOUND, _UNAUTHENTICATED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED


@dataclass(frozen=True)
class Row:
    """An RPC: for whom it is, and fields of a good request. `{id}`: the id of what another owner has."""

    audience: Audience
    fields: Mapping[str, Any] = field(default_factory=dict)


_ID = {"id": "{id}"}
_BATCH = {"batch_id": "{batch_id}"}
_IMAGE = f"data:image/png;base64,{b64encode(written(quarters(), 'PNG')).decode()}"
_REQUESTS = {"requests": [{"model_identifier": "flux-pro", "prompt": "x"}]}
TABLE = {
    "GenerationService/CreateGeneration": Row("any", {"model_identifier": "flux-pro", "prompt": "x"}),
    "GenerationService/GetGeneration": Row("own", _ID),
    "GenerationService/ListGenerations": Row("list"),
    "GenerationService/CancelGeneration": Row("own", _ID),
    "GenerationService/RerunGeneration": Row("own", _ID),
    "GenerationService/WatchGeneration": Row("own", _ID),
    "GenerationService/RateGeneration": Row("own", {**_ID, "rating": 3}),
    "GenerationService/CreateBatch": Row("any", _REQUESTS),
    "GenerationService/UploadBatch": Row("any", _REQUESTS),
    "GenerationService/ListBatches": Row("list"),
    "GenerationService/GetBatch": Row("own", _BATCH),
    "GenerationService/WatchBatch": Row("own", _BATCH),
    "GenerationService/CancelBatch": Row("own", _BATCH),
    "GenerationService/ResumeBatch": Row("own", _BATCH),
    "GenerationService/EstimateCost": Row("any", _REQUESTS),
    "GenerationService/PreprocessImage": Row("any", {"url": _IMAGE, "config": {"output": {"kind": "buffer"}}}),
    "GenerationService/ListSubmissions": Row("admin", {"generation_id": "{id}"}),
    "GenerationService/ResolveSubmission": Row(
        "admin", {"submission_id": "sub_1", "resolution": "SUBMISSION_RESOLUTION_DISMISSED"}
    ),
    "GenerationService/ResolveSubmissions": Row(
        "admin", {"submission_ids": ["sub_1"], "billing": "SUBMISSION_BILLING_NOT_BILLED", "dry_run": True}
    ),
    "GenerationService/ListCallbacks": Row("list", {"generation_id": "{id}"}),
    "GenerationService/ReplayCallback": Row("own", {"id": "{callback}"}),
    "GenerationService/GetCallbackSecret": Row("any"),
    "GenerationService/ListModels": Row("any"),
    "AdminService/CreateApiKey": Row("admin", {"owner": "x"}),
    "AdminService/ListApiKeys": Row("admin"),
    "AdminService/UpdateApiKey": Row("admin", {"id": "key_1"}),
    "AdminService/RevokeApiKey": Row("admin", {"id": "key_1"}),
    "MonitorService/ListErrors": Row("admin"),
    "MonitorService/ResolveError": Row("admin", {"id": "err_1"}),
    "MonitorService/ListErrorLogs": Row("admin", {"group_id": "err_1"}),
    "MonitorService/GetErrorStats": Row("admin"),
    "MonitorService/SendAlert": Row("admin", {"type": "TEST", "severity": "ALERT_SEVERITY_INFO", "message": "x"}),
    "MonitorService/GetAlert": Row("admin", {"id": "alert_1"}),
    "MonitorService/ListAlerts": Row("admin"),
    "MonitorService/ListChannels": Row("admin"),
    "MonitorService/AcknowledgeAlert": Row("admin", {"id": "alert_1"}),
    "MonitorService/SilenceAlerts": Row("admin", {"until": "2100-01-01T00:00:00Z", "reason": "x"}),
    "MonitorService/ListSilences": Row("admin"),
    "MonitorService/EndSilence": Row("admin", {"id": "sil_1"}),
    "MonitorService/GetStats": Row("admin"),
    "MonitorService/ListInstances": Row("admin"),
    "MonitorService/SetLogLevel": Row("admin", {"service": "poller"}),
    "ExperimentService/CreateExperiment": Row("admin", {"name": "x"}),
    "ExperimentService/GetExperiment": Row("admin", {"id": "exp_1"}),
    "ExperimentService/ListExperiments": Row("admin"),
    "ExperimentService/StartExperiment": Row("admin", {"id": "exp_1"}),
    "ExperimentService/PauseExperiment": Row("admin", {"id": "exp_1"}),
    "ExperimentService/CompleteExperiment": Row("admin", {"id": "exp_1"}),
    "ExperimentService/ChangeAllocation": Row("admin", {"id": "exp_1", "traffic_allocation": {"variant_0": 100}}),
    "ExperimentService/GetResults": Row("admin", {"id": "exp_1"}),
}
# Beside the routes of the protos: for whom, and a body that would be good.
ROUTES: dict[str, tuple[Audience, dict[str, Any] | None]] = {
    "POST /v1/images/generations": ("any", {"model": "flux-pro", "prompt": "x"}),
    "POST /v1/images/edits": ("any", {"model": "flux-pro", "prompt": "x"}),
    "POST /v1/videos": ("any", {"model": "flux-pro", "prompt": "x"}),
    "GET /v1/videos/{id}": ("own", None),
    "GET /v1/videos/{id}/content": ("own", None),
    "DELETE /v1/videos/{id}": ("own", None),
    "GET /v1/models": ("any", None),
    "GET /v1/models/{id}": ("any", None),
    "POST /api/external/generation/batch/upload": ("any", {"modelIdentifier": "flux-pro", "prompt": "x"}),
    "GET /api/external/generation/batch/{batch_id}/export": ("own", None),
    "GET /api/metrics": ("admin", None),
    "GET /api/health/detailed": ("admin", None),
}
GATEWAY = ("GenerationService", "AdminService")
INTERNAL: dict[str, ServiceName] = {
    "DispatcherService": "dispatcher",
    "PollingService": "poller",
    "MonitorService": "monitor",
    "ExperimentService": "experiments",
}


def _methods(service: str) -> list[Any]:
    return list(FILES[service].services_by_name[service].methods)


def test_every_rpc_of_the_gateway_has_a_row() -> None:
    declared = {f"{service}/{method.name}" for service in GATEWAY for method in _methods(service)}
    passed_on = {
        f"{binding.method.containing_service.name}/{binding.method.name}"
        for binding in all_bindings()
        if binding.method.containing_service.name not in GATEWAY
    }
    assert declared | passed_on == set(TABLE)
    assert set(INTERNAL) | set(GATEWAY) == set(FILES)


def test_every_route_that_is_no_rpc_has_a_row() -> None:
    assert {*OPENAI_ROUTES, *BATCH_ROUTES} <= set(ROUTES)


@dataclass
class World:
    """A generation of one owner with a callback, and the keys that try to get at it."""

    running: Running
    names: dict[str, str]
    own: str
    foreign: str
    revoked: str

    def filled(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.names.get(value, value) if isinstance(value, str) else value
                for name, value in fields.items()}  # fmt: skip


async def _world(running: Running) -> World:
    own, foreign, revoked = [await running.new_key(owner) for owner in ("acme", "other", "acme")]
    await running.admin.RevokeApiKey(admin_pb2.RevokeApiKeyRequest(id=revoked.api_key.id))
    body = {"modelIdentifier": "flux-pro", "prompt": "x", "callbackUrl": "http://127.0.0.1:9/"}
    made = await call(running.gateway_url(), "/api/external/generation", method="POST", key=own.key, json_body=body)
    generation_id = made.json["id"]
    await running.ended(generation_id)
    callback_id = generation_id.replace("gen_", "cb_") + "_2"
    path = "/api/external/generation/batch"
    batch = await call(running.gateway_url(), path, method="POST", key=own.key, json_body={"requests": [body]})
    names = {"{id}": generation_id, "{callback}": callback_id, "{batch_id}": batch.json["batchId"]}
    return World(running, names, own.key, foreign.key, revoked.key)


async def _status(running: Running, service: str, method: Any, fields: Mapping[str, Any], key: str) -> grpc.StatusCode:
    channel = running.channel_of(key) if service in GATEWAY else running.internal_channel(INTERNAL[service], key)
    request: Any = GetMessageClass(method.input_type)(**fields)
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    if method.client_streaming:
        make, request = channel.stream_unary, iter([request])
    rpc = make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )(request, timeout=60)
    try:
        with cancelling(rpc):
            await (rpc.read() if method.server_streaming else rpc)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


Check = Awaitable[str | None]


async def _rpc(
    world: World, service: str, method: Any, *, fields: Mapping[str, Any], key: str, expected: grpc.StatusCode
) -> str | None:
    found = await _status(world.running, service, method, fields, key)
    if found is expected:
        return None
    return f"{service}/{method.name} with {key[:8] or 'no key'}: {found}, not {expected}"


def _rpcs(world: World) -> Iterator[Check]:
    for service in GATEWAY:
        for method in _methods(service):
            row = TABLE[f"{service}/{method.name}"]
            good = {"own": _NOT_FOUND, "list": grpc.StatusCode.OK, "any": grpc.StatusCode.OK,
                    "admin": grpc.StatusCode.PERMISSION_DENIED}[row.audience]  # fmt: skip
            expected = {
                world.foreign: good,
                "": _UNAUTHENTICATED,
                world.revoked: _UNAUTHENTICATED,
                "drk_nobody-has-ever-seen-this-key-before-now-0": _UNAUTHENTICATED,
            }
            for key, status in expected.items():
                fields = world.filled(row.fields)
                yield _rpc(world, service, method, fields=fields, key=key, expected=status)


def _internal(world: World) -> Iterator[Check]:
    for service in INTERNAL:
        for method in _methods(service):
            for key in ("", world.own, world.running.admin_key, "x" * 40):
                yield _rpc(world, service, method, fields={}, key=key, expected=_UNAUTHENTICATED)


async def _route(world: World, verb: str, path: str, *, body: Any, key: str, expected: int) -> str | None:
    reply = await call(world.running.gateway_url(), path, method=verb, key=key, json_body=body)
    if reply.status == expected:
        return None
    return f"{verb} {path} with {key[:8] or 'no key'}: {reply.status}, not {expected}"


def _routes(world: World) -> Iterator[Check]:
    routes = dict(ROUTES)
    for binding in all_bindings():
        name = f"{binding.method.containing_service.name}/{binding.method.name}"
        fields = world.filled(TABLE[name].fields)
        path = binding.path
        for variable in binding.variables:
            path = path.replace(f"{{{variable}}}", str(fields.pop(variable)))
        body = fields if binding.takes_body else None
        routes[f"{binding.verb} {path}"] = TABLE[name].audience, body
    for route, (audience, body) in routes.items():
        verb, path = route.split()
        for name, value in world.names.items():
            path = path.replace(name, value)
        good = {"own": 404, "admin": 403}.get(audience)
        if good is not None:
            yield _route(world, verb, path, body=body, key=world.foreign, expected=good)
        for key in ("", world.revoked):
            yield _route(world, verb, path, body=body, key=key, expected=401)


async def _lists(world: World) -> list[str]:
    """What another owner has does not show in lists; the same owner's other key sees it."""
    wrong = []
    second = (await world.running.new_key("acme")).key
    lists = (("generation", "generations"), ("callbacks", "callbacks"), ("generation/batch", "batches"))
    for path, name in lists:
        for key, sees in ((world.foreign, False), (second, True), (world.running.admin_key, True)):
            reply = await call(world.running.gateway_url(), f"/api/external/{path}", key=key)
            ids = {item.get(key) for item in reply.json[name] for key in ("id", "generationId", "batchId")}
            shown = world.names["{batch_id}" if name == "batches" else "{id}"] in ids
            if shown is not sees:
                wrong.append(f"{path} for {key[:8]}: shown={shown}")
    return wrong


@pytest.mark.timeout(300)
async def test_nobody_gets_in_who_should_not(start_stack: StartStack) -> None:
    running = await start_stack(services=SERVICES, settings={"DARKROOM_WRONG_KEY_DELAY_SECONDS": "0"})
    world = await _world(running)
    places = asyncio.Semaphore(20)

    async def one(check: Check) -> str | None:
        async with places:
            return await check

    checks = [one(check) for check in (*_rpcs(world), *_internal(world), *_routes(world))]
    wrong = [found for found in await asyncio.gather(*checks) if found]
    assert [*wrong, *await _lists(world)] == []
    for service in SERVICES:
        assert running.health(service) == "SERVING"
