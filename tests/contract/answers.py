"""An adapter over the real HTTP client, with a wire that answers what a test lays down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.adapters.base import Adapter, Task, TaskStatus
from libs.common.adapters.http import ProviderHttp, Reply
from libs.common.adapters.reading import parsed
from libs.common.adapters.registry import adapters
from tests.contract.cases import CASES

Answer = tuple[int, Any]
"""The HTTP status, and the body: bytes as they are, anything else as JSON."""
Headers = Mapping[str, str]
NO_HEADERS: Headers = {}


class Answers(ProviderHttp):
    """Gives the answers in their order, the last one again and again; `calls` lists what was asked."""

    def __init__(
        self, kind: type[Adapter], *answers: Answer, secrets: tuple[str, ...] = (), headers: Headers = NO_HEADERS
    ) -> None:
        self._answers: Sequence[Answer] = answers
        self._reply_headers = headers
        self._secrets = secrets
        self._headers = dict
        self._base_url = "https://api.example.com"
        self._base_host = "api.example.com"
        self._trusted_hosts = ()
        self._refine = kind.refine
        self._is_accepted = kind.is_accepted
        self.calls: list[tuple[str, str]] = []

    async def _call(self, method: str, path_or_url: str, **_: Any) -> Reply:
        self._resolve(path_or_url)
        status, body = self._answers[min(len(self.calls), len(self._answers) - 1)]
        self.calls.append((method, path_or_url))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        text = content.decode(errors="replace")
        return Reply(
            status=status,
            body=parsed(content),
            text=self._clean(text)[:500],
            request_id=None,
            retry_after_seconds=None,
            headers=self._reply_headers,
            size_bytes=len(content),
            head=text,
            clean=self._clean,
        )


def over(name: str, *answers: Answer, secrets: tuple[str, ...] = (), headers: Headers = NO_HEADERS) -> Adapter:
    """The adapter of that name over these answers, each with these headers."""
    kind = adapters()[name]
    return kind(Answers(kind, *answers, secrets=secrets, headers=headers))


async def checked(name: str, *answers: Answer, task_id: str = "t") -> TaskStatus:
    """What the adapter says of a task whose checks are answered so."""
    url = f"/{CASES[name].upstream_model}/requests/{task_id}/status" if name == "fal" else None
    return await over(name, *answers).check_task(Task(task_id, CASES[name].upstream_model, url, 60.0))
