"""The cluster: what the manifests ask for, over the real parts that tests share.

What stands in the place of something that a cluster has: secrets for what External Secrets fetches, certificates
for cert-manager's, and one address before the gateway's replicas for kube-proxy's. What differs from the manifests:
where object storage is, where providers report to, and that the catalog's providers are the simulated ones.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from deploy.k8s.rendering import documents, rendered
from sandbox.catalog import Adjust, SimulatedCatalog, simulated
from sandbox.plan import SHIPPED_CATALOG
from sandbox.postgres import DATABASE
from tests.support.certificates import Authority
from tests.support.cluster.manifests import Container, Labels, Manifests, Workload, matches
from tests.support.cluster.network import (
    DNS_ADDRESS,
    OBJECTS_ADDRESS,
    POSTGRES_ADDRESS,
    PROVIDERS_ADDRESS,
    VIRTUAL_ADDRESS,
    Network,
)
from tests.support.cluster.pods import Pod
from tests.support.cluster.policies import rules
from tests.support.cluster.volumes import files_of, lay_out
from tests.support.infrastructure import BUCKET, PATH, Infrastructure
from tests.support.waiting import eventually

SERVICES = ("gateway", "dispatcher", "poller", "monitor", "experiments")
GATEWAY_GRPC, GATEWAY_HTTP = f"{VIRTUAL_ADDRESS}:50051", f"http://{VIRTUAL_ADDRESS}:8080"
_THREADS = 100
_KUBE_SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}


class Cluster:
    """One namespace of one cluster.

    Args:
        shared: Postgres, object storage, simulated providers.
        folder: for its files and logs.
        settings: what is set otherwise than in the manifests.
        adjust: changes the simulated catalog.
        haste: how many times faster than their manifests say running containers are probed.
    """

    def __init__(
        self,
        shared: Infrastructure,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        adjust: Adjust | None = None,
        haste: float = 1.0,
    ) -> None:
        self.shared = shared
        self.folder = folder
        self.admin_key = secrets.token_urlsafe(24)
        self.pods: list[Pod] = []
        self.extra_settings = dict(settings or {})
        self.strangers: dict[str, Labels] = {}
        shared.postgres.admit("10.77.0.0/16")
        shared.postgres.drop_database(DATABASE)
        self.database_url = shared.postgres.create_database(DATABASE)
        self._haste = haste
        self._adjust = adjust
        self._numbers = itertools.count(1)
        self._volumes: dict[str, dict[str, Path]] = {}
        self._changing: asyncio.Task[None] | None = None
        self._has_changed = False
        with rendered("production") as path:
            self.manifests = Manifests(documents(path))
        self.workloads = self.manifests.workloads("Deployment")
        self._configs = {one["metadata"]["name"]: dict(one["data"]) for one in self.manifests.of_kind("ConfigMap")}
        self._secrets = self._made_secrets() | self._made_certificates()
        simulators = int(shared.simulators_url.rpartition(":")[2])
        self.network = Network(
            folder,
            {
                (POSTGRES_ADDRESS, 5432): shared.postgres.port,
                (OBJECTS_ADDRESS, 80): shared.objects.port,
                (PROVIDERS_ADDRESS, 80): simulators,
            },
        )

    async def start(self) -> None:
        """Migrate, as the Job does, while everything starts as the Deployments say; answers once all is ready."""
        # Whoever waits for a process takes a thread.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        await asyncio.to_thread(self.network.start)
        self._configs["darkroom-files"] = self._files()
        self.changed()
        pods = [self._pod(workload) for workload in self.workloads.values() for _ in range(workload.replicas)]
        (job,) = self.manifests.workloads("Job").values()
        migrate = self._pod(job)
        # The Job and all Deployments are applied at once: what needs the schema waits for it.
        await asyncio.gather(migrate.complete(), *(pod.start() for pod in pods))
        self.pods.remove(migrate)
        await self.all_ready(within=60)

    async def close(self) -> None:
        """Cut everything off."""
        await asyncio.gather(*(pod.close() for pod in self.pods))
        if self._changing is not None:
            await self._changing
        await asyncio.to_thread(self.network.stop)

    def of(self, name: str) -> list[Pod]:
        """The pods of a Deployment that are not leaving."""
        return [pod for pod in self.pods if pod.workload.name == name and not pod.is_leaving]

    async def all_ready(self, *, within: float) -> None:
        """Wait until every replica is ready."""

        async def ready() -> bool:
            return all(len(self._ready(name)) >= one.replicas for name, one in self.workloads.items())

        await eventually(ready, within=within, what="all replicas are ready")

    async def roll(self, name: str) -> list[int]:
        """Exchange all replicas as a rolling update does: a new one is ready before an old one goes. Exit codes."""
        old, leaving = self.of(name), []
        for pod in old:
            await self.add(name)
            leaving.append(asyncio.create_task(pod.terminate()))
        codes = [code for left in await asyncio.gather(*leaving) for code in left]
        self.pods = [pod for pod in self.pods if pod not in old]
        self.changed()
        return codes

    async def add(
        self, name: str, *, settings: Mapping[str, str] | None = None, grace_seconds: float | None = None
    ) -> Pod:
        """One more replica, once it is ready; with settings of its own, or less grace than its manifest has."""
        workload = self.workloads[name]
        if grace_seconds is not None:
            workload = replace(workload, grace_seconds=grace_seconds)
        pod = self._pod(workload, settings or {})
        await pod.start()

        async def ready() -> bool:
            return pod.is_ready

        await eventually(ready, within=60, what=f"{pod.name} is ready")
        return pod

    def configure(self, adjust: Adjust) -> None:
        """Change the ConfigMap with the catalog, as `kubectl apply` does; the kubelet follows."""
        self._adjust = adjust
        self._configs["darkroom-files"] = self._files()
        for name, volumes in self._volumes.items():
            if name in self.workloads and "files" in volumes:
                lay_out(volumes["files"], self._configs["darkroom-files"])

    async def answers_from(self, namespace: str, address: str, port: int, *, within: float = 1.0) -> bool:
        """Whether a connection from a pod's network gets through."""
        script = f"import socket; socket.create_connection(('{address}', {port}), {within}).close()"
        child = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", namespace, "python3", "-c", script, stderr=asyncio.subprocess.DEVNULL
        )
        return await child.wait() == 0

    def changed(self) -> None:
        """Something has become ready, or not, or has come or gone: names and addresses follow."""
        self._has_changed = True
        if self._changing is None or self._changing.done():
            self._changing = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while self._has_changed:
            # What changes at once is told at once.
            await asyncio.sleep(0.02)
            self._has_changed = False
            await self._tell()

    async def _tell(self) -> None:
        ready = [pod for pod in self.pods if pod.is_ready and not pod.is_leaving]
        names = {
            service: [pod.address for pod in ready if matches({"matchLabels": selector}, pod.workload.labels)]
            for service, selector in self.manifests.services().items()
        }
        names["postgres"] = [POSTGRES_ADDRESS]
        pods = {pod.address: pod.workload.labels for pod in self.pods if pod.address} | self.strangers
        policies = rules(
            list(self.manifests.of_kind("NetworkPolicy")), pods or {"192.0.2.1": {}}, {DNS_ADDRESS: _KUBE_SYSTEM}
        )
        gateways = names["gateway"]
        await asyncio.to_thread(self.network.tell, names, {50051: gateways, 8080: gateways}, policies)

    def _ready(self, name: str) -> list[Pod]:
        return [pod for pod in self.of(name) if pod.is_ready]

    async def remove(self, pod: Pod) -> list[int]:
        """Take a replica away, as scaling down does. Its exit codes."""
        codes = await pod.terminate()
        self.pods.remove(pod)
        self.changed()
        return codes

    def _pod(self, workload: Workload, settings: Mapping[str, str] = MappingProxyType({})) -> Pod:
        pod = Pod(
            f"{workload.name}-{next(self._numbers)}",
            workload,
            self.network,
            self.shared.nursery,
            lambda container: self._environment(container) | dict(settings),
            self._laid_out(workload),
            self.folder / "logs",
            self.changed,
            haste=self._haste,
        )
        self.pods.append(pod)
        return pod

    def _laid_out(self, workload: Workload) -> dict[str, Path]:
        """The folders of a workload's volumes."""
        if workload.name not in self._volumes:
            found = {}
            for name, volume in workload.volumes.items():
                files = files_of(volume, self._configs, self._secrets)
                if files is not None:
                    found[name] = self.folder / "volumes" / workload.name / name
                    lay_out(found[name], files)
            self._volumes[workload.name] = found
        return self._volumes[workload.name]

    def _environment(self, container: Container) -> dict[str, str]:
        """As the images and the ConfigMaps have it."""
        found = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": PATH,
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPLCONFIGDIR": "/tmp/matplotlib",
        }
        for name in container.environment_from:
            found |= self._configs[name]
        return found | self._own_settings() | self.extra_settings

    def _own_settings(self) -> dict[str, str]:
        return {
            "DARKROOM_S3_ENDPOINT_URL": f"http://{OBJECTS_ADDRESS}",
            "DARKROOM_S3_BUCKET": BUCKET,
            "DARKROOM_PUBLIC_URL": GATEWAY_HTTP,
        }

    def _files(self) -> dict[str, str]:
        before = self._configs["darkroom-files"]
        return before | {"catalog.yaml": self._simulated().text}

    def _simulated(self) -> SimulatedCatalog:
        return simulated(SHIPPED_CATALOG.read_text(), f"http://{PROVIDERS_ADDRESS}", self._adjust)

    def _made_certificates(self) -> dict[str, dict[str, str]]:
        """What cert-manager would have made of the Certificates: by name of a secret, its files."""
        authority, found = Authority("darkroom-authority"), {}
        for one in self.manifests.of_kind("Certificate"):
            if not one["spec"].get("isCA"):
                signed = authority.signed(one["spec"]["commonName"], hosts=one["spec"]["dnsNames"])
                files = zip(("tls.crt", "tls.key", "ca.crt"), signed, strict=True)
                found[one["spec"]["secretName"]] = {name: content.decode() for name, content in files}
        return found

    def _made_secrets(self) -> dict[str, dict[str, str]]:
        """What External Secrets would have fetched."""
        user, _, rest = self.database_url.partition("://")[2].partition(":")
        password = rest.partition("@")[0]
        by_pool = f"postgresql+psycopg2://{user}:{password}@pgbouncer:6432/darkroom"
        direct = f"postgresql+psycopg2://{user}:{password}@postgres:5432/{DATABASE}"
        key, secret = self.shared.objects.keys
        return {
            "darkroom-database": {"DARKROOM_DATABASE_URL": by_pool},
            "darkroom-migration": {"DARKROOM_DATABASE_URL": direct},
            "darkroom-storage": {"DARKROOM_S3_ACCESS_KEY_ID": key, "DARKROOM_S3_SECRET_ACCESS_KEY": secret},
            "darkroom-keys": {"DARKROOM_KEY_SECRET": secrets.token_urlsafe(32)},
            "darkroom-admin": {"DARKROOM_ADMIN_KEY": self.admin_key},
            "darkroom-providers": dict(self._simulated().credentials),
            "pgbouncer": {"userlist.txt": f'"{user}" "{password}"\n'},
        }
