"""How services know each other: mutual TLS where certificates are configured, and a shared token otherwise."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NamedTuple

import grpc

from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.context import metadata_of_context
from libs.common.rpc.interceptors import Before, Call, Context
from libs.common.settings import Settings, listed

AUTHORIZATION = "authorization"
ACTOR_KEY = "x-darkroom-actor"
# Probes and engineers ask these of every service; neither tells anything of a generation.
_OPEN_SERVICES = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)


def is_keyless(method: str) -> bool:
    """Whether `/package.Service/Method` is open to callers without a key."""
    return method.startswith(_OPEN_SERVICES)


def metadata_of(call: Call) -> Mapping[str, str]:
    """The text metadata of a call, by lower-case key. Of a key that comes twice, the last."""
    return metadata_of_context(call.context)


def actor_of(context: Context) -> str:
    """Who is behind a call to a service that is no edge, as the gateway says; else some service."""
    return metadata_of_context(context).get(ACTOR_KEY, "a service")[:200]


def bearer(authorization: str) -> str:
    """The token of an `authorization` header (RFC 6750); empty for none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def has_certificates(settings: Settings) -> bool:
    """Whether services show each other certificates."""
    return settings.internal_tls_certificate is not None


def service_tokens(settings: Settings) -> tuple[str, ...]:
    """The tokens that services believe; the first is the one they show."""
    return listed(settings.service_token.get_secret_value()) if settings.service_token else ()


class _Internal(NamedTuple):
    """What services show each other, as PEM."""

    certificate: bytes
    private_key: bytes
    ca: bytes


def _internal(settings: Settings) -> _Internal | None:
    paths = (settings.internal_tls_certificate, settings.internal_tls_private_key, settings.internal_tls_ca)
    contents = [path.read_bytes() for path in paths if path is not None]
    # The settings see to it that there are all of them, or none.
    return _Internal(*contents) if contents else None


def server_credentials(settings: Settings, *, is_edge: bool) -> grpc.ServerCredentials | None:
    """What a server listens with; None: without TLS. The edge asks its clients for no certificate."""
    if is_edge:
        certificate, key = settings.gateway_tls_certificate, settings.gateway_tls_private_key
        if certificate is None or key is None:
            return None
        return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    shown = _internal(settings)
    if shown is None:
        return None
    return grpc.ssl_server_credentials(
        [(shown.private_key, shown.certificate)], root_certificates=shown.ca, require_client_auth=True
    )


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """What a service calls its peers with; None: without TLS."""
    shown = _internal(settings)
    return None if shown is None else grpc.ssl_channel_credentials(shown.ca, shown.private_key, shown.certificate)


def edge_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """What a service calls the gateway with; None: without TLS.

    Its certificate is believed if our own CA has signed it, or one of the system's where we have none.
    """
    if settings.gateway_tls_certificate is None:
        return None
    ca = settings.internal_tls_ca
    return grpc.ssl_channel_credentials(ca.read_bytes() if ca else None)


class PeersOnly(Before):
    """Lets in other services alone. With certificates TLS has seen to that already; else each call shows the token."""

    def __init__(self, settings: Settings) -> None:
        self._has_certificates = has_certificates(settings)
        self._tokens = service_tokens(settings)
        if not self._has_certificates and not self._tokens:
            raise SystemExit(
                "Services must know each other: set DARKROOM_SERVICE_TOKEN (32 characters or more, the same for all), "
                "or DARKROOM_INTERNAL_TLS_CERTIFICATE, _PRIVATE_KEY and _CA."
            )

    async def before(self, call: Call) -> None:
        """See the class."""
        if not self._has_certificates and not is_keyless(call.method):
            given = bearer(metadata_of(call).get(AUTHORIZATION, "")).encode()
            if not any(hmac.compare_digest(given, token.encode()) for token in self._tokens):
                raise GenerationError(
                    ErrorCode.AUTHENTICATION_FAILED, "This port is for Darkroom's own services: ask the gateway."
                )
