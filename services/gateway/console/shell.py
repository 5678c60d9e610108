"""What is around every page and button: its frame, its errors as pages, the way to sign in, the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import structlog
from aiohttp import hdrs, web

from libs.common.database.stores.audit import AuditStore, NewAuditRecord
from libs.common.errors import MAPPINGS, ErrorCode, GenerationError
from libs.common.ids import new_id
from libs.common.rpc.context import current_request_id
from services.gateway.console import rendering
from services.gateway.console.guard import HOME, SIGN_IN, Guard, Refused, dress, is_from_elsewhere, own_path
from services.gateway.console.said import SAID
from services.gateway.console.sessions import Session
from services.gateway.console.translations import gettext as _
from services.gateway.console.visit import Gone, Page
from services.gateway.failures import BROKEN_BODY, broken_body
from services.gateway.rest.problems import http_detail

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
EVENTS = "text/event-stream"
_ADDRESS_LIMIT = 100


class Shell:
    """Around every page.

    Args:
        guard: knows who is signed in.
        audit: keeps who pressed what.
    """

    def __init__(self, guard: Guard, audit: AuditStore) -> None:
        self.guard = guard
        self._audit = audit

    def told(self, handler: Handler) -> Handler:
        """The handler, with whatever goes wrong as a page, and its answer dressed."""

        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                response = await handler(request)
            except (Refused, TimeoutError) as error:
                response = await self._fault(request, *_of_form(error))
            except GenerationError as error:
                response = await self._fault(request, MAPPINGS[error.code].http_status.value, error.message, error)
            except web.HTTPException as error:
                if error.status < 400:
                    raise
                response = await self._fault(request, error.status, http_detail(error))
            except ConnectionResetError:
                raise
            except BROKEN_BODY:
                response = await self._fault(request, 400, broken_body().message, broken_body())
            except Exception:
                log.exception("console failed")
                response = await self._fault(request, 500, _("Darkroom failed; its log says why."))
            if not response.prepared:
                dress(response)
            return response

        return serve

    async def _fault(
        self, request: web.Request, status: int, message: str, error: GenerationError | None = None
    ) -> web.Response:
        try:
            session = await self.guard.session(request)
        except GenerationError:
            # Without the database nobody is known; what is wrong is said all the same.
            session = None
        values = {
            "status": status,
            "message": message,
            "violations": error.violations if error else (),
            "is_unknown": error is not None and error.code is ErrorCode.OUTCOME_UNKNOWN,
            "may_be_repeated": error is not None and error.is_retryable,
            "request_id": current_request_id(),
        }
        return self.html(request, Page("fault.html", values, status), session)

    def html(self, request: web.Request, page: Page, session: Session | None, visitor: str = "") -> web.Response:
        """A page. `visitor`: the cookie of somebody who is not signed in."""
        values = self.values(request, page, session, visitor)
        # An error may name a field whose name is no UTF-8.
        body = rendering.page(page.template, values).encode(errors="replace")
        return web.Response(body=body, status=page.status, content_type="text/html", charset="utf-8")

    def values(self, request: web.Request, page: Page, session: Session | None, visitor: str = "") -> dict[str, Any]:
        """What a page shows, with what all of them do."""
        said = SAID.get(request.query.get("said", ""), "")
        return {
            "session": session,
            "form_token": self.guard.sessions.form_token(session.token if session else visitor),
            "path": request.path,
            "here": own_path(request.path_qs),
            "said": _(said) if said else "",
            "is_live": rendering.is_live(page.template),
            "once": "",
            **page.values,
        }

    async def note(self, request: web.Request, session: Session, action: str, outcome: str) -> None:
        """Keep who pressed what, with what outcome: done, or an error's code."""
        subject = next(iter(request.match_info.values()), "")
        record = NewAuditRecord(
            id=new_id("aud"),
            api_key_id=session.caller.key_id,
            owner=session.caller.owner,
            action=action,
            subject=subject.replace("\x00", "")[:_ADDRESS_LIMIT],
            outcome=outcome,
            address=(request.remote or "")[:_ADDRESS_LIMIT],
            request_id=current_request_id(),
        )
        log.info("console pressed", action=action, subject=record.subject, outcome=outcome, owner=record.owner)
        try:
            await self._audit.add(record)
        except GenerationError:
            # It was pressed: the log has it, and who pressed is to hear what came of it.
            log.exception("audit record not kept", action=action, subject=record.subject)

    def to_sign_in(self, request: web.Request) -> web.StreamResponse:
        """Where somebody goes who is not signed in."""
        if EVENTS in request.headers.get(hdrs.ACCEPT, ""):
            # Tells an EventSource not to ask again (HTML Living Standard, 9.2.3).
            return web.Response(status=204)
        if request.method == hdrs.METH_GET and is_from_elsewhere(request):
            values = {"here": own_path(request.path_qs)}
            text = rendering.environment().get_template("again.html").render(values)
            return web.Response(text=text, content_type="text/html", charset="utf-8")
        query = urlencode({"next": own_path(request.path_qs) if request.method == hdrs.METH_GET else HOME})
        return redirect(f"{SIGN_IN}?{query}")


def _of_form(error: Refused | TimeoutError) -> tuple[int, str]:
    """The status and the words for a form that is not taken."""
    if isinstance(error, Refused):
        return 403, _("This form is not valid any more: go back, reload the page, and try again.")
    return 408, _("The form did not arrive in time.")


def redirect(path: str) -> web.Response:
    """Go there, by GET (RFC 9110, 15.4.4)."""
    return web.Response(status=303, headers={hdrs.LOCATION: path})


def gone(done: Gone) -> web.Response:
    """Go where a button leads."""
    mark = "&" if "?" in done.path else "?"
    return redirect(f"{done.path}{mark}said={done.said}" if done.said else done.path)
