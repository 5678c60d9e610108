"""TLS: of the gateway's two ports for everybody, and mutual between services."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import grpc
import pytest
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.gateway.v1 import gateway_pb2

from libs.client.client import Client
from libs.common.settings import Settings
from sandbox.health import health
from sandbox.launcher import Stack
from sandbox.plan import Plan, Ports
from sandbox.processes import free_port
from tests.conftest import StartStack
from tests.support.certificates import Certificate, certificate
from tests.support.simulator import simulated
from tests.support.waiting import eventually

QUEUE = dispatcher_pb2.GetQueueRequest()


def _internal(found: Certificate) -> dict[str, str]:
    return {
        "DARKROOM_INTERNAL_TLS_CERTIFICATE": str(found.certificate),
        "DARKROOM_INTERNAL_TLS_PRIVATE_KEY": str(found.private_key),
        "DARKROOM_INTERNAL_TLS_CA": str(found.ca),
    }


async def _asked(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    make = grpc.aio.secure_channel if credentials else grpc.aio.insecure_channel
    arguments = (address, credentials) if credentials else (address,)
    async with make(*arguments) as channel:
        try:
            await DispatcherServiceStub(channel).GetQueue(QUEUE, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_a_gateway_with_a_certificate_serves_grpc_and_http_over_tls(
    start_stack: StartStack, tmp_path: Path
) -> None:
    found = certificate(tmp_path / "tls", "gateway")
    tls = {
        "DARKROOM_GATEWAY_TLS_CERTIFICATE": str(found.certificate),
        "DARKROOM_GATEWAY_TLS_PRIVATE_KEY": str(found.private_key),
    }
    running = await start_stack(services=("dispatcher", "poller"))
    # Its health check speaks no TLS, so it is not waited for as the others are.
    stack = running.stack
    stack.plan = Plan(stack.plan.folder, stack.plan.ports, environment=stack.plan.environment, services=("gateway",))
    stack.add("gateway", ["python", "-m", "services.gateway"], {**stack.environment, **tls})
    address = f"127.0.0.1:{stack.plan.ports.grpc['gateway']}"
    context = ssl.create_default_context(cafile=str(found.ca))
    url = f"https://127.0.0.1:{stack.plan.ports.gateway_http}/api/health"

    async def serves() -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as reply:
                return reply.status == 200
        except aiohttp.ClientError:
            return False

    await eventually(serves, within=15, what="the gateway serves over TLS")
    async with Client(address, running.admin_key, tls=True, root_certificates=found.ca) as client:
        (file,) = await client.generate("flux-pro", simulated("tls", task_seconds=0.1), timeout_seconds=20)
        assert file.content
    with pytest.raises(grpc.aio.AioRpcError):
        await running.gateway.ListModels(gateway_pb2.ListModelsRequest(), timeout=2)


async def test_services_with_certificates_take_calls_of_each_other_alone(
    start_stack: StartStack, tmp_path: Path
) -> None:
    ours, theirs = certificate(tmp_path / "tls", "ours"), certificate(tmp_path / "tls", "theirs")
    running = await start_stack(services=("gateway",))
    stack = running.stack
    environment = {**stack.environment, **_internal(ours)}
    for name in ("dispatcher", "poller"):
        stack.add(name, ["python", "-m", f"services.{name}"], environment)
    address = f"127.0.0.1:{stack.plan.ports.grpc['dispatcher']}"

    def shown(by: Certificate) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            ours.ca.read_bytes(), by.private_key.read_bytes(), by.certificate.read_bytes()
        )

    async def serves() -> bool:
        return await _asked(address, shown(ours)) is grpc.StatusCode.OK

    await eventually(serves, within=15, what="the dispatcher serves its peers")
    assert await _asked(address, None) is grpc.StatusCode.UNAVAILABLE
    assert await _asked(address, grpc.ssl_channel_credentials(ours.ca.read_bytes())) is grpc.StatusCode.UNAVAILABLE
    assert await _asked(address, shown(theirs)) is grpc.StatusCode.UNAVAILABLE

    await asyncio.to_thread(stack.children["gateway"].stop, 20)
    await running.restart("gateway", _internal(ours))
    generation_id = await running.create("flux-pro", simulated("mutual", task_seconds=0.1))
    await running.ended(generation_id)
    # The wake-up arrived: nothing had to wait for a sweep.
    assert await running.metric("gateway", "darkroom_ready") == 1


async def test_a_service_whose_certificate_was_renewed_stops_for_a_new_start_and_probes_need_none(
    start_stack: StartStack, tmp_path: Path
) -> None:
    running = await start_stack(services=("gateway",))
    stack = running.stack
    probed = free_port()
    settings = {
        **_internal(certificate(tmp_path / "tls", "ours")),
        "DARKROOM_HEALTH_PORT": str(probed),
        "DARKROOM_CERTIFICATE_CHECK_SECONDS": "0.2",
        "DARKROOM_CERTIFICATE_SPREAD_SECONDS": "0.5",
    }
    stack.add("poller", ["python", "-m", "services.poller"], {**stack.environment, **settings})

    async def is_ready() -> bool:
        return await asyncio.to_thread(health, probed) == "SERVING"

    await eventually(is_ready, within=15, what="the poller is ready")
    certificate(tmp_path / "tls", "ours")
    assert await asyncio.to_thread(stack.children["poller"].wait, 20) == 0


def test_half_a_certificate_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql+psycopg2://x")
    monkeypatch.setenv("DARKROOM_GATEWAY_TLS_CERTIFICATE", "/somewhere.pem")
    with pytest.raises(ValueError, match="go together"):
        Settings()


@pytest.mark.parametrize("missing", ["DARKROOM_SERVICE_TOKEN", "DARKROOM_KEY_SECRET"])
async def test_a_service_without_its_secrets_does_not_start(start_stack: StartStack, missing: str) -> None:
    running = await start_stack(services=("gateway",))
    service = "poller" if missing == "DARKROOM_SERVICE_TOKEN" else "gateway"
    stack: Stack = running.stack
    environment = {name: value for name, value in stack.environment.items() if name != missing}
    ports = Ports.free()
    stack.add("lonely", ["python", "-m", f"services.{service}"], {**environment, **ports.variables()})
    assert await asyncio.to_thread(stack.children["lonely"].wait, 20) == 1
    assert missing in running.log("lonely")
