"""Joins the automatic retries of a client, which have no idempotency key, to the generation of its first call.

Such a client counts its repeats and names no call, so a repeat is matched by its digest: the API key and the request.
One row of `idempotency_keys` holds the recent calls of a digest; its unique key makes gateways wait for each other, so
a repeat sees each earlier call that was committed or is being committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field
from time import monotonic
from typing import Literal

from sqlalchemy.engine import Connection

from libs.common.database.records_edge import Accepted, ClientCall
from libs.common.database.states import State
from libs.common.database.stores.client_call_matching import (
    Made,
    Recent,
    Refusal,
    match,
    may_be_left,
    repeats_refused,
)
from libs.common.database.stores.inserting import IDEMPOTENCY_HOURS
from libs.common.database.stores.sets import rows_as_json, statement
from libs.common.errors import GenerationError

# Longer than a caller's own keys may be (200 characters): none is taken for one of these.
_PREFIX = f"{'client-call:':-<150}"
_LIMIT = 100
"""How many generations of one digest are kept, those without an answer before the others."""
_REFUSALS = "refusals"
_REFUSALS_SECONDS = 300

# Waits for the transaction that holds the same row. The row is written again by `_KEEP`.
_HOLD = statement("""
INSERT INTO idempotency_keys AS i (owner, key, generation_id, fields)
SELECT owner, key, generation_id, '{}' FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
    owner text, key text, generation_id text)
ORDER BY owner, key
ON CONFLICT (owner, key) DO UPDATE SET created_at = now()
RETURNING i.owner, i.key, i.fields, CAST(extract(epoch FROM now()) AS float) AS now""")

# A row without a generation is dated back, so that it is forgotten when no retry can refer to its refusals any more:
# calls beyond a quota are many.
_KEEP = statement(f"""
INSERT INTO idempotency_keys AS i (owner, key, generation_id, fields, created_at)
SELECT owner, key, generation_id, fields, CASE WHEN generation_id <> '' THEN now() ELSE
    now() - interval '{IDEMPOTENCY_HOURS} hours' + interval '{_REFUSALS_SECONDS} seconds' END
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(owner text, key text, generation_id text, fields jsonb)
ORDER BY owner, key
ON CONFLICT (owner, key) DO UPDATE
SET generation_id = EXCLUDED.generation_id, fields = EXCLUDED.fields, created_at = EXCLUDED.created_at""")

_MARK = statement("""
UPDATE idempotency_keys
SET fields = jsonb_set(
    CASE WHEN :mark = 'left_at' THEN jsonb_set(fields, ARRAY[:generation_id, 'answered_at'], 'null') ELSE fields END,
    ARRAY[:generation_id, :mark], to_jsonb(extract(epoch FROM clock_timestamp()) + CAST(:after_seconds AS float)))
WHERE owner = :owner AND key = :key AND fields ? :generation_id""")

_TICKETS = statement("""
SELECT id, state, reused_from_id, state IN ('FAILED', 'CANCELLED') AND COALESCE(cost_usd, 0) = 0 AS is_without_result
FROM generation_requests WHERE id = ANY(:ids) AND deleted_at IS NULL""")

_PAID = statement("""
SELECT DISTINCT generation_id FROM submissions
WHERE generation_id = ANY(:ids) AND (at_risk_usd > 0 OR spent_usd > 0 OR billing = 'CONTINUED')""")

Name = tuple[str, str]
Mark = Literal["answered_at", "left_at"]


@dataclass(slots=True)
class ClientCalls:
    """The client calls of one transaction.

    Args:
        connection: of the transaction.
        started: when the transaction began, in seconds of the monotonic clock.
    """

    connection: Connection
    started: float = field(default_factory=monotonic)
    _recent: dict[Name, Recent] = field(default_factory=dict)
    _refusals: dict[Name, list[Refusal]] = field(default_factory=dict)
    _creating: dict[str, tuple[Name, ClientCall]] = field(default_factory=dict)
    _calls: list[tuple[Made, ClientCall]] = field(default_factory=list)
    _now: float = 0.0

    def hold(self, calls: Iterable[tuple[str, ClientCall, str]]) -> None:
        """Lock and read the rows of calls, each given with its owner and the id of the generation it may create."""
        ids: dict[Name, str] = {}
        for owner, call, generation_id in calls:
            # A refusal of this one frees the row, as it frees each idempotency key of its generation.
            ids.setdefault((owner, key_of(call.digest)), generation_id)
        rows = [{"owner": owner, "key": key, "generation_id": ids[owner, key]} for owner, key in sorted(ids)]
        for row in self.connection.execute(_HOLD, {"rows": rows_as_json(rows)}):
            refusals = row.fields.pop(_REFUSALS, [])
            self._refusals[row.owner, row.key] = [Refusal(*values) for values in refusals]
            # JSONB does not keep the order of keys.
            made = sorted(((key, Made(**value)) for key, value in row.fields.items()), key=lambda one: one[1].at)
            self._recent[row.owner, row.key] = dict(made)
            self._now = row.now

    def tickets(self) -> dict[str, Accepted]:
        """Return the tickets of the generations in the rows.

        Forgets those that were deleted, and those whose failure was answered and that nothing was paid for: a repeat of
        such a call is better served by a new attempt, which is the only one that is paid.
        """
        ids = [key for recent in self._recent.values() for key in recent]
        if not ids:
            return {}
        rows = self.connection.execute(_TICKETS, {"ids": ids}).all()
        found = {row.id: Accepted(row.id, State(row.state), row.reused_from_id, is_repeat=True) for row in rows}
        answered = {key for recent in self._recent.values() for key, made in recent.items() if made.answered_at}
        for key in self._unpaid([row.id for row in rows if row.is_without_result and row.id in answered]):
            del found[key]
        for recent in self._recent.values():
            for key in recent.keys() - found.keys():
                del recent[key]
        return found

    def _unpaid(self, ids: list[str]) -> set[str]:
        """Return those of these generations for which nothing is spent or at risk."""
        return set(ids) - set(self.connection.execute(_PAID, {"ids": ids}).scalars()) if ids else set()

    def joined(self, owner: str, call: ClientCall, generation_id: str) -> str | None:
        """Return the id of the generation that answers a call: an earlier one, or `generation_id` if it creates one.

        None: an identical call has no answer yet, and its client may just have left: ask again a moment later.
        """
        name = owner, key_of(call.digest)
        recent = self._recent[name]
        waited_seconds = max(0.0, self.started - call.received)
        received_at = self._now - waited_seconds
        found = None
        was_refused = repeats_refused(self._refusals[name], recent, call, now=self._now)
        if not was_refused:
            found = match(recent, call, now=self._now, waited_seconds=waited_seconds)
        if found is None and not call.has_waited and may_be_left(recent, call, now=self._now):
            return None
        if found is None:
            found = generation_id
            recent[found] = Made(
                self._now,
                call.count,
                is_by_retry=call.count > 0,
                is_counted=call.retry_count is not None,
                # The first call of one that was refused is on its way no more.
                received_at=0.0 if was_refused else received_at,
            )
            self._creating[found] = name, call
        made = recent[found]
        made.retry_count = max(made.retry_count, call.count)
        made.tried_at = received_at
        # Its client has a connection, again.
        made.left_at = None
        self._calls.append((made, call))
        return found

    def keep(self, refused: Mapping[str, GenerationError]) -> None:
        """Write the rows.

        Args:
            refused: the generations that were not created, by their ids, and why. A repeat of a call that may be
                repeated may then create its own.
        """
        for generation_id, error in refused.items():
            if generation_id in self._creating:
                self._refuse(generation_id, error)
        ended_at = self._now + max(0.0, monotonic() - self.started)
        for made, call in self._calls:
            if call.leaving.has_left:
                made.left_at = ended_at
                call.leaving.is_recorded = True
        rows = [
            {
                "owner": owner,
                "key": key,
                "generation_id": next(reversed(recent), ""),
                "fields": {one: recent[one].to_json() for one in _kept(recent)}
                | ({_REFUSALS: [astuple(one) for one in refusals]} if (refusals := self._refusals[owner, key]) else {}),
            }
            for (owner, key), recent in sorted(self._recent.items())
            if recent or self._refusals[owner, key]
        ]
        if rows:
            self.connection.execute(_KEEP, {"rows": rows_as_json(rows)})

    def _refuse(self, generation_id: str, error: GenerationError) -> None:
        name, call = self._creating[generation_id]
        del self._recent[name][generation_id]
        if error.is_retryable and call.retry_count is not None:
            refusals = self._refusals[name]
            refusals.append(Refusal(self._now, call.retry_count, error.retry_after_seconds or 0.0))
            del refusals[:-_LIMIT]


def _kept(recent: Recent) -> list[str]:
    """The generations that are kept: those without an answer before the others, then the newest."""
    by_worth = sorted(recent, key=lambda key: (recent[key].answered_at is None, recent[key].at))
    return by_worth[-_LIMIT:]


def key_of(digest: str) -> str:
    """Return the idempotency key that the gateway derives from the digest of a call."""
    return f"{_PREFIX}{digest}"


@dataclass(frozen=True, slots=True)
class CallEnd:
    """What became of a client call.

    Attributes:
        owner, digest: of the call.
        generation_id: the generation that answers it.
        mark: an answer that names the generation was sent, or the client left before.
        after_seconds: how long from now that counts as happening.
    """

    owner: str
    digest: str
    generation_id: str
    mark: Mark
    after_seconds: float = 0.0


def note_end(connection: Connection, end: CallEnd) -> None:
    """Record what became of a client call."""
    connection.execute(_MARK, {**asdict(end), "key": key_of(end.digest)})
