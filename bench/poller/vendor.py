"""A provider that answers checks in Flux's wire format from memory, and notes when each task was asked for."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(slots=True)
class Ledger:
    """What was asked. Times in seconds of the machine's clock."""

    polls_to_end: int
    interval_seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    answered_at: dict[str, float] = field(default_factory=dict)
    late_seconds: list[float] = field(default_factory=list)
    first_at: float = 0.0
    last_at: float = 0.0
    done: int = 0

    def note(self, task_id: str) -> bool:
        """A task is asked for; whether it has ended."""
        now = time.time()
        before = self.answered_at.get(task_id)
        if before is not None:
            self.late_seconds.append(max(0.0, now - before - self.interval_seconds))
        self.first_at = self.first_at or now
        self.last_at = now
        count = self.counts[task_id] = self.counts.get(task_id, 0) + 1
        self.answered_at[task_id] = now
        self.done += count == self.polls_to_end
        return count >= self.polls_to_end


def application(ledger: Ledger) -> web.Application:
    """The provider's route, and the one that shows the ledger."""

    async def check(request: web.Request) -> web.Response:
        task_id = request.query["id"]
        has_ended = ledger.note(task_id)
        result = {"sample": f"http://127.0.0.1/{task_id}.jpeg"} if has_ended else None
        status = "Ready" if has_ended else "Pending"
        return web.json_response({"id": task_id, "status": status, "result": result, "progress": None})

    async def show(request: web.Request) -> web.Response:
        facts: dict[str, object] = {
            "polls": sum(ledger.counts.values()),
            "done": ledger.done,
            "first_at": ledger.first_at,
            "last_at": ledger.last_at,
        }
        if "whole" in request.query:
            facts |= {"late_seconds": ledger.late_seconds, "answered_at": ledger.answered_at}
        return web.json_response(facts)

    app = web.Application()
    app.add_routes([web.get("/v1/get_result", check), web.get("/ledger", show)])
    return app


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--polls", type=int, required=True)
    parser.add_argument("--interval", type=float, required=True)
    given = parser.parse_args()
    ledger = Ledger(given.polls, given.interval)
    web.run_app(
        application(ledger), host="127.0.0.1", port=given.port, print=None, access_log=None, shutdown_timeout=0.1
    )


if __name__ == "__main__":
    main()
