"""The cluster's network in a namespace of ours: an address for each pod, names, one address before many, policies."""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox import processes
from tests.support.cluster.place import bind, mount_memory

DNS_ADDRESS = "10.77.255.53"
POSTGRES_ADDRESS = "10.77.255.5"
# Public ones, which policies let pods reach: inside this namespace they lead nowhere but here.
OBJECTS_ADDRESS = "11.0.0.9"
PROVIDERS_ADDRESS = "11.0.0.10"
VIRTUAL_ADDRESS = "10.77.255.1"
_HOP = "169.254.1.1"
_DOMAIN = "darkroom.svc.cluster.local"
_CHAINS = """table ip cluster {
 chain leads { }
 chain inward { }
 chain outward { }
 chain arriving { type filter hook prerouting priority -150; }
 chain before { type nat hook prerouting priority -100; }
 chain own { type nat hook output priority -100; }
}
table ip cluster {
 chain arriving {
  ct state established,related accept
  iifname "v*" jump outward
 }
 chain before {
  jump leads
 }
 chain own {
  jump leads
 }
}"""


@dataclass
class Network:
    """Everything of it.

    Args:
        folder: for its files.
        forwarded: by an address and port of ours, the port of the loopback interface that answers there.
    """

    folder: Path
    forwarded: Mapping[tuple[str, int], int]
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(2))
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    _dns: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Take addresses, forward packets, answer for names."""
        # What is made there is seen by nobody else, and is gone with this namespace.
        mount_memory("/run")
        own = (DNS_ADDRESS, POSTGRES_ADDRESS, OBJECTS_ADDRESS, PROVIDERS_ADDRESS, VIRTUAL_ADDRESS)
        _batch(["link set lo up", *(f"addr add {address}/32 dev lo" for address in own)])
        for name in ("ip_forward", "conf/all/route_localnet"):
            Path(f"/proc/sys/net/ipv4/{name}").write_text("1")
        # The chains that packets come to stay as they are: those that they lead to get other rules.
        _nft([_CHAINS])
        (self.folder / "hosts").write_text("")
        resolving = self.folder / "resolv.conf"
        resolving.write_text(f"nameserver {DNS_ADDRESS}\nsearch {_DOMAIN}\noptions timeout:1 attempts:3\n")
        bind(resolving, "/etc/resolv.conf")
        self._dns = processes.start(
            [
                "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                f"--addn-hosts={self.folder / 'hosts'}", f"--listen-address={DNS_ADDRESS}", "--bind-interfaces",
                "--local-ttl=1", "--user=root", "--group=root", "--pid-file=",
            ],
            output=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        """Answer for no more names."""
        if self._dns is not None:
            processes.stop(self._dns, timeout_seconds=5)

    def add(self) -> tuple[str, str]:
        """A network for one more pod: its name, and the pod's address."""
        number = next(self._numbers)
        name, address = f"pod{number}", f"10.77.{number // 250}.{number % 250 + 1}"
        with self._one_at_a_time:
            _ip("netns", "add", name)
        _batch(
            [
                f"link add v{number} type veth peer name eth0 netns {name}",
                f"addr add {_HOP}/32 dev v{number}",
                f"link set v{number} up",
                f"route add {address}/32 dev v{number}",
            ]
        )
        inside = ["link set lo up", f"addr add {address}/32 dev eth0", "link set eth0 up"]
        _batch([*inside, f"route add {_HOP} dev eth0", f"route add default via {_HOP}"], inside=name)
        return name, address

    def remove(self, name: str) -> None:
        """Take a pod's network away."""
        _ip("netns", "delete", name)

    def tell(self, names: Mapping[str, Sequence[str]], virtual: Mapping[int, Sequence[str]], policies: str) -> None:
        """From now on names lead to these addresses, ports of the virtual address to those, and policies hold."""
        lines = [f"{address} {name} {name}.{_DOMAIN}" for name, every in names.items() for address in every]
        (self.folder / "hosts").write_text("\n".join([*lines, ""]))
        if self._dns is not None:
            self._dns.send_signal(signal.SIGHUP)
        leads = [
            f"  ip daddr {address} tcp dport {port} dnat to 127.0.0.1:{own}"
            for (address, port), own in self.forwarded.items()
        ]
        leads += [
            f"  ip daddr {VIRTUAL_ADDRESS} tcp dport {port} dnat to {_in_turn(addresses)}"
            for port, addresses in virtual.items()
            if addresses
        ]
        _nft(
            [
                *(f"flush chain ip cluster {name}" for name in ("leads", "outward", "inward")),
                "table ip cluster {",
                " chain leads {",
                *leads,
                " }",
                policies,
                "}",
            ]
        )


def _in_turn(addresses: Sequence[str]) -> str:
    if len(addresses) == 1:
        return addresses[0]
    places = ", ".join(f"{place}: {address}" for place, address in enumerate(addresses))
    return f"numgen inc mod {len(addresses)} map {{ {places} }}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=60)


def _batch(lines: Sequence[str], *, inside: str | None = None) -> None:
    place = ["-n", inside] if inside else []
    text = "\n".join(lines)
    subprocess.run(["ip", *place, "-batch", "-"], input=text, check=True, capture_output=True, text=True, timeout=60)


def _nft(lines: Sequence[str]) -> None:
    done = subprocess.run(
        ["nft", "-f", "-"], input="\n".join([*lines, ""]), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
