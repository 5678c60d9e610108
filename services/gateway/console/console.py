"""The console's routes: pages, parts of them that keep up, buttons, files."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.rpc.deadlines import GRACE_SECONDS
from libs.common.settings import Settings
from services.gateway.authentication import Authentication
from services.gateway.console import rendering
from services.gateway.console.entrance import Entrance
from services.gateway.console.guard import FILE_POLICY, HOME, Guard, dress
from services.gateway.console.live import Live
from services.gateway.console.pages.table import BUTTONS, FILES, PAGES
from services.gateway.console.parts import Parts
from services.gateway.console.sessions import Session, Sessions
from services.gateway.console.shell import EVENTS, Handler, Shell, gone
from services.gateway.console.translations import gettext as _
from services.gateway.console.visit import NO_FORM, Form, Gone, Page, Visit
from services.gateway.holding import end_with_key

_STATIC_SECONDS = 31_536_000


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
        self._shell = Shell(self._guard, parts.audit)
        self._live = Live(
            interval_seconds=settings.console_live_seconds,
            send_seconds=settings.watch_write_timeout_seconds,
            is_stopping=parts.is_stopping,
        )
        self._sessions = sessions
        self._parts = parts
        self._authentication = authentication
        self._timeout_seconds = settings.rpc_timeout_seconds + GRACE_SECONDS
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
            *Entrance(self._shell).routes(),
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
                return self._shell.to_sign_in(request)
            visit = self._visit(request, session)
            if EVENTS in request.headers.get(hdrs.ACCEPT, ""):
                return await self._stream(visit, show)
            shown = await show(visit)
            return gone(shown) if isinstance(shown, Gone) else self._shell.html(request, shown, session)

        return self._shell.told(serve)

    async def _stream(self, visit: Visit, show: Callable[[Visit], Awaitable[Page | Gone]]) -> web.StreamResponse:
        async def make() -> Page:
            self._guard.look(visit.request)
            shown = await show(visit)
            if isinstance(shown, Gone) or not rendering.is_live(shown.template):
                raise NotFound("path", "This page does not keep up by itself.")
            return Page(shown.template, self._shell.values(visit.request, shown, visit.session))

        await make()
        end_with_key(visit.request, visit.caller)
        return await self._live.stream(visit.request, visit.caller, make)

    def _button(self, action: str, press: Callable[[Visit], Awaitable[Page | Gone]]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            session = await self._guard.session(request)
            if session is None:
                return self._shell.to_sign_in(request)
            visit = self._visit(request, session, await self._guard.form(request, session.token))
            outcome = ErrorCode.INTERNAL_ERROR.value
            try:
                done = await press(visit)
                outcome = _outcome(done)
            except GenerationError as error:
                outcome = error.code.value
                raise
            finally:
                if action:
                    await self._shell.note(request, session, action, outcome)
            return gone(done) if isinstance(done, Gone) else self._shell.html(request, done, session)

        return self._shell.told(serve)

    def _file(self, send: Callable[[Visit], Awaitable[web.StreamResponse]]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            session = await self._guard.session(request)
            if session is None:
                return self._shell.to_sign_in(request)
            end_with_key(request, session.caller)
            return await send(self._visit(request, session))

        return self._shell.told(serve)


def _outcome(done: Page | Gone) -> str:
    """Return what the audit log says of a button that raised nothing."""
    if isinstance(done, Gone):
        return done.outcome
    return "done" if done.status < 400 else ErrorCode.INVALID_REQUEST.value


async def _nowhere(visit: Visit) -> Page | Gone:
    if visit.request.path == f"{HOME}/":
        return Gone(HOME)
    raise NotFound("path", _("There is no such page."))


async def _static(request: web.Request) -> web.StreamResponse:
    path = rendering.STATIC / request.match_info["name"]
    # Asked of the folder, for a name may be one that no file can have.
    if path not in rendering.STATIC.iterdir() or not path.is_file():
        raise web.HTTPNotFound
    response = web.Response(
        body=path.read_bytes(),
        content_type=mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        charset="utf-8",
        headers={hdrs.CACHE_CONTROL: f"public, max-age={_STATIC_SECONDS}, immutable"},
    )
    dress(response, FILE_POLICY)
    return response
