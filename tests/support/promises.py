"""What clients were told an id for, and what became of it."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from dataclasses import dataclass, field

import grpc
from darkroom.gateway.v1 import gateway_pb2

from libs.client.client import Client
from libs.client.errors import DarkroomError
from tests.support.rows import opened, rows
from tests.support.simulator import Simulator, simulated

_PREFIX = "GENERATION_STATUS_"


@dataclass(frozen=True, slots=True)
class Accounts:
    """How many of what was promised came to what."""

    promised: int
    lost: int
    not_succeeded: int
    billed_twice: int
    not_billed: int

    @property
    def are_kept(self) -> bool:
        """Whether each promise has come to one success and one bill."""
        return not (self.lost or self.not_succeeded or self.billed_twice or self.not_billed)


@dataclass
class Promises:
    """Each prompt is one request's alone. `failures`: what clients were told in the place of an answer."""

    prompts: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    _name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def prompt(self, *, task_seconds: float) -> str:
        """One that nobody else sends, for a task of so long."""
        return simulated(f"{self._name} {next(self._numbers)}", task_seconds=task_seconds)

    async def followed(self, client: Client, prompt: str, *, where: str) -> None:
        """Hand it in by our client, and follow it to its end."""
        try:
            generation_id = await client.submit("flux-pro", prompt)
            self.prompts[generation_id] = prompt
            generation = await client.wait(generation_id)
        except (DarkroomError, grpc.aio.AioRpcError) as error:
            self.failures.append(f"{where}: {error!r}")
        else:
            self.ends[gateway_pb2.GenerationStatus.Name(generation.status).removeprefix(_PREFIX)] += 1

    async def accounts(self, database_url: str, simulators_url: str) -> Accounts:
        """By the rows and the providers' ledger."""
        async with opened(database_url) as database:
            found = await rows(database, "SELECT id, state FROM generation_requests")
        states = {row["id"]: row["state"] for row in found}
        bills = Counter([bill["prompt"] for bill in await Simulator(simulators_url).bills()])
        return Accounts(
            promised=len(self.prompts),
            lost=sum(states.get(one) not in {"SUCCESS", "FAILED", "CANCELLED"} for one in self.prompts),
            not_succeeded=sum(states.get(one) != "SUCCESS" for one in self.prompts),
            billed_twice=sum(bills[prompt] > 1 for prompt in self.prompts.values()),
            not_billed=sum(bills[prompt] == 0 for prompt in self.prompts.values()),
        )
