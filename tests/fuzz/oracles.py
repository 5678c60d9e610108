"""What no answer may be, by face."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from tests.fuzz.requests import Sent
from tests.fuzz.wire import Answer

# What the documentation defines beside 4xx: docs/api.md, "Errors"; PROVIDER_UNAVAILABLE: an image that the caller named
# cannot be fetched.
DEFINED = {"SERVICE_UNAVAILABLE": 503, "PROVIDER_UNAVAILABLE": 503, "OUTCOME_UNKNOWN": 504, "DEADLINE_EXCEEDED": 504}
_LEAKS = re.compile(
    rb"(?i)traceback \(most|python/\d|aiohttp|psycopg|sqlalchemy|site-packages|\.py\", line|stream removed|concurrent rpc limit"
    rb"|grpc[._](status|aio|core)|rpc error|\bselect\b[^<>]{1,200}\bfrom\b|insert into|asyncio\.|object at 0x[0-9a-f]{6}|Deadline Exceeded"
)
_PROBLEM = {"type", "title", "status", "detail", "code", "isRetryable", "requestId", "details", "violations"}
_OPENAI = {"message", "type", "param", "code"}


def faults_of(face: str, sent: Sent, answer: Answer) -> list[str]:
    """Return what is wrong with an answer, in words."""
    if answer.status == -1:
        return [] if not sent.must_answer and answer.fault.startswith("no whole") else [answer.fault]
    if answer.status == 0:
        return ["closed without an answer"] if sent.must_answer and not sent.is_odd else []
    found = (
        [f"tells what runs: server: {server}"]
        if re.search("(?i)python|aio", server := answer.headers.get("server", ""))
        else []
    )
    if answer.status < 400:
        return found
    body = _unpacked(answer)
    if (leak := _LEAKS.search(body)) is not None and leak[0] not in sent.raw:
        found.append(f"leaks {leak[0][:100]!r}")
    if answer.status >= 500 and not _is_defined(answer.status, body):
        found.append(f"status {answer.status}")
    if sent.method != b"HEAD":
        fault = _shape_fault(face, sent, answer, body)
        found += [fault] if fault else []
    return found


def _unpacked(answer: Answer) -> bytes:
    packing = answer.headers.get("content-encoding", "")
    if packing in {"gzip", "deflate"}:
        return zlib.decompressobj(wbits=47 if packing == "gzip" else 15).decompress(answer.body)
    return answer.body


def _is_defined(status: int, body: bytes) -> bool:
    document = _json(body)
    if not isinstance(document, dict):
        return False
    error = document.get("error")
    code = str(error.get("code")).upper() if isinstance(error, dict) else document.get("code")
    return DEFINED.get(str(code)) == status or document.get("status") == "unhealthy"


def _shape_fault(face: str, sent: Sent, answer: Answer, body: bytes) -> str:
    kind = answer.headers.get("content-type", "")
    if kind.startswith("application/problem+json"):
        fault = _problem_fault(answer, body)
        return fault or (
            ""
            if face in {"rest", "webhooks"} or sent.is_odd or _has_no_face(face, sent, body)
            else f"a problem: {_detail(body)}"
        )
    if face == "rest":
        is_health = kind.startswith("application/json")
        return "" if sent.is_odd or is_health else f"no problem document: {kind}"
    if face == "openai":
        error = (_json(body) or {}).get("error")
        return (
            ""
            if sent.is_odd or (isinstance(error, dict) and set(error) >= _OPENAI)
            else f"no error of OpenAI's: {kind}"
        )
    if face == "webhooks":
        return f"no problem document: {kind}"
    return "" if kind.startswith("text/html") or sent.is_odd else f"no page: {kind}"


def _has_no_face(face: str, sent: Sent, body: bytes) -> bool:
    """Whether a request was refused before there was a path, or before anybody looked at the path."""
    if face == "console" and b" /admin/static/" in sent.raw[:200]:
        return True
    detail = _detail(body)
    return face != "openai" and (" must be ASCII" in detail or detail == "The request is not valid HTTP.")


def _detail(body: bytes) -> str:
    document = _json(body)
    return str(document.get("detail")) if isinstance(document, dict) else ""


def _problem_fault(answer: Answer, body: bytes) -> str:
    document = _json(body)
    if not isinstance(document, dict) or set(document) < _PROBLEM:
        return f"no problem document: {body[:200]!r}"
    if document["status"] != answer.status:
        return f"the document's status is {document['status']}"
    if document["requestId"] != answer.headers.get("x-request-id"):
        return f"the document's request id is not that of the header: {document['requestId']!r}"
    return ""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def is_refusal(answer: Answer) -> bool:
    """Whether an answer says for sure that nothing was created."""
    return answer.status >= 400 and answer.status not in {424, 504} and "x-darkroom-generation-id" not in answer.headers
