"""What becomes of a request's images: what the provider needs, what the catalog says, what is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from libs.common.adapters.registry import adapters
from libs.common.catalog import CatalogFault, load, parse
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.needs import ImageNeeds
from libs.common.imaging.presets import PRESETS
from libs.common.imaging.sizes import Size
from libs.common.preprocessing.plans import changed, plan, request_faults, wish_faults
from sandbox.plan import SHIPPED_CATALOG
from tests.unit.test_catalog import text_of_catalog

NEEDS = ImageNeeds(
    PreprocessConfig.fitting(2_000, quality=90, kind="base64"),
    formats=("jpeg", "png"),
    longest_side=3_000,
    shortest_side=300,
    widest=2.5,
    max_size_kb=5_000,
)

WIDE_AND_HIGH = ("width", "max_height")


def test_changes_go_deep_and_leave_the_rest() -> None:
    config = NEEDS.config.with_changes({"resize": {"width": 100}, "format": "png"})
    assert (config.resize.width, config.resize.height, config.format) == (100, 2_000, "png")
    assert config.compression == NEEDS.config.compression


@pytest.mark.parametrize(
    "changes",
    [{"resize": {"mode": "cover", "width": None}}, {"quality": 3}, {"compression": {"quality": "high"}}, {"format": 1}],
)
def test_changes_that_break_a_rule_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NEEDS.config.with_changes(changes)


def test_a_preset_takes_the_place_of_what_is_needed_and_is_held_to_it() -> None:
    config = plan(NEEDS, {"preset": "high", "compression": {"quality": 80}}, PRESETS).config
    assert (config.format, config.compression.quality, config.output.kind) == ("png", 80, "base64")
    assert (config.resize.width, config.resize.max_width, config.compression.max_size_kb) == (2_048, 3_000, 5_000)
    assert config.keeps == ("jpeg", "png")


def test_a_preset_that_is_gone_counts_as_none() -> None:
    assert changed(NEEDS.config, {"preset": "gone"}, PRESETS) == NEEDS.config
    (fault,) = wish_faults({"preset": "gone"}, NEEDS.config, PRESETS, path="config")
    assert (fault.field, fault.description) == ("config.preset", "must be one of fast, high, standard")


@pytest.mark.parametrize(
    ("wish", "fields"),
    [
        ({}, []),
        ({"resize": {"width": 3_000}, "format": "keep", "compression": {"max_size_kb": 5_000}}, []),
        (
            {"resize": {"width": 3_001, "max_height": 4_000}},
            ["preprocess.resize.width", "preprocess.resize.max_height"],
        ),
        ({"format": "webp"}, ["preprocess.format"]),
        ({"compression": {"max_size_kb": 5_001}}, ["preprocess.compression.max_size_kb"]),
        ({"output": {"kind": "url"}}, ["preprocess.output"]),
        ({"compression": {"quality": 0}, "output": {"kind": "url"}}, ["preprocess.compression.quality"]),
    ],
)
def test_less_may_be_asked_for_and_not_more(wish: dict[str, Any], fields: list[str]) -> None:
    assert [fault.field for fault in request_faults(wish, NEEDS, PRESETS)] == fields


def test_where_images_go_as_they_come_nothing_may_be_asked_for() -> None:
    (fault,) = request_faults({"format": "png"}, None, PRESETS)
    assert fault.field == "preprocess"


@pytest.mark.parametrize(
    ("size", "rule"),
    [
        (Size(300, 300), None),
        (Size(299, 500), "dimensions"),
        (Size(1000, 399), "aspect_ratio"),
        (Size(400, 1000), None),
    ],
)
def test_what_would_be_sent_is_what_the_provider_takes(size: Size, rule: str | None) -> None:
    try:
        NEEDS.check(size)
    except ImageFault as fault:
        assert fault.rule == rule
    else:
        assert rule is None


def test_every_adapter_declares_what_its_vendor_needs_and_hands_over_as_it_takes_it() -> None:
    catalog = load(SHIPPED_CATALOG)
    for model in catalog.models.values():
        kind, parameters = catalog.adapter_of(model), catalog.parameters(model, {})
        needs = catalog.image_needs(model, parameters)
        assert needs is not None
        held = needs.held(needs.config)
        assert held.resize == needs.held(held).resize
        assert (held.output.kind == "buffer") == kind.needs_image_bytes
        assert held.output.kind != "base64" or kind.takes_data_urls
    assert set(adapters()) == {provider.adapter for provider in catalog.providers.values()}
    assert {*PRESETS, "pollo-optimized", *catalog.providers} == set(catalog.presets)


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ("16:9", (1920, 1080)),
        ("9:16", (1080, 1920)),
        ("1:1", (1080, 1080)),
        ("4:3", (1440, 1080)),
        ("21:9", (1920, 823)),
    ],
)
def test_pollos_pictures_have_the_ratio_of_the_video(ratio: str, size: tuple[int, int]) -> None:
    pollo = adapters()["pollo"]
    needs = pollo.image_needs(pollo.parameters.model_validate({"size_or_ratio": ratio}))
    assert needs is not None
    assert (needs.config.resize.width, needs.config.resize.height) == size


@pytest.mark.parametrize(
    ("preprocess", "fault"),
    [
        ({"resize": {"width": 0}}, "providers.bfl.preprocess.resize.width"),
        ({"resise": {}}, "providers.bfl.preprocess.resise: unknown; did you mean resize?"),
        ({"format": "avif"}, "providers.bfl.preprocess.format: must be keep or one of jpeg, png, webp here"),
        ({"resize": {"width": 9_000}}, "providers.bfl.preprocess.resize.width: must be at most 2048 here"),
        ({"output": {"kind": "buffer"}}, "providers.bfl.preprocess.output.kind: adapter flux takes no files"),
        (True, "providers.bfl.preprocess"),
    ],
)
def test_the_catalog_is_checked(preprocess: object, fault: str) -> None:
    with pytest.raises(CatalogFault) as raised:
        parse(text_of_catalog(providers__bfl__preprocess=preprocess))
    assert any(found.startswith(fault) for found in raised.value.faults), raised.value.faults


def test_the_catalog_changes_what_an_accounts_images_become_or_leaves_them() -> None:
    for preprocess, quality in (({"compression": {"quality": 70}}, 70), ({"output": {"kind": "url"}}, 92)):
        catalog = parse(text_of_catalog(providers__bfl__preprocess=preprocess))
        model = catalog.model("flux-pro")
        needs = catalog.image_needs(model, catalog.parameters(model, {}))
        assert needs is not None
        assert needs.config.compression.quality == quality
    catalog = parse(text_of_catalog(providers__bfl__preprocess=False))
    model = catalog.model("flux-pro")
    assert catalog.image_needs(model, catalog.parameters(model, {})) is None
    assert "bfl" not in catalog.presets
