"""Error bodies in OpenAI's style, as its own API and relays send them, also with status 200."""

from __future__ import annotations

from libs.common.adapters.replies import Reply, is_out_of_credit
from libs.common.errors import ErrorCode

_CODES = {
    "content_policy_violation": ErrorCode.CONTENT_REJECTED,
    "moderation_blocked": ErrorCode.CONTENT_REJECTED,
    "invalid_api_key": ErrorCode.AUTHENTICATION_FAILED,
    "insufficient_quota": ErrorCode.QUOTA_EXCEEDED,
    "billing_hard_limit_reached": ErrorCode.QUOTA_EXCEEDED,
    "rate_limit_exceeded": ErrorCode.RATE_LIMITED,
}


def code_of(reply: Reply) -> ErrorCode | None:
    """The vendor's own code; failing that, what its words about the balance say."""
    error = reply.body.get("error") if isinstance(reply.body, dict) else None
    if reply.status < 400 and (not error or "status" in (reply.body or {})):
        # A job that has failed carries its error in a reply that is none.
        return None
    words = {str(error.get(key)) for key in ("code", "type")} if isinstance(error, dict) else set()
    for word, code in _CODES.items():
        if word in words:
            return code
    if reply.status >= 400:
        return None
    return ErrorCode.QUOTA_EXCEEDED if is_out_of_credit(reply) else ErrorCode.PROVIDER_ERROR
