"""Consent to a second payment, which submitting again requires while an earlier submission may be billed.

A submission is an open payment while it is uncertain and unresolved, while its money is at risk, and after that money
was counted as spent, since it is unknown whether the submission was billed. Resume, resubmit and rerun create a
generation from an old one. Each reads the open payments in its transaction, with the old generation locked, and is
refused if the caller has not accepted the price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.engine import Connection

from libs.common.database.stores.sets import records, statement
from libs.common.errors import ErrorCode, FieldViolation, GenerationError

CONSENT_FIELD: Final = "accepted_second_payment_usd"
IS_OPEN_PAYMENT: Final = (
    "(s.state = 'UNCERTAIN' AND s.resolved_at IS NULL OR s.at_risk_usd > 0 "
    "OR s.billing IS NOT NULL AND s.billing = 'COUNTED')"
)
"""SQL: whether the submission `s` may be billed, or may have been."""
SUBMISSIONS_OF: Final = """s.generation_id = ANY(ARRAY(
    WITH RECURSIVE family AS (
        SELECT g.id, g.continues_id, g.rerun_of_id
        UNION
        SELECT other.id, other.continues_id, other.rerun_of_id FROM family CROSS JOIN LATERAL (
            SELECT id, continues_id, rerun_of_id FROM generation_requests
            WHERE id IN (family.continues_id, family.rerun_of_id)
            UNION ALL
            SELECT id, continues_id, rerun_of_id FROM generation_requests WHERE continues_id = family.id
            UNION ALL
            SELECT id, continues_id, rerun_of_id FROM generation_requests WHERE rerun_of_id = family.id) other
    ) SELECT DISTINCT unnest(ARRAY[id, continues_id, rerun_of_id]) FROM family))"""
"""SQL: whether the submission `s` is for the request of the generation `g`: its own, one of what that was made from, or
one of what else was made from that, by however many steps."""
PRICE_USD: Final = "GREATEST(CAST(g.reserved_usd AS float), g.expected_cost_usd)"
"""SQL: the most that submitting the generation `g` again costs by the catalog, in US dollars."""
LISTED_SUBMISSIONS = 5
"""The number of submissions in a refusal, which must fit into 8 KiB of gRPC trailers."""
# Prices are shown to the micro-dollar; consent to the shown price is sufficient.
_TOLERANCE_USD = 0.51e-6

_READ = statement(f"""
SELECT s.id AS submission_id, s.generation_id, s.provider_id, s.state, s.started_at,
    CAST(s.at_risk_usd AS float) AS at_risk_usd
FROM generation_requests g JOIN submissions s ON {SUBMISSIONS_OF}
WHERE g.id = ANY(:generation_ids) AND {IS_OPEN_PAYMENT} AND s.id <> :not_billed_id
ORDER BY s.id LIMIT :limit""")


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """A submission that may be billed, or may have been. `at_risk_usd`: its money at risk, in US dollars."""

    submission_id: str
    generation_id: str
    provider_id: str
    state: str
    started_at: datetime
    at_risk_usd: float


def open_payments(
    connection: Connection, generation_ids: Sequence[str], *, not_billed_id: str = "", limit: int = LISTED_SUBMISSIONS
) -> list[OpenPayment]:
    """Read the open payments of generations, the oldest first.

    Args:
        connection: of the transaction that will make the new generation; lock the old one before.
        generation_ids: whose submissions are read.
        not_billed_id: a submission that the caller knows was not billed; it is left out.
        limit: how many are read at most.
    """
    parameters = {"generation_ids": list(generation_ids), "not_billed_id": not_billed_id, "limit": limit}
    return records(OpenPayment, connection.execute(_READ, parameters))


def check_consent(payments: Sequence[OpenPayment], price_usd: float, accepted_usd: float | None) -> None:
    """Refuse a second payment that was not accepted.

    Args:
        payments: the open payments; without any, nothing is refused.
        price_usd: the most that the second payment costs, in US dollars.
        accepted_usd: the payment to which the caller consents, in US dollars. None: no consent.

    Raises GenerationError INVALID_REQUEST at `accepted_second_payment_usd`; message and details name the price.
    """
    if payments and not is_accepted(price_usd, accepted_usd):
        raise refusal(payments, price_usd, accepted_usd)


def refusal(payments: Sequence[OpenPayment], price_usd: float, accepted_usd: float | None) -> GenerationError:
    """Return the error of a second payment that was not accepted. Arguments as for `check_consent`.

    Without open payments the first payment is known: its late result is stored by another generation.
    """
    price = written_usd(price_usd)
    described = f"must be at least {price}: the price of a second payment"
    listed = [
        {
            "submission_id": payment.submission_id,
            "generation_id": payment.generation_id,
            "provider": payment.provider_id,
            "state": payment.state,
            "started_at": payment.started_at.isoformat(),
            "at_risk_usd": payment.at_risk_usd,
        }
        for payment in payments[:LISTED_SUBMISSIONS]
    ]
    why = "Its result came late and is stored by another generation; submitting again costs a second time. "
    if payments:
        first = payments[0]
        why = (
            f"Submission {first.submission_id} to {first.provider_id} may have been accepted and billed; submitting "
            f"again may cost {price} a second time. Resolve the submission with ResolveSubmission, or accept "
            "it. "
        )
    return GenerationError(
        ErrorCode.INVALID_REQUEST,
        f"{CONSENT_FIELD}: {described}. {why}Accept the second payment with {CONSENT_FIELD}={price_usd:.6f}.",
        {
            "fields": [CONSENT_FIELD],
            "price_usd": round(price_usd, 6),
            "accepted_usd": accepted_usd,
            "submissions": listed,
        },
        violations=[FieldViolation(CONSENT_FIELD, "second_payment", described)],
    )


def is_accepted(price_usd: float, accepted_usd: float | None) -> bool:
    """Whether the caller accepts at least the price, in US dollars. NaN and None accept nothing."""
    return accepted_usd is not None and accepted_usd >= price_usd - _TOLERANCE_USD


def written_usd(amount_usd: float) -> str:
    """An amount for people, in US dollars, to the micro-dollar and at least to the cent."""
    whole, _, fraction = f"{amount_usd:.6f}".partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"
