"""The columns with which a generation's row is made: the same for one alone and for those of a batch."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from libs.common.database.records import NewGeneration

# By name, for `asdict` copies all that it holds, pictures of megabytes among it.
_FIELDS = tuple(field.name for field in fields(NewGeneration))

COLUMNS = """
    id, model_identifier, provider_id, media_type, prompt, input_images, number_of_outputs, parameters, priority,
    when_uncertain, user_id, labels, request_id, trace_parent, api_key_id, owner, expected_cost_usd, fallbacks,
    callback_url, batch_id, batch_index, batch_ref, images_from, preprocess,
    experiment_id, variant_id, experiment_version, requested_model_identifier"""
"""What is inserted as it was handed in."""
RECORD = """
    id text, model_identifier text, provider_id text, media_type text, prompt text, input_images jsonb,
    number_of_outputs smallint, parameters jsonb, priority smallint, when_uncertain text, user_id text, labels jsonb,
    request_id text, trace_parent text, api_key_id text, owner text, expected_cost_usd float, fallbacks jsonb,
    callback_url text, batch_id text, batch_index int, batch_ref text, images_from jsonb, preprocess jsonb,
    experiment_id text, variant_id text, experiment_version int, requested_model_identifier text,
    reserved_usd numeric, request_hash text"""
"""The same as `jsonb_to_recordset` reads it from `row_of`, with what is reserved and the hash in hexadecimal."""
TURN_AT = "now() - make_interval(mins => priority)"
"""A minute of waiting is worth a step of priority, whatever else comes in: so the order stands once it is made."""

# Only results that are ours: a provider's URL may be gone by now.
REUSABLE = """
    SELECT g.id, g.outputs FROM generation_requests g
    WHERE g.owner = row.owner AND g.request_hash = decode(row.request_hash, 'hex')
        AND g.state = 'SUCCESS' AND g.reused_from_id IS NULL AND g.deleted_at IS NULL
        AND g.ended_at > now() - make_interval(secs => row.within_seconds)
        AND NOT jsonb_path_exists(g.outputs, '$[*] ? (!exists(@.object_key))')
    ORDER BY g.created_at DESC LIMIT 1"""
"""The earlier generation whose result `row` may take: it has the owner, the request_hash and within_seconds."""

IDEMPOTENCY_HOURS = 24
"""For so long a caller's own name for a request, or for a batch, stands for that one alone."""


def row_of(generation: NewGeneration) -> dict[str, Any]:
    """The generation as `RECORD` has it."""
    row = {name: getattr(generation, name) for name in _FIELDS}
    row["fallbacks"] = [asdict(fallback) for fallback in generation.fallbacks]
    row["images_from"] = [asdict(image) for image in generation.images_from]
    return row
