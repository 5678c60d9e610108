"""Who may connect to whom, tried from the network of each pod."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.support.cluster.cluster import SERVICES, Cluster
from tests.support.cluster.network import OBJECTS_ADDRESS, POSTGRES_ADDRESS

pytestmark = pytest.mark.asyncio(loop_scope="session")
PORTS = {"gateway": 50051, "dispatcher": 50052, "poller": 50053, "monitor": 50054, "experiments": 50055}
# The rows call the columns, as docs/architecture.md has it.
MAY_CALL = {
    "gateway": {"dispatcher", "poller", "monitor", "experiments"},
    "dispatcher": {"poller", "monitor"},
    "poller": {"dispatcher", "monitor"},
    "monitor": {"gateway", "dispatcher", "poller", "experiments"},
    "experiments": {"monitor"},
}


async def test_services_reach_those_that_they_call_and_no_other(cluster: Cluster) -> None:
    pods = {name: cluster.of(name)[0] for name in SERVICES}
    pairs = [(caller, called) for caller, called in itertools.product(SERVICES, SERVICES) if caller != called]
    found = await asyncio.gather(
        *(cluster.answers_from(pods[caller].namespace, pods[called].address, PORTS[called]) for caller, called in pairs)
    )
    reached = {
        caller: {called for (one, called), got in zip(pairs, found, strict=True) if one == caller and got}
        for caller in SERVICES
    }
    # The gateway's ports are for clients, wherever they are: all may reach them who may send there.
    assert reached == MAY_CALL


async def test_the_database_storage_and_what_is_private(cluster: Cluster) -> None:
    pods = {name: cluster.of(name)[0] for name in (*SERVICES, "pgbouncer")}

    async def reached(port: int, address: str) -> set[str]:
        got = await asyncio.gather(*(cluster.answers_from(pod.namespace, address, port) for pod in pods.values()))
        return {name for name, answers in zip(pods, got, strict=True) if answers}

    assert await reached(5432, POSTGRES_ADDRESS) == set(pods)
    assert await reached(80, OBJECTS_ADDRESS) == {"gateway", "dispatcher", "poller", "monitor"}
    # Metrics are for those who scrape, and the metadata of a cloud for nobody.
    assert await reached(9103, pods["poller"].address) == {"poller"}
    assert await reached(80, "169.254.1.1") == set()


async def test_a_stranger_reaches_the_gateway_alone(cluster: Cluster) -> None:
    namespace, address = await asyncio.to_thread(cluster.network.add)
    cluster.strangers[address] = {"app.kubernetes.io/name": "stranger"}
    cluster.changed()
    ports = {name: (cluster.of(name)[0].address, PORTS[name]) for name in SERVICES}
    ports["postgres"] = (POSTGRES_ADDRESS, 5432)
    got = await asyncio.gather(*(cluster.answers_from(namespace, *target) for target in ports.values()))
    # It may send nothing either, as long as no policy of its own says so.
    assert dict(zip(ports, got, strict=True)) == dict.fromkeys(ports, False)
    del cluster.strangers[address]
    cluster.changed()
    await asyncio.to_thread(cluster.network.remove, namespace)
