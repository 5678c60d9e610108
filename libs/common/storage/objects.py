"""Object storage: any S3-compatible endpoint through boto3, which blocks and so lives on threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import IO, TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from libs.common import metrics
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.settings import Settings
from libs.common.storage.download import Media

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef

T = TypeVar("T")
_CHUNK_BYTES = 256 * 1024
_NOT_THERE = {"NoSuchKey", "InvalidRange"}


@dataclass(frozen=True, slots=True)
class Part:
    """An object, or a part of it. `content_range`: which, as HTTP says it; empty for the whole."""

    size_bytes: int
    content_range: str
    chunks: AsyncGenerator[bytes]


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
            ),
        )

    async def put(self, key: str, media: Media) -> None:
        """Store a file, which is closed then. GenerationError S3_UPLOAD_FAILED (retryable) where that fails."""
        await self.put_file(key, media.file, media.content_type)

    async def put_file(self, key: str, file: IO[bytes], content_type: str) -> None:
        """As `put`, for a file that only its caller knows."""
        extra = {"ContentType": content_type}

        def work() -> None:
            file.seek(0)
            self._client.upload_fileobj(file, self._bucket, key, ExtraArgs=extra)

        await self._run("upload", work)

    async def stream(self, key: str) -> AsyncGenerator[bytes]:
        """An object in pieces. NotFound where it is not there; S3_UPLOAD_FAILED where storage does not answer."""
        found = await self._found(lambda: self._client.get_object(Bucket=self._bucket, Key=key))
        async with aclosing(self._chunks(found["Body"])) as chunks:
            async for chunk in chunks:
                yield chunk

    async def read(self, key: str, *, begin: int | None = None, end: int | None = None) -> Part:
        """An object, or its bytes from `begin` to `end` (included; None: the last), in pieces.

        NotFound where it is not there, and for a beginning behind its end; S3_UPLOAD_FAILED where storage does not
        answer.
        """
        wanted = "" if begin is None else f"bytes={begin}-{'' if end is None else end}"

        def work() -> GetObjectOutputTypeDef:
            if not wanted:
                return self._client.get_object(Bucket=self._bucket, Key=key)
            return self._client.get_object(Bucket=self._bucket, Key=key, Range=wanted)

        found = await self._found(work)
        return Part(found["ContentLength"], found.get("ContentRange", ""), self._chunks(found["Body"]))

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error. GenerationError S3_UPLOAD_FAILED where that fails."""
        await self._run("delete", lambda: self._client.delete_object(Bucket=self._bucket, Key=key))

    async def ping(self) -> None:
        """Ask for the bucket. GenerationError S3_UPLOAD_FAILED where it is not there or storage does not answer."""
        await self._run("ping", lambda: self._client.head_bucket(Bucket=self._bucket))

    async def make_bucket(self) -> None:
        """Make the bucket where it is missing."""

        def work() -> None:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] not in {"404", "NoSuchBucket"}:
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

    async def _found(self, work: Callable[[], GetObjectOutputTypeDef]) -> GetObjectOutputTypeDef:
        try:
            return await self._run("read", work)
        except GenerationError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["Error"]["Code"] in _NOT_THERE:
                raise NotFound("id", "The file is not there any more.") from error
            raise

    async def _chunks(self, body: StreamingBody) -> AsyncGenerator[bytes]:
        try:
            while chunk := await self._run("read", lambda: body.read(_CHUNK_BYTES)):
                yield chunk
        finally:
            body.close()

    async def _run(self, operation: str, work: Callable[[], T]) -> T:
        started = perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        # boto3 wraps a failed upload into S3UploadFailedError, a Boto3Error that is no BotoCoreError.
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error, OSError) as error:
            metrics.STORAGE_ERRORS.labels(operation).inc()
            raise GenerationError(
                ErrorCode.S3_UPLOAD_FAILED,
                "Object storage does not do what it is asked to.",
                {"cause": type(error).__name__},
            ) from error
        finally:
            metrics.STORAGE_SECONDS.labels(operation).observe(perf_counter() - started)

    async def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()
