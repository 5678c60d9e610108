"""Compares the simulated vendors' ledger with our sums of money: spent, at risk and reserved, in micro-dollars.

The two cannot be read at one moment. So the ledger is read before and after the database, of which one statement reads
one snapshot: a bill that stood before and still stands after must be covered by the snapshot, and what the snapshot
counts as spent must stand in the ledger after it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from chaos.rows import rows
from libs.common.database.engine import Database

_MICROS = "CAST(round(CAST(COALESCE({}, 0) AS numeric) * 1000000) AS bigint)"
_SNAPSHOT = f"""
SELECT
    (SELECT json_agg(json_build_object('id', id, 'prompt', prompt, 'state', state,
        'reserved', CASE WHEN ended_at IS NULL THEN {_MICROS.format("reserved_usd")} ELSE 0 END,
        'spent', CASE WHEN ended_at IS NOT NULL THEN {_MICROS.format("round(CAST(cost_usd AS numeric), 6)")} ELSE 0 END,
        'may_resubmit', when_uncertain = 'resubmit', 'is_late', is_late, 'is_reused', reused_from_id IS NOT NULL,
        'continues_id', continues_id, 'has_key', api_key_id <> '', 'code', error->>'code', 'task_id', provider_task_id,
        'inputs', jsonb_array_length(input_images) + jsonb_array_length(images_from)))
    FROM generation_requests) AS generations,
    (SELECT json_agg(json_build_object('id', id, 'generation_id', generation_id, 'state', state,
        'at_risk', {_MICROS.format("at_risk_usd")}, 'spent', {_MICROS.format("spent_usd")},
        'resolution', resolution))
    FROM submissions) AS submissions,
    (SELECT {_MICROS.format("sum(reserved_usd)")} FROM (
        SELECT reserved_usd FROM api_key_spend UNION ALL SELECT reserved_usd FROM api_key_ledger) AS part) AS reserved,
    (SELECT {_MICROS.format("sum(spent_usd)")} FROM (
        SELECT spent_usd FROM api_key_spend UNION ALL SELECT spent_usd FROM api_key_ledger) AS part) AS spent,
    (SELECT {_MICROS.format("sum(at_risk_usd)")} FROM (
        SELECT at_risk_usd FROM api_key_spend UNION ALL SELECT at_risk_usd FROM api_key_ledger) AS part) AS at_risk"""


LATE_SECONDS = 15.0
"""What a late result gets to be stored, from its task's end."""


class Moment(StrEnum):
    """When an audit is made, which decides what must hold."""

    RUNNING = "running"
    """Generations are in flight: spent <= ledger <= spent + at risk + reserved."""
    SETTLED = "settled"
    """All have ended: nothing is reserved, spent <= ledger <= spent + at risk."""
    RESOLVED = "resolved"
    """And an operator has resolved all submissions: nothing is at risk, spent = ledger."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation's row. Money in micro-dollars.

    `inputs`: how many input images its request declares. `code`: of its error. `task_id`: what its vendor named.
    """

    id: str
    prompt: str
    state: str
    reserved: int = 0
    spent: int = 0
    may_resubmit: bool = False
    is_late: bool = False
    is_reused: bool = False
    continues_id: str | None = None
    has_key: bool = True
    inputs: int = 0
    code: str | None = None
    task_id: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.state not in {"SUCCESS", "FAILED", "CANCELLED"}


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission's row. Money in micro-dollars."""

    id: str
    generation_id: str
    state: str
    at_risk: int = 0
    spent: int = 0
    resolution: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database says at one moment. `reserved`, `spent` and `at_risk` are the sums of all API keys."""

    generations: Sequence[Generation]
    submissions: Sequence[Submission]
    reserved: int
    spent: int
    at_risk: int


@dataclass(slots=True)
class _Sums:
    spent: int = 0
    at_risk: int = 0
    reserved: int = 0
    visible: int = 0
    """How many bills the rows speak of."""
    consented: int = 0
    """How many bills the request consents to."""


Bill = dict[str, Any]


async def snapshot(database: Database) -> Snapshot:
    """Read one snapshot. Raises GenerationError where the database is away."""
    (found,) = await rows(database, _SNAPSHOT)
    return Snapshot(
        [Generation(**row) for row in found["generations"] or ()],
        [Submission(**row) for row in found["submissions"] or ()],
        found["reserved"],
        found["spent"],
        found["at_risk"],
    )


def micros(usd: float) -> int:
    """US dollars in micro-dollars."""
    return int((Decimal(str(usd)) * 1_000_000).to_integral_value())


def owed(bills: Iterable[Bill]) -> int:
    """What the vendors bill, in micro-dollars."""
    return sum(micros(bill["price_usd"]) for bill in bills if not bill["is_refunded"])


def faults(found: Snapshot, before: Sequence[Bill], after: Sequence[Bill], moment: Moment) -> list[str]:
    """Everything about money that breaks a law at a `moment`.

    The snapshot `found` was read between the vendors' ledger `before` and `after` it.
    """
    standing = _standing(before, after)
    return [
        *_of_sums(found),
        *_of_totals(found, standing, after, moment),
        *_of_prompts(found, standing, after, moment),
    ]


def discarded(found: Snapshot, before: Sequence[Bill], after: Sequence[Bill]) -> list[str]:
    """The prompts of which more tasks succeeded, and are billed, than any row speaks of.

    A row speaks of one that succeeded, is in flight, was cancelled by its owner, or whose money is spent or at risk.
    """
    sums = _by_prompt(found)
    done = Counter(bill["prompt"] for bill in _standing(before, after) if bill["outcome"] == "succeeded")
    return sorted(
        f"{prompt}: {count} paid results, and rows speak of {sums[prompt].visible}"
        for prompt, count in done.items()
        if count > sums[prompt].visible
    )


def billed_twice(found: Snapshot, bills: Sequence[Bill]) -> list[str]:
    """The prompts with more bills than their requests consent to.

    Each request consents to one, and so does each resume of a generation; the policy RESUBMIT, where the request
    itself sets it, consents to one more for each submission that is resubmitted.
    """
    sums = _by_prompt(found)
    counts = Counter(bill["prompt"] for bill in bills if not bill["is_refunded"])
    return sorted(
        f"{prompt}: {count} bills, consent to {sums[prompt].consented}"
        for prompt, count in counts.items()
        if count > sums[prompt].consented
    )


def late_results_missing(found: Snapshot, bills: Sequence[Bill], now: float) -> list[str]:
    """The generations that timed out whose task succeeded a while before `now` (Unix seconds) and has no row."""
    continued = {generation.continues_id for generation in found.generations}
    done = {
        bill["task_id"] for bill in bills if bill["outcome"] == "succeeded" and bill["ready_at"] < now - LATE_SECONDS
    }
    return sorted(
        f"{generation.id} {generation.prompt}: {generation.task_id}"
        for generation in found.generations
        if generation.code == "TASK_TIMEOUT" and generation.task_id in done and generation.id not in continued
    )


def without_inputs(found: Snapshot, bills: Sequence[Bill]) -> list[str]:
    """The requests that declare input images and arrived at their vendor with fewer or more."""
    declared = {generation.prompt: generation.inputs for generation in found.generations}
    return sorted(
        f"{bill['prompt']}: {bill['inputs']} of {declared[bill['prompt']]} input images at {bill['vendor']}"
        for bill in bills
        if bill["prompt"] in declared and bill["inputs"] != declared[bill["prompt"]]
    )


def _standing(before: Sequence[Bill], after: Sequence[Bill]) -> list[Bill]:
    """The bills that stood before and still stand."""
    known = {bill["task_id"] for bill in before if not bill["is_refunded"]}
    return [bill for bill in after if bill["task_id"] in known and not bill["is_refunded"]]


def _of_sums(found: Snapshot) -> Iterator[str]:
    """The keys' sums must be what their rows come to."""
    keyed = {generation.id: generation for generation in found.generations if generation.has_key}
    submissions = [submission for submission in found.submissions if submission.generation_id in keyed]
    spent = sum(one.spent for one in keyed.values()) + sum(one.spent for one in submissions)
    for name, kept, counted in (
        ("reserved", found.reserved, sum(one.reserved for one in keyed.values())),
        ("spent", found.spent, spent),
        ("at risk", found.at_risk, sum(one.at_risk for one in submissions)),
    ):
        if kept != counted:
            yield f"{name}: the keys have {_usd(kept)}, their rows come to {_usd(counted)}"


def _of_totals(found: Snapshot, standing: Sequence[Bill], after: Sequence[Bill], moment: Moment) -> Iterator[str]:
    if found.spent > owed(after):
        yield f"spent {_usd(found.spent)}, the vendors bill {_usd(owed(after))}"
    covered = found.spent + found.at_risk + found.reserved
    if owed(standing) > covered:
        yield f"the vendors bill {_usd(owed(standing))}, spent, at risk and reserved are {_usd(covered)}"
    if moment is not Moment.RUNNING and found.reserved:
        yield f"reserved {_usd(found.reserved)}, and nothing is in flight"
    if moment is Moment.RESOLVED and found.at_risk:
        yield f"at risk {_usd(found.at_risk)}, and all submissions are resolved"
    if moment is Moment.RESOLVED and found.spent != owed(after):
        yield f"spent {_usd(found.spent)}, the vendors bill {_usd(owed(after))}, and all submissions are resolved"


def _of_prompts(found: Snapshot, standing: Sequence[Bill], after: Sequence[Bill], moment: Moment) -> Iterator[str]:
    """The same for each prompt, which is one request's alone: no request may hide behind another's reservation."""
    sums = _by_prompt(found)
    low, high = _owed_by_prompt(standing), _owed_by_prompt(after)
    for prompt in sorted({*sums, *low, *high}):
        own = sums[prompt]
        covered = own.spent + own.at_risk + own.reserved
        if own.spent > high[prompt]:
            yield f"{prompt}: spent {_usd(own.spent)}, billed {_usd(high[prompt])}"
        if low[prompt] > covered:
            yield f"{prompt}: billed {_usd(low[prompt])}, spent, at risk and reserved are {_usd(covered)}"
        if moment is Moment.RESOLVED and own.spent < high[prompt] <= covered:
            yield f"{prompt}: billed {_usd(high[prompt])}, spent {_usd(own.spent)} after it was resolved"


def _owed_by_prompt(bills: Iterable[Bill]) -> defaultdict[str, int]:
    sums: defaultdict[str, int] = defaultdict(int)
    for bill in bills:
        if not bill["is_refunded"]:
            sums[bill["prompt"]] += micros(bill["price_usd"])
    return sums


def _by_prompt(found: Snapshot) -> defaultdict[str, _Sums]:
    sums: defaultdict[str, _Sums] = defaultdict(_Sums)
    by_id = {generation.id: generation for generation in found.generations}
    attached = {one.generation_id for one in found.submissions if one.resolution == "ATTACHED"}
    for generation in found.generations:
        own = sums[generation.prompt]
        own.spent += generation.spent
        own.reserved += generation.reserved
        is_paid_before = generation.is_late or generation.is_reused or generation.continues_id in attached
        own.consented += not is_paid_before
        speaks = generation.is_live or generation.spent > 0 or generation.state in {"SUCCESS", "CANCELLED"}
        own.visible += speaks and not generation.is_reused
    for submission in found.submissions:
        generation = by_id[submission.generation_id]
        own = sums[generation.prompt]
        own.spent += submission.spent
        own.at_risk += submission.at_risk
        own.visible += submission.at_risk > 0 or submission.spent > 0
        own.consented += submission.resolution == "RESUBMITTED" and generation.may_resubmit
    return sums


def _usd(amount: int) -> str:
    return f"{amount / 1_000_000:.6f} USD"
