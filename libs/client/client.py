"""The typed client: `await client.generate(...)` hands back files.

async with Client("127.0.0.1:50051", api_key) as client:
(picture,) = await client.generate("flux-pro", "a red apple")
picture.save(Path("apple.jpg"))
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.client.batches import Batches
from libs.client.channel import open_channel
from libs.client.errors import DarkroomError, answer_of
from libs.client.images import Images
from libs.client.retrying import new_idempotency_key, repeated
from libs.client.watching import followed

ENDED = {
    gateway_pb2.GENERATION_STATUS_SUCCESS,
    gateway_pb2.GENERATION_STATUS_FAILED,
    gateway_pb2.GENERATION_STATUS_CANCELLED,
}
_CALL_SECONDS = 30.0
_CHUNK_BYTES = 256 * 1024

Progress = Callable[[gateway_pb2.Generation], None]
_EXTENSIONS = {
    "application/octet-stream": "bin",
    "image/jpeg": "jpg",
    "image/tiff": "tif",
    "image/vnd.adobe.photoshop": "psd",
    "video/mp2t": "ts",
    "video/quicktime": "mov",
    "video/x-matroska": "mkv",
    "video/x-msvideo": "avi",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file that a generation made."""

    media_type: str
    content_type: str
    content: bytes
    generation_id: str
    index: int

    @property
    def suggested_name(self) -> str:
        """A name that no other file has: the generation's id, the file's number, and what it is."""
        extension = _EXTENSIONS.get(self.content_type) or self.content_type.rpartition("/")[2] or "bin"
        return f"{self.generation_id}-{self.index}.{extension}"

    def save(self, path: Path) -> Path:
        """Write it to `path`, or under its suggested name where that is a folder. Answers where it is."""
        target = path / self.suggested_name if path.is_dir() else path
        target.write_bytes(self.content)
        return target


class Client:
    """A gateway, seen from a program. Every call has a deadline, and is sent again where that is safe.

    Args:
        address: `host:port` of the gateway's gRPC port; None: DARKROOM_ADDRESS in the environment.
        api_key: None: DARKROOM_API_KEY in the environment.
        tls: whether the gateway speaks TLS.
        root_certificates: who has signed its certificate, as PEM; None: whom the system trusts.
        call_seconds: the deadline of each call.
    """

    def __init__(
        self,
        address: str | None = None,
        api_key: str | None = None,
        *,
        tls: bool = False,
        root_certificates: Path | None = None,
        call_seconds: float = _CALL_SECONDS,
    ) -> None:
        self._channel = open_channel(
            address or os.environ.get("DARKROOM_ADDRESS", "127.0.0.1:50051"),
            api_key or os.environ.get("DARKROOM_API_KEY", ""),
            tls=tls,
            root_certificates=root_certificates,
        )
        self.gateway = GenerationServiceStub(self._channel)
        self.batches = Batches(self.gateway, call_seconds=call_seconds)
        self.images = Images(self.gateway, call_seconds=call_seconds)
        self._call_seconds = call_seconds
        self._http: aiohttp.ClientSession | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """For RPCs that have no method here."""
        return self._channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        try:
            await self._channel.close()
        finally:
            if self._http is not None:
                await self._http.close()

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        timeout_seconds: float = 1_800.0,
        on_progress: Progress | None = None,
        **fields: Any,
    ) -> list[File]:
        """Make something, wait for it, and fetch the files.

        Args:
            model: as ListModels names it.
            prompt: what to make.
            timeout_seconds: for all of it. The generation goes on after that; its id is in the error.
            on_progress: is told each change.
            fields: what else `submit` takes.

        Raises DarkroomError where it is refused, fails, is cancelled, or takes too long (PROVIDER_TIMEOUT).
        """
        generation_id = await self.submit(model, prompt, **fields)
        try:
            async with asyncio.timeout(timeout_seconds):
                generation = await self.wait(generation_id, on_progress=on_progress)
                return await self.files(generation)
        except TimeoutError as error:
            why = f"It has not ended within {timeout_seconds:g} s, and goes on."
            raise DarkroomError("PROVIDER_TIMEOUT", why, generation_id=generation_id) from error

    async def submit(
        self,
        model: str,
        prompt: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> str:
        """Create a generation and answer its id at once.

        Args:
            model: as ListModels names it.
            prompt: what to make.
            parameters: the model's own.
            idempotency_key: None: a new one. All repeats of this call share it, so that nothing is created twice.
            fields: other fields of CreateGenerationRequest by their names in the proto, such as `labels`.
        """
        request = gateway_pb2.CreateGenerationRequest(
            model_identifier=model, prompt=prompt, idempotency_key=idempotency_key or "", **fields
        )
        request.parameters.update(dict(parameters or {}))
        return await self.send(request)

    async def send(self, request: gateway_pb2.CreateGenerationRequest) -> str:
        """Create a generation of a request that is ready, under a new idempotency key where it has none.

        Raises DarkroomError; OUTCOME_UNKNOWN where it may have been created.
        """
        keyed = gateway_pb2.CreateGenerationRequest()
        keyed.CopyFrom(request)
        keyed.idempotency_key = request.idempotency_key or new_idempotency_key()
        answer = await repeated(
            lambda seconds: self.gateway.CreateGeneration(keyed, timeout=seconds), seconds=self._call_seconds
        )
        return answer.id

    async def rerun(
        self,
        generation_id: str,
        *,
        model: str = "",
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        accepted_second_payment_usd: float | None = None,
    ) -> str:
        """Create a new generation from one that has ended, and return its id at once.

        Args:
            generation_id: the original.
            model: another model; empty: the original's.
            parameters: in place of the original's; None: the original's.
            idempotency_key: None: a new one, so that a repeated call creates nothing twice.
            accepted_second_payment_usd: consent to a second payment, in US dollars, if a submission of the original may
                be billed. None: no consent; the refusal names the price.

        Raises DarkroomError INVALID_REQUEST with the fields at fault.
        """
        request = gateway_pb2.RerunGenerationRequest(
            id=generation_id,
            model_identifier=model,
            idempotency_key=idempotency_key or new_idempotency_key(),
            accepted_second_payment_usd=accepted_second_payment_usd,
        )
        if parameters is not None:
            request.parameters.update(dict(parameters))
            request.parameters.SetInParent()
        answer = await repeated(
            lambda seconds: self.gateway.RerunGeneration(request, timeout=seconds), seconds=self._call_seconds
        )
        return answer.id

    async def get(self, generation_id: str) -> gateway_pb2.Generation:
        """One generation. DarkroomError NOT_FOUND where there is none."""
        request = gateway_pb2.GetGenerationRequest(id=generation_id)
        return (await answer_of(self.gateway.GetGeneration(request, timeout=self._call_seconds))).generation

    def watch(self, generation_id: str) -> AsyncGenerator[gateway_pb2.Generation, None]:
        """Each change, until the end. A stream that breaks is taken up where it broke.

        A caller that leaves the iteration early closes it, for instance with `contextlib.aclosing`: that ends the RPC.
        """
        return followed(
            lambda token: self.gateway.WatchGeneration(
                gateway_pb2.WatchGenerationRequest(id=generation_id, resume_token=token)
            ),
            subject_of=lambda change: change.generation,
            has_ended=lambda generation: generation.status in ENDED,
            get=lambda: self.get(generation_id),
        )

    async def wait(self, generation_id: str, *, on_progress: Progress | None = None) -> gateway_pb2.Generation:
        """The generation once it has succeeded. DarkroomError with its reason where it does not."""
        latest = gateway_pb2.Generation(id=generation_id)
        async with aclosing(self.watch(generation_id)) as changes:
            async for latest in changes:
                if on_progress is not None:
                    on_progress(latest)
        if latest.status != gateway_pb2.GENERATION_STATUS_SUCCESS:
            code = common_pb2.ErrorCode.Name(latest.error.code).removeprefix("ERROR_CODE_")
            raise DarkroomError(
                code, latest.error.message, is_retryable=latest.error.is_retryable, generation_id=generation_id
            )
        return latest

    async def files(self, generation: gateway_pb2.Generation) -> list[File]:
        """The files of a generation that has succeeded. DarkroomError where one cannot be fetched or is another."""
        return list(
            await asyncio.gather(
                *(self._fetch(generation.id, index, output) for index, output in enumerate(generation.results))
            )
        )

    async def list_generations(self, *, limit: int = 50, **filters: Any) -> AsyncIterator[gateway_pb2.Generation]:
        """The newest generations, at most `limit`.

        Args:
            limit: how many.
            filters: fields of ListGenerationsRequest by their names in the proto, such as `status` and `labels`.
        """
        token, left = "", limit
        while left > 0:
            size = min(left, 200)
            request = gateway_pb2.ListGenerationsRequest(page_size=size, page_token=token, **filters)
            answer = await answer_of(self.gateway.ListGenerations(request, timeout=self._call_seconds))
            for generation in answer.generations:
                yield generation
            left, token = left - len(answer.generations), answer.next_page_token
            if not token:
                return

    async def cancel(self, generation_id: str) -> gateway_pb2.Generation:
        """Ask for a cancel, and return the generation as it stands then.

        Raises DarkroomError ALREADY_ENDED for one that has ended.
        """
        request = gateway_pb2.CancelGenerationRequest(id=generation_id)
        return (await answer_of(self.gateway.CancelGeneration(request, timeout=self._call_seconds))).generation

    async def list_submissions(
        self, request: gateway_pb2.ListSubmissionsRequest, *, limit: int = 100
    ) -> gateway_pb2.ListSubmissionsResponse:
        """Return at most `limit` submissions, and the number and money at risk of all matches. Requires an admin key.

        Args:
            request: the filters, and the page token to start from; it is not changed.
            limit: the most submissions to return.
        """
        asked, found = gateway_pb2.ListSubmissionsRequest(), gateway_pb2.ListSubmissionsResponse()
        asked.CopyFrom(request)
        while len(found.submissions) < limit:
            asked.page_size = min(limit - len(found.submissions), 1_000)
            answer = await answer_of(self.gateway.ListSubmissions(asked, timeout=self._call_seconds))
            found.submissions.extend(answer.submissions)
            found.total_submissions, found.total_at_risk_usd = answer.total_submissions, answer.total_at_risk_usd
            asked.page_token = answer.next_page_token
            if not asked.page_token:
                break
        return found

    async def resolve_submission(
        self, request: gateway_pb2.ResolveSubmissionRequest
    ) -> gateway_pb2.ResolveSubmissionResponse:
        """Resolve one submission: its resolution, whether it was billed, or both. Requires an admin key."""
        return await answer_of(self.gateway.ResolveSubmission(request, timeout=self._call_seconds))

    async def resolve_submissions(
        self, request: gateway_pb2.ResolveSubmissionsRequest
    ) -> gateway_pb2.ResolveSubmissionsResponse:
        """Record for many submissions whether they were billed; at most 10,000 in a call. Requires an admin key.

        Raises DarkroomError; OUTCOME_UNKNOWN if only some of them were resolved.
        """
        return await answer_of(self.gateway.ResolveSubmissions(request, timeout=self._call_seconds))

    async def rate(
        self, generation_id: str, rating: int, *, feedback: str = "", context: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a user's opinion, 1 (worst) to 5 (best), of a generation that has succeeded, in place of an earlier one.

        Numbers in `context` can be metrics of experiments.
        """
        request = gateway_pb2.RateGenerationRequest(id=generation_id, rating=rating, feedback=feedback)
        request.context.update(dict(context or {}))
        await answer_of(self.gateway.RateGeneration(request, timeout=self._call_seconds))

    async def models(self, media_type: str = "") -> Sequence[gateway_pb2.Model]:
        """The catalog's models; only those that make `image` or `video`."""
        request = gateway_pb2.ListModelsRequest(media_type=media_type)
        return (await answer_of(self.gateway.ListModels(request, timeout=self._call_seconds))).models

    async def _fetch(self, generation_id: str, index: int, output: common_pb2.Output) -> File:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=60))
        try:
            async with self._http.get(output.url, raise_for_status=True) as reply:
                content = b"".join([chunk async for chunk in reply.content.iter_chunked(_CHUNK_BYTES)])
                content_type = output.content_type or reply.content_type
        except (aiohttp.ClientError, OSError) as error:
            why = f"The file cannot be fetched: {type(error).__name__}."
            raise DarkroomError("SERVICE_UNAVAILABLE", why, is_retryable=True, generation_id=generation_id) from error
        if output.sha256 and hashlib.sha256(content).hexdigest() != output.sha256:
            raise DarkroomError("INTERNAL_ERROR", "The file is not the one that was made.", generation_id=generation_id)
        return File(output.type, content_type, content, generation_id, index)


def created_at(generation: gateway_pb2.Generation) -> datetime:
    """When it was accepted, in local time."""
    return generation.created_at.ToDatetime().astimezone()
