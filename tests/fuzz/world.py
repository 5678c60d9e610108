"""What exists in the stack that is fuzzed, so that cases reach beyond "there is no such thing"."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from random import Random

from PIL import Image

ROLES = ("nobody", "client", "poor", "admin")
"""Without a valid key; a client; a client whose budget is used up, so that nothing is created; an admin."""

_BY_NAME = {
    "modelidentifier": "models", "model": "models", "generationid": "generations", "batchid": "batches",
    "experimentid": "experiments",
    "submissionid": "submissions", "submissionids": "submissions", "apikeyid": "keys", "pagetoken": "tokens",
    "resumetoken": "tokens", "owner": "owners",
    "imagesfrom": "generations", "provider": "providers", "providerid": "providers", "taskid": "tasks",
    "prompt": "prompts", "inputimages": "images",
    "image": "images", "data": "images", "source": "images", "url": "urls", "callbackurl": "urls",
    "variantid": "variants",
}  # fmt: skip
_BY_PATH = (
    ("/experiments", "experiments"), ("/keys", "keys"), ("/alerts", "alerts"), ("/errors", "errors"),
    ("/silences", "silences"),
    ("/callbacks", "callbacks"), ("/batch", "batches"), ("/submissions", "submissions"),
    ("/generation", "generations"), ("/videos", "generations"),
    ("/models", "models"), ("/channels", "channels"),
)  # fmt: skip


@dataclass
class World:
    """Keys by role, and values by kind.

    Keys that a case could revoke or change are not among those that cases send.
    """

    keys: dict[str, str]
    values: dict[str, list[str]] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def named(self, name: str, random: Random, path: str = "") -> str | None:
        """A value that exists for a field of this name, in a request to this path or RPC; None where none is known."""
        plain = name.lower().replace("_", "")
        kind = _BY_NAME.get(plain)
        if plain == "id" or (kind is None and plain.endswith("id")):
            kind = next((kind for part, kind in _BY_PATH if part in path.lower()), None)
        found = self.values.get(kind or "", [])
        return random.choice(found) if found else None

    def credentials(self, role: str, random: Random) -> list[tuple[bytes, bytes]]:
        """The headers with the key of a role."""
        if role == "nobody":
            key = random.choice(
                (
                    None,
                    None,
                    None,
                    b"drk_wrong",
                    b"",
                    b"\xff\xfe",
                    b"drk_" + b"a" * 5_000,
                    b"drk_0123456789ABCDEFabcdef0123456789",
                )
            )
            if key is None:
                return []
        else:
            key = self.keys[role].encode()
        return [(b"x-api-key", key)] if random.random() < 0.5 else [(b"authorization", b"Bearer " + key)]

    def hidden(self, text: str) -> str:
        """The text without keys."""
        for name, key in {**self.keys, **self.secrets}.items():
            text = text.replace(key, f"${name.upper().replace('-', '_')}")
        return text


def picture(kind: str = "PNG") -> bytes:
    """A small image."""
    found = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(found, kind)
    return found.getvalue()


def data_url() -> str:
    """A small image as a URL."""
    return "data:image/png;base64," + base64.b64encode(picture()).decode()
