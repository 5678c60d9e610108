"""Requests as the gateway makes them of messages."""

from __future__ import annotations

from darkroom.gateway.v1 import gateway_pb2

from libs.common.catalog import Catalog
from libs.common.database.records import NewGeneration
from services.gateway.access import Caller
from services.gateway.requests import validate

CALLER = Caller("key_1", "client", "acme")


def validated(message: gateway_pb2.CreateGenerationRequest, catalog: Catalog, caller: Caller = CALLER) -> NewGeneration:
    """The generation that a message asks for."""
    return validate(message, catalog, caller=caller, request_id="req_1").generation
