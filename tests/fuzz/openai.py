"""Cases of the OpenAI-compatible face: JSON and forms."""

from __future__ import annotations

from random import Random
from typing import Any

from services.gateway.openai.routes import ROUTES
from tests.fuzz.forms import Field, multipart, urlencoded
from tests.fuzz.requests import Request, Sent, segment, sent
from tests.fuzz.values import TEXTS, Members, dump, hostile, mutated
from tests.fuzz.world import World, picture

_FIELDS = {
    "prompt": ("a red apple", "x" * 40_000), "n": (1, 2, 0, 11, "1"),
    "size": ("1024x1024", "auto", "0x0", "99999x1", "16:9"), "quality": ("standard", "hd", "high"),
    "response_format": ("url", "b64_json", "x"), "user": ("u1",), "style": ("vivid",), "background": ("transparent",),
    "output_format": ("png", "webp"), "seconds": ("4", "8", 5),
    "stream": (True, False), "partial_images": (1,), "moderation": ("low",), "output_compression": (50, 101),
    "input_fidelity": ("high",),
}  # fmt: skip
_FILES = (
    b"",
    b"x",
    picture(),
    picture("GIF"),
    picture("JPEG")[:-40],
    picture()[:40],
    b"%PDF-1.4",
    b"GIF89a" + b"\xff" * 60,
    b"\x00" * 3_000,
    b"<svg/>",
    b"RIFF\x00\x00\x00\x00WEBP",
)


class OpenAi:
    """Makes them.

    Args:
        world: what exists.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def case(self, role: str, random: Random) -> Sent:
        """One."""
        verb, path = random.choice(ROUTES).split()
        headers = self._world.credentials(role, random)
        if random.random() < 0.05:
            path += random.choice(("/x", "/", "s", "/1/2/3"))
        known = self._world.named("id", random, path) or ""
        path = path.replace("{id}", segment(known if random.random() < 0.6 else random.choice(TEXTS)))
        body = b""
        if verb == "POST":
            kind, body = self._body(path, random)
            headers.append((b"content-type", kind))
        query = (
            [(random.choice(("variant", "limit", "after", "a")), random.choice(TEXTS))] if random.random() < 0.2 else []
        )
        return sent(Request(verb.encode(), path, headers, body, query), random)

    def _body(self, path: str, random: Random) -> tuple[bytes, bytes]:
        fields: list[tuple[str, Any]] = [
            ("model", random.choice(self._world.values["models"])),
            ("prompt", "a red apple"),
        ]
        fields += [(name, random.choice(of)) for name, of in _FIELDS.items() if random.random() < 0.2]
        if "edits" not in path and random.random() < 0.6:
            value = Members(fields)
            for _ in range(random.choice((0, 1, 1, 2))):
                value = mutated(value, random)
            return b"application/json", dump(value)
        form: list[Field] = [(name, str(value).encode(), None) for name, value in fields]
        names = random.choice((("image",), ("image", "mask"), ("image[]", "image[]"), ("input_reference",), ()))
        form += [(name, random.choice(_FILES), "red.png") for name in names]
        if random.random() < 0.3 and form:
            name = random.choice((*TEXTS[:6], "n", "image", "model"))
            form[random.randrange(len(form))] = (name, _bytes(random), random.choice((None, "x", "")))
        return urlencoded(form, random) if random.random() < 0.2 else multipart(form, random)


def _bytes(random: Random) -> bytes:
    value = hostile(random)
    return value.encode(errors="surrogatepass") if isinstance(value, str) else dump(value)
