"""Running experiments as they travel between the services."""

from __future__ import annotations

from collections.abc import Iterable

from darkroom.experiments.v1 import experiments_pb2 as messages

from libs.common.experiments.allocation import BUCKETS, Running, Targeting, VariantSpec
from libs.common.rpc.structs import from_struct, to_struct


def allocation_message(running: Running) -> messages.Allocation:
    """A running experiment as a message."""
    targeting = running.targeting
    return messages.Allocation(
        experiment_id=running.experiment_id,
        salt=running.salt,
        layer=running.layer,
        layer_ranges=[edge for edges in running.layer_ranges for edge in edges],
        targeting=messages.Targeting(
            model_identifiers=sorted(targeting.model_identifiers),
            api_key_ids=sorted(targeting.api_key_ids),
            labels=targeting.labels,
        ),
        variants=[variant_message(variant) for variant in running.variants],
        buckets=running.buckets,
        version=running.version,
    )


def variant_message(variant: VariantSpec) -> messages.Variant:
    """A variant as a message."""
    return messages.Variant(
        id=variant.id,
        name=variant.name,
        model_identifier=variant.model_identifier,
        prompt=variant.prompt,
        parameters=to_struct(variant.parameters),
    )


def running_of(allocations: Iterable[messages.Allocation]) -> list[Running]:
    """Messages as running experiments. ValueError for one that nobody could allocate from."""
    found = [
        Running(
            experiment_id=message.experiment_id,
            salt=message.salt,
            layer=message.layer,
            layer_ranges=tuple(zip(message.layer_ranges[::2], message.layer_ranges[1::2], strict=True)),
            targeting=Targeting(
                frozenset(message.targeting.model_identifiers),
                frozenset(message.targeting.api_key_ids),
                dict(message.targeting.labels),
            ),
            variants=tuple(
                VariantSpec(one.id, one.name, one.model_identifier, one.prompt, from_struct(one.parameters))
                for one in message.variants
            ),
            buckets=message.buckets,
            version=message.version,
        )
        for message in allocations
    ]
    for running in found:
        if len(running.buckets) != BUCKETS or max(running.buckets) >= len(running.variants):
            raise ValueError(f"the buckets of {running.experiment_id} do not fit its variants")
    return found
