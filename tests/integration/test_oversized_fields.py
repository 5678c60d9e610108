"""Each list, map and text of each request of each service, too large: refused at once, and nobody else waits."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass

from libs.common.settings import ServiceName
from sandbox.plan import SERVICES
from services.gateway.rest.bindings import Binding
from services.gateway.rest.routes import all_bindings
from tests.conftest import StartStack
from tests.contract.test_protos import FILES
from tests.integration.test_isolation import GATEWAY, INTERNAL, TABLE
from tests.support.http import call
from tests.support.lag import late_turns
from tests.support.oversized import Oversized, oversized_fields
from tests.support.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND}
# Texts of other services that are compared with what is in memory, and kept nowhere.
_COMPARED = {"DispatcherService/GetQueue provider_id", "ExperimentService/GetAllocations revision"}
_REFUSED_HTTP = {400, 404, 413, 414, 431}
_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class _Answer:
    status: Any
    size_bytes: int


@pytest.fixture
async def stack(start_stack: StartStack) -> Running:
    return await start_stack(services=SERVICES)


def _base(service: str, method: Any) -> Any:
    row = TABLE.get(f"{service}/{method.name}")
    message = GetMessageClass(method.input_type)()
    return ParseDict(dict(row.fields), message) if row else message


@dataclass(frozen=True)
class _OverGrpc:
    """Sends bytes as they are, which the client's own interceptors cannot read."""

    channel: Any
    token: str

    async def send(self, service: str, method: Any, field: Oversized) -> _Answer:
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        path = f"/{method.containing_service.full_name}/{method.name}"
        make = getattr(self.channel, kind)(path, request_serializer=bytes, response_deserializer=bytes)
        content = _base(service, method).SerializeToString() + field.on_the_wire()
        metadata = (("authorization", f"Bearer {self.token}"),)
        made = make(iter([content]) if method.client_streaming else content, metadata=metadata, timeout=30)
        try:
            answer = await (made.read() if method.server_streaming else made)
        except grpc.aio.AioRpcError as error:
            return _Answer(error.code(), sum(len(key) + len(value) for key, value in error.trailing_metadata() or ()))
        made.cancel()
        return _Answer(grpc.StatusCode.OK, len(answer or b""))


async def _over_rest(running: Running, binding: Binding, field: Oversized) -> _Answer:
    base = MessageToDict(_base(binding.method.containing_service.name, binding.method))
    path = binding.path
    for variable in binding.variables:
        path = path.replace(f"{{{variable}}}", "x")
    reply = await call(
        running.gateway_url(), path, method=binding.verb, key=running.admin_key,
        data=json.dumps(field.in_json(base)).encode(), headers={"content-type": "application/json"},
    )  # fmt: skip
    return _Answer(reply.status, len(reply.body))


async def _faults(
    running: Running,
    service: ServiceName,
    refused: set[Any],
    cases: Mapping[str, Callable[[], Awaitable[_Answer]]],
    *,
    checks_lag: bool,
) -> list[str]:
    """What is wrong with the answers to cases, by their names.

    Cases during which the event loop was late are sent once more: the machine may have been busy with something else.
    """
    answers, late = dict[str, _Answer](), 0.0
    for _ in range(2):
        before = await late_turns(running, service)
        answers = {name: await send() for name, send in cases.items()}
        late = await late_turns(running, service) - before
        if not late:
            break
    found = [f"{name}: {answer}" for name, answer in answers.items()
             if answer.status not in refused or answer.size_bytes > _ANSWER_BYTES]  # fmt: skip
    is_late = late and checks_lag
    return found + ([f"{', '.join(cases)}: the event loop of {service} was late {late:g} times"] if is_late else [])


async def test_over_grpc(stack: Running) -> None:
    faults: list[str] = []
    for service, file in FILES.items():
        name: ServiceName = "gateway" if service in GATEWAY else INTERNAL[service]
        token = stack.admin_key if name == "gateway" else stack.token
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.stack.plan.ports.grpc[name]}") as channel:
            for method in file.services_by_name[service].methods:
                send = partial(_OverGrpc(channel, token).send, service, method)
                cases = {
                    f"{service}/{method.name} {field.name}": partial(send, field)
                    for field in oversized_fields(method.input_type)
                    if f"{service}/{method.name} {field.name}" not in _COMPARED
                }
                # The parser of protobuf takes up to 0.3 s for a map of 300,000 before anything can be counted.
                faults += await _faults(stack, name, _REFUSED, cases, checks_lag=False)
    assert faults == []


async def test_over_rest(stack: Running) -> None:
    faults: list[str] = []
    for binding in all_bindings():
        fields = oversized_fields(binding.method.input_type) if binding.takes_body else ()
        cases = {
            f"{binding.verb} {binding.path} {field.name}": partial(_over_rest, stack, binding, field)
            for field in fields
            if field.path[0].name not in binding.variables
        }
        faults += await _faults(stack, "gateway", _REFUSED_HTTP, cases, checks_lag=True)
    assert faults == []
