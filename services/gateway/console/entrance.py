"""Signing in and out, and what a browser wishes about how pages look."""

from __future__ import annotations

from aiohttp import web

from libs.common.errors import MAPPINGS, GenerationError
from services.gateway.console.guard import HOME, SIGN_IN, new_visitor, own_path
from services.gateway.console.sessions import Session
from services.gateway.console.shell import Shell, redirect
from services.gateway.console.viewer import LANGUAGE_COOKIE, LANGUAGES, THEME_COOKIE, THEMES
from services.gateway.console.visit import Form, Page

_FORM_BYTES = 64 * 1024


class Entrance:
    """Serves them.

    Args:
        shell: around its pages.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._guard = shell.guard
        self._sessions = shell.guard.sessions

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        told = self._shell.told
        return [
            web.get(SIGN_IN, told(self._show_sign_in)),
            web.post(SIGN_IN, told(self._sign_in)),
            web.post(f"{HOME}/sign-out", told(self._sign_out)),
            web.post(f"{HOME}/preferences", told(self._prefer)),
        ]

    async def _show_sign_in(self, request: web.Request) -> web.StreamResponse:
        if await self._guard.session(request) is not None:
            return redirect(own_path(request.query.get("next", "")))
        return self._sign_in_page(request, Page("sign_in.html", {"fault": "", "next": _next(request)}))

    def _sign_in_page(self, request: web.Request, page: Page) -> web.Response:
        visitor = self._guard.visitor(request) or new_visitor()
        response = self._shell.html(request, page, None, visitor)
        self._guard.remember(response, visitor)
        return response

    async def _form(self, request: web.Request, session: Session | None) -> Form:
        """Read the form of a page that needs no session."""
        cookie = session.token if session else self._guard.visitor(request)
        return await self._guard.form(request, cookie, limit_bytes=_FORM_BYTES)

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        earlier = await self._guard.session(request)
        form = await self._form(request, earlier)
        key, wanted = form.get("key", ""), form.get("next", "")
        try:
            session = await self._sessions.sign_in(str(key).strip(), request.remote or "")
        except GenerationError as error:
            values = {"fault": error.message, "next": own_path(str(wanted))}
            return self._sign_in_page(request, Page("sign_in.html", values, MAPPINGS[error.code].http_status.value))
        if earlier is not None:
            await self._sessions.end(earlier.token)
        await self._shell.note(request, session, "session.sign_in", "done")
        response = redirect(own_path(str(wanted)))
        self._guard.let_in(response, session)
        return response

    async def _sign_out(self, request: web.Request) -> web.StreamResponse:
        session = await self._guard.session(request)
        if session is not None:
            await self._guard.form(request, session.token)
            await self._sessions.end(session.token)
            await self._shell.note(request, session, "session.sign_out", "done")
        response = redirect(f"{SIGN_IN}?said=signed_out")
        self._guard.let_out(response)
        return response

    async def _prefer(self, request: web.Request) -> web.StreamResponse:
        session = await self._guard.session(request)
        form = await self._form(request, session)
        response = redirect(own_path(str(form.get("next", ""))))
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
