"""Parts of the contract that this version does not serve: each says so, and what to do instead."""

from __future__ import annotations

from libs.common.errors import Unimplemented

_SERVICE = "/darkroom.gateway.v1.GenerationService"
NOT_SERVED = {
    f"{_SERVICE}/RateGeneration": "Rating generations is not served by this version.",
}


def not_served(method: str) -> Unimplemented:
    """The error of an RPC of GenerationService."""
    return Unimplemented(NOT_SERVED[f"{_SERVICE}/{method}"])
