"""Generations of an experiment, made, ended, continued and rated at random, and the sums that they come to."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from libs.common.database.engine import Database
from libs.common.database.records_experiments import ExperimentRecord, NewRating, SumsRecord
from libs.common.database.stores.experiment_measures import MeasureStore
from libs.common.database.stores.ratings import RatingStore
from tests.support.experiment_rows import CONTINUE, ENDED, WEIGHTS
from tests.support.rows import execute, insert, new_generation


class World:
    """Generations of an experiment, and what they came to."""

    def __init__(self, database: Database, experiment: ExperimentRecord, seed: int) -> None:
        self.database = database
        self.experiment = experiment
        self.random = random.Random(seed)
        self.measures = MeasureStore(database)
        self.made: list[dict[str, Any]] = []

    async def make(self, version: int) -> None:
        """Some generations, by users who come again and without a user."""
        for _ in range(60):
            user = f"u{self.random.randrange(12)}" if self.random.random() < 0.6 else None
            variant = self.random.choice(self.experiment.variants).id
            generation = new_generation(
                experiment_id=self.experiment.id,
                variant_id=variant,
                experiment_version=version,
                user_id=user,
                owner="shop",
            )
            await insert(self.database, [generation])
            self.made.append({"id": generation.id, "user": user, "variant": variant, "version": version, "ratings": []})

    async def end(self) -> None:
        """Half of those that have not ended."""
        for one in [one for one in self.made if "state" not in one and self.random.random() < 0.5]:
            one["state"] = self.random.choice(["SUCCESS", "SUCCESS", "FAILED", "CANCELLED"])
            one["seconds"], one["cost_usd"] = self.random.uniform(1, 90), self.random.choice([None, 0.04, 0.08])
            await execute(self.database, ENDED, **{name: one[name] for name in ("id", "state", "seconds", "cost_usd")})

    async def carry_on(self) -> None:
        """Continue some that did not succeed: a continuation takes the place of what it continues."""
        for one in [one for one in self.made if one.get("state") in {"FAILED", "CANCELLED"}]:
            if self.random.random() < 0.5:
                new_id = new_generation().id
                await execute(self.database, CONTINUE, id=one["id"], new_id=new_id)
                one["id"] = new_id
                del one["state"]

    async def rate(self) -> None:
        """Some that have succeeded, some of them again."""
        store = RatingStore(self.database)
        for one in [one for one in self.made if one.get("state") == "SUCCESS" and self.random.random() < 0.4]:
            context = {"revenue": self.random.uniform(0, 5), "why": "so"} if self.random.random() < 0.7 else {}
            one["ratings"].append({"user_rating": self.random.randint(1, 5), **context})
            rating = NewRating(one["id"], one["ratings"][-1]["user_rating"], "", context)
            assert await store.rate(rating, owner="shop") is not None

    def sums(self) -> dict[tuple[str, str], SumsRecord]:
        """All of it again, from the beginning."""
        by_unit: defaultdict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        samples: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
        places = {variant.id: place for place, variant in enumerate(self.experiment.variants)}
        for one in self.made:
            weight = 10_000 / WEIGHTS[one["version"] - 1][places[one["variant"]]]
            for metric, value in _values(one).items():
                unit = by_unit[one["variant"], metric, one["user"] or one["id"]]
                unit[0] += weight * value
                unit[1] += weight
                samples[one["variant"], metric][0] += 1
                samples[one["variant"], metric][1] += value
        found = {}
        for (variant, metric), (count, total) in samples.items():
            units = [unit for (whose, which, _), unit in by_unit.items() if (whose, which) == (variant, metric)]
            found[variant, metric] = SumsRecord(
                variant, metric, int(count), total, len(units), sum(m for m, _ in units), sum(d for _, d in units),
                sum(m * m for m, _ in units), sum(d * d for _, d in units), sum(m * d for m, d in units),
            )  # fmt: skip
        return found


def _values(one: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    if one.get("state") in {"SUCCESS", "FAILED"}:
        found = {"success_rate": float(one["state"] == "SUCCESS"), "avg_cost": one["cost_usd"] or 0.0}
    if one.get("state") == "SUCCESS":
        found["avg_duration"] = one["seconds"]
    rating = one["ratings"][-1] if one["ratings"] else {}
    return found | {name: value for name, value in rating.items() if name != "why"}
