"""Certificates of authorities of our own, made for one test."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


class Certificate(NamedTuple):
    """PEM files."""

    certificate: Path
    private_key: Path
    ca: Path


class Signed(NamedTuple):
    """What an authority has signed, its key, and the authority's own certificate, as PEM."""

    certificate: bytes
    private_key: bytes
    ca: bytes


class Authority:
    """Signs for the length of a test."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = (
            self._builder(name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def signed(self, name: str, *, hosts: Sequence[str] = (), addresses: Sequence[str] = ()) -> Signed:
        """One for these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [
                *(x509.DNSName(host) for host in hosts),
                *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
            ]
        )
        made = (
            self._builder(name, key.public_key()).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Signed(made.public_bytes(_PEM), private, self._certificate.public_bytes(_PEM))

    def _builder(self, subject: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(self._name))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )


def certificate(folder: Path, name: str) -> Certificate:
    """One for the loopback interface, of an authority that signs nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    signed = Authority(f"{name} authority").signed(name, hosts=["localhost"], addresses=["127.0.0.1"])
    files = (folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}-ca.pem")
    for path, content in zip(files, signed, strict=True):
        path.write_bytes(content)
    return Certificate(*files)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
