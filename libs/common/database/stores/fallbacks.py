"""How a generation's row goes on with one of its fallbacks: the same for all statements that let it."""

from __future__ import annotations


def going_on(row: str) -> str:
    """The assignments of an UPDATE of `generation_requests g` from `row`.

    `row` has `moved` (an entry of `g.fallbacks`, or NULL: it stays where it is), `fallback` (the entry's place, counted
    from 0) and `code` (why the present model is left). What stands before the entry is passed over for good.
    """
    return f"""
        fallback_path = CASE WHEN {row}.moved IS NULL THEN g.fallback_path ELSE g.fallback_path || jsonb_build_object(
            'model_identifier', g.model_identifier, 'provider_id', g.provider_id, 'code', {row}.code,
            'left_at', now()) END,
        attempts_elsewhere = CASE WHEN {row}.moved IS NULL THEN g.attempts_elsewhere ELSE g.attempts END,
        model_identifier = COALESCE({row}.moved->>'model_identifier', g.model_identifier),
        provider_id = COALESCE({row}.moved->>'provider_id', g.provider_id),
        parameters = COALESCE({row}.moved->'parameters', g.parameters),
        expected_cost_usd = COALESCE(CAST({row}.moved->>'expected_cost_usd' AS float), g.expected_cost_usd),
        fallbacks = CASE WHEN {row}.moved IS NULL THEN g.fallbacks ELSE jsonb_path_query_array(
            g.fallbacks, '$[$from to last]', jsonb_build_object('from', {row}.fallback + 1)) END"""
