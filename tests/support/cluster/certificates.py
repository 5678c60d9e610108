"""What cert-manager would make of the Certificates in the manifests: secrets, signed by an authority of ours."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.k8s.rendering import Document


class Authority:
    """Signs for the length of a test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = (
            self._builder("darkroom-authority", self._key.public_key())
            .add_extension(constraints, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def secrets(self, certificates: Iterable[Document]) -> dict[str, dict[str, str]]:
        """By name of a secret, its files."""
        return {
            one["spec"]["secretName"]: self._signed(one["spec"]["commonName"], one["spec"]["dnsNames"])
            for one in certificates
            if not one["spec"].get("isCA")
        }

    def _signed(self, name: str, names: Iterable[str]) -> dict[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([x509.DNSName(other) for other in names])
        signed = (
            self._builder(name, key.public_key())
            .add_extension(alternatives, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        return {
            "tls.crt": signed.public_bytes(pem).decode(),
            "tls.key": private.decode(),
            "ca.crt": self._certificate.public_bytes(pem).decode(),
        }

    def _builder(self, name: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)

        def of(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(of(name))
            .issuer_name(of("darkroom-authority"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )
