"""The 10,000 buckets of an experiment and of a layer: who gets how many, and which."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.database.records_experiments import Ranges
from libs.common.experiments.allocation import BUCKETS


def rounded(shares: Sequence[float], *, floor: int = 0) -> list[int]:
    """Shares that sum to about 1 as buckets that sum to 10,000 (largest remainders).

    `floor`: what whoever has any share gets at least.
    """
    lowest = [floor if share > 0 else 0 for share in shares]
    left = BUCKETS - sum(lowest)
    wanted = [left * share / sum(shares) for share in shares]
    found = [low + int(want) for low, want in zip(lowest, wanted, strict=True)]
    by_remainder = sorted(range(len(shares)), key=lambda place: (int(wanted[place]) - wanted[place], place))
    for place in by_remainder[: BUCKETS - sum(found)]:
        found[place] += 1
    return found


def spread(weights: Sequence[int]) -> bytes:
    """Buckets for the first time: the position of the variant of each. Hashes are uniform, so any will do."""
    return b"".join(bytes([position]) * weight for position, weight in enumerate(weights))


def moved(buckets: bytes, weights: Sequence[int]) -> bytes:
    """Buckets after a change of the weights: only as many change hands as must, so that as few users as possible do."""
    changed = bytearray(buckets)
    missing = [weight - buckets.count(position) for position, weight in enumerate(weights)]
    takers = [position for position, lack in enumerate(missing) for _ in range(max(0, lack))]
    for place in reversed(range(len(changed))):
        giver = changed[place]
        if takers and missing[giver] < 0:
            missing[giver] += 1
            changed[place] = takers.pop()
    return bytes(changed)


def free_ranges(taken: Sequence[Ranges], wanted: int) -> Ranges | None:
    """The first so many buckets of a layer that nobody has; None where there are fewer."""
    found: Ranges = []
    edge = 0
    for start, end in [*sorted((start, end) for ranges in taken for start, end in ranges), (BUCKETS, BUCKETS)]:
        size = min(start - edge, wanted)
        if size > 0:
            found.append([edge, edge + size])
            wanted -= size
        edge = max(edge, end)
    return found if wanted == 0 else None
