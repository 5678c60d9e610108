"""Values that a JSON Schema of the OpenAPI document describes."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.fuzz.values import NUMBERS, TEXTS, Members
from tests.fuzz.world import World

_DEPTH_LIMIT = 5


class Schemas:
    """Makes them.

    Args:
        document: the OpenAPI document, for its components.
        world: what exists.
    """

    def __init__(self, document: dict[str, Any], world: World) -> None:
        self._components = document["components"]["schemas"]
        self._world = world

    def value(self, schema: dict[str, Any], random: Random, *, name: str = "", path: str = "", depth: int = 0) -> Any:
        """A value that the schema takes, mostly; what rules between fields ask for is left to chance."""
        schema = self._resolved(schema, random)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return random.choice(schema["enum"])
        kind = schema.get("type")
        kind = random.choice(kind) if isinstance(kind, list) else kind
        if kind == "object":
            return self._object(schema, random, path, depth)
        if kind == "array":
            count = 0 if depth > _DEPTH_LIMIT else random.choice((0, 1, 1, 2, 3))
            items = schema.get("items", {})
            return [self.value(items, random, name=name, path=path, depth=depth + 1) for _ in range(count)]
        if kind in {"integer", "number"}:
            return self._number(schema, random, whole=kind == "integer")
        if kind == "boolean":
            return random.random() < 0.5
        return self._text(schema, random, name, path)

    def _resolved(self, schema: dict[str, Any], random: Random) -> dict[str, Any]:
        while True:
            if "$ref" in schema:
                schema = self._components[schema["$ref"].rpartition("/")[2]]
            elif options := schema.get("oneOf") or schema.get("anyOf"):
                schema = random.choice(options)
            elif "allOf" in schema:
                schema = schema["allOf"][0]
            else:
                return schema

    def _object(self, schema: dict[str, Any], random: Random, path: str, depth: int) -> Members:
        required = set(schema.get("required", ()))
        found = Members()
        for name, of in schema.get("properties", {}).items():
            if name in required or (depth <= _DEPTH_LIMIT and random.random() < 0.25):
                found.append((name, self.value(of, random, name=name, path=path, depth=depth + 1)))
        more = schema.get("additionalProperties")
        if more and depth <= _DEPTH_LIMIT and random.random() < 0.4:
            of = more if isinstance(more, dict) else {"type": random.choice(("string", "number", "boolean"))}
            name = random.choice(("size_or_ratio", "seed", "quality", "duration", "mode", "label", "variant_0", "a"))
            found.append((name, self.value(of, random, name=name, path=path, depth=depth + 1)))
        return found

    def _number(self, schema: dict[str, Any], random: Random, *, whole: bool) -> Any:
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 10))
        if random.random() < 0.1:
            return random.choice((low, high, low - 1, high + 1, random.choice(NUMBERS)))
        return random.randint(int(low), int(max(low, high))) if whole else random.uniform(low, high)

    def _text(self, schema: dict[str, Any], random: Random, name: str, path: str) -> str:
        if random.random() < 0.1:
            return random.choice(TEXTS)
        known = self._world.named(name, random, path)
        if known is not None:
            return known
        if schema.get("format") == "date-time":
            return random.choice(
                ("2026-11-29T12:00:00Z", "2030-01-01T00:00:00.123456789+08:00", "1970-01-01T00:00:00Z")
            )
        if schema.get("format") in {"int64", "uint64"}:
            return str(random.choice((0, 1, 1_000_000, 2**63 - 1)))
        if schema.get("format") == "duration" or name.endswith("Duration"):
            return f"{random.randrange(100)}s"
        return random.choice(("1:1", "16:9", "fuzz", "a", "1024x1024", "standard", "zh"))
