"""JSON that no library would write, and the values that break parsers, bounds and stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any


class Members(list[tuple[str, Any]]):
    """The members of an object, in order; a name may come twice."""


class Raw(bytes):
    """A value that is written as these bytes."""


TEXTS = (
    "", " ", "\x00", "a\x00b", "\ud800", "\udfff\ud800", "\u202e\u200b\ufeff", "é" * 300, "\U0001f3a8" * 50,
    "a" * 10_000,
    "x" * 70_000, "null", "true", "0", "-1", "1e999", "NaN", "' OR 1=1 --", "%", "%s%n", "{{7*7}}",
    "<script>alert(1)</script>",
    "../../etc/passwd", "\r\nx-injected: 1", "\x1b[31m", "gen_", "gen_00000000000000000000000000",
    "batch_7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
    "key_zzzzzzzzzzzzzzzzzzzzzzzzzz", "0000-00-00T00:00:00Z", "9999-12-31T23:59:60Z", "0001-01-01T00:00:00+23:59",
    "10000-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z", "2026-11-29", "http://", "http://[::1", "http://127.0.0.1:9/x.png",
    "https://user:pw@example.com/\x00",
    "http://xn--/", "http://ex\u00e4mple.com:99999/", "file:///etc/passwd", "data:image/png;base64,",
    "data:image/png;base64,AAAA", "data:,", "data:image/png;base64,!!!!",
    "STATUS_UNSPECIFIED", "SUCCESS", "1", "1.5", "9" * 400, "-9223372036854775809", "3.5s", "-315576000001s",
    "requests[0].prompt", "a.b.c.d", "*",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 10, 1_000, 2**31 - 1, 2**31, -(2**31) - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64,
    0.1, -0.0, 1.5, 1e-320, 1e308,
    Raw(b"1e309"), Raw(b"-1e400"), Raw(b"NaN"), Raw(b"Infinity"), Raw(b"1" * 400), Raw(b"1" * 5_000),
    Raw(b"0." + b"3" * 900), Raw(b"1e-99999999"),
    Raw(b"01"), Raw(b"1."), Raw(b"+1"), Raw(b"0x10"), Raw(b"1_000"), Raw(b"-"),
)  # fmt: skip
BROKEN = (
    Raw(b'"\xff\xfe"'), Raw(b'"\xed\xa0\x80"'), Raw(b'"\\ud800"'), Raw(b'"\\u12"'), Raw(b'"\\x"'), Raw(b'"a\nb"'),
    Raw(b'"\x00"'), Raw(b"'x'"), Raw(b"undefined"),
    Raw(b"tru"), Raw(b""), Raw(b"{"), Raw(b"]"), Raw(b'"'), Raw(b"[1,]"), Raw(b'{"a":1,}'), Raw(b"/**/1"),
    Raw(b"{1:2}"), Raw(b'{"a" 1}'), Raw(b"[,]"),
)  # fmt: skip
# What is larger is cut off by the limit of bodies, or tried by tests of that limit.
_MANY = (11, 101, 1_001, 20_001, 100_001)
_DEEP = (10, 33, 101, 1_001, 50_001)


def dump(value: Any) -> bytes:
    """The value as JSON, with what is broken in it."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Members):
        return b"{" + b",".join(json.dumps(name).encode() + b":" + dump(item) for name, item in value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(dump, value)) + b"]"
    return json.dumps(value).encode()


def hostile(random: Random) -> Any:
    """A value that is likely to be refused, of any type."""
    kind = random.random()
    if kind < 0.35:
        return random.choice(TEXTS)
    if kind < 0.6:
        return random.choice(NUMBERS)
    if kind < 0.7:
        return random.choice(BROKEN)
    if kind < 0.8:
        return random.choice((None, True, False, [], Members(), [[]], [None], Members([("", None)])))
    if kind < 0.9:
        return deep(random)
    return many(random)


def deep(random: Random) -> Raw:
    """Lists or objects within each other."""
    depth = random.choice(_DEEP)
    return random.choice(
        (
            Raw(b"[" * depth + b"]" * depth),
            Raw(b'{"a":' * depth + b"1" + b"}" * depth),
            Raw(b"[" * depth),
            Raw(b'[{"a":' * depth),
        )
    )


def many(random: Random) -> Raw:
    """A long list, or an object with many members."""
    count = random.choice(_MANY)
    item = random.choice(
        (b"1", b'""', b"{}", b"[]", b"null", b'{"role":"mask"}', b'"http://example.com/a.png"', b"1e400")
    )
    if random.random() < 0.5:
        return Raw(b"[" + b",".join([item] * count) + b"]")
    name = random.choice(("modelIdentif", "a", "k\u00e9", "", "prompt"))
    same = random.random() < 0.1
    names = (json.dumps(name if same else f"{name}{number}").encode() for number in range(count))
    return Raw(b"{" + b",".join(given + b":" + item for given in names) + b"}")


def mutated(value: Any, random: Random) -> Any:
    """The value with one change somewhere."""
    places = list(_places(value))
    if not places or random.random() < 0.05:
        return hostile(random)
    holder, index = random.choice(places)
    if isinstance(holder, Members):
        _change_member(holder, index, random)
    else:
        _change_item(holder, index, random)
    return value


def _places(value: Any) -> Iterator[tuple[Any, int]]:
    if isinstance(value, Members):
        for index, (_, item) in enumerate(value):
            yield value, index
            yield from _places(item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index
            yield from _places(item)


def _change_member(members: Members, index: int, random: Random) -> None:
    name, value = members[index]
    choice = random.randrange(10)
    if choice < 5:
        members[index] = (name, hostile(random))
    elif choice == 5:
        del members[index]
    elif choice == 6:
        members.append((name, random.choice((value, hostile(random)))))
    elif choice == 7:
        members.append((random.choice((*TEXTS, name + "x", name.upper(), "__proto__", "@type")), hostile(random)))
    elif choice == 8:
        members[index] = (random.choice((name.lower(), _snake(name), name + " ", name[:-1])), value)
    else:
        members[index] = (name, random.choice(([value], [value] * 30, Members([(name, value)]), None)))


def _change_item(items: list[Any], index: int, random: Random) -> None:
    choice = random.randrange(4)
    if choice == 0:
        del items[index]
    elif choice == 1:
        items.extend([items[index]] * random.choice((1, 20, 120)))
    else:
        items[index] = hostile(random)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
