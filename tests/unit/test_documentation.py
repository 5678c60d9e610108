"""What the documentation lists is all there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel

from libs.common import metrics
from libs.common.catalog import (
    BreakerPolicy,
    Limits,
    Model,
    Polling,
    Provider,
    Retry,
    StoragePolicy,
    WebhookPolicy,
)
from libs.common.settings import Settings
from sandbox.plan import ROOT
from sandbox.simulators.behaviour import Behaviour, FaultKind

OPERATING = (ROOT / "docs/operating.md").read_text()
CATALOG = (ROOT / "docs/catalog.md").read_text()
SANDBOX = (ROOT / "docs/sandbox.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`DARKROOM_{name.upper()}`" in OPERATING


def test_every_metric_is_documented() -> None:
    assert metrics.READY is not None
    declared = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("darkroom_")}
    documented = {name.removesuffix("_total") for name in re.findall(r"`(darkroom_[a-z_]+)`", OPERATING)}
    from_database = {name.removesuffix("_total") for name in metrics.DATABASE_FAMILIES}
    assert documented == declared | from_database


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (Provider, ""),
        (Limits, "limits."),
        (Retry, "retry."),
        (StoragePolicy, "storage."),
        (BreakerPolicy, "breaker."),
        (WebhookPolicy, "webhooks."),
        (Model, ""),
        (Polling, "polling."),
    ],
)
def test_every_key_of_the_catalog_is_documented(kind: type[BaseModel], prefix: str) -> None:
    nested = {"id", "identifier", "limits", "retry", "storage", "polling", "breaker", "webhooks"}
    for name in set(kind.model_fields) - nested:
        assert f"`{prefix}{name}`" in CATALOG, name


def test_every_behaviour_of_the_simulator_is_documented() -> None:
    for word in [*Behaviour.model_fields, *FaultKind]:
        assert f"`{word}`" in SANDBOX, word


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
