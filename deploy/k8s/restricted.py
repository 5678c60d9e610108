"""The restricted profile of the Pod Security Standards, as Kubernetes' own admission holds pods to it.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Baseline and Restricted).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.k8s.rendering import Document

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_SECCOMP = {"RuntimeDefault", "Localhost"}


def pod_of(document: Document) -> Mapping[str, Any] | None:
    """The pod that a workload makes; None for what makes none."""
    spec = document.get("spec") or {}
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: Mapping[str, Any] | None = (spec.get("template") or {}).get("spec") if isinstance(spec, Mapping) else None
    return found if found and "containers" in found else None


def violations(document: Document) -> Iterator[str]:
    """What of a workload the profile refuses."""
    pod = pod_of(document)
    if pod is None:
        return
    yield from _of_pod(pod)
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        for fault in _of_container(container, pod.get("securityContext") or {}):
            yield f"container {container['name']}: {fault}"


def _of_pod(pod: Mapping[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    for volume in pod.get("volumes", ()):
        if not set(volume) & _VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed"
    if (pod.get("securityContext") or {}).get("sysctls"):
        yield "sysctls are set"


def _of_container(container: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    both = {**shared, **own}
    capabilities = own.get("capabilities") or {}
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if both.get("runAsUser") == 0:
        yield "it runs as root"
    if (both.get("seccompProfile") or {}).get("type") not in _SECCOMP:
        yield "it has no seccompProfile"
    if "ALL" not in capabilities.get("drop", ()):
        yield "it does not drop ALL capabilities"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "it adds capabilities"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "it takes a port of the host"
