"""Services as processes, and a client's way of using them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from typing import Any

import aiohttp
import grpc
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.admin_pb2_grpc import AdminServiceStub
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from google.protobuf.struct_pb2 import Struct

from libs.client.channel import open_channel
from libs.client.client import ENDED
from libs.common.settings import ServiceName
from sandbox.health import health
from sandbox.launcher import Stack
from tests.support.waiting import eventually

SUCCESS = gateway_pb2.GENERATION_STATUS_SUCCESS
CANCELLED = gateway_pb2.GENERATION_STATUS_CANCELLED
FAILED = gateway_pb2.GENERATION_STATUS_FAILED
_SAMPLE = re.compile(r"^([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class Running:
    """A running stack with a channel to its gateway."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, service: ServiceName) -> grpc.aio.Channel:
        """A channel to a service, as an admin or another service."""
        if service not in self._channels:
            address = f"127.0.0.1:{self.stack.plan.ports.grpc[service]}"
            self._channels[service] = open_channel(address, self.admin_key if service == "gateway" else self.token)
        return self._channels[service]

    def channel_of(self, key: str, *, replica: str = "gateway") -> grpc.aio.Channel:
        """A channel to a gateway with an API key; without one where it is empty."""
        name = f"{replica} {key}"
        if name not in self._channels:
            address = f"127.0.0.1:{self.gateway_port(replica)}"
            self._channels[name] = open_channel(address, key) if key else grpc.aio.insecure_channel(address)
        return self._channels[name]

    def internal_channel(self, service: ServiceName, token: str) -> grpc.aio.Channel:
        """A channel to a service with some token; without one where it is empty."""
        name = f"{service} {token}"
        if name not in self._channels:
            address = f"127.0.0.1:{self.stack.plan.ports.grpc[service]}"
            self._channels[name] = open_channel(address, token) if token else grpc.aio.insecure_channel(address)
        return self._channels[name]

    def gateway_port(self, replica: str = "gateway") -> int:
        """Where a gateway serves gRPC."""
        moved = self.stack.replica_ports.get(replica, {})
        return int(moved.get("DARKROOM_GATEWAY_PORT", self.stack.plan.ports.grpc["gateway"]))

    def gateway_url(self, replica: str = "gateway") -> str:
        """Where a gateway serves HTTP."""
        moved = self.stack.replica_ports.get(replica, {})
        port = moved.get("DARKROOM_GATEWAY_HTTP_PORT", self.stack.plan.ports.gateway_http)
        return f"http://127.0.0.1:{port}"

    @property
    def admin_key(self) -> str:
        """The first admin key."""
        return self.stack.admin_key

    @property
    def token(self) -> str:
        """What services show each other."""
        return self.stack.environment["DARKROOM_SERVICE_TOKEN"]

    @property
    def admin(self) -> AdminServiceStub:
        """The gateway's RPCs for operators."""
        return AdminServiceStub(self.channel("gateway"))

    async def new_key(self, owner: str, **fields: Any) -> admin_pb2.CreateApiKeyResponse:
        """Make an API key."""
        return await self.admin.CreateApiKey(admin_pb2.CreateApiKeyRequest(owner=owner, **fields), timeout=60)

    async def client(self, owner: str, *, replica: str = "gateway", **fields: Any) -> GenerationServiceStub:
        """The gateway's RPCs with a new client key of that owner."""
        made = await self.new_key(owner, **fields)
        return GenerationServiceStub(self.channel_of(made.key, replica=replica))

    @property
    def gateway(self) -> GenerationServiceStub:
        """The gateway's RPCs."""
        return GenerationServiceStub(self.channel("gateway"))

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def create(
        self, model: str, prompt: str, *, parameters: Mapping[str, Any] | None = None, **fields: Any
    ) -> str:
        """Create a generation and answer its id."""
        given = Struct()
        given.update(dict(parameters or {}))
        request = gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=prompt, parameters=given, **fields)
        return (await self.gateway.CreateGeneration(request, timeout=60)).id

    async def get(self, generation_id: str) -> gateway_pb2.Generation:
        """The generation as a client sees it."""
        request = gateway_pb2.GetGenerationRequest(id=generation_id)
        return (await self.gateway.GetGeneration(request, timeout=60)).generation

    async def cancel(self, generation_id: str) -> gateway_pb2.Generation:
        """Ask for a generation to be cancelled, and return it as it stands then."""
        request = gateway_pb2.CancelGenerationRequest(id=generation_id)
        return (await self.gateway.CancelGeneration(request, timeout=60)).generation

    async def resolve(
        self, submission_id: str, resolution: gateway_pb2.SubmissionResolution.ValueType, **fields: Any
    ) -> str:
        """Say what became of an uncertain submit; the id of the generation that continues it."""
        request = gateway_pb2.ResolveSubmissionRequest(submission_id=submission_id, resolution=resolution, **fields)
        return (await self.gateway.ResolveSubmission(request, timeout=60)).generation_id

    async def ended(self, generation_id: str, *, within: float = 20) -> gateway_pb2.Generation:
        """The generation once it has ended."""

        async def look() -> gateway_pb2.Generation | None:
            found = await self.get(generation_id)
            return found if found.status in ENDED else None

        found = await eventually(look, within=within, what=f"{generation_id} has ended")
        assert found is not None
        return found

    async def reaches(self, generation_id: str, status: int, *, within: float = 10) -> None:
        """Wait until a generation has a status."""

        async def look() -> bool:
            return (await self.get(generation_id)).status == status

        await eventually(look, within=within, what=f"{generation_id} has status {status}")

    async def metric(self, service: ServiceName, name: str, /, **labels: str) -> float:
        """The sum of a service's samples of that name with those labels."""
        url = f"http://127.0.0.1:{self.stack.plan.ports.metrics[service]}/metrics"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, params={"name[]": name}, raise_for_status=True) as reply,
        ):
            text = await reply.text()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(value)
            for found, given, value in _SAMPLE.findall(text)
            if found == name and all(label in given for label in wanted)
        )

    async def failed_handlers(self) -> float:
        """How many of the gateway's RPCs and HTTP requests ended with an internal error."""
        failed = await self.metric("gateway", "darkroom_http_seconds_count", status="500")
        for status in ("INTERNAL", "UNKNOWN"):
            failed += await self.metric("gateway", "darkroom_rpc_seconds_count", status=status)
        return failed

    def health(self, service: ServiceName, name: str = "") -> str:
        """What a service's health check answers."""
        return health(self.stack.plan.ports.grpc[service], name, timeout_seconds=10)

    def log(self, service: str) -> str:
        """All that a service has logged."""
        return (self.stack.plan.folder / f"logs/{service}.log").read_text(errors="replace")

    async def stack_replica(self, service: ServiceName) -> str:
        """Start one more of a service, and answer its name."""
        return await asyncio.to_thread(self.stack.add_replica, service)

    async def has_died(self, service: ServiceName, *, within: float = 20) -> None:
        """Wait until a service has been killed by SIGKILL."""
        child = self.stack.children[service]

        async def has_ended() -> bool:
            return child.exit_code is not None

        await eventually(has_ended, within=within, what=f"{service} has died")
        assert child.exit_code == -signal.SIGKILL, child.tail

    async def restart(self, service: ServiceName, extra: Mapping[str, str] | None = None) -> None:
        """Start a service again that has ended, and wait until it is ready."""
        self.stack.start_service(service, extra)
        await asyncio.to_thread(self.stack.wait_until_ready, service)


def own_environment() -> dict[str, str]:
    """This process's environment without what would change the services under test."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("DARKROOM_", "LOG_"))}
