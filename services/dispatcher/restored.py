"""`python -m services.dispatcher.restored`: after the database was restored to a moment in the past.

What was submitted since that moment stands as not submitted, and dispatchers would send it, and have it billed, once
more. This ends it as uncertain instead, for operators to resolve. To be run once, before any dispatcher starts; without
`--yes` it says how many there are and changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from libs.common.adapters.registry import adapters
from libs.common.catalog import Catalog, load
from libs.common.database.engine import Database
from libs.common.database.stores.instances import SILENT_SECONDS, InstanceStore
from libs.common.database.stores.restoring import RestoreStore
from libs.common.settings import Settings
from libs.common.settings import load as load_settings

_BATCH = 1_000


class StillRunning(RuntimeError):
    """Dispatchers run, and may be sending what is to be ended."""


async def doubt(settings: Settings, catalog: Catalog, *, does_it: bool) -> int:
    """How many generations are uncertain; with `does_it` they are ended so, and told about on standard output.

    Raises StillRunning where a dispatcher has said within the last 45 s that it runs.
    """
    kinds = adapters()
    idempotent = [one.id for one in catalog.providers.values() if kinds[one.adapter].idempotent_submit]
    database = Database.from_settings(settings, "darkroom-restored")
    try:
        running = [one.owner for one in await InstanceStore(database).list_all() if one.service == "dispatcher"]
        if running:
            raise StillRunning(
                f"Dispatchers run: {', '.join(running)}. Stop them, and come again after {SILENT_SECONDS:.0f} s."
            )
        store = RestoreStore(database)
        found = await store.count(idempotent=idempotent)
        while does_it and await store.doubt(_BATCH, idempotent=idempotent):
            print(f"{await store.count(idempotent=idempotent)} to go", flush=True)
        return found
    finally:
        await database.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, or do it."""
    parser = argparse.ArgumentParser(prog="python -m services.dispatcher.restored", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="end them; without it they are counted")
    does_it = parser.parse_args(arguments).yes
    settings = load_settings()
    try:
        found = asyncio.run(doubt(settings, load(settings.catalog), does_it=does_it))
    except StillRunning as error:
        raise SystemExit(str(error)) from error
    if does_it:
        print(f"{found} ended as SUBMISSION_UNCERTAIN: /admin lists them, ResolveSubmission resolves them.")
    else:
        print(f"{found} may have been submitted since that moment. With --yes they are ended as SUBMISSION_UNCERTAIN.")


if __name__ == "__main__":
    main()
