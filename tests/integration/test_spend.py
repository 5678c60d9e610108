"""What generations cost, by the labels that the settings name."""

from __future__ import annotations

from libs.common.metrics import SPEND_USD, Spend
from tests.conftest import StartStack
from tests.support.running import SUCCESS
from tests.support.simulator import FAILS, simulated

NAME = "darkroom_spend_usd_total"


async def test_spend_is_counted_once_and_by_each_label_that_is_named(start_stack: StartStack) -> None:
    running = await start_stack(settings={"DARKROOM_SPEND_LABELS": "team, project"})
    wanted = [
        # Stored by the dispatcher, stored by the poller, and not billed.
        ("gpt-image-1", simulated("spend 1", task_seconds=0), {"team": "red", "other": "x"}),
        ("flux-pro", simulated("spend 2", task_seconds=0.1), {"team": "blue", "project": "p"}),
        ("flux-pro", simulated("spend 3", task_seconds=0.1, faults=FAILS), {"team": "blue"}),
    ]
    ids = [await running.create(model, prompt, labels=labels) for model, prompt, labels in wanted]
    ended = [await running.ended(generation_id) for generation_id in ids]
    assert [generation.status == SUCCESS for generation in ended] == [True, True, False]

    async def spent(**labels: str) -> float:
        found = [await running.metric(service, NAME, **labels) for service in ("dispatcher", "poller")]
        return round(sum(found), 6)

    assert await spent(label="") == 0.082
    assert await spent(label="team", value="red") == 0.042
    assert await spent(label="team", value="blue", model="flux-pro", provider="bfl") == 0.04
    assert await spent(label="project", value="p") == 0.04
    assert await spent(label="other") == 0


def test_callers_cannot_make_up_more_values_than_a_bound() -> None:
    before = Spend.keys
    Spend.keys = ("made_up",)
    try:
        for number in range(300):
            Spend.count("m", "p", {"made_up": str(number)}, 0.01)
    finally:
        Spend.keys = before
    values = {
        sample.labels["value"]
        for metric in SPEND_USD.collect()
        for sample in metric.samples
        if sample.labels["label"] == "made_up" and sample.name.endswith("_total")
    }
    assert (len(values), "(other)" in values) == (201, True)
