from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from libs.common.adapters.registry import adapters
from libs.common.catalog import CatalogFault, CatalogHolder, Model, load, parse
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.watched import LIMIT_BYTES
from sandbox.plan import SHIPPED_CATALOG

GOOD: dict[str, Any] = {
    "providers": {
        "bfl": {"adapter": "flux", "base_url": "https://api.example.com", "credentials": {"api_key": "BFL_API_KEY"}}
    },
    "models": {
        "flux-pro": {
            "provider": "bfl",
            "upstream_model": "flux-pro-1.1",
            "media_type": "image",
            "price_per_output_usd": 0.04,
        }
    },
}


def text_of_catalog(**changes: Any) -> str:
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = content
        for parent in parents:
            place = place[parent.replace("_pro", "-pro")]
        place[last] = value
    return yaml.safe_dump(content)


def test_the_shipped_catalog_is_good_and_uses_every_adapter() -> None:
    catalog = load(SHIPPED_CATALOG)
    assert {provider.adapter for provider in catalog.providers.values()} == set(adapters())


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        pytest.param(
            {"providers__bfl__adapter": "flx"}, "providers.bfl.adapter: there is no adapter 'flx'", id="adapter"
        ),
        pytest.param({"providers__bfl__credentials": {}}, "providers.bfl.credentials.api_key", id="credential missing"),
        pytest.param(
            {"providers__bfl__credentials": {"api_key": "BFL_API_KEY", "x": "Y"}},
            "providers.bfl.credentials.x",
            id="credential too many",
        ),
        pytest.param({"providers__bfl__credentials": {"api_key": "sk-123"}}, "credentials.api_key", id="a key itself"),
        pytest.param({"providers__bfl__base_url": "ftp://x"}, "providers.bfl.base_url", id="base url"),
        pytest.param(
            {"providers__bfl__limts": {}}, "providers.bfl.limts: unknown; did you mean limits?", id="misspelt"
        ),
        pytest.param({"providers__bfl__limits": {"concurrent_tasks": 0}}, "limits.concurrent_tasks", id="limit"),
        pytest.param({"providers__bfl__storage": {"s3_path_prefix": "../x"}}, "storage.s3_path_prefix", id="prefix"),
        pytest.param(
            {"models__flux_pro__provider": "bfx"}, "models.flux-pro.provider: there is no provider", id="provider"
        ),
        pytest.param({"models__flux_pro__media_type": "sound"}, "models.flux-pro.media_type", id="media type"),
        pytest.param(
            {"models__flux_pro__when_uncertain": "resubmit"}, "flux-pro.when_uncertain: is not set here", id="consent"
        ),
        pytest.param({"models__flux_pro__max_outputs": 11}, "models.flux-pro.max_outputs", id="outputs"),
        pytest.param({"models__flux_pro__price_per_second_usd": 1}, "models.flux-pro: exactly one of", id="two prices"),
        pytest.param(
            {"models__flux_pro__defaults": {"sed": 1}}, "defaults.sed: unknown; did you mean seed?", id="default"
        ),
        pytest.param(
            {"models__flux_pro__polling": {"interval_seconds": 0}}, "polling.interval_seconds", id="interval of nothing"
        ),
        pytest.param({"models": []}, "models", id="a list for models"),
        pytest.param(
            {"providers__bfl__webhooks": {}}, "webhooks: exactly one of secret and keys_url", id="webhooks unsigned"
        ),
        pytest.param({"models__flux_pro__fallbacks": ["x"]}, "fallbacks: there is no model 'x'", id="fallback"),
        pytest.param({"models__flux_pro__fallbacks": ["flux-pro"]}, "no fallback of its own", id="fallback to itself"),
        pytest.param({"providers__bfl__limits": {"requests_per_second": 0}}, "requests_per_second", id="rate"),
        pytest.param({"providers__bfl__breaker": {"failure_rate": 2}}, "breaker.failure_rate", id="breaker"),
    ],
)
def test_a_fault_is_told_with_its_path(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(CatalogFault) as caught:
        parse(text_of_catalog(**changes))
    assert fault in str(caught.value)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(CatalogFault) as caught:
        parse(text_of_catalog(providers__bfl__adapter="flx", models__flux_pro__media_type="sound", models__other=3))
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "!!python/object:os.system {}", "[" * 5_000, "\x00"])
def test_what_is_no_catalog_is_refused(text: str) -> None:
    with pytest.raises(CatalogFault):
        parse(text)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_bytes(b"#" * (LIMIT_BYTES + 1))
    with pytest.raises(CatalogFault, match="larger"):
        load(path)


def test_a_file_that_changes_replaces_the_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(text_of_catalog())
    holder = CatalogHolder(path)
    assert holder.reload() == "unchanged"

    path.write_text(text_of_catalog(models__flux_pro__price_per_output_usd=0.5))

    assert holder.reload() == "replaced"
    assert holder.current.model("flux-pro").price_per_output_usd == 0.5


def test_a_bad_file_is_refused_and_the_old_catalog_stays(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(text_of_catalog())
    holder = CatalogHolder(path)
    before = holder.current

    path.write_text("models: {")

    assert holder.reload() == "refused"
    assert holder.current is before
    assert holder.last_fault is not None
    assert holder.reload() == "unchanged"
    assert holder.reload(force=True) == "refused"


def test_a_swapped_link_is_seen_as_kubernetes_does_it(tmp_path: Path) -> None:
    for name, price in (("old", 0.1), ("new", 0.2)):
        (tmp_path / name).write_text(text_of_catalog(models__flux_pro__price_per_output_usd=price))
    link = tmp_path / "catalog.yaml"
    link.symlink_to(tmp_path / "old")
    holder = CatalogHolder(link)

    (tmp_path / "next").symlink_to(tmp_path / "new")
    (tmp_path / "next").replace(link)

    assert holder.reload() == "replaced"
    assert holder.current.model("flux-pro").price_per_output_usd == 0.2


def test_credentials_that_are_not_set_are_named() -> None:
    provider = parse(text_of_catalog()).providers["bfl"]
    with pytest.raises(GenerationError, match="BFL_API_KEY") as caught:
        provider.secrets({})
    assert caught.value.code is ErrorCode.AUTHENTICATION_FAILED
    assert provider.secrets({"BFL_API_KEY": "k"}) == {"api_key": "k"}


@pytest.mark.parametrize(
    ("limits", "rate"),
    [({}, None), ({"requests_per_second": 3}, 3), ({"requests_per_minute": 120, "requests_per_second": 3}, 2)],
)
def test_the_narrower_rate_holds(limits: dict[str, float], rate: float | None) -> None:
    assert parse(text_of_catalog(providers__bfl__limits=limits)).providers["bfl"].limits.rate_per_second == rate


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://api.bfl.ai/v1/get_result?id=1", True),
        ("https://eu1.bfl.ai/x", True),
        ("https://bfl.ai.evil.example/x", False),
        ("ftp://api.bfl.ai/x", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_provider_knows_its_own_urls(url: str, own: bool) -> None:
    provider = parse(
        text_of_catalog(providers__bfl__api_hosts=[".bfl.ai"], providers__bfl__base_url="https://api.bfl.ai")
    )
    assert provider.providers["bfl"].owns(url) == own


def test_an_unknown_model_points_to_the_list() -> None:
    with pytest.raises(NotFound, match="ListModels"):
        parse(text_of_catalog()).model("none")


@pytest.mark.parametrize(("media_type", "expected"), [("image", 600), ("video", 1_200)])
def test_the_longest_duration_follows_from_the_media_type(media_type: str, expected: int) -> None:
    model = Model.model_validate(
        {"identifier": "m", "provider": "p", "upstream_model": "u", "media_type": media_type, "price_per_output_usd": 1}
    )
    assert model.max_duration_seconds == expected


def test_what_a_video_costs_follows_from_its_seconds() -> None:
    model = Model.model_validate(
        {"identifier": "m", "provider": "p", "upstream_model": "u", "media_type": "video", "price_per_second_usd": 0.1}
    )
    assert model.cost_usd(2, {"duration": 5}) == pytest.approx(1.0)
