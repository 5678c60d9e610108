"""What generations are expected to cost and to take."""

from __future__ import annotations

import pytest

from libs.common.catalog import Catalog, parse
from libs.common.database.records import Fallback
from services.gateway.batches.tally import Knowledge, Observed, Queued, Tally, estimated
from tests.support.rows import new_generation

CATALOG: Catalog = parse("""
providers:
  bfl:
    adapter: flux
    base_url: https://api.bfl.ai
    credentials: {api_key: BFL_API_KEY}
    limits: {concurrent_tasks: 5}
  other:
    adapter: flux
    base_url: https://api.bfl.ai
    credentials: {api_key: BFL_API_KEY}
    limits: {requests_per_second: 2}
models:
  dear: {provider: bfl, upstream_model: a, media_type: image, price_per_output_usd: 1}
  cheap: {provider: other, upstream_model: b, media_type: image, price_per_output_usd: 0.1}
""")
CHEAP = Fallback("cheap", "other", {}, 0.1)


def _tally(**counts: int) -> Tally:
    tally = Tally()
    for model, count in counts.items():
        usd = 1.0 if model == "dear" else 0.1
        fallbacks = (CHEAP,) if model == "dear" else ()
        for _ in range(count):
            tally.add(new_generation(model_identifier=model, expected_cost_usd=usd, fallbacks=fallbacks))
    return tally


def _seconds(tally: Tally, knowledge: Knowledge, *, places: int = 10, chain: float = 0.0) -> float:
    models = tally.by_models(knowledge, CATALOG)
    whole = estimated(models, knowledge, CATALOG, max_concurrency=places, longest_chain_seconds=chain)
    return whole.expected_seconds


def test_what_falls_back_costs_the_least_and_what_does_not_the_most() -> None:
    models = _tally(dear=10, cheap=20).by_models(Knowledge(), CATALOG)
    assert [model.model_identifier for model in models] == ["dear", "cheap"]
    assert [(m.low_usd, m.expected_usd, m.high_usd) for m in models] == [
        pytest.approx((1.0, 10.0, 10.0)),
        pytest.approx((2.0, 2.0, 2.0)),
    ]


@pytest.mark.parametrize(
    ("observed", "share"),
    [
        pytest.param(Observed(), 1.0, id="nothing is known"),
        pytest.param(Observed(ended=1, succeeded=0), 5 / 6, id="one failure says little"),
        pytest.param(Observed(ended=995, succeeded=495), 0.5, id="a thousand say much"),
    ],
)
def test_what_fails_is_not_expected_to_be_paid(observed: Observed, share: float) -> None:
    (model,) = _tally(dear=10).by_models(Knowledge({"dear": observed}), CATALOG)
    assert model.expected_usd == pytest.approx(10 * share)
    assert model.high_usd == 10.0


@pytest.mark.parametrize(
    ("counts", "knowledge", "places", "chain", "seconds"),
    [
        pytest.param({"dear": 1}, Knowledge(), 10, 0.0, 10.0, id="an image that nobody has made takes ten seconds"),
        pytest.param({"dear": 30}, Knowledge({"dear": Observed(9, 9, 4.0)}), 3, 0.0, 40.0, id="the batch's own places"),
        pytest.param({"dear": 50}, Knowledge({"dear": Observed(9, 9, 4.0)}), 50, 0.0, 40.0, id="the account's places"),
        pytest.param(
            {"dear": 50},
            Knowledge({"dear": Observed(9, 9, 4.0)}, {"bfl": Queued(waiting=20, at_work=5)}),
            50,
            0.0,
            60.0,
            id="others that wait",
        ),
        pytest.param({"cheap": 100}, Knowledge({"cheap": Observed(9, 9, 4.0)}), 100, 0.0, 54.0, id="its rate"),
        pytest.param({"dear": 1}, Knowledge(), 10, 300.0, 300.0, id="a long chain"),
    ],
)
def test_the_narrowest_place_says_how_long_it_takes(
    counts: dict[str, int], knowledge: Knowledge, places: int, chain: float, seconds: float
) -> None:
    assert _seconds(_tally(**counts), knowledge, places=places, chain=chain) == pytest.approx(seconds)


def test_the_dearest_is_reserved() -> None:
    tally = Tally()
    tally.add(new_generation(expected_cost_usd=0.1, fallbacks=(Fallback("dear", "bfl", {}, 1.0),)))
    assert tally.reserved_usd == 1.0
