"""What alert rules are held against, as the rows have it: read at once, bounded whatever the size of the tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection

from libs.common.database.stores.sets import records, statement
from libs.common.database.stores.statistics import QUEUES, Queue

_EXAMPLES = 5

_COUNTS = statement("""
SELECT kind, provider_id, outcome, code, sum(count)::bigint AS count FROM statistics
WHERE period = 'minute' AND at >= now() - make_interval(secs => :window_seconds)
    AND kind IN ('generation_ended', 'model_left', 'task_ended')
GROUP BY kind, provider_id, outcome, code""")

# A generation's attempts at other models count with it: to the caller they are repeats. Missing tasks have an alert
# of their own.
_REPEATED = statement("""
SELECT provider_id, generation_id, max(attempt) - 1 AS retries FROM submissions
WHERE attempt > 1 AND started_at >= now() - make_interval(secs => :window_seconds)
GROUP BY provider_id, generation_id
UNION ALL
SELECT provider_id, generation_id, retry_count FROM poll_tasks
WHERE ended_at IS NULL AND retry_count > 1 AND missing_since IS NULL
UNION ALL
SELECT provider_id, id, store_attempts FROM generation_requests WHERE state = 'STORING' AND store_attempts > 1
ORDER BY retries DESC LIMIT 1000""")

_SPENT_ACCOUNTS = statement("""
SELECT provider_id, CASE WHEN spend_day = (now() AT TIME ZONE 'UTC')::date THEN spend_usd ELSE 0 END AS spent_usd
FROM provider_accounts""")

_SPENT_KEYS = statement("""
SELECT k.id, k.owner, k.monthly_budget_usd::float AS budget_usd,
    (COALESCE(s.reserved_usd, 0) + COALESCE(ledger.reserved_usd, 0))::float AS reserved_usd,
    (COALESCE(s.spent_usd, 0) + COALESCE(ledger.spent_usd, 0))::float AS spent_usd,
    (COALESCE(s.at_risk_usd, 0) + COALESCE(ledger.at_risk_usd, 0))::float AS at_risk_usd
FROM api_keys k
LEFT JOIN api_key_spend s ON s.api_key_id = k.id AND s.month = date_trunc('month', now() AT TIME ZONE 'UTC')
LEFT JOIN LATERAL (
    SELECT sum(l.reserved_usd) AS reserved_usd, sum(l.spent_usd) AS spent_usd, sum(l.at_risk_usd) AS at_risk_usd
    FROM api_key_ledger l
    WHERE l.api_key_id = k.id AND l.month = date_trunc('month', now() AT TIME ZONE 'UTC')) ledger ON true
WHERE k.monthly_budget_usd IS NOT NULL AND k.revoked_at IS NULL""")

_UNCERTAIN = statement(f"""
SELECT provider_id, count(*) AS number, (array_agg(generation_id ORDER BY id))[1:{_EXAMPLES}] AS generation_ids
FROM submissions WHERE state = 'UNCERTAIN' AND resolved_at IS NULL GROUP BY provider_id""")

_MISSING = statement(f"""
SELECT provider_id, count(*) AS number, (array_agg(generation_id ORDER BY missing_since))[1:{_EXAMPLES}]
    AS generation_ids
FROM poll_tasks WHERE ended_at IS NULL AND missing_since IS NOT NULL GROUP BY provider_id""")

_REFUSED = statement("""
SELECT provider_id, CAST(EXTRACT(EPOCH FROM now() - polls_paused_at) AS float) AS seconds
FROM provider_accounts WHERE polls_paused_at IS NOT NULL""")


@dataclass(frozen=True, slots=True)
class WindowCount:
    """How often something happened in a window."""

    kind: str
    provider_id: str
    outcome: str
    code: str
    count: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """A generation that was tried again."""

    provider_id: str
    generation_id: str
    retries: int


@dataclass(frozen=True, slots=True)
class KeySpend:
    """A key's month against its budget, in US dollars."""

    id: str
    owner: str
    budget_usd: float
    reserved_usd: float
    spent_usd: float
    at_risk_usd: float

    @property
    def used_usd(self) -> float:
        """What counts against the budget."""
        return self.reserved_usd + self.spent_usd + self.at_risk_usd


@dataclass(frozen=True, slots=True)
class Uncertain:
    """Submits that wait for an operator's word."""

    provider_id: str
    number: int
    generation_ids: list[str]


@dataclass(frozen=True, slots=True)
class Missing:
    """Tasks in progress that their provider does not know any more."""

    provider_id: str
    number: int
    generation_ids: list[str]


@dataclass(frozen=True, slots=True)
class AlertFacts:
    """All facts.

    Attributes:
        counts, repeated: by the length of their window in seconds.
        refused_seconds: by provider account, for how many seconds it has refused our credentials for checks.
    """

    counts: dict[int, list[WindowCount]] = field(default_factory=dict)
    repeated: dict[int, list[Repeated]] = field(default_factory=dict)
    queues: list[Queue] = field(default_factory=list)
    account_spend_usd: dict[str, float] = field(default_factory=dict)
    keys: list[KeySpend] = field(default_factory=list)
    uncertain: list[Uncertain] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    refused_seconds: dict[str, float] = field(default_factory=dict)


def read_facts(connection: Connection, windows: Iterable[int], repeat_windows: Iterable[int]) -> AlertFacts:
    """The facts, for rules with these windows, in seconds."""

    def window(seconds: int) -> dict[str, int]:
        return {"window_seconds": seconds}

    return AlertFacts(
        counts={
            seconds: records(WindowCount, connection.execute(_COUNTS, window(seconds))) for seconds in set(windows)
        },
        repeated={
            seconds: records(Repeated, connection.execute(_REPEATED, window(seconds)))
            for seconds in set(repeat_windows)
        },
        queues=records(Queue, connection.execute(QUEUES)),
        account_spend_usd={row.provider_id: row.spent_usd for row in connection.execute(_SPENT_ACCOUNTS)},
        keys=records(KeySpend, connection.execute(_SPENT_KEYS)),
        uncertain=records(Uncertain, connection.execute(_UNCERTAIN)),
        missing=records(Missing, connection.execute(_MISSING)),
        refused_seconds={row.provider_id: row.seconds for row in connection.execute(_REFUSED)},
    )
