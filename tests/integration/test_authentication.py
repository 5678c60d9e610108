"""API keys as the gateway looks them up, in its own process over a real database."""

from __future__ import annotations

import pytest

from libs.common.api_keys import hash_of, new_key
from libs.common.database.engine import Database
from libs.common.database.records_edge import NewApiKey
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.errors import ErrorCode, GenerationError
from services.gateway.authentication import Authentication
from tests.support.rows import execute

SECRET = "x" * 32


async def _made(keys: ApiKeyStore, number: int = 1) -> str:
    made = new_key()
    await keys.create(NewApiKey(f"key_{number}", made.prefix, hash_of(made.key, SECRET), "client", "acme"))
    return made.key


@pytest.mark.parametrize("cache_seconds", [600.0, 0.0])
async def test_a_revoked_key_is_believed_for_the_time_of_the_cache_alone(
    database: Database, cache_seconds: float
) -> None:
    keys = ApiKeyStore(database)
    key = await _made(keys)
    authentication = Authentication(keys, secret=SECRET, cache_seconds=cache_seconds, delay_seconds=0)
    assert (await authentication.caller(key, "127.0.0.1")).key_id == "key_1"
    await execute(database, "UPDATE api_keys SET revoked_at = now()")
    if cache_seconds:
        assert (await authentication.caller(key, "127.0.0.1")).key_id == "key_1"
    else:
        with pytest.raises(GenerationError) as refused:
            await authentication.caller(key, "127.0.0.1")
        assert refused.value.code is ErrorCode.AUTHENTICATION_FAILED


async def test_keys_are_listed_newest_first_page_by_page(database: Database) -> None:
    keys = ApiKeyStore(database)
    for number in range(1, 4):
        await _made(keys, number)
    first = await keys.list_page(2, owner="acme", include_invalid=False, before=None)
    second = await keys.list_page(2, owner="acme", include_invalid=False, before=first[-1].id)
    assert [[key.id for key in page] for page in (first, second)] == [["key_3", "key_2"], ["key_1"]]
