"""Cases of providers' webhooks: the vendors' bodies, changed and not, signed and not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from sandbox.simulators.signing import FalSigner, standard_signature
from tests.fuzz.requests import Headers, Request, Sent, segment, sent, value_of_header
from tests.fuzz.values import TEXTS, Members, dump, mutated
from tests.fuzz.world import World

_STATES = (
    "processing",
    "starting",
    "succeeded",
    "failed",
    "canceled",
    "Ready",
    "Error",
    "Content Moderated",
    "submitted",
    "succeed",
    "waiting",
    "OK",
    "ERROR",
    "",
    "SUCCEEDED ",
)


def _replicate(task: str, state: str, url: str) -> Members:
    return Members([("id", task), ("status", state), ("output", [url]), ("error", None), ("logs", "42%|###")])


def _bfl(task: str, state: str, url: str) -> Members:
    return Members(
        [
            ("task_id", task),
            ("status", state),
            ("progress", 0.5),
            ("result", Members([("sample", url)])),
            ("details", Members([("a", 1)])),
        ]
    )


def _kling(task: str, state: str, url: str) -> Members:
    video = Members([("id", "1"), ("url", url), ("duration", "5")])
    return Members(
        [
            ("task_id", task),
            ("task_status", state),
            ("task_status_msg", ""),
            ("task_result", Members([("videos", [video])])),
            ("created_at", 1),
        ]
    )


def _pollo(task: str, state: str, url: str) -> Members:
    entry = Members([("id", "1"), ("status", state), ("url", url), ("failMsg", None), ("mediaType", "video")])
    return Members([("taskId", task), ("generations", [entry]), ("status", state)])


def _fal(task: str, state: str, url: str) -> Members:
    payload = Members([("images", [Members([("url", url), ("width", 1)])])])
    return Members(
        [("request_id", task), ("gateway_request_id", task), ("status", state), ("error", None), ("payload", payload)]
    )


_SHAPES: dict[str, Callable[[str, str, str], Members]] = {
    "replicate": _replicate,
    "bfl": _bfl,
    "kling": _kling,
    "pollo": _pollo,
    "fal": _fal,
}
_SECRETS = {"replicate": "REPLICATE_WEBHOOK_SECRET", "bfl": "BFL_WEBHOOK_SECRET", "pollo": "POLLO_WEBHOOK_SECRET"}
_PROVIDERS = (*_SHAPES, *_SHAPES, "tuzi", "nope", "kling-relay")


class Webhooks:
    """Makes them.

    Args:
        world: what exists, with the vendors' secrets.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def case(self, role: str, random: Random) -> Sent:
        """One. Whether a key comes with it changes nothing."""
        provider = random.choice(_PROVIDERS)
        shape = _SHAPES.get(provider, random.choice(list(_SHAPES.values())))
        task = random.choice((*self._world.values.get("tasks", []), *TEXTS))
        url = random.choice(("https://example.com/a.png", *TEXTS))
        value: Any = shape(task, random.choice(_STATES), url)
        for _ in range(random.choice((0, 1, 1, 2, 3))):
            value = mutated(value, random)
        body = dump(value) if random.random() < 0.95 else random.choice((b"", b"\xff\xfe", b"x" * 1_100_000, b"null"))
        headers = [*self._world.credentials(role, random), (b"content-type", b"application/json")]
        if random.random() < 0.7:
            headers += self._signature(provider, task, body, random)
        path = f"/api/webhooks/{segment(provider if random.random() < 0.95 else random.choice(TEXTS))}"
        return sent(Request(b"POST", path, headers, body), random)

    def _signature(self, provider: str, task: str, body: bytes, random: Random) -> Headers:
        made: dict[str, str] = {}
        secret = self._world.secrets.get(_SECRETS.get(provider, ""), "")
        if provider == "bfl" and secret:
            made = {"x-webhook-secret": secret}
        elif provider == "fal":
            made = FalSigner(self._world.secrets["FAL_SEED"]).headers(segment(task)[:200], body)
        elif secret:
            made = standard_signature(
                body,
                secret,
                prefix="x-" if provider == "pollo" else "",
                version="v1," if provider == "replicate" else "",
            )
        headers = [(name.encode(), value.encode()) for name, value in made.items()]
        if headers and random.random() < 0.25:
            index = random.randrange(len(headers))
            headers[index] = (headers[index][0], value_of_header(random))
        return headers
