"""From JSON, paths and queries to a message, or to every fault at once, each with the path as the caller wrote it.

Names are taken in camelCase and as the protos have them, words of enums with and without their prefix. Source of the
rest: the protobuf JSON mapping, https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common import bounded_json
from libs.common.errors import VIOLATIONS_LIMIT, FieldViolation, InvalidRequest
from libs.common.rpc.words import descriptor_of
from services.gateway.rest.bindings import Binding
from services.gateway.rest.scalars import Unreadable, finite, from_query, scalar_of, text_of

_DEPTH_LIMIT = bounded_json.DEPTH_LIMIT
# The values of one Struct, such as the parameters of a generation. protobuf needs microseconds to convert each.
STRUCT_VALUES_LIMIT = 2_000
# A suggestion compares a name with all that are known: the first few unknown ones get one.
_SUGGESTIONS, _SUGGESTED_CHARACTERS = 5, 64
# Beyond it a double, which a Struct's numbers are, no longer tells integers apart.
_EXACT_INTEGER = 2**53
_INDEXED = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")
_CAPITAL = re.compile(r"[A-Z]")
UPDATE_MASK = "update_mask"
_NO_VALUE = object()


class Reader:
    """Reads one request.

    `found`: the first 100 broken rules. `omitted`: how many more there are. `names`: how the caller wrote each field of
    the request, by its name in the proto.
    """

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []
        self.omitted = 0
        self.names: dict[str, str] = {}
        self._suggestions = _SUGGESTIONS

    def raise_for_found(self) -> None:
        """InvalidRequest where rules were broken."""
        if self.found:
            raise InvalidRequest(self.found, omitted=self.omitted)

    def read(
        self, binding: Binding, *, body: bytes, path: Mapping[str, str], query: Iterable[tuple[str, str]]
    ) -> Message:
        """The request that a call makes. InvalidRequest with every fault."""
        message = binding.request()
        if binding.takes_body:
            self._read_body(message, body)
            for name, _ in query:
                self._fault(name, "unknown", "unknown: this route takes its fields in the body")
        else:
            if body:
                self._fault("body", "unknown", "this route takes no body")
            self.read_query(message, query)
        for name, value in path.items():
            if self._is_text(value, name):
                self._set_of_path(message, name, value)
        self.raise_for_found()
        return message

    def _set_of_path(self, message: Message, name: str, value: str) -> None:
        """Set a field that the path holds. The query or the body may say the same, and nothing else."""
        given = getattr(message, name)
        if given and given != value:
            self._fault(self.names.get(name, name), "twice", "given twice: the path says otherwise")
        setattr(message, name, value)

    def read_json(self, message: Message, text: bytes, path: str) -> None:
        """Fill a message with a JSON text, or note every fault below `path`."""
        value = self._parsed(text, path)
        if value is not _NO_VALUE:
            self._read_message(message, value, path, 0)

    def read_query(self, message: Message, query: Iterable[tuple[str, str]]) -> None:
        """Fill a message with the fields of a query, or note every fault."""
        seen: set[tuple[str, str]] = set()
        for name, text in query:
            indexed = _INDEXED.fullmatch(name)
            field = self._field(descriptor_of(message), indexed[1] if indexed else name, name)
            if field is None or not self._is_text(text, name):
                continue
            place = (field.name, indexed[2] if indexed else "")
            if place in seen and (_is_map(field) or not field.is_repeated):
                self._fault(name, "twice", "given twice")
                continue
            seen.add(place)
            if _is_map(field):
                if indexed is None:
                    self._fault(name, "map", f"write it as {name}[key]=value")
                else:
                    self._put(message, field, indexed[2], from_query(_value_of(field), text), name)
            elif indexed:
                self._fault(name, "unknown", "unknown")
            elif field.is_repeated:
                self._append(message, field, [from_query(field, text)], name, 0)
            else:
                self._set(message, field, from_query(field, text), name, 0)

    def _fault(self, path: str, rule: str, description: str) -> None:
        if len(self.found) < VIOLATIONS_LIMIT:
            self.found.append(FieldViolation(path[:200], rule, description))
        else:
            self.omitted += 1

    def _parsed(self, text: bytes, path: str) -> Any:
        try:
            return bounded_json.loads(text)
        except ValueError as error:
            self._fault(path or "body", "json", f"must be JSON: {str(error)[:200]}")
            return _NO_VALUE

    def _read_body(self, message: Message, body: bytes) -> None:
        value = self._parsed(body, "") if body.strip() else _NO_VALUE
        if value is not _NO_VALUE:
            self._read_message(message, value, "", 0)
            self._name_changes(message, value)

    def _name_changes(self, message: Message, value: Any) -> None:
        """Fill the `update_mask` of a request that has one with what its body names, `null` included."""
        field = descriptor_of(message).fields_by_name.get(UPDATE_MASK)
        if field is None or self.found or message.HasField(UPDATE_MASK):
            return
        paths = [path for path in _paths_of(descriptor_of(message), value) if path != UPDATE_MASK]
        getattr(message, UPDATE_MASK).paths.extend(paths)

    def _field(self, descriptor: Descriptor, name: str, path: str) -> FieldDescriptor | None:
        field = _field_named(descriptor, name)
        if field is None:
            self._fault(path, "unknown", "unknown" + self._suggestion(name, descriptor))
        elif "." not in path and "[" not in path:
            self.names[field.name] = name
        return field

    def _suggestion(self, name: str, descriptor: Descriptor) -> str:
        if not self._suggestions or len(name) > _SUGGESTED_CHARACTERS:
            return ""
        self._suggestions -= 1
        near = difflib.get_close_matches(name, [known.json_name for known in descriptor.fields], n=1)
        return f"; did you mean {near[0]}?" if near else ""

    def _read_message(self, message: Message, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, dict):
            self._fault(path or "body", "type", "must be an object")
            return
        if depth > _DEPTH_LIMIT:
            self._fault(path, "depth", f"must not be nested more than {_DEPTH_LIMIT} deep")
            return
        seen: set[str] = set()
        for name, inner in value.items():
            inner_path = f"{path}.{name}" if path else name
            field = self._field(descriptor_of(message), name, inner_path)
            if field is None or inner is None:
                continue
            if field.name in seen:
                self._fault(inner_path, "twice", "given twice")
                continue
            seen.add(field.name)
            other = _chosen(message, field)
            if other is not None:
                self._fault(inner_path, "one_of", f"must not be set beside {other}")
            elif _is_map(field):
                self._read_map(message, field, inner, inner_path)
            elif field.is_repeated:
                self._append(message, field, inner, inner_path, depth)
            else:
                self._set(message, field, inner, inner_path, depth)

    def _read_map(self, message: Message, field: FieldDescriptor, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            self._fault(path, "type", "must be an object")
            return
        for key, inner in value.items():
            self._put(message, field, key, inner, f"{path}.{key}")

    def _put(self, message: Message, field: FieldDescriptor, key: str, value: Any, path: str) -> None:
        """Put a value into a map of scalars."""
        if not self._is_text(key, path):
            return
        scalar = self._scalar(_value_of(field), value, path)
        if scalar is not None:
            getattr(message, field.name)[key] = scalar

    def _append(self, message: Message, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, list):
            self._fault(path, "type", "must be an array")
            return
        items = getattr(message, field.name)
        for index, inner in enumerate(value):
            inner_path = f"{path}[{index}]"
            if field.message_type is not None:
                self._fill(items.add(), inner, inner_path, depth)
                continue
            scalar = self._scalar(field, inner, inner_path)
            if scalar is not None:
                items.append(scalar)

    def _set(self, message: Message, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
        if field.message_type is None:
            scalar = self._scalar(field, value, path)
            if scalar is not None:
                setattr(message, field.name, scalar)
            return
        self._fill(getattr(message, field.name), value, path, depth)

    def _fill(self, message: Message, value: Any, path: str, depth: int) -> None:
        """Fill a message within another, by its own kind of JSON where it has one."""
        if isinstance(message, Struct):
            self.read_struct(message, value, path)
        elif isinstance(message, Timestamp):
            self._read_time(message, value, path)
        elif isinstance(message, FieldMask):
            self._read_mask(message, value, path)
        elif isinstance(message, Value):
            within = not isinstance(value, (dict, list)) or self._is_within_values(value, path)
            if within and self._is_plain(value, path, 0):
                ParseDict(value, message)
        else:
            message.SetInParent()
            self._read_message(message, value, path, depth + 1)

    def _read_time(self, time: Timestamp, value: Any, path: str) -> None:
        try:
            time.FromJsonString(value)
        except (ValueError, TypeError, AttributeError):
            self._fault(path, "time", "must be a time such as 2026-11-25T08:30:00Z (RFC 3339)")

    def _read_mask(self, mask: FieldMask, value: Any, path: str) -> None:
        """Read paths with commas between them, in camelCase or as the protos have them."""
        if not self._is_text(value, path):
            return
        names = [name.strip() for name in value.split(",") if name.strip()]
        mask.paths.extend(_CAPITAL.sub(lambda found: f"_{found[0].lower()}", name) for name in names)

    def read_struct(self, struct: Struct, value: Any, path: str) -> None:
        """Fill a Struct with a JSON object, as far as a Struct can hold it; else note why not."""
        if not isinstance(value, dict):
            self._fault(path, "type", "must be an object")
        elif self._is_within_values(value, path) and self._is_plain(value, path, 0):
            struct.update(value)

    def _is_within_values(self, value: Any, path: str) -> bool:
        """Count the values of a Struct before they are looked at."""
        count, waiting = 0, [value]
        while waiting and count <= STRUCT_VALUES_LIMIT:
            inner = waiting.pop()
            count += len(inner)
            values = inner.values() if isinstance(inner, dict) else inner
            waiting.extend(one for one in values if isinstance(one, (dict, list)))
        if count > STRUCT_VALUES_LIMIT:
            self._fault(path, "values", f"must hold at most {STRUCT_VALUES_LIMIT:,} values")
        return count <= STRUCT_VALUES_LIMIT

    def _is_plain(self, value: Any, path: str, depth: int) -> bool:
        if depth > _DEPTH_LIMIT:
            self._fault(path, "depth", f"must not be nested more than {_DEPTH_LIMIT} deep")
            return False
        if isinstance(value, dict):
            faults = [
                key
                for key, inner in value.items()
                if not (self._is_text(key, path) and self._is_plain(inner, f"{path}.{key}", depth + 1))
            ]
            return not faults
        if isinstance(value, list):
            places = [n for n, inner in enumerate(value) if not self._is_plain(inner, f"{path}[{n}]", depth + 1)]
            return not places
        if isinstance(value, str):
            return self._is_text(value, path)
        if isinstance(value, int) and abs(value) > _EXACT_INTEGER:
            self._fault(
                path, "range", f"must be from -{_EXACT_INTEGER} to {_EXACT_INTEGER}, as JSON tells numbers apart"
            )
            return False
        return not isinstance(value, float) or self._is_finite(value, path)

    def _scalar(self, field: FieldDescriptor, value: Any, path: str) -> Any:
        return self._or_fault(partial(scalar_of, field), value, path)

    def _or_fault(self, read: Callable[[Any], Any], value: Any, path: str) -> Any:
        """What `read` makes of a value; None where it refuses it, which is noted."""
        try:
            return read(value)
        except Unreadable as error:
            # A path may be what is no Unicode.
            self._fault(path.encode(errors="replace").decode(), error.rule, error.description)
            return None

    def _is_finite(self, value: float, path: str) -> bool:
        return self._or_fault(finite, value, path) is not None

    def _is_text(self, value: Any, path: str) -> bool:
        return self._or_fault(text_of, value, path) is not None


def _field_named(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    # protobuf fails at names that are not UTF-8, such as half a surrogate pair; those of fields are ASCII.
    if not name.isascii():
        return None
    return descriptor.fields_by_name.get(name) or _by_json_name(descriptor).get(name)


@cache
def _by_json_name(descriptor: Descriptor) -> Mapping[str, FieldDescriptor]:
    return {field.json_name: field for field in descriptor.fields}


def _paths_of(descriptor: Descriptor, value: Mapping[str, Any]) -> Iterator[str]:
    """The paths of the fields that a JSON object names, with those of messages within it in place of the message."""
    for name, inner in value.items():
        field = _field_named(descriptor, name)
        if field is None:
            continue
        nested = field.message_type if isinstance(inner, dict) and not field.is_repeated else None
        if nested is not None and not nested.full_name.startswith("google.protobuf."):
            yield from (f"{field.name}.{path}" for path in _paths_of(nested, inner))
        else:
            yield field.name


def _chosen(message: Message, field: FieldDescriptor) -> str | None:
    """The field of the same oneof that is set already. A field that is merely optional has a oneof of its own."""
    return message.WhichOneof(field.containing_oneof.name) if field.containing_oneof is not None else None


def _value_of(field: FieldDescriptor) -> FieldDescriptor:
    """What a map holds."""
    entry = field.message_type
    if entry is None:
        raise TypeError(f"{field.full_name} is no map")
    return entry.fields_by_name["value"]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
