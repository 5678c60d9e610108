"""The console by HTTP, as a browser sends and as an attacker does."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import aiohttp

_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')
SESSION, VISITOR = "darkroom_session", "darkroom_visitor"


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    text: str
    set_cookies: tuple[str, ...]

    @property
    def token(self) -> str:
        """What forms of this page carry."""
        found = _TOKEN.search(self.text)
        assert found is not None, self.text[:500]
        return found[1]

    @property
    def location(self) -> str:
        """Where it leads."""
        return self.headers.get("location", "")


class Visitor:
    """Somebody with cookies of their own."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self._http = url, http

    @property
    def cookies(self) -> dict[str, str]:
        """What they have."""
        return {cookie.key: cookie.value for cookie in self._http.cookie_jar}

    async def get(self, path: str, **headers: str) -> Shown:
        """Ask for a page."""
        return await self._send("GET", path, headers)

    async def post(
        self, path: str, token: str | None = None, *, headers: Mapping[str, str] | None = None, **form: str
    ) -> Shown:
        """Press a button, with a token if given."""
        given = {**form, **({"form_token": token} if token else {})}
        return await self.post_bytes(path, urlencode(given).encode(), headers=headers)

    async def post_bytes(self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> Shown:
        """Send a form as it is written."""
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return await self._send("POST", path, {**kind, **(headers or {})}, io.BytesIO(body))

    async def sign_in(self, key: str) -> str:
        """Sign in, and answer the token of this session's forms."""
        page = await self.get("/admin/sign-in")
        answer = await self.post("/admin/sign-in", page.token, key=key)
        assert answer.status == 303, answer.text[:500]
        return (await self.get("/admin/audit")).token

    async def _send(self, method: str, path: str, headers: Mapping[str, str], body: io.BytesIO | None = None) -> Shown:
        async with self._http.request(
            method, self.url + path, headers=headers, allow_redirects=False, data=body
        ) as reply:
            found = {name.lower(): value for name, value in reply.headers.items()}
            text = (await reply.read()).decode(errors="replace")
            return Shown(reply.status, found, text, tuple(reply.headers.getall("set-cookie", [])))


@asynccontextmanager
async def visitor(url: str, cookies: Mapping[str, str] | None = None) -> AsyncIterator[Visitor]:
    """One; with cookies that somebody else has had."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, cookies=cookies) as http:
        yield Visitor(url, http)
