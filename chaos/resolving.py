"""An operator who resolves submissions by the public API, as the vendors' ledgers tell: by prompt and time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from chaos.load import TIMEOUT_SECONDS, Load, until_answered
from chaos.money import Bill

_PAGE = 1_000
# A message of gRPC has 4 MiB, and a generation some KiB.
_GENERATIONS_PAGE = 200
_AT_ONCE = 16
# All clocks are one machine's. More would give the bill of a deleted result, which no list has, to one that reuses it.
_CLOCKS_SECONDS = 0.05
# An overloaded vendor takes, and bills, a request long after its client has given up.
_SLOW_VENDOR_SECONDS = 120.0
_NOTE = "chaos: looked up in the vendor's ledger"
_ATTACHED = gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED
_DISMISSED = gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED


class Operator:
    """Resolves all that waits for an operator.

    Args:
        channel: to the gateway, with an admin key.
        base_urls: by provider account, where its simulated vendor is.
    """

    def __init__(self, channel: grpc.aio.Channel, base_urls: Mapping[str, str]) -> None:
        self._gateway = GenerationServiceStub(channel)
        self._base_urls = base_urls
        self._load = Load()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._given: set[str] = set()
        self.resolved: Counter[str] = Counter()
        """How many submissions were resolved, by what was found."""

    async def resolve_all(self, bills: Sequence[Bill]) -> int:
        """Resolve all submissions that are uncertain or at risk, once each; how many there were.

        `bills`: the vendors' ledger.
        """
        found = await self._submissions(concern=gateway_pb2.SUBMISSION_CONCERN_ANY)
        generations = await self._generations_like(found)
        known = await asyncio.gather(*(self._submissions(generation_id=generation_id) for generation_id in generations))
        submissions = [one for group in known for one in group]
        lookup = _Lookup(bills, submissions, generations, self._base_urls, given=self._given)
        await asyncio.gather(
            *(
                self._resolve(submission, generations[submission.generation_id], lookup.bill_of(submission))
                for submission in found
            )
        )
        return len(found)

    async def _submissions(self, **wanted: Any) -> list[gateway_pb2.Submission]:
        found: list[gateway_pb2.Submission] = []
        request = gateway_pb2.ListSubmissionsRequest(page_size=_PAGE, **wanted)
        while True:
            async with self._places:
                page = await until_answered(
                    self._load, lambda: self._gateway.ListSubmissions(request, timeout=TIMEOUT_SECONDS)
                )
            found += page.submissions
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    async def _generations_like(
        self, submissions: Sequence[gateway_pb2.Submission]
    ) -> dict[str, gateway_pb2.Generation]:
        """Those that were submitted, and all others with the same prompts, whose bills are not theirs."""
        generations = {generation.id: generation for generation in await self._generations()}
        prompts = {generations[submission.generation_id].prompt for submission in submissions}
        return {key: generation for key, generation in generations.items() if generation.prompt in prompts}

    async def _generations(self) -> list[gateway_pb2.Generation]:
        found: list[gateway_pb2.Generation] = []
        request = gateway_pb2.ListGenerationsRequest(page_size=_GENERATIONS_PAGE)
        while True:
            page = await until_answered(
                self._load, lambda: self._gateway.ListGenerations(request, timeout=TIMEOUT_SECONDS)
            )
            found += page.generations
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    async def _resolve(
        self, submission: gateway_pb2.Submission, generation: gateway_pb2.Generation, bill: Bill | None
    ) -> None:
        async with self._places:
            if bill is None or bill["is_refunded"]:
                await self._bill(submission, gateway_pb2.SUBMISSION_BILLING_NOT_BILLED)
                self.resolved["not billed"] += 1
            elif _can_be_had(bill, generation) and await self._attach(submission, bill):
                self.resolved["attached"] += 1
            else:
                await self._bill(submission, gateway_pb2.SUBMISSION_BILLING_BILLED, cost_usd=bill["price_usd"])
                self.resolved["billed"] += 1

    async def _attach(self, submission: gateway_pb2.Submission, bill: Bill) -> bool:
        """Follow the task; False where the gateway refuses that, for instance since the generation is continued."""
        path = _path(bill)
        request = gateway_pb2.ResolveSubmissionRequest(
            submission_id=submission.id,
            resolution=_ATTACHED,
            task_id=bill["task_id"],
            check_url=self._base_urls[submission.provider_id] + path if path else "",
            note=_NOTE,
        )
        try:
            await self._gateway.ResolveSubmission(request, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}:
                raise
            return False
        return True

    async def _bill(
        self, submission: gateway_pb2.Submission, billing: gateway_pb2.SubmissionBilling.ValueType, **cost: Any
    ) -> None:
        request = gateway_pb2.ResolveSubmissionRequest(submission_id=submission.id, billing=billing, note=_NOTE, **cost)
        if submission.state == gateway_pb2.SUBMISSION_STATE_UNCERTAIN and not submission.resolution:
            request.resolution = _DISMISSED
        await until_answered(self._load, lambda: self._gateway.ResolveSubmission(request, timeout=TIMEOUT_SECONDS))


def _vendor(base_url: str) -> str:
    """The name of a simulated vendor in the ledger, by the end of its URL."""
    name = base_url.rpartition("/")[2]
    return "openai-videos" if name == "openai-video" else name


class _Lookup:
    """Finds the bills of submissions: by the task that the vendor named, else by prompt and time.

    Args:
        bills: the ledger.
        submissions: all with the prompts in question, those included whose outcome is known.
        generations: their generations by id.
        base_urls: by provider account, where its simulated vendor is.
        given: the tasks whose bills submissions got before; those that get one now are added.
    """

    def __init__(
        self,
        bills: Sequence[Bill],
        submissions: Sequence[gateway_pb2.Submission],
        generations: Mapping[str, gateway_pb2.Generation],
        base_urls: Mapping[str, str],
        *,
        given: set[str],
    ) -> None:
        self._bills = bills
        self._generations = generations
        self._base_urls = base_urls
        self._given = given
        self._taken = given | {submission.provider_task_id for submission in submissions}
        for submission in submissions:
            if submission.state == gateway_pb2.SUBMISSION_STATE_COMPLETED:
                # It was billed before its reply came.
                self._take(submission, within_seconds=_CLOCKS_SECONDS)

    def bill_of(self, submission: gateway_pb2.Submission) -> Bill | None:
        """The bill, which no other submission gets."""
        if submission.provider_task_id:
            return next((bill for bill in self._bills if bill["task_id"] == submission.provider_task_id), None)
        bill = self._take(submission, within_seconds=_SLOW_VENDOR_SECONDS)
        if bill is not None:
            self._given.add(bill["task_id"])
        return bill

    def _take(self, submission: gateway_pb2.Submission, *, within_seconds: float) -> Bill | None:
        prompt = self._generations[submission.generation_id].prompt
        vendor = _vendor(self._base_urls[submission.provider_id])
        ended_at = submission.ended_at if submission.HasField("ended_at") else submission.started_at
        since, until = (at.ToNanoseconds() / 1e9 for at in (submission.started_at, ended_at))
        for bill in self._bills:
            is_its_own = bill["prompt"] == prompt and bill["vendor"] == vendor and bill["task_id"] not in self._taken
            if is_its_own and since - _CLOCKS_SECONDS <= bill["billed_at"] <= until + within_seconds:
                self._taken.add(bill["task_id"])
                return bill
        return None


def _can_be_had(bill: Bill, generation: gateway_pb2.Generation) -> bool:
    return (
        bill["outcome"] in {"running", "succeeded"}
        and not bill["answers_with_outputs"]
        and generation.status == gateway_pb2.GENERATION_STATUS_FAILED
        and not generation.continued_by_id
    )


def _path(bill: Bill) -> str | None:
    """Where the vendor is asked about the task, where that does not follow from its id."""
    if bill["vendor"] == "fal":
        app = "/".join(bill["model"].split("/")[:2])
        return f"/{app}/requests/{bill['task_id']}/status"
    if bill["vendor"] in {"kling", "kling-relay"}:
        return f"/v1/videos/{'image2video' if bill['inputs'] else 'text2video'}/{bill['task_id']}"
    return None
