"""What the OpenAPI document says of the routes of batches that are no RPC's: lines in, files out."""

from __future__ import annotations

from typing import Any

from darkroom.gateway.v1 import gateway_pb2

from services.gateway.rest.schemas import Schema, Schemas

UPLOAD = "/api/external/generation/batch/upload"
EXPORT = "/api/external/generation/batch/{batch_id}/export"
_BINARY: Schema = {"type": "string"}


def upload(schemas: Schemas) -> dict[str, Any]:
    """POST of lines, with the options in the query."""
    messages = gateway_pb2.DESCRIPTOR.message_types_by_name
    answer = schemas.message(messages["UploadBatchResponse"])
    return {
        "operationId": "UploadBatch",
        "summary": "Accepts a batch of up to 100,000 generations, a request a line",
        "description": "Each line is a CreateGenerationRequest as JSON. All of them are taken in, or none.",
        "tags": ["client"],
        "parameters": [
            {"name": field.json_name, "in": "query", "required": False, "description": schema.pop("description", ""),
             "schema": schema}
            for field in messages["BatchOptions"].fields
            for schema in (schemas.field(field),)
        ],
        "requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": _BINARY}}},
        "responses": {"200": {"description": "Done.", "content": {"application/json": {"schema": answer}}}},
    }  # fmt: skip


def export() -> dict[str, Any]:
    """GET of what a batch has made."""
    return {
        "operationId": "ExportBatch",
        "summary": "Gives the results of a batch as lines of JSON, or as an archive of the files",
        "description": "Both are made while they are sent: no length, no ranges. The archive's last file is a "
        "manifest, a line a generation.",
        "tags": ["client"],
        "parameters": [
            {"name": "batch_id", "in": "path", "required": True, "description": "The batch's id.",
             "schema": {"type": "string"}},
            {"name": "format", "in": "query", "required": False, "description": "What to make. Unset: `jsonl`.",
             "schema": {"type": "string", "enum": ["jsonl", "zip"]}},
        ],
        "responses": {
            "200": {
                "description": "Done.",
                "content": {"application/x-ndjson": {"schema": _BINARY}, "application/zip": {"schema": _BINARY}},
            }
        },
    }  # fmt: skip
