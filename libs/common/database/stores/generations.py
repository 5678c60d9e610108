"""Generations as clients see them: read one at a time or by the page, each by its owner, and watched many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.ranges import ANY, IdRange
from libs.common.database.records import GenerationRecord, StoredRequest
from libs.common.database.schema.generations import generation_requests
from libs.common.database.schema.tasks import poll_tasks, submissions
from libs.common.database.states import TERMINAL, State
from libs.common.database.stores.client_calls import CallEnd, Mark, note_end
from libs.common.database.stores.second_payment import OpenPayment, open_payments
from libs.common.database.stores.sets import columns_of, listed, records, statement

_RERUNS_SHOWN = 20
_first_id: sa.BindParameter[str] = sa.bindparam("first_id", ANY.first)
_last_id: sa.BindParameter[str] = sa.bindparam("last_id", ANY.last)
_continuation, _rerun = generation_requests.alias(), generation_requests.alias()
# A late result stands outside of its batch.
_IS_CONTINUED = sa.exists().where(
    _continuation.c.continues_id == generation_requests.c.id, sa.not_(_continuation.c.is_late)
)
_PROGRESS = sa.case(
    (generation_requests.c.state == State.SUCCESS, 100), else_=sa.func.coalesce(poll_tasks.c.progress, 0)
).label("progress")
# Asked only of those that may have any: most have one attempt, which ended well.
_AT_RISK = sa.case(
    (
        sa.or_(
            generation_requests.c.attempts > 1,
            sa.and_(
                generation_requests.c.attempts > 0, generation_requests.c.state.in_((State.FAILED, State.CANCELLED))
            ),
        ),
        sa.select(sa.cast(sa.func.coalesce(sa.func.sum(submissions.c.at_risk_usd), 0), sa.Float))
        .where(
            submissions.c.generation_id == generation_requests.c.id,
            submissions.c.generation_id.between(_first_id, _last_id),
        )
        .scalar_subquery(),
    ),
    else_=0.0,
).label("at_risk_usd")
READ = (
    sa.select(
        *(generation_requests.c[name] for name in columns_of(GenerationRecord, generation_requests)),
        _PROGRESS,
        sa.func.coalesce(poll_tasks.c.attempts, 0).label("polls"),
        sa.select(sa.func.max(_continuation.c.id))
        .where(
            _continuation.c.continues_id == generation_requests.c.id,
            _continuation.c.id.between(_first_id, _last_id),
        )
        .scalar_subquery()
        .label("continued_by_id"),
        _AT_RISK,
    )
    .select_from(generation_requests.outerjoin(poll_tasks, poll_tasks.c.generation_id == generation_requests.c.id))
    .where(generation_requests.c.deleted_at.is_(None))
)

_RERUN_IDS = sa.func.array(
    sa.select(_rerun.c.id)
    .where(
        _rerun.c.rerun_of_id == generation_requests.c.id,
        _rerun.c.deleted_at.is_(None),
        _rerun.c.id.between(_first_id, _last_id),
    )
    .order_by(_rerun.c.id.desc())
    .limit(_RERUNS_SHOWN)
    .scalar_subquery(),
    type_=ARRAY(sa.Text),
).label("rerun_ids")

# What a watcher is told of: a state, a step of progress, an attempt, a wish to cancel. Equal stamps: nothing changed.
STAMP = sa.func.concat_ws(
    ".",
    generation_requests.c.state,
    generation_requests.c.attempts,
    sa.func.coalesce(poll_tasks.c.progress, 0),
    sa.case((generation_requests.c.cancel_requested_at.is_(None), 0), else_=1),
    sa.case((generation_requests.c.deleted_at.is_(None), 0), else_=1),
)
_ids, _stamps = sa.bindparam("ids", type_=ARRAY(sa.Text)), sa.bindparam("stamps", type_=ARRAY(sa.Text))
_known = sa.func.unnest(_ids, _stamps).table_valued("id", "stamp").render_derived(name="known")
_CHANGED = (
    READ.add_columns(STAMP.label("stamp"))
    .join(_known, _known.c.id == generation_requests.c.id)
    .where(_known.c.stamp.is_distinct_from(STAMP), generation_requests.c.id == sa.any_(_ids))
)

# The generation that made the files which this one shows: itself, or the one whose result it took. Reuse locks the same
# row, so that a delete waits for a reuse and, in its next statement, sees it.
_LOCK_MAKER = statement("""
SELECT id FROM generation_requests
WHERE id = (SELECT COALESCE(reused_from_id, id) FROM generation_requests WHERE id = :id AND owner = :owner)
FOR UPDATE""")
_DELETE = statement("""
UPDATE generation_requests g SET deleted_at = now()
WHERE g.id = :id AND g.owner = :owner AND g.deleted_at IS NULL AND g.ended_at IS NOT NULL
RETURNING g.outputs, EXISTS (
    SELECT FROM generation_requests maker
    WHERE maker.id = g.reused_from_id AND maker.deleted_at IS NULL
) OR EXISTS (
    SELECT FROM generation_requests other
    WHERE other.reused_from_id = COALESCE(g.reused_from_id, g.id) AND other.id <> g.id AND other.deleted_at IS NULL
) AS is_shared""")

_REQUEST = statement(f"""
SELECT {listed(columns_of(StoredRequest, generation_requests), "g")}
FROM generation_requests g WHERE id = :id AND deleted_at IS NULL""")

_STATES_OF_BATCH = statement("""
SELECT id, state FROM generation_requests g
WHERE batch_id = :batch_id AND NOT EXISTS (
    SELECT FROM generation_requests later WHERE later.continues_id = g.id AND NOT later.is_late)
ORDER BY batch_index LIMIT :limit""")


@dataclass(frozen=True, slots=True)
class GenerationFilter:
    """Which generations are listed. None and empty: any."""

    owner: str | None = None
    states: Sequence[State] = ()
    model_identifier: str | None = None
    api_key_id: str | None = None
    batch_id: str | None = None
    experiment_id: str | None = None
    request_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A generation as it stands, and the stamp that will differ once it has changed again."""

    record: GenerationRecord
    stamp: str

    @property
    def id(self) -> str:
        """What has changed."""
        return self.record.id

    @property
    def is_final(self) -> bool:
        """Whether it will never change again."""
        return self.record.state in TERMINAL


class GenerationStore:
    """Reads of the gateway. `owner`: whose generations alone there are; None: everybody's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, generation_id: str, *, owner: str | None = None) -> GenerationRecord | None:
        """Return the generation of that id with its reruns, or None."""
        query = READ.add_columns(_RERUN_IDS).where(generation_requests.c.id == generation_id)
        if owner is not None:
            query = query.where(generation_requests.c.owner == owner)
        found = await self._read("get_generation", query, self._database.live_ids.reaching([generation_id]))
        return found[0] if found else None

    async def request_of(self, generation_id: str) -> StoredRequest | None:
        """Return the part of a generation's request that its record does not have, or None."""
        found = await self._database.transaction(
            "get_generation_request", lambda c: records(StoredRequest, c.execute(_REQUEST, {"id": generation_id}))
        )
        return found[0] if found else None

    async def open_payments(self, generation_id: str) -> list[OpenPayment]:
        """Return the submissions of a generation that may be billed, at most a few."""
        return await self._database.transaction("read_open_payments", lambda c: open_payments(c, [generation_id]))

    async def list_page(self, limit: int, wanted: GenerationFilter, *, before: str | None) -> list[GenerationRecord]:
        """At most `limit` generations, newest first, older than `before`: what comes in meanwhile moves nothing."""
        query = READ.where(*conditions(wanted).values()).order_by(generation_requests.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(generation_requests.c.id < before)
        return await self._read("list_generations", query)

    async def list_of_batch(
        self, batch_id: str, limit: int, *, after: int, states: Sequence[State] = ()
    ) -> list[GenerationRecord]:
        """At most `limit` generations of a batch, by their places after `after`: those that no other continues."""
        columns = generation_requests.c
        query = READ.where(columns.batch_id == batch_id, columns.batch_index > after, ~_IS_CONTINUED)
        if states:
            query = query.where(columns.state.in_([state.value for state in states]))
        return await self._read("list_batch_generations", query.order_by(columns.batch_index).limit(limit))

    async def states_of_batch(self, batch_id: str, limit: int) -> list[tuple[str, State]]:
        """The ids and states of at most `limit` generations of a batch, by their places."""
        parameters = {"batch_id": batch_id, "limit": limit}
        return await self._database.transaction(
            "read_batch_states",
            lambda c: [(row.id, State(row.state)) for row in c.execute(_STATES_OF_BATCH, parameters)],
        )

    async def changes(self, stamps: Mapping[str, str]) -> list[Change]:
        """Of the generations named by id, those whose stamp is another now. One statement for any number."""

        def work(connection: Connection) -> list[Change]:
            parameters = {"ids": list(stamps), "stamps": list(stamps.values())}
            found = connection.execute(_CHANGED, parameters | self._database.live_ids.reaching(stamps).parameters)
            return [_change(dict(row)) for row in found.mappings()]

        return await self._database.transaction("read_changes", work)

    async def note_end_of_call(
        self, owner: str, digest: str, generation_id: str, mark: Mark, *, after_seconds: float = 0.0
    ) -> None:
        """Record that the client call with this digest was sent an answer that names the generation, or was left.

        An answer that is still on its way counts as sent in `after_seconds`.
        """
        end = CallEnd(owner, digest, generation_id, mark, after_seconds)
        await self._database.transaction("note_end_of_call", lambda c: note_end(c, end))

    async def delete(self, generation_id: str, *, owner: str) -> list[str] | None:
        """Delete an ended generation: nobody is shown it any more.

        Returns the keys of its objects, which the caller must remove: none while another generation shows the same
        objects. None where there is nothing to delete.
        """
        parameters = {"id": generation_id, "owner": owner}

        def work(connection: Connection) -> list[str] | None:
            connection.execute(_LOCK_MAKER, parameters)
            found = connection.execute(_DELETE, parameters).one_or_none()
            if found is None:
                return None
            if found.is_shared:
                return []
            return [output["object_key"] for output in found.outputs or () if "object_key" in output]

        return await self._database.transaction("delete_generation", work)

    async def _read(self, name: str, query: sa.Select[Any], found: IdRange = ANY) -> list[GenerationRecord]:
        return await self._database.transaction(
            name, lambda c: records(GenerationRecord, c.execute(query, found.parameters))
        )


def _change(row: dict[str, Any]) -> Change:
    stamp = row.pop("stamp")
    return Change(GenerationRecord(**row), stamp)


def conditions(wanted: GenerationFilter) -> dict[str, sa.ColumnElement[bool]]:
    """What is looked for, each condition by what it is about."""
    columns = generation_requests.c
    found: dict[str, sa.ColumnElement[bool]] = {
        name: columns[name] == value
        for name in ("owner", "model_identifier", "api_key_id", "batch_id", "experiment_id", "request_id")
        if (value := getattr(wanted, name)) is not None
    }
    if wanted.states:
        found["state"] = columns.state.in_([state.value for state in wanted.states])
    if wanted.created_after is not None:
        found["created_after"] = columns.created_at >= wanted.created_after
    if wanted.created_before is not None:
        found["created_before"] = columns.created_at < wanted.created_before
    if wanted.labels:
        # The second condition lets the index of rows that have labels serve.
        has_labels = sa.literal_column("labels <> '{}'::jsonb", sa.Boolean)
        found["labels"] = sa.and_(columns.labels.contains(dict(wanted.labels)), has_labels)
    return found
