"""Admits generations: idempotency keys, reuse of results, quotas, and one INSERT for a group.

Locks are taken in one order: client calls by owner and digest, idempotency keys by owner and key, generations whose
results are reused (shared), usage of API keys by id. A rerun locks its original (shared) before all of them. A
transaction that locks a generation exclusively, to delete or to continue it, takes none of the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records import Json, NewGeneration
from libs.common.database.records_edge import Accepted, Admission, KeyUsage, NewRequest
from libs.common.database.states import State
from libs.common.database.stores.client_calls import CallEnd, ClientCalls, note_end
from libs.common.database.stores.inserting import (
    COLUMNS,
    IDEMPOTENCY_HOURS,
    RECORD,
    REUSABLE,
    inserted,
    row_of,
)
from libs.common.database.stores.second_payment import check_consent, open_payments
from libs.common.database.stores.sets import rows_as_json, statement
from libs.common.database.stores.usage import count_tokens, hold_usage, unknown_usage
from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest, NotFound

Admit = Callable[[KeyUsage, Sequence[NewGeneration]], Admission]
Answer = Accepted | GenerationError
_INSERT = statement(f"""
INSERT INTO generation_requests ({COLUMNS}, state, turn_at, reused_from_id, outputs, cost_usd, ended_at)
SELECT {inserted("row")}, state, turn_of(priority), reused_from_id, outputs,
    CASE WHEN reused_from_id IS NOT NULL THEN 0 END,
    CASE WHEN reused_from_id IS NOT NULL THEN now() END
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row({RECORD}, state text, reused_from_id text, outputs jsonb)""")

# Waits for a transaction that uses the same key; replaces a key that has expired.
_CLAIM_NAMES = statement(f"""
INSERT INTO idempotency_keys (owner, key, generation_id, fields)
SELECT owner, key, generation_id, fields FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
    owner text, key text, generation_id text, fields jsonb)
ORDER BY owner, key
ON CONFLICT (owner, key) DO UPDATE
SET generation_id = EXCLUDED.generation_id, fields = EXCLUDED.fields, created_at = now()
WHERE idempotency_keys.created_at < now() - interval '{IDEMPOTENCY_HOURS} hours'
RETURNING generation_id""")

_NAMED = statement("""
SELECT i.owner, i.key, i.generation_id, i.fields, g.state, g.reused_from_id
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(owner text, key text)
JOIN idempotency_keys i USING (owner, key) JOIN generation_requests g ON g.id = i.generation_id""")

_FREE_NAMES = statement("DELETE FROM idempotency_keys WHERE generation_id = ANY(:generation_ids)")

_REUSABLE = statement(f"""
SELECT row.id, found.id AS source_id, found.outputs
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(id text, owner text, request_hash text, within_seconds int)
CROSS JOIN LATERAL ({REUSABLE}) found""")

# Blocks resolutions of its submissions until the transaction ends.
_LOCK_ORIGINAL = statement("""
SELECT state, ended_at FROM generation_requests WHERE id = :id AND deleted_at IS NULL FOR SHARE""")

_FORGET_NAMES = statement(f"""
DELETE FROM idempotency_keys WHERE (owner, key) IN (
    SELECT owner, key FROM idempotency_keys WHERE created_at < now() - interval '{IDEMPOTENCY_HOURS} hours'
    LIMIT :limit FOR UPDATE SKIP LOCKED)""")


class IntakeStore:
    """Writes new generations.

    Args:
        database: where the rows are.
        admit: decides which of a key's generations its quota lets in. Pure: it may be asked again.
    """

    def __init__(self, database: Database, admit: Admit) -> None:
        self._database = database
        self._admit = admit

    async def accept(self, requests: Sequence[NewRequest]) -> list[Answer]:
        """Commit the admitted requests in one transaction; return a ticket or an error for each, in the order given.

        One statement if no idempotency key, client call, reuse or quota applies.
        """

        def work(connection: Connection) -> list[Answer]:
            return _Intake(connection, self._admit, requests).run()

        return await self._database.transaction("accept_generations", work)

    async def rerun(self, request: NewRequest, *, accepted_usd: float | None) -> Answer:
        """Commit a rerun of `request.generation.rerun_of_id`, which must have ended; return its ticket or an error.

        Args:
            request: the new generation; the price of a second payment is the sum that it reserves.
            accepted_usd: the second payment to which the caller consents, in US dollars. None: no consent.

        Raises NotFound if there is no original, and InvalidRequest if it has not ended, or if one of its submissions
        may be billed and the caller accepts less than the price.
        """
        generation = request.generation
        original_id = generation.rerun_of_id or ""

        def work(connection: Connection) -> Answer:
            original = connection.execute(_LOCK_ORIGINAL, {"id": original_id}).one_or_none()
            if original is None:
                raise NotFound("id", f"There is no generation {original_id[:100]!r}.")
            if original.ended_at is None:
                raise InvalidRequest([FieldViolation("id", "ended", f"must have ended: its state is {original.state}")])
            check_consent(open_payments(connection, [original_id]), generation.reserved_usd, accepted_usd)
            return _Intake(connection, self._admit, [request]).run()[0]

        return await self._database.transaction("rerun_generation", work)

    async def note_ends(self, ends: Sequence[CallEnd]) -> None:
        """Record what became of client calls."""

        def work(connection: Connection) -> None:
            for end in ends:
                note_end(connection, end)

        await self._database.transaction("note_ends_of_calls", work)

    async def forget_names(self, limit: int) -> bool:
        """Delete at most `limit` expired idempotency keys; return whether there may be more."""
        return await self._database.transaction(
            "forget_idempotency_keys", lambda c: c.execute(_FORGET_NAMES, {"limit": limit}).rowcount == limit
        )


class Undecided(GenerationError):
    """A client call whose client may have left an identical one a moment ago. Ask again with `has_waited`."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.SERVICE_UNAVAILABLE, "An identical call is being answered.", is_retryable=False)


class _Source(NamedTuple):
    """An earlier generation whose result is taken."""

    id: str
    outputs: list[Json]


class _Intake:
    """One transaction. `_answers` has the answers so far, by the index of the request."""

    def __init__(self, connection: Connection, admit: Admit, requests: Sequence[NewRequest]) -> None:
        self._connection = connection
        self._admit = admit
        self._requests = requests
        self._answers: dict[int, Answer] = {}
        self._followers: dict[int, list[int]] = {}
        self._earlier: dict[int, tuple[Accepted, dict[str, str]]] = {}
        self._sources: dict[str, _Source] = {}
        self._calls = ClientCalls(connection)

    def run(self) -> list[Answer]:
        has_calls = self._join_calls()
        leaders = self._leaders()
        self._settle_names(leaders)
        self._find_sources()
        self._apply_quotas()
        self._insert()
        if has_calls:
            self._calls.keep(self._refused())
        for leader, followers in self._followers.items():
            for follower in followers:
                self._answers[follower] = self._follow(leader, self._requests[follower])
        return [self._answers[place] for place in range(len(self._requests))]

    def _join_calls(self) -> bool:
        """Answer client calls with the generations of earlier ones. Return whether there are client calls."""
        found = [
            (place, request.generation, request.client_call)
            for place, request in enumerate(self._requests)
            if request.client_call is not None
        ]
        if not found:
            return False
        self._calls.hold((generation.owner, call, generation.id) for _, generation, call in found)
        tickets, places = self._calls.tickets(), {generation.id: place for place, generation, _ in found}
        for place, generation, call in found:
            joined = self._calls.joined(generation.owner, call, generation.id)
            if joined is None:
                self._answers[place] = Undecided()
            elif joined in tickets:
                self._answers[place] = tickets[joined]
            elif joined != generation.id:
                self._followers.setdefault(places[joined], []).append(place)
        return True

    def _refused(self) -> dict[str, GenerationError]:
        """Return the ids of generations that were not let in, and why."""
        return {
            self._requests[place].generation.id: answer
            for place, answer in self._answers.items()
            if isinstance(answer, GenerationError)
        }

    def _follow(self, leader: int, request: NewRequest) -> Answer:
        """The answer to a request of the same name as one before it, which may itself have come too late."""
        if leader in self._earlier:
            return _checked(*self._earlier[leader], request)
        answer = self._answers[leader]
        if isinstance(answer, GenerationError):
            return answer
        return _checked(replace(answer, is_repeat=True), self._requests[leader].fields, request)

    def _open(self) -> list[tuple[int, NewRequest]]:
        following = {follower for followers in self._followers.values() for follower in followers}
        return [
            (place, request)
            for place, request in enumerate(self._requests)
            if place not in self._answers and place not in following
        ]

    def _leaders(self) -> dict[tuple[str, str], int]:
        """The first request of each name; the others of the same name will get its answer."""
        leaders: dict[tuple[str, str], int] = {}
        for place, request in enumerate(self._requests):
            if request.idempotency_key is None:
                continue
            leader = leaders.setdefault((request.generation.owner, request.idempotency_key), place)
            if leader != place:
                self._followers.setdefault(leader, []).append(place)
        return leaders

    def _settle_names(self, leaders: dict[tuple[str, str], int]) -> None:
        if not leaders:
            return
        rows = [
            {
                "owner": owner,
                "key": key,
                "generation_id": self._requests[place].generation.id,
                "fields": self._requests[place].fields,
            }
            for (owner, key), place in leaders.items()
        ]
        claimed = set(self._connection.execute(_CLAIM_NAMES, {"rows": rows_as_json(rows)}).scalars())
        taken = [row for row in rows if row["generation_id"] not in claimed]
        if not taken:
            return
        for named in self._connection.execute(_NAMED, {"rows": rows_as_json(taken)}):
            place = leaders[named.owner, named.key]
            ticket = Accepted(named.generation_id, State(named.state), named.reused_from_id, is_repeat=True)
            self._earlier[place] = ticket, named.fields
            self._answers[place] = _checked(ticket, named.fields, self._requests[place])

    def _find_sources(self) -> None:
        rows = [
            {
                "id": request.generation.id,
                "owner": request.generation.owner,
                "request_hash": request.generation.request_hash,
                "within_seconds": request.reuse_within_seconds,
            }
            for _, request in self._open()
            if request.reuse_within_seconds and request.generation.request_hash
        ]
        if rows:
            found = self._connection.execute(_REUSABLE, {"rows": rows_as_json(rows)})
            self._sources = {row.id: _Source(row.source_id, row.outputs) for row in found}

    def _apply_quotas(self) -> None:
        """Reused results are free and take no place: they count against nothing."""
        by_key: defaultdict[str, list[int]] = defaultdict(list)
        for place, request in self._open():
            if request.is_bounded and request.generation.id not in self._sources:
                by_key[request.generation.api_key_id].append(place)
        if not by_key:
            return
        # A key that nothing is known of lets nothing in.
        self._answers |= dict.fromkeys((place for places in by_key.values() for place in places), unknown_usage())
        tokens: dict[str, float] = {}
        refused = []
        for usage in hold_usage(self._connection, by_key):
            places = by_key[usage.api_key_id]
            admission = self._admit(usage, [self._requests[place].generation for place in places])
            if admission.tokens is not None:
                tokens[usage.api_key_id] = admission.tokens
            for place, refusal in zip(places, admission.refusals, strict=True):
                if refusal is None:
                    del self._answers[place]
                else:
                    self._answers[place] = refusal
                    refused.append(self._requests[place].generation.id)
        count_tokens(self._connection, tokens)
        if refused:
            self._connection.execute(_FREE_NAMES, {"generation_ids": refused})

    def _insert(self) -> None:
        let_in = self._open()
        if not let_in:
            return
        rows = [_row(request.generation, self._sources.get(request.generation.id)) for _, request in let_in]
        self._connection.execute(_INSERT, {"rows": rows_as_json(rows)})
        for (place, _), row in zip(let_in, rows, strict=True):
            self._answers[place] = Accepted(row["id"], State(row["state"]), row["reused_from_id"])


def _row(generation: NewGeneration, source: _Source | None) -> dict[str, Any]:
    row = row_of(generation)
    if source is None:
        return {**row, "state": State.PENDING.value, "reused_from_id": None}
    reused = {"reused_from_id": source.id, "outputs": source.outputs, "reserved_usd": 0.0}
    return {**row, **reused, "state": State.SUCCESS.value}


def _checked(ticket: Accepted, fields: dict[str, str], request: NewRequest) -> Answer:
    """The earlier ticket, or ALREADY_EXISTS with the fields in which this request differs from the earlier one."""
    differing = sorted(
        name for name in fields.keys() | request.fields.keys() if fields.get(name) != request.fields.get(name)
    )
    if not differing:
        return ticket
    return GenerationError(
        ErrorCode.ALREADY_EXISTS,
        f"This idempotency key was used within {IDEMPOTENCY_HOURS} hours for {ticket.generation_id}, a request that "
        f"differs in {', '.join(differing)}. Take another key for another request.",
        {"fields": differing, "generation_id": ticket.generation_id},
        violations=[FieldViolation(name, "same", "differs from the request that used the key") for name in differing],
    )
