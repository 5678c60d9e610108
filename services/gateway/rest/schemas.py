"""Messages as JSON Schemas (draft 2020-12, which OpenAPI 3.1 speaks), each with what the proto says about it."""

from __future__ import annotations

from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from libs.common.rpc.words import short
from services.gateway.rest.comments import comments
from services.gateway.rest.reading import UPDATE_MASK

Schema = dict[str, Any]
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.FieldMask": {"type": "string"},
    # Any JSON value.
    "google.protobuf.Value": {},
}


class Schemas:
    """Collects the schemas that a document refers to, by their short names."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._full_names: dict[str, str] = {}

    def message(self, descriptor: Descriptor, *, without: tuple[str, ...] = ()) -> Schema:
        """A reference to a message's schema; with fields that come another way, and so are left out, the schema."""
        if UPDATE_MASK in descriptor.fields_by_name:
            return self._clearable(descriptor, without)
        if without:
            return self._object(descriptor, without)
        known = self._full_names.setdefault(descriptor.name, descriptor.full_name)
        if known != descriptor.full_name:
            raise ValueError(f"{known} and {descriptor.full_name} have the same name in the document")
        if descriptor.name not in self.components:
            # In place before its fields are looked at: a message may hold itself.
            self.components[descriptor.name] = {}
            self.components[descriptor.name] = self._object(descriptor, ())
        return {"$ref": f"#/components/schemas/{descriptor.name}"}

    def field(self, field: FieldDescriptor) -> Schema:
        """A field's schema with its comment."""
        schema = self._of_type(field)
        if field.is_repeated and not _is_map(field):
            schema = {"type": "array", "items": schema}
        comment = comments().get(field.full_name)
        return {**schema, "description": comment} if comment else schema

    def _object(self, descriptor: Descriptor, without: tuple[str, ...]) -> Schema:
        fields = [field for field in descriptor.fields if field.name not in without]
        schema: Schema = {
            "type": "object",
            "properties": {field.json_name: self.field(field) for field in fields},
            "additionalProperties": False,
        }
        required = [field.json_name for field in fields if is_required(field)]
        if required:
            schema["required"] = required
        comment = comments().get(descriptor.full_name)
        return {**schema, "description": comment} if comment else schema

    def _clearable(self, descriptor: Descriptor, without: tuple[str, ...]) -> Schema:
        """The schema of a partial update, in which `null` clears a field."""
        schema = self._object(descriptor, without)
        for field in descriptor.fields:
            if field.name in without or field.name == UPDATE_MASK:
                continue
            inner = dict(schema["properties"][field.json_name])
            about = {"description": inner.pop("description")} if "description" in inner else {}
            nested = field.message_type
            if nested is not None and nested.full_name not in _WELL_KNOWN:
                inner = self._clearable(nested, ())
            schema["properties"][field.json_name] = {"anyOf": [inner, {"type": "null"}], **about}
        return schema

    def _of_type(self, field: FieldDescriptor) -> Schema:
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.message_type is None:
            return dict(_SCALARS[field.type])
        if _is_map(field):
            return {"type": "object", "additionalProperties": self._of_type(field.message_type.fields_by_name["value"])}
        if field.message_type.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[field.message_type.full_name])
        return self.message(field.message_type)

    def _enum(self, enum: EnumDescriptor) -> Schema:
        if enum.name not in self.components:
            told = [
                f"- `{short(value)}`: {comments().get(f'{enum.full_name}.{value.name}', '')}" for value in enum.values
            ]
            about = comments().get(enum.full_name, "")
            self.components[enum.name] = {
                "type": "string",
                "enum": [short(value) for value in enum.values],
                "description": "\n".join([about, "", *told]),
            }
        return {"$ref": f"#/components/schemas/{enum.name}"}


def is_required(field: FieldDescriptor) -> bool:
    """Whether the proto says so (google.api.field_behavior)."""
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
