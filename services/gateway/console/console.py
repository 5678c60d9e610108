"""The console's routes, and what happens around each: its guard, its language, its errors as pages, its audit."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import structlog
from aiohttp import hdrs, web

from libs.common.database.stores.audit import NewAuditRecord
from libs.common.errors import MAPPINGS, ErrorCode, GenerationError, NotFound
from libs.common.ids import new_id
from libs.common.rpc.context import current_request_id
from libs.common.settings import Settings
from services.gateway.authentication import Authentication
from services.gateway.console import rendering
from services.gateway.console.guard import (
    FILE_POLICY,
    HOME,
    SIGN_IN,
    Guard,
    Refused,
    dress,
    is_from_elsewhere,
    new_visitor,
    own_path,
)
from services.gateway.console.live import Live
from services.gateway.console.pages.table import BUTTONS, FILES, PAGES
from services.gateway.console.parts import Parts
from services.gateway.console.said import SAID
from services.gateway.console.sessions import Session, Sessions
from services.gateway.console.translations import gettext as _
from services.gateway.console.viewer import (
    LANGUAGE_COOKIE,
    LANGUAGES,
    THEME_COOKIE,
    THEMES,
)
from services.gateway.console.visit import NO_FORM, Form, Gone, Page, Visit

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_STATIC_SECONDS = 31_536_000
_EVENTS = "text/event-stream"
_ADDRESS_LIMIT = 100


class Console:
    """Serves /admin.

    Args:
        settings: bounds, and whether browsers come by TLS.
        parts: what pages are made of.
        sessions: who is signed in.
        authentication: lets RPCs be called as them.
    """

    def __init__(self, settings: Settings, parts: Parts, sessions: Sessions, authentication: Authentication) -> None:
        url = settings.console_url or ""
        is_secure = settings.gateway_tls_certificate is not None or url.startswith("https:")
        self._guard = Guard(
            sessions, is_secure=is_secure, body_seconds=settings.http_body_timeout_seconds, console_url=url
        )
        self._live = Live(
            interval_seconds=settings.console_live_seconds, send_seconds=settings.watch_write_timeout_seconds
        )
        self._sessions = sessions
        self._parts = parts
        self._authentication = authentication
        self._timeout_seconds = settings.rpc_timeout_seconds
        self._audit_days = settings.audit_days

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        pages = [web.get(f"{HOME}{path}", self._page(show)) for path, show in PAGES.items()]
        buttons = [
            web.post(f"{HOME}{path}", self._button(button.action, button.press)) for path, button in BUTTONS.items()
        ]
        files = [web.get(f"{HOME}{path}", self._file(send)) for path, send in FILES.items()]
        return [
            web.get(f"{HOME}/static/{{version}}/{{name}}", _static),
            web.get(SIGN_IN, self._told(self._show_sign_in)),
            web.post(SIGN_IN, self._told(self._sign_in)),
            web.post(f"{HOME}/sign-out", self._told(self._sign_out)),
            web.post(f"{HOME}/preferences", self._told(self._prefer)),
            *pages,
            *buttons,
            *files,
            web.route("*", f"{HOME}/{{rest:.*}}", self._page(_nowhere)),
        ]

    async def forget(self) -> bool:
        """Forget sessions that are over, and old records of the audit log. A turn of a loop."""
        await self._sessions.forget()
        return await self._parts.audit.forget(days=self._audit_days, limit=1_000)

    def _visit(self, request: web.Request, session: Session, form: Form | None = None) -> Visit:
        parts, authentication = self._parts, self._authentication
        return Visit(request, session, parts, authentication, self._timeout_seconds, NO_FORM if form is None else form)

    def _page(self, show: Callable[[Visit], Awaitable[Page | Gone]]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            session = await self._guard.session(request)
            if session is None:
                return self._to_sign_in(request)
            visit = self._visit(request, session)
            if _EVENTS in request.headers.get(hdrs.ACCEPT, ""):
                return await self._stream(visit, show)
            shown = await show(visit)
            return _gone(shown) if isinstance(shown, Gone) else self._html(request, shown, session)

        return self._told(serve)

    async def _stream(self, visit: Visit, show: Callable[[Visit], Awaitable[Page | Gone]]) -> web.StreamResponse:
        async def make() -> Page:
            self._guard.look(visit.request)
            shown = await show(visit)
            if isinstance(shown, Gone) or not rendering.is_live(shown.template):
                raise NotFound("path", "This page does not keep up by itself.")
            return Page(shown.template, self._values(visit.request, shown, visit.session))

        await make()
        return await self._live.stream(visit.request, make)

    def _button(self, action: str, press: Callable[[Visit], Awaitable[Page | Gone]]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            session = await self._guard.session(request)
            if session is None:
                return self._to_sign_in(request)
            visit = self._visit(request, session, await self._guard.form(request, session.token))
            outcome = ErrorCode.INTERNAL_ERROR.value
            try:
                done = await press(visit)
                outcome = "done" if isinstance(done, Gone) or done.status < 400 else ErrorCode.INVALID_REQUEST.value
            except GenerationError as error:
                outcome = error.code.value
                raise
            finally:
                if action:
                    await self._note(request, session, action, outcome)
            return _gone(done) if isinstance(done, Gone) else self._html(request, done, session)

        return self._told(serve)

    def _file(self, send: Callable[[Visit], Awaitable[web.StreamResponse]]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            session = await self._guard.session(request)
            if session is None:
                return self._to_sign_in(request)
            return await send(self._visit(request, session))

        return self._told(serve)

    def _told(self, handler: Handler) -> Handler:
        """The handler, with whatever goes wrong as a page, and its answer dressed."""

        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                response = await handler(request)
            except Refused:
                fault = _("This form is not valid any more: go back, reload the page, and try again.")
                response = await self._fault(request, 403, fault)
            except GenerationError as error:
                response = await self._fault(request, MAPPINGS[error.code].http_status.value, error.message, error)
            except (web.HTTPException, ConnectionResetError):
                raise
            except TimeoutError:
                response = await self._fault(request, 408, _("The form did not arrive in time."))
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
            session = await self._guard.session(request)
        except GenerationError:
            # Without the database nobody is known; what is wrong is said all the same.
            session = None
        values = {
            "status": status,
            "message": message,
            "violations": error.violations if error else (),
            "request_id": current_request_id(),
        }
        return self._html(request, Page("fault.html", values, status), session)

    def _html(self, request: web.Request, page: Page, session: Session | None, visitor: str = "") -> web.Response:
        values = self._values(request, page, session, visitor)
        return web.Response(
            text=rendering.page(page.template, values), status=page.status, content_type="text/html", charset="utf-8"
        )

    def _values(self, request: web.Request, page: Page, session: Session | None, visitor: str = "") -> dict[str, Any]:
        """What a page shows, with what all of them do."""
        said = SAID.get(request.query.get("said", ""), "")
        return {
            "session": session,
            "form_token": self._sessions.form_token(session.token if session else visitor),
            "path": request.path,
            "here": own_path(request.path_qs),
            "said": _(said) if said else "",
            "is_live": rendering.is_live(page.template),
            "once": "",
            **page.values,
        }

    async def _note(self, request: web.Request, session: Session, action: str, outcome: str) -> None:
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
            await self._parts.audit.add(record)
        except GenerationError:
            # It was pressed: the log has it, and who pressed is to hear what came of it.
            log.exception("audit record not kept", action=action, subject=record.subject)

    def _to_sign_in(self, request: web.Request) -> web.StreamResponse:
        if _EVENTS in request.headers.get(hdrs.ACCEPT, ""):
            # Tells an EventSource not to ask again (HTML Living Standard, 9.2.3).
            return web.Response(status=204)
        if request.method == hdrs.METH_GET and is_from_elsewhere(request):
            values = {"here": own_path(request.path_qs)}
            text = rendering.environment().get_template("again.html").render(values)
            return web.Response(text=text, content_type="text/html", charset="utf-8")
        query = urlencode({"next": own_path(request.path_qs) if request.method == hdrs.METH_GET else HOME})
        return _redirect(f"{SIGN_IN}?{query}")

    async def _show_sign_in(self, request: web.Request) -> web.StreamResponse:
        if await self._guard.session(request) is not None:
            return _redirect(own_path(request.query.get("next", "")))
        return self._sign_in_page(request, Page("sign_in.html", {"fault": "", "next": _next(request)}))

    def _sign_in_page(self, request: web.Request, page: Page) -> web.Response:
        visitor = self._guard.visitor(request) or new_visitor()
        response = self._html(request, page, None, visitor)
        self._guard.remember(response, visitor)
        return response

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        earlier = await self._guard.session(request)
        form = await self._guard.form(request, earlier.token if earlier else self._guard.visitor(request))
        key, wanted = form.get("key", ""), form.get("next", "")
        try:
            session = await self._sessions.sign_in(str(key).strip(), request.remote or "")
        except GenerationError as error:
            values = {"fault": error.message, "next": own_path(str(wanted))}
            return self._sign_in_page(request, Page("sign_in.html", values, MAPPINGS[error.code].http_status.value))
        if earlier is not None:
            await self._sessions.end(earlier.token)
        await self._note(request, session, "session.sign_in", "done")
        response = _redirect(own_path(str(wanted)))
        self._guard.let_in(response, session)
        return response

    async def _sign_out(self, request: web.Request) -> web.StreamResponse:
        session = await self._guard.session(request)
        if session is not None:
            await self._guard.form(request, session.token)
            await self._sessions.end(session.token)
            await self._note(request, session, "session.sign_out", "done")
        response = _redirect(f"{SIGN_IN}?said=signed_out")
        self._guard.let_out(response)
        return response

    async def _prefer(self, request: web.Request) -> web.StreamResponse:
        session = await self._guard.session(request)
        form = await self._guard.form(request, session.token if session else self._guard.visitor(request))
        here = str(form.get("next", ""))
        response = _redirect(
            here if here.split("?", maxsplit=1)[0] == SIGN_IN and here.isprintable() else own_path(here)
        )
        for name, cookie, known in (
            ("language", LANGUAGE_COOKIE, LANGUAGES),
            ("theme", THEME_COOKIE, THEMES),
        ):
            wanted = str(form.get(name, ""))
            if wanted in known:
                self._guard.keep(response, cookie, wanted)
        return response


def _next(request: web.Request) -> str:
    return own_path(request.query.get("next", ""))


def _redirect(path: str) -> web.Response:
    return web.Response(status=303, headers={hdrs.LOCATION: path})


def _gone(done: Gone) -> web.Response:
    mark = "&" if "?" in done.path else "?"
    return _redirect(f"{done.path}{mark}said={done.said}" if done.said else done.path)


async def _nowhere(visit: Visit) -> Page | Gone:
    if visit.request.path == f"{HOME}/":
        return Gone(HOME)
    raise NotFound("path", _("There is no such page."))


async def _static(request: web.Request) -> web.StreamResponse:
    path = rendering.STATIC / request.match_info["name"]
    if path.parent != rendering.STATIC or not path.is_file():
        raise web.HTTPNotFound
    response = web.Response(
        body=path.read_bytes(),
        content_type=mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        charset="utf-8",
        headers={hdrs.CACHE_CONTROL: f"public, max-age={_STATIC_SECONDS}, immutable"},
    )
    dress(response, FILE_POLICY)
    return response
