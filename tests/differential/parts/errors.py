"""What follows from each error code, and from each HTTP status of a vendor, by the functions that serve clients."""

from __future__ import annotations

from darkroom.common.v1 import common_pb2
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo

from libs.common.adapters.http import Reply, code_of
from libs.common.adapters.replies import proves_refusal
from libs.common.errors import CALLERS_FAULTS, DATABASE_FAILURES, NOT_ANSWERED, ErrorCode, GenerationError
from libs.common.logging import level_of_end
from libs.common.rpc.errors import to_status
from services.gateway.openai.errors import refused, shape_of, shape_of_failure
from services.gateway.rest.problems import headers_of, problem
from tests.differential.recording import Part, Row, Rows, Tell

_STATUSES = (
    301,
    302,
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    410,
    413,
    415,
    422,
    425,
    429,
    451,
    500,
    501,
    502,
    503,
    504,
    529,
)
_TEXTS = ("", "You do not have enough credits", "rejected by our safety system", "该令牌额度已用尽")


def record(tell: Tell) -> Rows:
    """Record a row for each code, and one for each status and text of a vendor's reply."""
    tell(f"{len(ErrorCode)} codes, {len(_STATUSES) * len(_TEXTS)} replies of vendors")
    found = {f"code {code.value}": _of_code(code) for code in sorted(ErrorCode)}
    found |= {f"vendor answers {status} {text!r}": _of_reply(status, text) for status in _STATUSES for text in _TEXTS}
    return found


def _of_code(code: ErrorCode) -> Row:
    error = GenerationError(code, "why", {"provider": "bfl"}, retry_after_seconds=1.5)
    status, document = to_status(error), problem(error)
    info = ErrorInfo()
    status.details[0].Unpack(info)
    return {
        "grpc_status": Code.Name(status.code),
        "grpc_reason": info.reason,
        "grpc_is_retryable": info.metadata["is_retryable"],
        "grpc_details": [detail.TypeName() for detail in status.details],
        "proto_number": common_pb2.ErrorCode.Value(f"ERROR_CODE_{code.value}"),
        "http_status": document["status"],
        "http_fields": {name: type(value).__name__ for name, value in document.items()},
        "http_type": document["type"],
        "http_is_retryable": document["isRetryable"],
        "http_headers": headers_of(error),
        "openai_refused": _shape(shape_of(error)),
        "openai_refused_headers": dict(sorted(refused(error).headers.items())),
        "openai_refused_after_creation": refused(error, "gen_1").status,
        "openai_failed": _shape(shape_of_failure(code)),
        "stored_is_retryable": error.to_json()["is_retryable"],
        "caller_is_the_cause": code in CALLERS_FAULTS,
        "outcome_may_be_unknown": code in NOT_ANSWERED,
        "database_is_the_cause": code in DATABASE_FAILURES,
        "log_level_of_end": level_of_end("FAILED", code.value),
    }


def _shape(shape: tuple[int, str, str]) -> Row:
    return dict(zip(("status", "type", "code"), shape, strict=True))


def _of_reply(status: int, text: str) -> Row:
    """What a submit that is answered so becomes: its code, and whether the vendor provably billed nothing."""
    reply = Reply(status, {"error": text} if text else None, text, None, None)
    code = code_of(reply)
    return {
        "code": code.value,
        "is_retryable": GenerationError(code, text).is_retryable,
        "may_be_billed": not proves_refusal(reply, code),
    }


PART = Part("errors", record)
