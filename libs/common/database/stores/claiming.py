"""Which generations a dispatcher leases: what waits, in fair turns and within limits, and what others left behind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.engine import Connection, CursorResult

from libs.common.database.engine import Database
from libs.common.database.ranges import IN_RANGE
from libs.common.database.records import Fallback, ImageFrom, Lease
from libs.common.database.records_dispatch import AccountRecord, ClaimedGeneration, Grant, Unavailable
from libs.common.database.schema.generations import generation_requests
from libs.common.database.stores.accounts import lock_available_accounts, refund, write_accounts
from libs.common.database.stores.fallbacks import going_on
from libs.common.database.stores.made_images import made_images
from libs.common.database.stores.sets import CLAIMS, claims_as_arrays, columns_of, listed, rows_as_json, statement

_LEASED = """
state = 'DISPATCHING', lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds),
    lease_token = g.lease_token + 1"""

_CLAIMED_COLUMNS = f"""
    {listed(columns_of(ClaimedGeneration, generation_requests), "g")}, g.batch_index,
    g.cancel_requested_at IS NOT NULL AS is_cancel_requested,
    EXISTS (SELECT FROM submissions s WHERE s.generation_id = g.id AND s.generation_id {IN_RANGE}
        AND s.state = 'UNCERTAIN') AS may_run_elsewhere"""

# A task that its provider does not know any more holds no concurrency slot. The keys that wait are found by hops along
# the index, so that a key with thousands of rows costs no more than one. Each deals as many as there are places; places
# go round the keys, the one served longest ago first. A billionth of a dollar makes up for the sums of floats.
_PICK = statement(f"""
WITH RECURSIVE granted AS (
    SELECT provider_id, budget_usd, CASE WHEN concurrent_tasks IS NULL THEN places
        ELSE GREATEST(0, LEAST(places, concurrent_tasks - (
            SELECT count(*) FROM generation_requests g
            WHERE g.provider_id = row.provider_id AND g.state IN ('DISPATCHING', 'PROCESSING')
                AND g.id {IN_RANGE}) + (
            SELECT count(*) FROM poll_tasks t
            WHERE t.provider_id = row.provider_id AND t.ended_at IS NULL AND t.missing_since IS NOT NULL))) END
            AS places
    FROM jsonb_to_recordset(CAST(:grants AS jsonb)) AS row(
        provider_id text, places int, concurrent_tasks int, budget_usd float)
), keys AS (
    SELECT granted.provider_id, granted.places, (
        SELECT min(g.api_key_id) FROM generation_requests g
        WHERE g.provider_id = granted.provider_id AND g.state = 'PENDING' AND g.id {IN_RANGE}) AS api_key_id
    FROM granted WHERE granted.places > 0
    UNION ALL
    SELECT keys.provider_id, keys.places, (
        SELECT min(g.api_key_id) FROM generation_requests g
        WHERE g.provider_id = keys.provider_id AND g.state = 'PENDING' AND g.api_key_id > keys.api_key_id
            AND g.id {IN_RANGE})
    FROM keys WHERE keys.api_key_id IS NOT NULL
), dealt AS (
    SELECT waiting.id, keys.provider_id, row_number() OVER turns AS place,
        sum(waiting.expected_cost_usd) OVER turns AS cost_usd
    FROM keys LEFT JOIN api_key_turns t USING (provider_id, api_key_id) CROSS JOIN LATERAL (
        SELECT g.id, g.expected_cost_usd, row_number() OVER (ORDER BY g.turn_at, g.id) AS round
        FROM generation_requests g
        WHERE g.provider_id = keys.provider_id AND g.api_key_id = keys.api_key_id
            AND g.state = 'PENDING' AND g.next_attempt_at <= now() AND g.id {IN_RANGE}
        ORDER BY g.turn_at, g.id LIMIT keys.places) waiting
    WINDOW turns AS (
        PARTITION BY keys.provider_id ORDER BY waiting.round, t.claimed_at NULLS FIRST, keys.api_key_id)
)
SELECT dealt.id FROM dealt JOIN granted USING (provider_id)
WHERE dealt.place <= granted.places AND (granted.budget_usd IS NULL OR dealt.cost_usd <= granted.budget_usd + 1e-9)""")

# By ids that are given, for an estimate of how many a pick comes to would have the planner read the whole table.
_CLAIM = statement(f"""
WITH claimed AS (
    UPDATE generation_requests g SET {_LEASED}, updated_at = now()
    WHERE g.id = ANY(ARRAY(
        SELECT id FROM generation_requests WHERE id = ANY(:ids) AND state = 'PENDING' FOR UPDATE SKIP LOCKED))
        AND g.id {IN_RANGE}
    RETURNING g.api_key_id, {_CLAIMED_COLUMNS}
), served AS (
    INSERT INTO api_key_turns (provider_id, api_key_id, claimed_at)
    SELECT provider_id, api_key_id, clock_timestamp() FROM claimed GROUP BY provider_id, api_key_id
    ON CONFLICT (provider_id, api_key_id) DO UPDATE SET claimed_at = EXCLUDED.claimed_at
)
SELECT * FROM claimed""")

_RESCUE = statement(f"""
WITH left_behind AS (
    SELECT id FROM generation_requests
    WHERE state = 'DISPATCHING' AND lease_until < now() AND id <> ALL(:held) AND provider_id <> ALL(:full)
        AND id {IN_RANGE}
    ORDER BY lease_until LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE generation_requests g SET {_LEASED}
WHERE g.id = ANY(ARRAY(SELECT id FROM left_behind)) AND g.id {IN_RANGE}
RETURNING {_CLAIMED_COLUMNS},
    (SELECT s.id FROM submissions s WHERE s.generation_id = g.id AND s.generation_id {IN_RANGE} AND s.state = 'STARTED')
        AS open_submission_id,
    (SELECT CAST(EXTRACT(EPOCH FROM now() - s.started_at) AS float) FROM submissions s
        WHERE s.generation_id = g.id AND s.generation_id {IN_RANGE} AND s.state = 'STARTED')
        AS open_submission_age_seconds""")

_CLAIM_FORGOTTEN = statement(f"""
WITH forgotten AS (
    SELECT id FROM generation_requests
    WHERE state = 'PENDING' AND provider_id <> ALL(:known)
        AND released_at < now() - make_interval(secs => :patience_seconds) AND id {IN_RANGE}
    LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE generation_requests g SET {_LEASED}, updated_at = now()
WHERE g.id = ANY(ARRAY(SELECT id FROM forgotten)) AND g.id {IN_RANGE}
RETURNING {_CLAIMED_COLUMNS}""")

_RENEW = statement(f"""
UPDATE generation_requests g SET lease_until = now() + make_interval(secs => :lease_seconds)
FROM {CLAIMS}
WHERE g.id = ANY(:ids) AND g.id = claim.generation_id AND g.lease_token = claim.lease_token
    AND g.lease_owner = :owner AND g.state IS NOT DISTINCT FROM 'DISPATCHING'
RETURNING g.id, g.lease_token""")

# What was claimed and never sent is free at once; what was sent waits for its lease to end and is then resolved.
_GIVE_BACK = statement(f"""
UPDATE generation_requests g
SET state = 'PENDING', lease_owner = NULL, lease_until = NULL, lease_token = g.lease_token + 1, updated_at = now()
FROM {CLAIMS}
WHERE g.id = ANY(:ids) AND g.id = claim.generation_id AND g.lease_token = claim.lease_token
    AND g.lease_owner = :owner AND g.state IS NOT DISTINCT FROM 'DISPATCHING'
    AND NOT EXISTS (SELECT FROM submissions s WHERE s.generation_id = g.id AND s.generation_id {IN_RANGE}
        AND s.state = 'STARTED')
RETURNING g.provider_id, g.expected_cost_usd""")

# What may run elsewhere stays where it is: another model would be a second bill.
_FALL_BACK = statement(f"""
WITH unavailable AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(provider_id text, code text, budget_usd float)
), stuck AS (
    SELECT g.id, unavailable.code, following.moved, following.number::int - 1 AS fallback FROM unavailable
    JOIN generation_requests g ON g.provider_id = unavailable.provider_id AND g.state = 'PENDING' AND g.id {IN_RANGE}
        AND (unavailable.budget_usd IS NULL OR g.expected_cost_usd > unavailable.budget_usd)
    CROSS JOIN LATERAL (
        SELECT f.entry AS moved, f.number FROM jsonb_array_elements(g.fallbacks) WITH ORDINALITY AS f(entry, number)
        WHERE NOT EXISTS (
            SELECT FROM unavailable other
            WHERE other.provider_id = f.entry->>'provider_id' AND other.budget_usd IS NULL)
        ORDER BY f.number LIMIT 1) following
    WHERE g.fallbacks <> '[]'
        AND NOT EXISTS (SELECT FROM submissions s WHERE s.generation_id = g.id AND s.generation_id {IN_RANGE}
            AND s.state IN ('STARTED', 'UNCERTAIN'))
    LIMIT :limit FOR UPDATE OF g SKIP LOCKED
)
UPDATE generation_requests g
SET next_attempt_at = now(), updated_at = now(),{going_on("stuck")}
FROM stuck WHERE g.id = stuck.id AND g.id = ANY(ARRAY(SELECT id FROM stuck)) AND g.id {IN_RANGE}
RETURNING g.id, g.provider_id""")

Decide = Callable[[AccountRecord], Grant]
_UNCLAIMED = {"api_key_id", "batch_index"}


def _claimed(connection: Connection, result: CursorResult[*tuple[Any, ...]]) -> list[ClaimedGeneration]:
    """Read claimed rows, each with the images that others of its batch made for it."""
    rows = result.mappings().all()
    made = made_images(connection, rows)
    found = []
    for row in rows:
        fields = {name: value for name, value in row.items() if name not in _UNCLAIMED}
        fields["fallbacks"] = tuple(Fallback(**entry) for entry in row["fallbacks"])
        fields["images_from"] = tuple(ImageFrom(**entry) for entry in row["images_from"])
        found.append(ClaimedGeneration(**fields, made_images=made.get(row["id"], ())))
    return found


_LOOK = statement("SELECT 1")


class ClaimStore:
    """The leases of one dispatcher process.

    Args:
        database: where the rows are.
        owner: a name that no other process has or had; it stands in `lease_owner`.
        lease_seconds: how long a claim lives without being renewed.
    """

    def __init__(self, database: Database, *, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._lease: Mapping[str, Any] = {"owner": owner, "lease_seconds": lease_seconds}

    async def claim(self, provider_ids: Iterable[str], decide: Decide) -> list[ClaimedGeneration]:
        """Lease waiting generations, for each account as many as `decide` grants, and charge the account for them.

        Keys take turns; within a key the higher priority goes first, each minute of waiting being worth one step of it.
        Each account's row is locked meanwhile, so that no two dispatchers count the same free place. An account that is
        locked is left out, without a call of `decide`: claims of one account never wait for those of another.
        `decide` may be called again, with newer accounts.
        """

        def work(connection: Connection) -> list[ClaimedGeneration]:
            grants = [decide(account) for account in lock_available_accounts(connection, provider_ids)]
            asked = [
                {
                    "provider_id": grant.account.provider_id,
                    "places": grant.places,
                    "concurrent_tasks": grant.concurrent_tasks,
                    "budget_usd": grant.budget_usd,
                }
                for grant in grants
                if grant.places > 0
            ]
            if not asked:
                return []
            ids = list(
                connection.execute(
                    _PICK, {"grants": rows_as_json(asked), **self._database.live_ids.parameters}
                ).scalars()
            )
            if not ids:
                return []
            claimed = _claimed(
                connection,
                connection.execute(_CLAIM, {**self._lease, **self._database.live_ids.parameters, "ids": ids}),
            )
            write_accounts(connection, _charged(grants, claimed))
            return claimed

        return await self._database.transaction("claim_generations", work)

    async def look(self) -> None:
        """Return once the database has answered a statement."""
        await self._database.transaction("look", lambda c: c.execute(_LOOK).close())

    async def rescue(self, limit: int, *, held: Sequence[str], full: Sequence[str] = ()) -> list[ClaimedGeneration]:
        """Lease generations whose dispatcher died or lost its lease, the longest without a lease first.

        Args:
            limit: how many at most.
            held: the ids of generations that this process has in hand; they are left out.
            full: provider accounts whose generations are left out.
        """
        parameters = {
            **self._lease,
            **self._database.live_ids.parameters,
            "limit": limit,
            "held": list(held),
            "full": list(full),
        }
        return await self._database.transaction(
            "rescue_generations", lambda c: _claimed(c, c.execute(_RESCUE, parameters))
        )

    async def claim_forgotten(
        self, limit: int, *, known: Sequence[str], patience_seconds: float
    ) -> list[ClaimedGeneration]:
        """Lease what waits for a provider that is not among the `known`, if it was accepted so long ago."""
        parameters = {
            **self._lease,
            **self._database.live_ids.parameters,
            "limit": limit,
            "known": list(known),
            "patience_seconds": patience_seconds,
        }
        return await self._database.transaction(
            "claim_forgotten_generations", lambda c: _claimed(c, c.execute(_CLAIM_FORGOTTEN, parameters))
        )

    async def renew(self, claims: Sequence[Lease]) -> list[Lease]:
        """Renew the leases of these claims, as far as they still hold, and return those that were renewed."""
        parameters = {**self._lease, **claims_as_arrays(claims)}
        return await self._database.transaction(
            "renew_generations", lambda c: [Lease(row.id, row.lease_token) for row in c.execute(_RENEW, parameters)]
        )

    async def give_back(self, claims: Sequence[Lease]) -> None:
        """End the leases of those of these claims that were never sent; their cost leaves the account's spend."""

        def work(connection: Connection) -> None:
            parameters = {
                "owner": self._lease["owner"],
                **claims_as_arrays(claims),
                **self._database.live_ids.parameters,
            }
            costs: defaultdict[str, float] = defaultdict(float)
            for row in connection.execute(_GIVE_BACK, parameters):
                costs[row.provider_id] += row.expected_cost_usd
            refund(connection, costs)

        await self._database.transaction("give_back_generations", work)

    async def fall_back(self, unavailable: Sequence[Unavailable], limit: int) -> dict[str, str]:
        """Move what waits for accounts that take nothing to the next of its fallbacks that can take it.

        Answers the new provider of each generation that was moved, by its id.
        """
        rows = rows_as_json(asdict(entry) for entry in unavailable)
        parameters = {"rows": rows, "limit": limit, **self._database.live_ids.parameters}
        return await self._database.transaction(
            "fall_back",
            lambda c: {row.id: row.provider_id for row in c.execute(_FALL_BACK, parameters)},
        )


def _charged(grants: Sequence[Grant], claimed: Sequence[ClaimedGeneration]) -> list[AccountRecord]:
    taken = Counter(generation.provider_id for generation in claimed)
    charged = []
    for account in (grant.account for grant in grants):
        count = taken[account.provider_id]
        if count:
            cost_usd = sum(g.expected_cost_usd for g in claimed if g.provider_id == account.provider_id)
            spend_usd = account.spend_today_usd + cost_usd
            tokens = account.tokens - count
            charged.append(replace(account, tokens=tokens, spend_day=account.today, spend_usd=spend_usd))
    return charged
