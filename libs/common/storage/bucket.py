"""Makes the bucket where it is missing: `python -m libs.common.storage.bucket`. Safe to repeat."""

from __future__ import annotations

import asyncio

from libs.common.errors import GenerationError
from libs.common.settings import load
from libs.common.storage.objects import ObjectStore


async def _make() -> None:
    store = ObjectStore(load())
    try:
        await store.make_bucket()
    finally:
        await store.close()


if __name__ == "__main__":
    try:
        asyncio.run(_make())
    except GenerationError as error:
        raise SystemExit(f"the bucket cannot be reached or made: {error} {error.details}") from error
