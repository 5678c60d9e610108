"""Routes as the protos declare them. Source: google/api/http.proto (AIP-127), as far as our protos use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_WHOLE_BODY = "*"


@dataclass(frozen=True, slots=True)
class Binding:
    """A route and the RPC behind it.

    `path` has variables in braces, named as the request's fields. `takes_body`: the body holds all other fields; else
    the query does. `response_field`: the field of the response that is answered; None: all of it.
    """

    method: MethodDescriptor
    verb: str
    path: str
    variables: tuple[str, ...]
    takes_body: bool
    response_field: FieldDescriptor | None

    @property
    def rpc(self) -> str:
        """`/package.Service/Method`."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def request(self) -> type[Message]:
        """The RPC's request."""
        return GetMessageClass(self.method.input_type)

    @property
    def response(self) -> type[Message]:
        """The RPC's response, or one of a stream."""
        return GetMessageClass(self.method.output_type)

    @property
    def query_fields(self) -> list[FieldDescriptor]:
        """The fields that come in the query."""
        if self.takes_body:
            return []
        return [field for field in self.method.input_type.fields if field.name not in self.variables]


class Undeclarable(ValueError):
    """A route in the protos that this transcoder does not know how to serve: a fault of ours, told at the start."""


def bindings_of(services: Iterable[ServiceDescriptor]) -> list[Binding]:
    """All routes of the services, the most particular first, so that `batch/{id}` goes before `{id}/rate`."""
    found = [binding for service in services for binding in _of_service(service)]
    return sorted(found, key=lambda binding: (len(binding.variables), -binding.path.count("/"), binding.path))


def _of_service(service: ServiceDescriptor) -> Iterator[Binding]:
    for method in service.methods:
        rule: HttpRule = method.GetOptions().Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        if verb is None:
            continue
        if verb == "custom" or rule.additional_bindings or rule.body not in {"", _WHOLE_BODY}:
            raise Undeclarable(f"{method.full_name}: only one verb, and a body of * or none, are served")
        yield _binding(method, verb.upper(), getattr(rule, verb), rule)


def _binding(method: MethodDescriptor, verb: str, path: str, rule: HttpRule) -> Binding:
    variables = tuple(_VARIABLE.findall(path))
    request: Descriptor = method.input_type
    for name in variables:
        field = request.fields_by_name.get(name)
        if field is None or field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
            raise Undeclarable(f"{method.full_name}: {{{name}}} is no text field of {request.full_name}")
    response_field = None
    if rule.response_body:
        response_field = method.output_type.fields_by_name[rule.response_body]
    return Binding(method, verb, path, variables, rule.body == _WHOLE_BODY, response_field)
