"""Who takes part in which experiment, and gets which variant.

A user's place is a hash, so that nothing has to be remembered and every process comes to the same: BLAKE2b with 64 bits
(RFC 7693), which is uniform over 10,000 buckets to one part in 10^15.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BUCKETS = 10_000
"""A bucket is a hundredth of a percent."""
_SEPARATOR = "\n"


def unit_of(owner: str, user_id: str) -> str:
    """A user among those of all owners: user ids are an owner's own."""
    return f"{owner}{_SEPARATOR}{user_id}"


def bucket_of(*parts: str) -> int:
    """The bucket, 0 to 9,999, that the parts together belong to."""
    digest = hashlib.blake2b(_SEPARATOR.join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % BUCKETS


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """One way of making it: what replaces the request's model, prompt and parameters."""

    id: str
    name: str
    model_identifier: str
    prompt: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What allocation looks at. `user_id` empty: nobody is known, and chance decides."""

    model_identifier: str
    owner: str = ""
    user_id: str = ""
    api_key_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Targeting:
    """Which requests take part. Empty: none is kept out by it."""

    model_identifiers: frozenset[str]
    api_key_ids: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)

    def takes(self, request: Request) -> bool:
        """Whether the request may take part."""
        return (
            request.model_identifier in self.model_identifiers
            and (not self.api_key_ids or request.api_key_id in self.api_key_ids)
            and all(request.labels.get(key) == value for key, value in self.labels.items())
        )


@dataclass(frozen=True, slots=True)
class Running:
    """A running experiment. `buckets` has the position of the variant of each bucket.

    `layer_ranges` are the parts of its layer's buckets that are its own: from (included), to (excluded).
    """

    experiment_id: str
    salt: str
    layer: str
    layer_ranges: tuple[tuple[int, int], ...]
    targeting: Targeting
    variants: tuple[VariantSpec, ...]
    buckets: bytes
    version: int

    def has(self, layer_bucket: int) -> bool:
        """Whether a bucket of its layer is its own."""
        return any(start <= layer_bucket < end for start, end in self.layer_ranges)


@dataclass(frozen=True, slots=True)
class Allocated:
    """The variant of a request, under which version of the shares."""

    experiment: Running
    variant: VariantSpec

    @property
    def probability(self) -> float:
        """With which probability a user comes to this variant, above 0 to 1."""
        position = self.experiment.variants.index(self.variant)
        return self.experiment.buckets.count(position) / BUCKETS


class Allocations:
    """All running experiments, in the order in which requests are offered to them.

    Args:
        running: the experiments.
        chance: a bucket at random, for requests without a user.
    """

    def __init__(self, running: Sequence[Running], chance: Callable[[], int]) -> None:
        self._chance = chance
        self._by_model: dict[str, list[Running]] = {}
        for experiment in running:
            for model in experiment.targeting.model_identifiers:
                self._by_model.setdefault(model, []).append(experiment)

    def allocate(self, request: Request, *, fits: Callable[[Running], bool] = lambda _: True) -> Allocated | None:
        """The first experiment that takes the request, and its variant there; None: the request takes part in none.

        `fits` says whether the request could be run with every variant of an experiment. It must not look at the one
        that would be taken, or the variants would get different requests.
        """
        candidates = self._by_model.get(request.model_identifier)
        if not candidates:
            return None
        unit = unit_of(request.owner, request.user_id) if request.user_id else None
        drawn: dict[str, int] = {}
        for experiment in candidates:
            layer = experiment.layer
            if layer not in drawn:
                drawn[layer] = self._chance() if unit is None else bucket_of("layer", layer, unit)
            if experiment.has(drawn[layer]) and experiment.targeting.takes(request) and fits(experiment):
                place = self._chance() if unit is None else bucket_of(experiment.experiment_id, experiment.salt, unit)
                return Allocated(experiment, experiment.variants[experiment.buckets[place]])
        return None
