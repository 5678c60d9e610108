"""`python -m bench.experiments`: whether experiments tell the truth, and what they cost."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Callable
from time import monotonic

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.experiments import adaptive, coverage, peeking
from bench.experiments.agreement import agreement
from bench.experiments.allocating import allocated, moved_share
from bench.experiments.stack import million, shown, throughput, two_models
from libs.common.database.states import AllocationMode
from sandbox.plan import FOLDER

_PARTS = ("peeking", "coverage", "agreement", "allocation", "bandits", "models", "throughput", "million")
_FOLDER = FOLDER / "bench/experiments"
Tell = Callable[[str], None]


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.experiments", description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000, help="simulated experiments of each kind")
    parser.add_argument("--bandit-runs", type=int, default=500, help="simulated bandits of each kind")
    parser.add_argument("--users", type=int, default=1_000_000, help="users that are allocated")
    parser.add_argument("--requests", type=int, default=500, help="requests to each of two models")
    parser.add_argument("--generations", type=int, default=1_000_000, help="generations whose results are asked for")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement of the gateway")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of those")
    parser.add_argument("--seed", type=int, default=1, help="of all that is simulated")
    parser.add_argument("--only", action="append", choices=_PARTS, help="one part; may be repeated")
    arguments = parser.parse_args()
    console, wanted, began = Console(width=140), arguments.only or _PARTS, monotonic()
    random = np.random.default_rng(arguments.seed)
    _FOLDER.mkdir(parents=True, exist_ok=True)

    def tell(words: str) -> None:
        console.print(f"{monotonic() - began:6.1f} s  {words}", markup=False, soft_wrap=True)

    parts: dict[str, Callable[[], object]] = {
        "peeking": lambda: _peeking(arguments.runs, random, tell),
        "coverage": lambda: _coverage(arguments.runs, random, tell),
        "agreement": lambda: agreement(random),
        "allocation": lambda: _allocation(arguments.users, tell),
        "bandits": lambda: _bandits(arguments.bandit_runs, random, tell),
        "models": lambda: _models(arguments.requests, tell),
        "throughput": lambda: _throughput(arguments.seconds, arguments.rounds, tell),
        "million": lambda: _million(arguments.generations, tell),
    }
    for name in _PARTS:
        if name in wanted:
            console.print(parts[name](), markup=False)


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _peeking(runs: int, random: np.random.Generator, tell: Tell) -> Table:
    bound = 0.05 + 1.96 * math.sqrt(0.05 * 0.95 / runs)
    looks = peeking.SAMPLES // peeking.LOOK
    table = Table(
        "A/A", "a winner at any look", "fixed horizon, at any look", "fixed horizon, one look at the end",
        title=f"{runs:,} experiments without a difference, {looks} looks each; up to {_percent(bound)} may be chance",
    )  # fmt: skip
    for kind in peeking.KINDS:
        table.add_row(kind.name, *map(_percent, peeking.false_winners(kind, runs, random)))
        tell(f"{kind.name}: done")
    return table


def _coverage(runs: int, random: np.random.Generator, tell: Tell) -> Table:
    names = ("coverage, one look", "always-valid, at the end", "always-valid, at all of 20 looks")
    table = Table(
        "A/B", "samples (one look)", *names, "power at the plan", "found by then", "power, one look",
        title=f"{runs:,} experiments with a difference: 95 % intervals, planned for a power of 80 %",
    )  # fmt: skip
    for kind in coverage.KINDS:
        found = coverage.covered(kind, runs, random)
        shares = (
            found.fixed_coverage, found.coverage, found.coverage_throughout, found.power, found.ever, found.fixed_power
        )  # fmt: skip
        table.add_row(kind.name, f"{found.samples:,.0f} ({found.fixed_samples:,.0f})", *map(_percent, shares))
        tell(f"{kind.name}: done")
    return table


def _allocation(users: int, tell: Tell) -> Table:
    found = allocated(users, 20)
    tell("users allocated")
    table = Table("allocation", "", title=f"{users:,} users, 20 experiments, 10,000 buckets")
    table.add_row("seconds for a user in an experiment", f"{found.seconds_each * 1e6:.2f} millionths")
    for name, p_values in (("uniform", found.uniform), ("independent, two by two", found.independent)):
        low = sum(value < 0.01 for value in p_values)
        spread = f"p from {min(p_values):.4f} to {max(p_values):.4f}, {low} of {len(p_values)} below 0.01"
        table.add_row(f"{name} (chi-square)", spread)
    table.add_row("all p-values evenly spread (Kolmogorov and Smirnov)", f"p = {found.together:.3f}")
    changes: list[tuple[list[int], list[int]]] = [
        ([5_000, 5_000], [6_000, 4_000]),
        ([2_500] * 4, [4_000, 3_000, 2_000, 1_000]),
        ([3_333, 3_333, 3_334], [9_000, 1_000, 0]),
    ]
    for before, after in changes:
        moved, least = moved_share(before, after, users)
        table.add_row(f"moved, {before} to {after}", f"{_percent(moved)}; the least is {_percent(least)}")
    return table


def _bandits(runs: int, random: np.random.Generator, tell: Tell) -> Table:
    rates = ", ".join(_percent(rate) for rate in adaptive.RATES)
    table = Table(
        "shares", "regret, successes missed", "share of the best", "best found", "coverage, adjusted",
        "coverage, plain", "of the difference", "always-valid",
        title=f"{runs:,} experiments with success rates of {rates}",
    )  # fmt: skip
    for mode in AllocationMode:
        found = adaptive.adapted(mode, runs, random)
        table.add_row(
            mode.lower().replace("_", "-"),
            f"{found.regret:.0f}",
            _percent(found.best_share),
            _percent(found.found_best),
            ", ".join(map(_percent, found.coverage)),
            ", ".join(map(_percent, found.plain_coverage)),
            _percent(found.difference_coverage),
            _percent(found.always_coverage),
        )
        tell(f"{mode}: done")
    return table


def _models(requests: int, tell: Tell) -> str:
    found = shown(asyncio.run(two_models(_FOLDER, requests, tell)))
    tell(f"pictures in {_FOLDER.relative_to(FOLDER.parent)}")
    return json.dumps(found, indent=2, ensure_ascii=False)


def _throughput(seconds: float, rounds: int, tell: Tell) -> Table:
    figures = asyncio.run(throughput(_FOLDER, seconds, rounds, tell))
    table = Table("round", "without experiments, a second", "with twenty", "ratio", title="CreateGeneration")
    for number, (without, inside, ratio) in enumerate(figures, start=1):
        table.add_row(str(number), f"{without:,.0f}", f"{inside:,.0f}", f"{ratio:.2f}")
    return table


def _million(generations: int, tell: Tell) -> Table:
    found = asyncio.run(million(_FOLDER, generations, tell))
    slowest, median = max(found.results_seconds), float(np.median(found.results_seconds))
    table = Table("results", "seconds", title=f"{found.generations:,} generations")
    table.add_row("written and added up", f"{found.fold_seconds:.0f}")
    table.add_row("GetResults, median and slowest of ten", f"{median:.3f}, {slowest:.3f}")
    table.add_row("with three pictures", f"{found.plots_seconds:.3f}")
    table.add_row("by segment, read from the generations", f"{found.segments_seconds:.3f}")
    return table


if __name__ == "__main__":
    main()
