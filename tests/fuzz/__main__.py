"""`make fuzz ARGS="--seed 7 --cases 20000"`: a stack, a run against it, and its report."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from dataclasses import replace
from secrets import randbelow

from sandbox.launcher import Stack
from tests.conftest import stack_folder, stack_plan, with_webhooks
from tests.fuzz.run import SHARES, run
from tests.fuzz.setting_up import SERVICES, SETTINGS
from tests.support.infrastructure import TEMPLATE, infrastructure
from tests.support.running import Running


def main() -> None:
    """Exit with 1 where something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seed", default=str(randbelow(10**6)), help="makes the same cases again; random by default")
    parser.add_argument("--cases", type=int, default=20_000, help="how many, all faces and roles together (20000)")
    parser.add_argument("--faces", default=",".join(SHARES), help="which faces, with commas between them")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no more cases after so long")
    given = parser.parse_args()
    with stack_folder() as folder, infrastructure(folder) as shared:
        url = shared.postgres.create_database("fuzz", template=TEMPLATE)
        plan = stack_plan(shared, folder, url, settings=SETTINGS, adjust=with_webhooks, services=SERVICES)
        plan = replace(
            plan, settings={**plan.settings, "DARKROOM_PUBLIC_URL": f"http://127.0.0.1:{plan.ports.gateway_http}"}
        )
        with Stack(plan, start=shared.nursery.start) as stack:
            report = asyncio.run(_run(Running(stack), given))
    print(report)
    # At the beginning of a line: NOT_FOUND is one of the answers that are counted.
    sys.exit("\nFOUND " in report)


async def _run(running: Running, given: argparse.Namespace) -> str:
    try:
        report = await run(
            running,
            seed=given.seed,
            cases=given.cases,
            seconds=given.seconds,
            faces=given.faces.split(","),
            tell=lambda text: print(text, flush=True),
        )
    finally:
        await running.close()
    return report.text()


if __name__ == "__main__":
    main()
