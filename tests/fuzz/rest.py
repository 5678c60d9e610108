"""Cases of the REST face, from the OpenAPI document that the gateway serves."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.fuzz.requests import Request, Sent, segment, sent, value_of_header
from tests.fuzz.schemas import Schemas
from tests.fuzz.values import TEXTS, Members, dump, hostile, mutated
from tests.fuzz.world import World

_CREATES = ("/api/external/generation", "/api/external/generation/batch", "/api/external/generation/estimate")


class Rest:
    """Makes them.

    Args:
        document: the OpenAPI document.
        world: what exists.
    """

    def __init__(self, document: dict[str, Any], world: World) -> None:
        self._world = world
        self._schemas = Schemas(document, world)
        self._operations = [
            (path, verb, operation) for path, verbs in document["paths"].items() for verb, operation in verbs.items()
        ]
        self._creates = [found for found in self._operations if found[0] in _CREATES and found[1] == "post"]

    def case(self, role: str, random: Random) -> Sent:
        """One."""
        path, verb, operation = random.choice(self._creates if random.random() < 0.25 else self._operations)
        query: list[tuple[str, str]] = []
        headers = self._world.credentials(role, random)
        where = path
        for parameter in operation.get("parameters", ()):
            name, schema = parameter["name"], parameter["schema"]
            if parameter["in"] == "path":
                path = path.replace(f"{{{name}}}", segment(self._scalar(name, schema, where, random)))
            elif parameter["in"] == "query" and random.random() < 0.3:
                query.append((name, self._scalar(name, schema, where, random)))
            elif parameter["in"] == "header" and random.random() < 0.2:
                headers.append((name.lower().encode(), value_of_header(random)))
        if random.random() < 0.1:
            query.append(
                (random.choice(("nope", "pageSize", "", "a[b]", "parameters[x]", *TEXTS[:5])), random.choice(TEXTS))
            )
        # Unknown paths of lists that ended with their brackets: `{id}` is a value, too.
        body = b""
        if "requestBody" in operation:
            kind, body = self._body(operation, where, random)
            headers.append((b"content-type", kind))
        if path.endswith("/upload") and random.random() < 0.7:
            query.append(("options", '{"parallel":true}'))
        return sent(Request(verb.upper().encode(), path, headers, body, query), random)

    def _scalar(self, name: str, schema: dict[str, Any], path: str, random: Random) -> str:
        if random.random() < 0.15:
            return random.choice(TEXTS)
        value = self._schemas.value(schema, random, name=name, path=path)
        return value if isinstance(value, str) else dump(value).decode(errors="replace")

    def _body(self, operation: dict[str, Any], path: str, random: Random) -> tuple[bytes, bytes]:
        kind, content = random.choice(list(operation["requestBody"]["content"].items()))
        if kind.endswith("json"):
            return kind.encode(), self._json(content["schema"], path, random)
        lines = [self._line(random) for _ in range(random.choice((0, 1, 2, 30)))]
        return kind.encode(), random.choice((b"\n", b"\r\n", b"\n\n", b"\r", b"")).join(lines)

    def _json(self, schema: dict[str, Any], path: str, random: Random) -> bytes:
        value = self._schemas.value(schema, random, path=path)
        for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
            value = mutated(value, random)
        body = dump(value)
        if random.random() < 0.1:
            return random.choice(
                (
                    b"",
                    b"\xef\xbb\xbf" + body,
                    body.decode(errors="replace").encode("utf-16"),
                    body + body,
                    body[:-1],
                    b" " * 90_000 + body,
                    body + b"\x00",
                    b"\xff" + body,
                    b"[" + body + b"]",
                )
            )
        return body

    def _line(self, random: Random) -> bytes:
        given = Members([("modelIdentifier", random.choice(self._world.values["models"])), ("prompt", "a red apple")])
        return dump(mutated(given, random)) if random.random() < 0.7 else dump(hostile(random))
