"""What stands before every page and button: who is signed in, whether a form is ours, and what a browser may do."""

from __future__ import annotations

import asyncio
from collections import Counter
from urllib.parse import SplitResult, quote, urlsplit

import structlog
from aiohttp import hdrs, web

from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest
from services.gateway.console.sessions import Session, Sessions, new_token
from services.gateway.console.viewer import look_as, viewer_of
from services.gateway.console.visit import Form
from services.gateway.failures import BROKEN_FORM
from services.gateway.holding import hold
from services.gateway.posted import posted

log = structlog.get_logger()
HOME = "/admin"
SIGN_IN = "/admin/sign-in"
FORM_FIELD = "form_token"
_PATH_LIMIT = 1_000
_FIELDS_LIMIT = 500
# A box for each row that may be chosen.
_REPEATED_FIELDS = frozenset({"ids"})
_YEAR_SECONDS = 31_536_000
# All that pages need comes from here, and nobody may put them into a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
_HEADERS = {
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Refused(Exception):
    """A form that is not ours, or that nobody signed in has sent."""


class Guard:
    """Knows visitors by their cookies.

    Args:
        sessions: who is signed in.
        is_secure: whether browsers come by TLS, so that cookies must not go any other way.
        body_seconds: what a browser gets for the body of a form.
        console_url: where browsers reach the console, should a proxy change what they say; empty: as they say.
    """

    def __init__(self, sessions: Sessions, *, is_secure: bool, body_seconds: float, console_url: str = "") -> None:
        self.sessions = sessions
        self.is_secure = is_secure
        self._host = urlsplit(console_url).netloc
        self._body_seconds = body_seconds
        # A name that browsers take with Secure, this host and its root alone (RFC 6265bis, 4.1.3.2).
        prefix = "__Host-" if is_secure else ""
        self._session_cookie = f"{prefix}darkroom_session"
        self._visitor_cookie = f"{prefix}darkroom_visitor"

    async def session(self, request: web.Request) -> Session | None:
        """Who is signed in; from here on it is written for them. Raises as `hold`."""
        self.look(request)
        session = await self.sessions.find(request.cookies.get(self._session_cookie, ""))
        if session is not None:
            hold(request, session.caller)
        return session

    @staticmethod
    def look(request: web.Request) -> None:
        """Write for whoever has sent this, as of now."""
        look_as(viewer_of(request.cookies, request.headers.get(hdrs.ACCEPT_LANGUAGE, "")))

    def visitor(self, request: web.Request) -> str:
        """What tells a browser apart that is not signed in; empty for a new one."""
        return request.cookies.get(self._visitor_cookie, "")[:100]

    async def form(self, request: web.Request, cookie: str, *, limit_bytes: int | None = None) -> Form:
        """Read the form of a request.

        Args:
            request: has the form.
            cookie: the value of the cookie of the browser to which the form was shown.
            limit_bytes: the largest size of the form. None: the limit of all bodies.

        Raises Refused for a form that is not from a page of the console shown to this browser.
        """
        if not self._is_same_site(request):
            raise Refused
        async with asyncio.timeout(self._body_seconds):
            try:
                form = await posted(request, limit_bytes=limit_bytes)
            except BROKEN_FORM as error:
                raise InvalidRequest([FieldViolation("body", "form", "cannot be read as a form")]) from error
        given = form.get(FORM_FIELD, "")
        if not isinstance(given, str) or not given.isascii() or not self.sessions.is_form_token(given, cookie):
            raise Refused
        if len(form) > _FIELDS_LIMIT:
            raise GenerationError(ErrorCode.INVALID_REQUEST, f"A form has at most {_FIELDS_LIMIT} fields.")
        given_names = Counter(name for name, _ in form.items())
        twice = [name for name, number in given_names.items() if number > 1 and name not in _REPEATED_FIELDS]
        if twice:
            raise InvalidRequest([FieldViolation(name[:200], "twice", "given twice") for name in twice])
        return form

    def let_in(self, response: web.StreamResponse, session: Session) -> None:
        """Hand out the cookie of a session."""
        self._set(response, self._session_cookie, session.token, self.sessions.seconds)

    def let_out(self, response: web.StreamResponse) -> None:
        """Take the cookie back."""
        response.del_cookie(self._session_cookie, path=self._path, secure=self.is_secure, httponly=True)

    def remember(self, response: web.StreamResponse, visitor: str) -> None:
        """Tell a browser apart from now on."""
        self._set(response, self._visitor_cookie, visitor, 86_400)

    def keep(self, response: web.StreamResponse, name: str, value: str) -> None:
        """Keep a wish about how pages look."""
        response.set_cookie(
            name, value, path=HOME, max_age=_YEAR_SECONDS, samesite="Strict", secure=self.is_secure, httponly=True
        )

    def _is_same_site(self, request: web.Request) -> bool:
        """What browsers say of who sent a form (Fetch Metadata, and Origin)."""
        if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            return False
        origin = request.headers.get(hdrs.ORIGIN)
        return origin is None or _host_in(origin) in {request.host, self._host or request.host}

    @property
    def _path(self) -> str:
        return "/" if self.is_secure else HOME

    def _set(self, response: web.StreamResponse, name: str, value: str, seconds: float) -> None:
        response.set_cookie(
            name,
            value,
            path=self._path,
            max_age=int(seconds),
            secure=self.is_secure,
            httponly=True,
            samesite="Strict",
        )


def new_visitor() -> str:
    """A cookie for a browser that is not signed in."""
    return new_token()


def dress(response: web.StreamResponse, policy: str = POLICY) -> None:
    """Tell a browser what it may do with an answer."""
    for name, value in headers_of(policy).items():
        response.headers.setdefault(name, value)


def headers_of(policy: str) -> dict[str, str]:
    """What tells a browser what it may do with an answer."""
    return {"content-security-policy": policy, **_HEADERS}


def own_path(text: str) -> str:
    """A path of the console's own; the overview's for anything else, so that nobody is led away from here."""
    parts = _parts_of(text) if len(text) <= _PATH_LIMIT and text.isprintable() else None
    if parts is None or parts.scheme or parts.netloc or "\\" in text or "//" in parts.path:
        return HOME
    if parts.path != HOME and not parts.path.startswith(f"{HOME}/"):
        return HOME
    if ".." in parts.path.split("/") or parts.path in {SIGN_IN, f"{HOME}/sign-out"}:
        return HOME
    query = f"?{parts.query}" if parts.query else ""
    return quote(parts.path, safe="/-._~%") + quote(query, safe="?=&-._~%+:,@!*'()/;$[]")


def _parts_of(url: str) -> SplitResult | None:
    """The parts of a URL; None for what cannot be one, such as an open bracket in place of a host."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _host_in(origin: str) -> str:
    parts = _parts_of(origin)
    return parts.netloc if parts is not None else ""


def is_from_elsewhere(request: web.Request) -> bool:
    """Whether another site led here: then the session's cookie stayed away, and the browser is to ask once more."""
    return request.headers.get("sec-fetch-site") == "cross-site" and request.headers.get("sec-fetch-mode") == "navigate"
