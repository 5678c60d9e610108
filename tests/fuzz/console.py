"""Cases of the console: every page, button and file, with the fields that its own forms have."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from random import Random

from services.gateway.console.pages.table import BUTTONS, FILES, PAGES
from tests.fuzz.forms import Field, multipart, urlencoded
from tests.fuzz.requests import Headers, Request, Sent, segment, sent, value_of_header
from tests.fuzz.values import TEXTS, hostile
from tests.fuzz.world import World

HOME = "/admin"
_VARIABLE = re.compile(r"\{(\w+)\}")
_COOKIES = (
    b"darkroom_session=",
    b"darkroom_session=x",
    b"darkroom_session=%ff",
    b'darkroom_session="',
    b"darkroom_theme=dark; darkroom_language=zh",
    b"=",
    b"a=b; " * 900,
    b"\xff=\xfe",
)
_SITES = (
    (b"origin", b"https://evil.example"),
    (b"origin", b"null"),
    (b"origin", b"http://["),
    (b"sec-fetch-site", b"cross-site"),
    (b"referer", b"\xff"),
    (b"origin", b"http://fuzz"),
)


class _Names(HTMLParser):
    """The names of fields in forms, and of parameters in links."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: set[str] = set()
        self.parameters: set[str] = set()
        self.values: dict[str, set[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names."""
        given = dict(attrs)
        name = given.get("name")
        if tag in {"input", "select", "textarea", "button"} and name:
            self.fields.add(name)
            if value := given.get("value"):
                self.values.setdefault(name, set()).add(value)
        for found in re.findall(r"[?&](\w+)=", given.get("href") or ""):
            self.parameters.add(found)


class Console:
    """Makes them.

    Args:
        world: what exists.
        pages: the HTML of the console's pages, for the names of their fields.
        cookies: the session's and the visitor's cookie by role.
        tokens: the tokens of forms by role.
    """

    def __init__(self, world: World, pages: list[str], cookies: dict[str, bytes], tokens: dict[str, str]) -> None:
        self._world, self._cookies, self._tokens = world, cookies, tokens
        names = _Names()
        for page in pages:
            names.feed(page)
        # Fields in the order of their names, so that a seed makes the same cases again.
        self.fields = sorted(names.fields | {"key", "next", "model", "prompt", "parameters", "owner"} - {"form_token"})
        self.parameters = sorted(names.parameters | names.fields | {"said", "page", "next"})
        self._values = {name: sorted(values) for name, values in names.values.items() if name != "form_token"}

    def case(self, role: str, random: Random) -> Sent:
        """One."""
        headers = self._identity(role, random)
        if random.random() < 0.15:
            headers.append(random.choice(_SITES))
        if random.random() < 0.45:
            path = self._path(
                random.choice((*PAGES, *FILES, "/sign-in", "/static/x/" + segment(random.choice(TEXTS)), "/nope")),
                random,
            )
            query = [
                (random.choice(self.parameters), self._value("", random)) for _ in range(random.choice((0, 0, 1, 2, 5)))
            ]
            if random.random() < 0.1:
                headers.append((b"accept", b"text/event-stream"))
            return sent(Request(b"GET", path, headers, b"", query), random)
        where = random.choice((*BUTTONS, "/sign-in", "/sign-out", "/preferences"))
        fields = self._form(where, role, random)
        kind, body = multipart(fields, random) if random.random() < 0.3 else urlencoded(fields, random)
        headers.append((b"content-type", kind))
        return sent(Request(b"POST", self._path(where, random), headers, body), random)

    def _identity(self, role: str, random: Random) -> Headers:
        if random.random() < 0.1:
            return [(b"cookie", random.choice((*_COOKIES, value_of_header(random))))]
        if role in self._cookies:
            return [(b"cookie", self._cookies[role])]
        # Keys open no page of the console.
        return self._world.credentials(role, random)

    def _path(self, path: str, random: Random) -> str:
        for name in _VARIABLE.findall(path):
            known = self._world.named(name, random, path)
            text = (
                known
                if known and random.random() < 0.7
                else random.choice(("0", "1", "-1", "99999999999999999999", *TEXTS))
            )
            path = path.replace(f"{{{name}}}", segment(text))
        return HOME + path

    def _form(self, where: str, role: str, random: Random) -> list[Field]:
        names = random.sample(self.fields, random.randrange(min(12, len(self.fields))))
        found: list[Field] = [(name, self._value(name, random).encode(errors="replace"), None) for name in names]
        # The session is needed to the end.
        token = (
            self._tokens.get(role, self._tokens["nobody"])
            if random.random() < 0.8 and where != "/sign-out"
            else random.choice(TEXTS)
        )
        if where == "/sign-in" and role in self._world.keys and role != "admin":
            found.append(("key", self._world.keys[role].encode(), None))
        return [*found, ("form_token", token.encode(errors="replace"), None)]

    def _value(self, name: str, random: Random) -> str:
        if random.random() < 0.5:
            known = self._values.get(name)
            if known:
                return random.choice(known)
            if (found := self._world.named(name, random)) is not None:
                return found
        value = hostile(random)
        return value if isinstance(value, str) else str(value)[:20_000]
