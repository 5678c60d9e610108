"""Parts of the contract that this version does not serve: each says so, and what to do instead."""

from __future__ import annotations

from libs.common.errors import Unimplemented

_SERVICE = "/darkroom.gateway.v1.GenerationService"
_BATCHES = "Batches are not served by this version; create generations one by one."
NOT_SERVED = {
    f"{_SERVICE}/RateGeneration": "Rating generations is not served by this version.",
    f"{_SERVICE}/EstimateCost": "Estimates are not served by this version; ListModels gives the prices.",
    f"{_SERVICE}/CreateBatch": _BATCHES,
    f"{_SERVICE}/GetBatch": _BATCHES,
    f"{_SERVICE}/WatchBatch": _BATCHES,
    f"{_SERVICE}/CancelBatch": _BATCHES,
    f"{_SERVICE}/ResumeBatch": _BATCHES,
}


def not_served(method: str) -> Unimplemented:
    """The error of an RPC of GenerationService."""
    return Unimplemented(NOT_SERVED[f"{_SERVICE}/{method}"])
