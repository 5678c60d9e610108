"""Object storage: any S3-compatible endpoint through boto3, which blocks and so lives on threads of its own."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import IO, TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from libs.common import metrics
from libs.common.errors import GenerationError, NotFound
from libs.common.settings import Settings
from libs.common.storage.download import Media
from libs.common.storage.faults import s3_code, storage_error
from libs.common.storage.media import INLINE_TYPES

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef

T = TypeVar("T")
_CHUNK_BYTES = 256 * 1024
# HeadObject has no body to name a code in: it answers with the status.
_NOT_THERE = {"NoSuchKey", "InvalidRange", "404"}
# What S3 calls the request of an operation that failed before S3 answered.
_ACTIONS = {
    "upload": "PutObject", "read": "GetObject", "delete": "DeleteObject", "ping": "HeadBucket",
    "make_bucket": "CreateBucket",
}  # fmt: skip
_PROBE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """An object, or a part of it. `content_range`: which, as HTTP says it; empty for the whole."""

    size_bytes: int
    content_range: str
    chunks: AsyncGenerator[bytes]


class OtherContent(Exception):
    """An object that was read is not what was written."""


def object_key(prefix: str, created_at: datetime, generation_id: str, index: int, extension: str) -> str:
    """Where an output lies: `prefix/yyyy/mm/dd/id/n.ext`. The generation decides it, so storing twice overwrites."""
    day = created_at.astimezone(UTC)
    return f"{prefix}/{day:%Y/%m/%d}/{generation_id}/{index}.{extension}"


class ObjectStore:
    """One bucket."""

    def __init__(self, settings: Settings) -> None:
        self._bucket = settings.s3_bucket
        self._public_base_url = settings.s3_public_base_url
        self._url_seconds = settings.s3_presigned_url_seconds
        self._threads = ThreadPoolExecutor(settings.storage_threads, thread_name_prefix="storage")
        key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
        self._secrets = tuple(given.get_secret_value() for given in (key, secret) if given)
        self._client: S3Client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            region_name=settings.s3_region,
            aws_access_key_id=key.get_secret_value() if key else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 2},
                max_pool_connections=settings.storage_threads,
                # Some stores send the checksum of the whole object with a part of it.
                response_checksum_validation="when_required",
            ),
        )

    async def put(self, key: str, media: Media) -> None:
        """Store a file, which is closed then. GenerationError S3_UPLOAD_FAILED (retryable) where that fails."""
        await self.put_file(key, media.file, media.content_type)

    async def put_file(self, key: str, file: IO[bytes], content_type: str) -> None:
        """As `put`, for a file that only its caller knows. What browsers are not to show is marked as a download."""
        extra = {"ContentType": content_type}
        if content_type not in INLINE_TYPES:
            extra["ContentDisposition"] = "attachment"

        def work() -> None:
            file.seek(0)
            self._client.upload_fileobj(file, self._bucket, key, ExtraArgs=extra)

        await self._run("upload", work)

    async def stream(self, key: str) -> AsyncGenerator[bytes]:
        """An object in pieces. NotFound where it is not there; S3_UPLOAD_FAILED where storage does not answer."""
        part = await self.read(key)
        async with aclosing(part.chunks):
            async for chunk in part.chunks:
                yield chunk

    async def read(self, key: str, *, begin: int | None = None, end: int | None = None) -> Part:
        """An object, or its bytes from `begin` to `end` (included; None: the last), in pieces.

        NotFound where it is not there, and for a beginning behind its end; S3_UPLOAD_FAILED where storage does not
        answer.
        """
        wanted = "" if begin is None else f"bytes={begin}-{'' if end is None else end}"

        def work() -> GetObjectOutputTypeDef:
            if not wanted:
                return self._client.get_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
            return self._client.get_object(Bucket=self._bucket, Key=key, Range=wanted)

        found = await self._found(work, unread=lambda late: late["Body"].close())
        return Part(found["ContentLength"], found.get("ContentRange", ""), self._chunks(found["Body"]))

    async def size_bytes(self, key: str) -> int:
        """The size of an object, in bytes. NotFound where it is not there; S3_UPLOAD_FAILED as `read`."""
        found = await self._found(lambda: self._client.head_object(Bucket=self._bucket, Key=key))
        return found["ContentLength"]

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error. GenerationError S3_UPLOAD_FAILED where that fails."""
        await self._run("delete", lambda: self._client.delete_object(Bucket=self._bucket, Key=key))

    async def ping(self) -> None:
        """Ask for the bucket. GenerationError S3_UPLOAD_FAILED where it is not there or storage does not answer."""
        await self._run("ping", lambda: self._client.head_bucket(Bucket=self._bucket))

    async def probe(self, key: str) -> None:
        """Write, read and delete a small object. GenerationError S3_UPLOAD_FAILED where any of it fails.

        Args:
            key: where the object lies meanwhile; nobody else's.
        """
        content = os.urandom(_PROBE_BYTES)
        await self.put_file(key, io.BytesIO(content), "application/octet-stream")

        def read() -> bytes:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

        if await self._run("read", read) != content:
            raise storage_error(OtherContent(), "GetObject", self._bucket)
        await self.delete(key)

    async def make_bucket(self) -> None:
        """Make the bucket where it is missing."""

        def work() -> None:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if s3_code(error) not in {"404", "NoSuchBucket"}:
                    raise
                self._client.create_bucket(Bucket=self._bucket)

        await self._run("make_bucket", work)

    def url(self, key: str, *, seconds: int | None = None) -> str:
        """A URL from which anybody who has it can read the object: presigned, or public where the settings say so.

        A presigned one works for `seconds`; None: as long as the settings say.
        """
        if self._public_base_url:
            return f"{self._public_base_url.rstrip('/')}/{key}"
        return self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=seconds or self._url_seconds
        )

    async def _found(self, work: Callable[[], T], *, unread: Callable[[T], None] | None = None) -> T:
        try:
            return await self._run("read", work, unread=unread)
        except GenerationError as error:
            if s3_code(error.__cause__) in _NOT_THERE:
                raise NotFound("id", "The file is not there any more.") from error
            raise

    async def _chunks(self, body: StreamingBody) -> AsyncGenerator[bytes]:
        """Read a body to its end. Closing the generator earlier closes the connection to storage."""
        reading: Future[bytes] | None = None
        try:
            while True:
                reading = self._threads.submit(body.read, _CHUNK_BYTES)
                chunk = await self._answer("read", reading)
                if not chunk:
                    return
                yield chunk
        finally:
            if reading is None:
                body.close()
            else:
                # A read that a thread is in the midst of holds the body's lock: the loop must not wait for it.
                reading.add_done_callback(lambda _: body.close())

    async def _run(self, operation: str, work: Callable[[], T], *, unread: Callable[[T], None] | None = None) -> T:
        """Work on a thread. `unread` gets what comes of it after its caller has been cancelled."""
        future = self._threads.submit(work)
        try:
            return await self._answer(operation, future)
        except asyncio.CancelledError:
            if unread is not None:
                future.add_done_callback(lambda late: _hand_over(late, unread))
            raise

    async def _answer(self, operation: str, future: Future[T]) -> T:
        started = perf_counter()
        try:
            return await asyncio.wrap_future(future)
        # boto3 wraps a failed upload into S3UploadFailedError, a Boto3Error that is no BotoCoreError.
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error, OSError) as error:
            metrics.STORAGE_ERRORS.labels(operation).inc()
            raise storage_error(error, _ACTIONS[operation], self._bucket, secrets=self._secrets) from error
        finally:
            metrics.STORAGE_SECONDS.labels(operation).observe(perf_counter() - started)

    async def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()


def _hand_over(done: Future[T], unread: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        unread(done.result())
