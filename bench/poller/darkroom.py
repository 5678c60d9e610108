"""Our poller as it is, with live tasks put into its tables."""

from __future__ import annotations

import secrets
from pathlib import Path

import sqlalchemy as sa
import yaml

from bench.poller.scenario import Scenario
from libs.common.database import migrate
from sandbox.processes import free_port

_KEY = "BENCH_KEY"
_INSERT = """
WITH numbers AS (SELECT n FROM generate_series(0, :tasks - 1) AS n), made AS (
    INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, number_of_outputs,
        when_uncertain, request_id, provider_task_id, submitted_at)
    SELECT 'gen_' || n, 'PROCESSING', 'flux-pro', 'bfl', 'image', 'a red apple', 1, 'fail', 'req_' || n, 'task-' || n,
        now() FROM numbers)
INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, check_url, strategy, poll_interval_ms,
    next_poll_at, deadline_at)
SELECT 'bfl', 'task-' || n, 'gen_' || n, 'flux', :vendor || '/v1/get_result?id=task-' || n, 'fixed', :interval_ms,
    to_timestamp(:began) + make_interval(secs => :interval * (1 + n::float / :tasks)), now() + interval '1 day'
FROM numbers"""


def environment(scenario: Scenario, folder: Path) -> dict[str, str]:
    """Make the tables and a catalog, and answer the environment of the poller."""
    migrate.upgrade(scenario.database_url)
    path = folder / "catalog.yaml"
    path.write_text(_catalog(scenario))
    return {
        _KEY: "none",
        "DARKROOM_CATALOG": str(path),
        "DARKROOM_DATABASE_URL": scenario.database_url,
        "DARKROOM_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "DARKROOM_S3_ACCESS_KEY_ID": "none",
        "DARKROOM_S3_SECRET_ACCESS_KEY": "none",
        "DARKROOM_POLLER_PORT": str(free_port()),
        "DARKROOM_POLLER_METRICS_PORT": str(free_port()),
        "DARKROOM_LOG_LEVEL": "error",
        "DARKROOM_KEY_SECRET": secrets.token_urlsafe(32),
        "DARKROOM_SERVICE_TOKEN": secrets.token_urlsafe(32),
    }


def insert(scenario: Scenario, *, began: float) -> None:
    """Put the tasks into the tables; first polls are due as `Scenario.first_wait_seconds` says, after `began`."""
    engine = sa.create_engine(scenario.database_url, poolclass=sa.NullPool)
    parameters = {
        "tasks": scenario.tasks,
        "vendor": scenario.vendor_url,
        "interval_ms": round(scenario.interval_seconds * 1_000),
        "interval": scenario.interval_seconds,
        "began": began,
    }
    with engine.begin() as connection:
        connection.execute(sa.text(_INSERT), parameters)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    engine.dispose()


def _catalog(scenario: Scenario) -> str:
    polling = {"strategy": "fixed", "interval_seconds": max(0.1, min(300.0, scenario.interval_seconds)), "jitter": 0}
    return yaml.safe_dump(
        {
            "providers": {
                "bfl": {
                    "adapter": "flux",
                    "base_url": scenario.vendor_url,
                    "credentials": {"api_key": _KEY},
                    "limits": {"concurrent_checks": scenario.concurrency},
                    # The peers keep no results either.
                    "storage": {"upload_to_s3": False},
                }
            },
            "models": {
                "flux-pro": {
                    "provider": "bfl",
                    "upstream_model": "flux-pro-1.1",
                    "media_type": "image",
                    "price_per_output_usd": 0.04,
                    "polling": polling,
                }
            },
        }
    )
