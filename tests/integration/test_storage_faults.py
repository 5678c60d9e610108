"""Object storage that refuses: the error says which request failed and why, and the bucket is down."""

from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from pydantic import SecretStr

from libs.common.errors import ErrorCode, GenerationError
from libs.common.settings import Settings
from libs.common.storage.faults import storage_error
from libs.common.storage.objects import ObjectStore
from sandbox.objectstore import ObjectServer
from sandbox.processes import free_port, is_used
from services.monitor.board import Board
from services.monitor.checks import StorageCheck
from tests.support.buckets import ACCESS_DENIED, FULL, RefusingBucket, refusing_bucket
from tests.support.closing import closing
from tests.support.waiting import eventually


@pytest.fixture
async def bucket() -> AsyncIterator[RefusingBucket]:
    async with refusing_bucket() as found:
        yield found


@pytest.fixture
async def objects(settings: Settings, bucket: RefusingBucket) -> AsyncIterator[ObjectStore]:
    changed = settings.model_copy(update={"s3_endpoint_url": bucket.url, "s3_bucket": "prints"})
    async with closing(ObjectStore(changed)) as found:
        yield found


async def _put(objects: ObjectStore) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        await objects.put_file("x/1.png", io.BytesIO(b"an image"), "image/png")
    assert (caught.value.code, caught.value.is_retryable) == (ErrorCode.S3_UPLOAD_FAILED, True)
    return caught.value


async def test_an_error_has_the_code_and_the_message_of_s3(objects: ObjectStore, bucket: RefusingBucket) -> None:
    bucket.refusals["PUT"] = ACCESS_DENIED
    error = await _put(objects)
    assert error.message == "Object storage request failed: AccessDenied on PutObject (bucket prints): Access Denied"
    assert error.details == {
        "cause": "ClientError", "action": "PutObject", "bucket": "prints", "s3_code": "AccessDenied",
        "s3_message": "Access Denied", "http_status": 403,
    }  # fmt: skip


async def test_a_missing_bucket_is_named(settings: Settings) -> None:
    async with closing(ObjectStore(settings.model_copy(update={"s3_bucket": "not-there"}))) as objects:
        error = await _put(objects)
    assert "NoSuchBucket on PutObject (bucket not-there)" in error.message


def test_an_error_has_neither_credentials_nor_signed_urls() -> None:
    message = "AKIASECRET may not read\n http://s3/prints/x?X-Amz-Signature=abc&X-Amz-Credential=d."
    answer = ClientError({"Error": {"Code": "Invalid <b>", "Message": message}}, "PutObject")
    error = storage_error(answer, "PutObject", "prints", secrets=("AKIASECRET",))
    assert error.message == (
        "Object storage request failed: Invalidb on PutObject (bucket prints): *** may not read http://s3/prints/x"
    )
    away = EndpointConnectionError(endpoint_url="http://s3/prints/x?X-Amz-Signature=abc")
    error = storage_error(away, "PutObject", "prints")
    assert error.message == "Object storage request failed: EndpointConnectionError on PutObject (bucket prints)."


@pytest.mark.parametrize(
    ("method", "refusal", "action"),
    [
        ("PUT", FULL, "PutObject"),
        ("PUT", ACCESS_DENIED, "PutObject"),
        ("GET", ACCESS_DENIED, "GetObject"),
        ("DELETE", ACCESS_DENIED, "DeleteObject"),
    ],
)
async def test_a_bucket_that_refuses_objects_is_down(
    objects: ObjectStore, bucket: RefusingBucket, method: str, refusal: tuple[int, str, str], action: str
) -> None:
    board = Board([StorageCheck(objects, probe_seconds=0)])
    await board.look()
    assert [component.status for component in board.components] == ["up"]
    bucket.refusals[method] = refusal
    await board.look()
    (component,) = board.components
    assert component.status == "down"
    assert f"{refusal[1]} on {action} (bucket prints)" in component.message
    del bucket.refusals[method]
    await board.look()
    assert [component.status for component in board.components] == ["up"]
    assert bucket.objects == {}


async def test_a_probe_is_rare_and_counts_until_the_next(objects: ObjectStore, bucket: RefusingBucket) -> None:
    bucket.refusals["PUT"] = ACCESS_DENIED
    board = Board([StorageCheck(objects, probe_seconds=600)])
    await board.look()
    del bucket.refusals["PUT"]
    for _ in range(5):
        await board.look()
    assert [component.status for component in board.components] == ["down"]
    assert bucket.writes == []

    board = Board([StorageCheck(objects)])
    for _ in range(5):
        await board.look()
    assert [component.status for component in board.components] == ["up"]
    assert len(bucket.writes) == 1
    assert bucket.writes[0].startswith("/prints/health/")


@contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a disk needs root")
    try:
        yield
    finally:
        subprocess.run(["/usr/bin/umount", "-l", folder], check=True)


@pytest.mark.slow
async def test_a_full_disk_of_an_object_store_is_seen(settings: Settings, tmp_path: Path) -> None:
    server = ObjectServer(tmp_path / "objects", free_port(), log=tmp_path / "log")
    with _small_disk(tmp_path / "objects/buckets", 256 * 1024):
        key, secret = server.keys
        child = server.child()
        server.make_bucket("prints")
        child.start()
        keys = {"s3_access_key_id": SecretStr(key), "s3_secret_access_key": SecretStr(secret)}
        changes = {"s3_endpoint_url": server.endpoint_url, "s3_bucket": "prints", **keys}
        settings = settings.model_copy(update=changes)

        async def listens() -> bool:
            return is_used(server.port)

        try:
            await eventually(listens, within=10, what="the object store listens")
            async with closing(ObjectStore(settings)) as objects:
                board = Board([StorageCheck(objects, probe_seconds=0)], look_seconds=10)
                await board.look()
                assert [component.status for component in board.components] == ["up"]
                filler = tmp_path / "objects/buckets/filler"
                await asyncio.to_thread(filler.write_bytes, b"x" * 252 * 1024)
                await board.look()
                (component,) = board.components
                assert component.status == "down"
                assert "on PutObject (bucket prints)" in component.message
                filler.unlink()
                await board.look()
                assert [component.status for component in board.components] == ["up"]
        finally:
            child.stop(5)
