"""What goes with a call over HTTP when it becomes an RPC: the key, the request id, the idempotency key."""

from __future__ import annotations

import grpc
from aiohttp import web

from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.rpc.context import IDEMPOTENCY_KEY_HEADER, REQUEST_ID_KEY, current_request_id
from libs.common.rpc.credentials import ACTOR_KEY, AUTHORIZATION
from services.gateway.access import Caller
from services.gateway.authentication import Authentication, key_in
from services.gateway.holding import hold

_KEY_LIMIT = 200


def key_of(request: web.Request) -> str:
    """The API key that came with a request; empty where none did."""
    return key_in({name.lower(): value for name, value in request.headers.items()})


async def caller_of(request: web.Request, authentication: Authentication) -> Caller:
    """Who sends a request, which counts as theirs from now on.

    Raises GenerationError as `Authentication.caller`, and RATE_LIMITED where they have too many in progress.
    """
    caller = await authentication.caller(key_of(request), request.remote or "")
    hold(request, caller)
    return caller


def metadata_for_peer(caller: Caller) -> grpc.aio.Metadata:
    """The metadata of an RPC that is passed on to another service: who is behind it, and never their key."""
    who = f"{caller.owner} ({caller.key_id})".encode("ascii", "replace").decode()
    return grpc.aio.Metadata((ACTOR_KEY, who), (REQUEST_ID_KEY, current_request_id()))


def metadata_of_request(request: web.Request, key: str) -> grpc.aio.Metadata:
    """The RPC's metadata.

    InvalidRequest for an idempotency key that no metadata can carry: left out in silence, it would be paid for twice.
    """
    metadata = grpc.aio.Metadata((AUTHORIZATION, f"Bearer {key}"), (REQUEST_ID_KEY, current_request_id()))
    given = request.headers.get(IDEMPOTENCY_KEY_HEADER, "").strip()
    if not given:
        return metadata
    if len(given) > _KEY_LIMIT or not given.isascii() or not given.isprintable():
        fault = f"must have at most {_KEY_LIMIT} printable ASCII characters; others may come in the body"
        raise InvalidRequest([FieldViolation("Idempotency-Key", "format", fault)])
    metadata.add(IDEMPOTENCY_KEY_HEADER, given)
    return metadata
