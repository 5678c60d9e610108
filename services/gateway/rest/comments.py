"""What the protos say about messages, fields and RPCs: from the descriptors, built with their comments."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

_FILE = "contracts.binpb"
# Places of a file's parts in the paths of its source info. Source: google/protobuf/descriptor.proto.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS, _METHODS, _VALUES = 2, 3, 4, 2, 2
_Path = tuple[int, ...]


@lru_cache(maxsize=1)
def comments() -> dict[str, str]:
    """The comment of each part, by its full name, such as `darkroom.gateway.v1.Generation.progress`."""
    content = resources.files("darkroom").joinpath(_FILE).read_bytes()
    found: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(content).file:
        told = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
            if location.leading_comments
        }
        found |= {name: told[path] for name, path in _parts(file) if path in told}
    return found


def _parts(file: FileDescriptorProto) -> Iterator[tuple[str, _Path]]:
    for index, message in enumerate(file.message_type):
        yield from _of_message(message, file.package, (_MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, file.package, (_ENUMS, index))
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield name, (_SERVICES, index)
        for place, method in enumerate(service.method):
            yield f"{name}.{method.name}", (_SERVICES, index, _METHODS, place)


def _of_message(message: DescriptorProto, scope: str, path: _Path) -> Iterator[tuple[str, _Path]]:
    name = f"{scope}.{message.name}"
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, _FIELDS, index)
    for index, nested in enumerate(message.nested_type):
        yield from _of_message(nested, name, (*path, _NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, name, (*path, _NESTED_ENUMS, index))


def _of_enum(enum: EnumDescriptorProto, scope: str, path: _Path) -> Iterator[tuple[str, _Path]]:
    name = f"{scope}.{enum.name}"
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, _VALUES, index)
