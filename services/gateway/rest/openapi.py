"""`GET /api/openapi.json`: an OpenAPI 3.1 document from the same descriptors that serve the routes.

Source: https://spec.openapis.org/oas/v3.1.0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from libs.common import VERSION
from services.gateway.access import is_for_admins
from services.gateway.rest.bindings import Binding
from services.gateway.rest.comments import comments
from services.gateway.rest.openapi_batches import EXPORT, UPLOAD, export, upload
from services.gateway.rest.problems import CONTENT_TYPE
from services.gateway.rest.schemas import Schema, Schemas, is_required

_ALWAYS = (400, 401, 429, 500, 503, 504)
_WITH_BODY = (408, 413, 415)
_PROBLEM: Schema = {
    "type": "object",
    "description": "Why a request was refused or failed (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code", "isRetryable", "requestId", "details", "violations"],
    "properties": {
        "type": {"type": "string", "description": "`urn:darkroom:error:` and the code."},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "For people: what happened and what to do next."},
        "code": {"type": "string", "description": "The cause, one of the words of ErrorCode."},
        "isRetryable": {
            "type": "boolean",
            "description": "Whether the same request may be sent again, and may succeed then.",
        },
        "requestId": {"type": "string", "description": "The id that all log lines about the request carry."},
        "details": {"type": "object", "additionalProperties": True, "description": "Facts: a quota's numbers."},
        "violations": {
            "type": "array",
            "description": "The fields at fault.",
            "items": {
                "type": "object",
                "required": ["field", "rule", "description"],
                "properties": {
                    "field": {"type": "string", "description": "The field's path as the caller wrote it."},
                    "rule": {"type": "string", "description": "The rule in short, for programs."},
                    "description": {"type": "string", "description": "The rule in words."},
                },
            },
        },
    },
}
_HEALTH: Schema = {
    "type": "object",
    "required": ["status", "timestamp", "uptime", "version"],
    "properties": {
        "status": {"type": "string", "enum": ["healthy", "degraded", "unhealthy"], "description": "All in a word."},
        "timestamp": {"type": "string", "format": "date-time", "description": "When this was found."},
        "uptime": {"type": "number", "description": "How long this gateway has run, in seconds."},
        "version": {"type": "string", "description": "The version that runs."},
    },
}
_COMPONENT: Schema = {
    "type": "object",
    "required": ["status", "message", "lastCheck", "responseTime"],
    "properties": {
        "status": {"type": "string", "enum": ["up", "degraded", "down"], "description": "How it is."},
        "message": {"type": "string", "description": "For people, where there is something to say."},
        "lastCheck": {"type": "string", "format": "date-time", "description": "When it was last looked at."},
        "responseTime": {"type": "number", "description": "How long the look took, in milliseconds."},
    },
}
_COMPONENTS: Schema = {"type": "object", "additionalProperties": _COMPONENT}
_DETAILED: Schema = {
    "type": "object",
    "required": [*_HEALTH["required"], "components"],
    "properties": {
        **_HEALTH["properties"],
        "components": {
            "type": "object",
            "description": "Each component.",
            "properties": {
                "database": _COMPONENT,
                "s3": _COMPONENT,
                "pollingService": _COMPONENT,
                "adapters": {**_COMPONENTS, "description": "By provider account."},
                "services": {**_COMPONENTS, "description": "By service."},
            },
        },
    },
}


def document(bindings: Iterable[Binding]) -> dict[str, Any]:
    """The document of the routes."""
    schemas = Schemas()
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for binding in bindings:
        paths[binding.path][binding.verb.lower()] = _operation(binding, schemas)
    paths[UPLOAD]["post"] = _refusing(upload(schemas), 402, 408, 409, 413, 415)
    paths[EXPORT]["get"] = _refusing(export(), 404)
    paths["/api/health"]["get"] = _health()
    paths["/api/health/detailed"]["get"] = _detailed_health()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Darkroom",
            "version": VERSION,
            "description": "AI images and videos: a ticket at once, the result without fail, one bill.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Problem": _PROBLEM, **dict(sorted(schemas.components.items()))},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(binding: Binding, schemas: Schemas) -> dict[str, Any]:
    told = comments().get(binding.method.full_name, "")
    operation: dict[str, Any] = {
        "operationId": binding.method.name,
        "summary": told.split(". ")[0].rstrip("."),
        "description": told,
        "tags": ["admin" if is_for_admins(binding.rpc) else "client"],
        "parameters": _parameters(binding, schemas),
        "responses": {"200": _success(binding, schemas), **_failures(binding)},
    }
    if binding.takes_body:
        schema = schemas.message(binding.method.input_type, without=binding.variables)
        needs = "required" in schema or any(map(is_required, binding.method.input_type.fields))
        operation["requestBody"] = {
            "required": needs and not binding.variables,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _parameters(binding: Binding, schemas: Schemas) -> list[dict[str, Any]]:
    fields = binding.method.input_type.fields_by_name
    in_path = [
        {**_parameter(fields[name], schemas), "name": name, "in": "path", "required": True}
        for name in binding.variables
    ]
    in_query = [
        {**_parameter(field, schemas), "name": field.json_name, "in": "query", "required": is_required(field)}
        for field in binding.query_fields
    ]
    headers = [_idempotency_header()] if "idempotency_key" in fields else []
    return [*in_path, *in_query, *headers]


def _parameter(field: FieldDescriptor, schemas: Schemas) -> dict[str, Any]:
    schema = schemas.field(field)
    parameter: dict[str, Any] = {"description": schema.pop("description", ""), "schema": schema}
    if schema.get("type") == "object":
        parameter |= {"style": "deepObject", "explode": True}
    return parameter


def _idempotency_header() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same as `idempotencyKey` in the body.",
        "schema": {"type": "string", "maxLength": 200},
    }


def _success(binding: Binding, schemas: Schemas) -> dict[str, Any]:
    if binding.method.server_streaming:
        schemas.message(binding.method.output_type)
        return {
            "description": "Server-sent events: `change` with the message as JSON in `data` and a token in `id` to go "
            "on from (`Last-Event-ID`), and `error` with a problem document.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    kind = binding.method.output_type if binding.response_field is None else binding.response_field.message_type
    return {"description": "Done.", "content": {"application/json": {"schema": schemas.message(_some(kind))}}}


def _some(kind: Descriptor | None) -> Descriptor:
    if kind is None:
        raise ValueError("a response_body must name a message")
    return kind


def _failures(binding: Binding) -> dict[str, Any]:
    statuses = {*_ALWAYS}
    if binding.takes_body:
        statuses |= {*_WITH_BODY}
    if binding.variables or "model_identifier" in binding.method.input_type.fields_by_name:
        statuses |= {404}
    if "idempotency_key" in binding.method.input_type.fields_by_name:
        statuses |= {402, 409}
    if binding.rpc.endswith("/CancelGeneration"):
        statuses |= {409}
    if is_for_admins(binding.rpc) or "owner" in binding.method.input_type.fields_by_name:
        statuses |= {403}
    return {str(status): _failure(status) for status in sorted(statuses)}


def _refusing(operation: dict[str, Any], *statuses: int) -> dict[str, Any]:
    """The operation with the statuses that it may be refused with."""
    refusals = {str(status): _failure(status) for status in sorted({*_ALWAYS, *statuses})}
    return {**operation, "responses": {**operation["responses"], **refusals}}


def _failure(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _health() -> dict[str, Any]:
    content = {"application/json": {"schema": _HEALTH}}
    return {
        "operationId": "Health",
        "summary": "How everything is, in a word",
        "tags": ["anyone"],
        "security": [],
        "responses": {
            "200": {"description": "Healthy or degraded.", "content": content},
            "503": {"description": "Unhealthy: nothing is accepted.", "content": content},
        },
    }


def _detailed_health() -> dict[str, Any]:
    content = {"application/json": {"schema": _DETAILED}}
    return {
        "operationId": "GetHealth",
        "summary": "How each component is",
        "tags": ["admin"],
        "responses": {
            "200": {"description": "Healthy or degraded.", "content": content},
            "503": {"description": "Unhealthy: nothing is accepted.", "content": content},
            **{str(status): _failure(status) for status in (401, 403, 429, 500)},
        },
    }
