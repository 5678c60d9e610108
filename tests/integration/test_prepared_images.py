"""Prepared images in object storage: found again, kept as long as promised, gone without a trace afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.database.engine import Database
from libs.common.database.stores.prepared_images import PreparedImageStore
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.imaging.picture import Prepared
from libs.common.imaging.sizes import Size
from libs.common.preprocessing.keeping import Keeper
from libs.common.preprocessing.preparing import KeyedImage
from libs.common.settings import Settings
from libs.common.storage.objects import ObjectStore
from tests.support.closing import closing

DAY = 86_400


def _image(key: str, content: bytes = b"an image") -> KeyedImage:
    size = Size(1, 1)
    return KeyedImage(Prepared(content, "jpeg", size, "png", size, 9, 1, 85), key)


@asynccontextmanager
async def _objects(settings: Settings, **changes: Any) -> AsyncIterator[ObjectStore]:
    async with closing(ObjectStore(settings.model_copy(update=changes))) as objects:
        yield objects


@pytest.fixture
async def objects(settings: Settings) -> AsyncIterator[ObjectStore]:
    async with _objects(settings) as found:
        await found.make_bucket()
        yield found


def _key_of(url: str) -> str:
    return url.partition("?")[0].partition("prepared/")[2]


async def _rows(database: Database) -> list[Any]:
    query = sa.text("SELECT object_key, stored_at IS NOT NULL AS is_stored FROM prepared_images ORDER BY created_at")
    return await database.transaction("test", lambda connection: list(connection.execute(query)))


async def _age(database: Database, seconds: int) -> None:
    query = sa.text("UPDATE prepared_images SET expires_at = expires_at - make_interval(secs => :seconds)")
    await database.transaction("test", lambda connection: connection.execute(query, {"seconds": seconds}).close())


async def _content(objects: ObjectStore, url: str) -> bytes:
    return b"".join([chunk async for chunk in objects.stream(f"prepared/{_key_of(url)}")])


async def test_the_same_is_uploaded_once_and_kept_as_long_as_the_last_was_promised(
    database: Database, objects: ObjectStore
) -> None:
    keeper = Keeper(PreparedImageStore(database), objects)
    first = await keeper.keep(_image("same"), seconds=DAY)
    second = await keeper.keep(_image("same"), seconds=3 * DAY)
    other = await keeper.keep(_image("other", b"another"), seconds=DAY)
    assert _key_of(first.url) == _key_of(second.url) != _key_of(other.url)
    assert f"X-Amz-Expires={3 * DAY}" in second.url
    assert (second.expires_at - first.expires_at).total_seconds() == pytest.approx(2 * DAY, abs=60)
    assert [await _content(objects, one.url) for one in (first, other)] == [b"an image", b"another"]

    await _age(database, 2 * DAY)
    assert await keeper.remove_expired() is False
    assert await _content(objects, first.url) == b"an image"
    with pytest.raises(NotFound):
        await _content(objects, other.url)
    assert len(await _rows(database)) == 1


async def test_one_that_is_about_to_go_is_not_promised_again(database: Database, objects: ObjectStore) -> None:
    store = PreparedImageStore(database)
    keeper = Keeper(store, objects)
    first = await keeper.keep(_image("going"), seconds=DAY)
    await _age(database, DAY + 3_601)
    taken = await store.expired(10)
    assert [key.removeprefix("prepared/") for key in taken] == [_key_of(first.url)]
    again = await keeper.keep(_image("going"), seconds=DAY)
    assert _key_of(again.url) != _key_of(first.url)
    await store.removed(taken)
    assert [(row.object_key, row.is_stored) for row in await _rows(database)] == [
        (f"prepared/{_key_of(again.url)}", True)
    ]


async def test_what_storage_did_not_take_is_not_found_and_goes_all_the_same(
    database: Database, settings: Settings, objects: ObjectStore
) -> None:
    store = PreparedImageStore(database)
    async with _objects(settings, s3_endpoint_url="http://127.0.0.1:9") as away:
        with pytest.raises(GenerationError) as raised:
            await Keeper(store, away).keep(_image("half"), seconds=DAY)
        assert (raised.value.code, raised.value.is_retryable) == (ErrorCode.S3_UPLOAD_FAILED, True)
        assert await store.find("half", seconds=DAY) is None
        await _age(database, 2 * DAY)
        assert await Keeper(store, away).remove_expired() is False
        assert len(await _rows(database)) == 1, "while storage is away the row stays, for the object may be there"
    await Keeper(store, objects).remove_expired()
    assert await _rows(database) == []


async def test_an_image_that_is_not_admitted_is_not_stored(database: Database, objects: ObjectStore) -> None:
    def refuse(size_bytes: int) -> None:
        raise GenerationError(ErrorCode.RATE_LIMITED, f"{size_bytes} bytes are too many")

    keeper = Keeper(PreparedImageStore(database), objects)
    with pytest.raises(GenerationError, match="8 bytes are too many"):
        await keeper.keep(_image("a"), seconds=DAY, admit=refuse)
    assert await _rows(database) == []

    stored = await keeper.keep(_image("a"), seconds=DAY)
    found = await keeper.keep(_image("a"), seconds=DAY, admit=refuse)
    assert _key_of(found.url) == _key_of(stored.url)
