"""Reads the consent to a second payment from a request."""

from __future__ import annotations

import math

from google.protobuf.message import Message

from libs.common.database.stores.second_payment import CONSENT_FIELD
from libs.common.errors import FieldViolation, InvalidRequest


def accepted_usd(request: Message) -> float | None:
    """Return the second payment to which the caller consents, in US dollars; None: no consent.

    Args:
        request: a message with an `optional double accepted_second_payment_usd`.

    Raises InvalidRequest for a number below 0 or one that is not finite.
    """
    if not request.HasField(CONSENT_FIELD):
        return None
    given = float(getattr(request, CONSENT_FIELD))
    if not math.isfinite(given) or given < 0:
        raise InvalidRequest([FieldViolation(CONSENT_FIELD, "range", "must be a finite number, 0 or more")])
    return given
