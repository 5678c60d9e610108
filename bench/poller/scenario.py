"""What every contender has to do, and what its process is told of it by the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Scenario:
    """`tasks` live tasks, each of which the provider ends at its `polls`-th poll, asked every `interval_seconds`."""

    tasks: int
    polls: int
    interval_seconds: float
    vendor_url: str
    database_url: str = ""
    redis_url: str = ""
    concurrency: int = 50

    def variables(self) -> dict[str, str]:
        """The scenario for a process's environment."""
        return {
            "BENCH_TASKS": str(self.tasks),
            "BENCH_POLLS": str(self.polls),
            "BENCH_INTERVAL": str(self.interval_seconds),
            "BENCH_VENDOR": self.vendor_url,
            "BENCH_DATABASE": self.database_url,
            "BENCH_REDIS": self.redis_url,
            "BENCH_CONCURRENCY": str(self.concurrency),
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The scenario that `variables` wrote."""
        return cls(
            tasks=int(environment["BENCH_TASKS"]),
            polls=int(environment["BENCH_POLLS"]),
            interval_seconds=float(environment["BENCH_INTERVAL"]),
            vendor_url=environment["BENCH_VENDOR"],
            database_url=environment["BENCH_DATABASE"],
            redis_url=environment["BENCH_REDIS"],
            concurrency=int(environment["BENCH_CONCURRENCY"]),
        )

    def first_wait_seconds(self, number: int) -> float:
        """When the first poll of a task is due: spread over one interval, after one more for the start."""
        return self.interval_seconds * (1 + number / self.tasks)

    def check_url(self, number: int) -> str:
        """Where to ask for a task."""
        return f"{self.vendor_url}/v1/get_result?id=task-{number}"


BASE = "contender without tasks"
"""What a peer prints before it hands in its tasks."""
READY = "contender ready"
"""What a contender prints once it works."""
