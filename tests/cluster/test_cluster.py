"""The rendered manifests at work."""

from __future__ import annotations

import pytest

from libs.client.client import Client
from tests.support.cluster.cluster import GATEWAY_GRPC, Cluster
from tests.support.simulator import simulated

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_request_goes_its_whole_way(cluster: Cluster) -> None:
    async with Client(GATEWAY_GRPC, cluster.admin_key) as client:
        (file,) = await client.generate("flux-pro", simulated("cluster", task_seconds=0.1), timeout_seconds=60)
    assert file.content
