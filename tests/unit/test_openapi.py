"""The OpenAPI document: valid, whole, and saying what the protos say."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.gateway.batches.routes import ROUTES as BATCH_ROUTES
from services.gateway.rest.openapi import document
from services.gateway.rest.routes import all_bindings

DOCUMENT: dict[str, Any] = document(all_bindings())


def test_it_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_every_route_that_is_served_is_in_it_and_no_other() -> None:
    found = {(verb.upper(), path) for path, item in DOCUMENT["paths"].items() for verb in item}
    served = {(binding.verb, binding.path) for binding in all_bindings()}
    beside = {tuple(route.split()) for route in (*BATCH_ROUTES, "GET /api/health", "GET /api/health/detailed")}
    assert found == served | beside


def test_every_field_and_operation_is_explained() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, inner in schema.get("properties", {}).items():
            assert inner.get("description"), f"{name}.{field}"
    for path, item in DOCUMENT["paths"].items():
        for verb, operation in item.items():
            assert operation["summary"], f"{verb} {path}"


@pytest.mark.parametrize("name", ["modelIdentifier", "prompt"])
def test_what_is_required_says_so(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"]["CreateGenerationRequest"]
    assert name in schema["required"]


def test_words_are_those_that_rest_speaks() -> None:
    words = DOCUMENT["components"]["schemas"]["GenerationStatus"]["enum"]
    assert words == ["UNSPECIFIED", "PENDING", "PROCESSING", "SUCCESS", "FAILED", "CANCELLED"]
