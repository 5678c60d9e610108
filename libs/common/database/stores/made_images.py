"""Input images that other generations of the same batch made, whatever the age of those generations.

A continuation has a new id, and the generations that made its inputs keep theirs: so makers are found by batch and ref,
not in the id range of unfinished generations. Only claims with such inputs run the statement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy.engine import Connection, RowMapping

from libs.common.database.records import Json, MadeImage
from libs.common.database.states import State
from libs.common.database.stores.sets import rows_as_json, statement

# Several generations have one ref where some continue others: the newest that succeeded and was not deleted counts.
_MAKERS = statement("""
SELECT wanted.generation_id, wanted.number, wanted.batch_ref, wanted.output, maker.state,
    maker.deleted_at IS NOT NULL AS is_deleted, maker.outputs -> wanted.output AS source, d.is_required
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS wanted(
    generation_id text, batch_id text, batch_index int, number int, batch_ref text, output int)
LEFT JOIN LATERAL (
    SELECT m.batch_index, m.state, m.outputs, m.deleted_at FROM generation_requests m
    WHERE m.batch_id = wanted.batch_id AND m.batch_ref = wanted.batch_ref
    ORDER BY m.state = 'SUCCESS' DESC, m.deleted_at IS NULL DESC, m.id DESC LIMIT 1) maker ON true
LEFT JOIN batch_dependencies d ON d.batch_id = wanted.batch_id AND d.batch_index = wanted.batch_index
    AND d.needs_index = maker.batch_index
ORDER BY wanted.generation_id, wanted.number""")


def made_images(connection: Connection, waiting: Iterable[RowMapping]) -> dict[str, tuple[MadeImage, ...]]:
    """Find the images that generations start from and others of their batches made.

    Args:
        connection: of the claim's transaction.
        waiting: rows with id, batch_id, batch_index and images_from.

    Returns, by the id of the generation, one image for each entry of its images_from, in their order.
    """
    wanted = [
        {
            "generation_id": row["id"],
            "batch_id": row["batch_id"],
            "batch_index": row["batch_index"],
            "number": number,
            **image,
        }
        for row in waiting
        for number, image in enumerate(row["images_from"])
    ]
    if not wanted:
        return {}
    found: defaultdict[str, list[MadeImage]] = defaultdict(list)
    for row in connection.execute(_MAKERS, {"rows": rows_as_json(wanted)}).mappings():
        found[row["generation_id"]].append(_image(row))
    return {generation_id: tuple(images) for generation_id, images in found.items()}


def _image(row: RowMapping) -> MadeImage:
    source: Json | None = None
    fault = None
    state, ref = row["state"], row["batch_ref"]
    is_left_out = state in (State.FAILED, State.CANCELLED) and row["is_required"] is False
    if state is None:
        fault = f"The batch has no request with the ref {ref!r} any more."
    elif state != State.SUCCESS:
        fault = f"The request {ref!r} of the batch has not succeeded: it is {state}."
    elif row["is_deleted"]:
        fault = f"The result of the request {ref!r} of the batch was deleted by its owner."
    elif row["source"] is None:
        fault = f"The request {ref!r} of the batch has made no output {row['output']}."
    else:
        source = row["source"]
    return MadeImage(ref, row["output"], source, None if is_left_out else fault, is_left_out=is_left_out)
