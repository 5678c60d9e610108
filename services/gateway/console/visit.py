"""One request for a page or the press of a button, by somebody who is signed in."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from aiohttp import web
from multidict import MultiDict, MultiDictProxy

from libs.common.errors import NOT_ANSWERED, GenerationError
from libs.common.rpc.context import REQUEST_ID_KEY, current_request_id
from libs.common.rpc.credentials import AUTHORIZATION
from libs.common.rpc.errors import answer_of
from libs.common.rpc.requests import known
from services.gateway.access import Caller
from services.gateway.authentication import Authentication
from services.gateway.console.fields import Fields
from services.gateway.console.parts import Parts
from services.gateway.console.sessions import Session
from services.gateway.rest.callers import metadata_for_peer

Answer = TypeVar("Answer")
Form = MultiDictProxy[str | bytes | bytearray | web.FileField]
NO_FORM: Form = MultiDictProxy(MultiDict())


@dataclass(frozen=True, slots=True)
class Page:
    """What is to be shown."""

    template: str
    values: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Gone:
    """Where to go next.

    Attributes:
        path: of the next page.
        said: the message that it shows: one of `said.SAID`.
        outcome: for the audit log: done, or an error's code.
    """

    path: str
    said: str = ""
    outcome: str = "done"


@dataclass(frozen=True, slots=True)
class Visit:
    """Who wants what.

    Args:
        request: as it came.
        session: who is behind it.
        parts: what the page is made of.
        authentication: lets RPCs be called as whoever is signed in.
        timeout_seconds: for each of them.
        form: what was sent with a button.
    """

    request: web.Request
    session: Session
    parts: Parts
    authentication: Authentication
    timeout_seconds: float
    form: Form = field(default_factory=lambda: NO_FORM)
    _once: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def caller(self) -> Caller:
        """Who is signed in."""
        return self.session.caller

    @property
    def fields(self) -> Fields:
        """The form, read."""
        return Fields(self.form)

    def named(self, variable: str) -> str:
        """A variable of the path, as Postgres takes it."""
        return known(self.request.match_info[variable])

    def asked(self, name: str, limit: int = 200) -> str:
        """A word of the query; as if it were not there where it is too long or no text."""
        value = self.request.query.get(name, "").strip()
        return value if len(value) <= limit and "\x00" not in value else ""

    @property
    def once(self) -> str:
        """Makes a button count once, however often it is pressed: the same in a page and in its parts that are live."""
        given = self.asked("once", 64)
        return given if given.isascii() and given.isalnum() else self._once

    def idempotency_key(self, about: str) -> str:
        """The name under which a press of this page's button counts once."""
        pressed = f"{about} {self.fields.text('once')}"
        return f"console-{hashlib.sha256(pressed.encode()).hexdigest()[:32]}"

    @property
    def before(self) -> str | None:
        """Where the page of a list begins."""
        return self.asked("before", 100) or None

    async def own(self, call: Any, message: Any) -> Any:
        """Call an RPC of the gateway's own, as whoever is signed in. GenerationError as the RPC raises it."""
        with self.authentication.standing_in(self.caller) as key:
            metadata = grpc.aio.Metadata((AUTHORIZATION, f"Bearer {key}"), (REQUEST_ID_KEY, current_request_id()))
            return await answer_of(call(message, metadata=metadata, timeout=self.timeout_seconds))

    async def peer(self, call: Any, message: Any) -> Any:
        """Call an RPC of another service, in the name of whoever is signed in."""
        metadata = metadata_for_peer(self.caller)
        return await answer_of(call(message, metadata=metadata, timeout=self.timeout_seconds))


async def unless_away(answer: Awaitable[Answer]) -> Answer | None:
    """An answer, or None where whoever gives it is away: the rest of a page is shown without it."""
    try:
        return await answer
    except GenerationError as error:
        if error.code not in NOT_ANSWERED:
            raise
        return None
