"""Each list, map and text of each request of each service, too large: refused at once, and nobody else waits."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass

from libs.common.settings import ServiceName
from sandbox.plan import SERVICES
from services.gateway.console.pages.table import BUTTONS, PAGES
from services.gateway.rest.bindings import Binding
from services.gateway.rest.routes import all_bindings
from tests.conftest import StartStack
from tests.contract.test_protos import FILES
from tests.integration.test_isolation import GATEWAY, INTERNAL, TABLE
from tests.support.console import visitor
from tests.support.http import call
from tests.support.lag import late_turns
from tests.support.oversized import CHARACTERS, ITEMS, Oversized, oversized_fields
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
    return found + ([f"{', '.join(cases)}: the event loop of {service} was late {late:g} times"] if late else [])


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
                faults += await _faults(stack, name, _REFUSED, cases)
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
        faults += await _faults(stack, "gateway", _REFUSED_HTTP, cases)
    assert faults == []


# A form takes no notice of a text that it does not ask for.
_FORMS: Mapping[str, tuple[Callable[[str], bytes], set[Any]]] = {
    "a long text": (lambda name: f"{name}={'x' * CHARACTERS}".encode(), _REFUSED_HTTP | {200, 303, 401}),
    "a field many times": (lambda name: "&".join([f"{name}=x"] * ITEMS).encode(), _REFUSED_HTTP),
    "many names": (lambda name: "&".join(f"{name}{index}=x" for index in range(ITEMS)).encode(), _REFUSED_HTTP),
}
_NAME = re.compile(r'<(?:input|select|textarea)[^>]* name="(\w+)"')


async def test_over_forms_of_the_console(stack: Running) -> None:
    async with visitor(stack.gateway_url()) as admin:
        token = await admin.sign_in(stack.admin_key)
        pages = [(await admin.get(f"/admin{path}")).text for path in PAGES if "{" not in path]
        names = sorted({name for page in pages for name in _NAME.findall(page)} - {"form_token"})
        assert len(names) > 20

        async def send(path: str, form: bytes) -> _Answer:
            shown = await admin.post_bytes(path, f"form_token={token}&".encode() + form)
            return _Answer(shown.status, len(shown.text))

        faults: list[str] = []
        for name, (form, refused) in _FORMS.items():
            cases = {f"{path} {name}": partial(send, path, form(field)) for path, field in _pressed(names)}
            faults += await _faults(stack, "gateway", refused, cases)
    assert faults == []


def _pressed(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each button, with one of all fields in turn."""
    paths = [re.sub(r"\{\w+\}", "x", f"/admin{path}") for path in (*BUTTONS, "/sign-in", "/preferences")]
    return list(zip(paths, cycle(names), strict=False))


async def test_over_webhooks(stack: Running) -> None:
    bodies = {
        "a long text": json.dumps({"id": "x" * CHARACTERS}),
        "a long list": json.dumps({"id": "x", "output": ["x"] * ITEMS}),
        "many names": json.dumps({f"k{index}": 1 for index in range(ITEMS)}),
        "deep": '{"id":' * 100_000 + "1" + "}" * 100_000,
    }

    async def send(provider: str, body: str) -> _Answer:
        headers = {"content-type": "application/json", "x-webhook-secret": "x", "webhook-id": "x"}
        path = f"/api/webhooks/{provider}"
        reply = await call(stack.gateway_url(), path, method="POST", data=body.encode(), headers=headers)
        return _Answer(reply.status, len(reply.body))

    providers = ("bfl", "replicate", "fal", "kling", "pollo", "nobody")
    cases = {
        f"{provider} {name}": partial(send, provider, body)
        for provider, (name, body) in product(providers, bodies.items())
    }
    assert await _faults(stack, "gateway", _REFUSED_HTTP | {401}, cases) == []
