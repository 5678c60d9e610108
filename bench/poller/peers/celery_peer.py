"""Celery on Redis: a task that checks and applies itself again with a countdown. Source: docs.celeryq.dev.

Calls that wait for a network are what its documentation has the gevent pool for.
"""

from __future__ import annotations

import os
import sys

import celery
import urllib3

from bench.poller.scenario import BASE, READY, Scenario

SCENARIO = Scenario.from_environment()
app = celery.Celery("bench", broker=SCENARIO.redis_url)
app.conf.update(
    task_ignore_result=True,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    # As its documentation says: as many connections as green threads that publish.
    broker_pool_limit=SCENARIO.concurrency,
    broker_transport_options={"max_connections": 4 * SCENARIO.concurrency},
)
http = urllib3.PoolManager(maxsize=SCENARIO.concurrency)


@app.task(name="poll")
def poll(number: int) -> None:
    """One check."""
    if http.request("GET", SCENARIO.check_url(number)).json()["status"] != "Ready":
        poll.apply_async((number,), countdown=SCENARIO.interval_seconds)


@celery.signals.worker_init.connect
def tell_base(**_: object) -> None:
    """The worker has taken nothing yet."""
    print(BASE, flush=True)


@celery.signals.worker_ready.connect
def tell_ready(**_: object) -> None:
    """The worker works."""
    print(READY, flush=True)


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for task in range(SCENARIO.tasks):
            # The worker takes a moment to start.
            wait = SCENARIO.first_wait_seconds(task) + SCENARIO.interval_seconds
            poll.apply_async((task,), countdown=wait, producer=producer)
    options = ["--pool=gevent", f"--concurrency={SCENARIO.concurrency}", "--loglevel=ERROR", "--without-gossip"]
    # By its own command, which patches the standard library for gevent before anything is imported.
    worker = [sys.executable, "-m", "celery", "-A", "bench.poller.peers.celery_peer", "worker", *options]
    os.execv(sys.executable, worker)
