"""What of the rendered manifests a cluster needs to know, with types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.k8s.rendering import Document
from deploy.k8s.restricted import pod_of

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Probe:
    """A look at a container. Seconds; `service`: of a gRPC health check; None: whether the port takes connections."""

    port: int
    service: str | None
    period_seconds: float
    timeout_seconds: float
    failure_threshold: int

    @classmethod
    def of(cls, given: Mapping[str, Any], ports: Mapping[str, int]) -> Probe:
        """What stands in a manifest, with Kubernetes' defaults."""
        wanted = given.get("grpc") or given["tcpSocket"]
        port = wanted["port"]
        return cls(
            port=ports[port] if isinstance(port, str) else port,
            service=wanted.get("service", "") if "grpc" in given else None,
            period_seconds=given.get("periodSeconds", 10),
            timeout_seconds=given.get("timeoutSeconds", 1),
            failure_threshold=given.get("failureThreshold", 3),
        )


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod."""

    name: str
    command: Sequence[str]
    environment_from: Sequence[str]
    mounts: Mapping[str, str]
    probes: Mapping[str, Probe]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Container:
        """What stands in a manifest. Without a command it is the image's: `python -m`, and the arguments."""
        ports = {port["name"]: int(port["containerPort"]) for port in given.get("ports", ())}
        return cls(
            name=given["name"],
            command=[*given.get("command", ("python", "-m")), *given.get("args", ())],
            environment_from=[source["configMapRef"]["name"] for source in given.get("envFrom", ())],
            mounts={mount["mountPath"]: mount["name"] for mount in given.get("volumeMounts", ())},
            probes={
                kind: Probe.of(given[f"{kind}Probe"], ports)
                for kind in ("startup", "readiness", "liveness")
                if f"{kind}Probe" in given
            },
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or a Job."""

    kind: str
    name: str
    labels: Labels
    replicas: int
    grace_seconds: float
    containers: Sequence[Container]
    init_containers: Sequence[Container]
    volumes: Mapping[str, Mapping[str, Any]]


class Manifests:
    """All documents of an overlay."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents

    def of_kind(self, kind: str) -> Iterator[Document]:
        """All of a kind."""
        return (document for document in self._documents if document["kind"] == kind)

    def config(self, name: str) -> dict[str, str]:
        """What a ConfigMap holds."""
        (found,) = (one for one in self.of_kind("ConfigMap") if one["metadata"]["name"] == name)
        return dict(found["data"])

    def services(self) -> dict[str, Labels]:
        """By name of a Service, whom it leads to."""
        return {one["metadata"]["name"]: one["spec"]["selector"] for one in self.of_kind("Service")}

    def workloads(self, kind: str) -> dict[str, Workload]:
        """Those of a kind, by name. Where something else scales one, it has as many replicas as that begins with."""
        scaled = {
            one["spec"]["scaleTargetRef"]["name"]: int(one["spec"].get("minReplicas") or one["spec"]["minReplicaCount"])
            for kind in ("HorizontalPodAutoscaler", "ScaledObject")
            for one in self.of_kind(kind)
        }
        return {one["metadata"]["name"]: _workload(one, scaled) for one in self.of_kind(kind)}


def _workload(document: Document, scaled: Mapping[str, int]) -> Workload:
    pod = pod_of(document)
    assert pod is not None
    name = document["metadata"]["name"]
    return Workload(
        kind=document["kind"],
        name=name,
        labels=document["spec"]["template"]["metadata"]["labels"],
        replicas=document["spec"].get("replicas") or scaled.get(name, 1),
        grace_seconds=pod.get("terminationGracePeriodSeconds", 30),
        containers=[Container.of(one) for one in pod["containers"]],
        init_containers=[Container.of(one) for one in pod.get("initContainers", ())],
        volumes={volume["name"]: volume for volume in pod.get("volumes", ())},
    )


def matches(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector means something with these labels. One that is empty means everything."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions") or ()
    )
