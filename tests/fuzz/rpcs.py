"""Cases of gRPC: every method that reflection names, with messages, bytes, metadata and deadlines of all kinds."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from tests.fuzz.messages import Messages
from tests.fuzz.world import World

_CALL_SECONDS = 20.0
_STREAM_SECONDS = 0.3
_DEFINED = {"SERVICE_UNAVAILABLE", "PROVIDER_UNAVAILABLE"}
# Said by grpcio of a call that ended while it was still being sent, whatever the server has answered.
_OWN_TEXT = "Internal error from Core"
_FORBIDDEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
# Said by this side of the call, whatever the server does.
_OWN = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
_LEAKS = re.compile(
    r"(?i)traceback|python|aiohttp|psycopg|sqlalchemy|\.py\b|exception|\bselect\b.*\bfrom\b|insert into|object at 0x|asyncio"
)
_PATHS = ("/", "/x", "/darkroom.gateway.v1.GenerationService/", "/darkroom.gateway.v1.GenerationService/Nope", "/grpc.health.v1.Health/List", "/a/b/c",
          "/darkroom.poller.v1.PollingService/ReportTask", "/darkroom.gateway.v1.GenerationService/CreateGeneration/",
          "/" + "a" * 3_000)  # fmt: skip
_METADATA = (
    ("x-request-id", "a" * 5_000), ("x-request-id", ""), ("idempotency-key", "a" * 300), ("idempotency-key", "same"),
    ("traceparent", "00-zz-zz-01"), ("x-bin", b"\x00\xff"),
    ("authorization", "Basic eDp5"), ("x-api-key", "x"), ("user-agent", ""), ("baggage", "a" * 3_000),
    ("x-fuzz", "~" * 12_000), ("darkroom-actor", "root"), ("te", "trailers"),
    ("content-type", "application/json"), ("x-request-id-bin", b"\xff" * 40), ("accept-language", "zh"),
    ("x-actor", "root (key_x)"),
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call to be made."""

    role: str
    path: str
    kind: str
    contents: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...]
    timeout_seconds: float
    cancel_seconds: float | None
    request_id: str


@dataclass(frozen=True)
class Outcome:
    """What became of one."""

    code: grpc.StatusCode
    text: str = ""
    reason: str = ""


class Rpcs:
    """Makes them.

    Args:
        methods: what there is to call.
        world: what exists.
    """

    def __init__(self, methods: list[MethodDescriptor], world: World) -> None:
        self._methods = methods
        self._world = world
        self._messages = Messages(world)

    def case(self, role: str, random: Random, request_id: str) -> Call:
        """One."""
        method = random.choice(self._methods)
        path = f"/{method.containing_service.full_name}/{method.name}"
        count = random.choice((0, 1, 1, 2, 2, 5)) if method.client_streaming else 1
        contents = tuple(self._content(method, path, random) for _ in range(count))
        if random.random() < 0.05:
            path = random.choice(_PATHS)
        timeout = random.choice((0.0, 0.001, 0.01)) if random.random() < 0.1 else _CALL_SECONDS
        cancel = random.choice((0.0, 0.002, 0.02)) if random.random() < 0.1 else None
        kind = (
            ("stream" if method.client_streaming else "unary")
            + "_"
            + ("stream" if method.server_streaming else "unary")
        )
        return Call(role, path, kind, contents, self._metadata(role, random, request_id), timeout, cancel, request_id)

    def _content(self, method: MethodDescriptor, path: str, random: Random) -> bytes:
        message = self._messages.fill(GetMessageClass(method.input_type)(), random, path)
        content = message.SerializeToString()
        return self._messages.raw(content, random) if random.random() < 0.25 else content

    def _metadata(self, role: str, random: Random, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
        found: list[tuple[str, str | bytes]] = [("x-request-id", request_id)]
        for name, value in self._world.credentials(role, random):
            if value.isascii():
                found.append((name.decode(), value.decode()))
            else:
                found.append((name.decode() + "-bin", value))
        if random.random() < 0.15:
            found += random.choices(_METADATA, k=random.choice((1, 1, 3)))
        return tuple(found)


def methods_of(address: str) -> list[MethodDescriptor]:
    """Every method of every service that a server names by reflection."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        services = [pool.FindServiceByName(name) for name in sorted(database.get_services())]
        return [method for service in services for method in service.methods]


async def perform(channel: grpc.aio.Channel, call: Call) -> Outcome:
    """Make a call, and say how it ended."""
    make = getattr(channel, call.kind)(call.path)
    given = _sent(call) if call.kind.startswith("stream") else call.contents[0]
    try:
        made = make(given, metadata=call.metadata, timeout=call.timeout_seconds)
    except (ValueError, TypeError) as error:
        return Outcome(grpc.StatusCode.OK, f"not sent: {error}", "NOT_SENT")
    if call.cancel_seconds is not None:
        asyncio.get_running_loop().call_later(call.cancel_seconds, made.cancel)
    try:
        if call.kind.endswith("stream"):
            await _look_into(made)
        else:
            await made
    except grpc.aio.AioRpcError as error:
        return _outcome(error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Outcome(grpc.StatusCode.CANCELLED)
    return Outcome(grpc.StatusCode.OK)


def _is_cut_off(call: Call, outcome: Outcome) -> bool:
    """Whether the connection was reset because more was sent on it, or by its address, without a key than may be."""
    return call.role == "nobody" and any(why in outcome.text for why in ("Connection reset by peer", "Broken pipe"))


def faults_of(call: Call, outcome: Outcome) -> list[str]:
    """What is wrong with how a call ended, in words."""
    found = []
    if outcome.code in _FORBIDDEN and outcome.text != _OWN_TEXT:
        found.append(f"status {outcome.code.name}")
    if (
        outcome.code is grpc.StatusCode.UNAVAILABLE
        and outcome.reason not in _DEFINED
        and not _is_cut_off(call, outcome)
    ):
        found.append("UNAVAILABLE without details")
    if (
        outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
        and call.timeout_seconds == _CALL_SECONDS
        and not outcome.reason
    ):
        found.append(f"not answered within {_CALL_SECONDS:g} s")
    if (leak := _LEAKS.search(outcome.text)) is not None and not any(
        leak[0].encode() in content for content in call.contents
    ):
        found.append(f"leaks {leak[0]!r}")
    return found


def is_refusal(outcome: Outcome) -> bool:
    """Whether an outcome says for sure that nothing was created."""
    return outcome.code is not grpc.StatusCode.OK and outcome.code not in _OWN and outcome.reason != "OUTCOME_UNKNOWN"


async def _sent(call: Call) -> AsyncIterator[bytes]:
    for content in call.contents:
        yield content


async def _look_into(stream: grpc.aio.Call) -> None:
    """Read a little of a stream and leave."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STREAM_SECONDS):
                for _ in range(3):
                    if await stream.read() is grpc.aio.EOF:  # type: ignore[attr-defined]
                        break
    finally:
        stream.cancel()


def _outcome(error: grpc.aio.AioRpcError) -> Outcome:
    info = ErrorInfo()
    with contextlib.suppress(ValueError):
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        for detail in status.details if status else ():
            detail.Unpack(info)
    return Outcome(error.code(), error.details() or "", info.reason)
