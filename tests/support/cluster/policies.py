"""NetworkPolicies as rules of nftables, for all packets that a pod sends first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.k8s.rendering import Document
from tests.support.cluster.manifests import Labels, matches

ANYWHERE = "0.0.0.0/0"


def rules(policies: Sequence[Document], pods: Mapping[str, Labels], namespaces: Mapping[str, Labels]) -> str:
    """Two chains: `outward` for what a pod may send, `inward` for what may reach one. The rest is dropped.

    Args:
        policies: as rendered.
        pods: by address, the labels of all pods of the namespace.
        namespaces: by address of something outside of it, the labels of its namespace.
    """
    lines = [" chain outward {"]
    for policy in policies:
        chosen = _chosen(policy, pods)
        for rule in policy["spec"].get("egress", ()) if chosen else ():
            for peers in _peers(rule.get("to"), pods, namespaces, "daddr"):
                lines += [f"  ip saddr {chosen} {peers} {port} goto inward" for port in _ports(rule)]
    lines += ["  counter drop", " }", " chain inward {"]
    lines += [f"  ip daddr != {_set(pods)} accept"]
    for policy in policies:
        chosen = _chosen(policy, pods)
        for rule in policy["spec"].get("ingress", ()) if chosen else ():
            for peers in _peers(rule.get("from"), pods, namespaces, "saddr"):
                lines += [f"  ip daddr {chosen} {peers} {port} accept" for port in _ports(rule)]
    return "\n".join([*lines, "  counter drop", " }"])


def _set(addresses: Mapping[str, Any] | Sequence[str]) -> str:
    return "{ " + ", ".join(addresses) + " }"


def _chosen(policy: Document, pods: Mapping[str, Labels]) -> str:
    found = [address for address, labels in pods.items() if matches(policy["spec"]["podSelector"], labels)]
    return _set(found) if found else ""


def _peers(
    given: Sequence[Mapping[str, Any]] | None,
    pods: Mapping[str, Labels],
    namespaces: Mapping[str, Labels],
    side: str,
) -> Iterator[str]:
    if given is None:
        yield f"ip {side} {ANYWHERE}"
        return
    for peer in given:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            if ":" not in block["cidr"]:
                yield f"ip {side} {block['cidr']} ip {side} != {_set(block.get('except', ('255.255.255.255',)))}"
            continue
        everyone, selector = (namespaces, "namespaceSelector") if "namespaceSelector" in peer else (pods, "podSelector")
        found = [address for address, labels in everyone.items() if matches(peer[selector], labels)]
        if found:
            yield f"ip {side} {_set(found)}"


def _ports(rule: Mapping[str, Any]) -> Iterator[str]:
    if "ports" not in rule:
        yield ""
    for port in rule.get("ports", ()):
        upper = f"-{port['endPort']}" if "endPort" in port else ""
        yield f"{port['protocol'].lower()} dport {port['port']}{upper}"
