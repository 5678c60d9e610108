"""The requests of a batch, read one at a time: each is checked as it comes, all of them together at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from darkroom.gateway.v1 import gateway_pb2

from libs.common.catalog import Catalog
from libs.common.database.records_batches import BatchOptions, BatchRequest, Dependency
from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest
from services.gateway.access import Caller
from services.gateway.batches.graph import Graph
from services.gateway.batches.tally import Tally
from services.gateway.requests import validate
from services.gateway.resubmitting import resubmit_usd

_FAULTS_SHOWN = 20
# With so many the rest is not worth a look.
_FAULTS_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Read:
    """A batch whose requests are all good."""

    total_tasks: int
    dependencies: Sequence[Dependency]
    tally: Tally
    reserved_usd: float
    digest: bytes


class BatchReader:
    """Reads one batch.

    Args:
        batch_id: what it will be called.
        catalog: the one in force.
        caller: whose it will be.
        request_id: what all log lines about it will carry.
        options: how it will be run.
        faults: what is wrong with it already.
        callback_hosts: hosts that callbacks may go to though their addresses are not public.
    """

    def __init__(
        self,
        batch_id: str,
        catalog: Catalog,
        *,
        caller: Caller,
        request_id: str,
        options: BatchOptions,
        faults: Sequence[FieldViolation] = (),
        callback_hosts: Sequence[str] = (),
    ) -> None:
        self._batch_id = batch_id
        self._catalog = catalog
        self._caller = caller
        self._request_id = request_id
        self._options = options
        self._callback_hosts = callback_hosts
        self._faults = list(faults)
        self._graph = Graph()
        self._digest = hashlib.sha256()
        self.tally = Tally()
        self.count = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether so much is wrong that reading on is of no use."""
        return len(self._faults) >= _FAULTS_LIMIT

    def fault(self, violation: FieldViolation) -> None:
        """Note that something else is wrong with the batch."""
        self._faults.append(violation)

    def sign(self, content: bytes) -> None:
        """Let this be part of what makes another body another batch."""
        self._digest.update(len(content).to_bytes(8, "big") + content)

    def read(self, message: gateway_pb2.CreateGenerationRequest) -> BatchRequest | None:
        """The next request, ready to be kept; None where it is not good, or another before it was not."""
        index, self.count = self.count, self.count + 1
        self.sign(message.SerializeToString(deterministic=True))
        try:
            wanted = validate(
                message,
                self._catalog,
                caller=self._caller,
                request_id=self._request_id,
                callback_hosts=self._callback_hosts,
                in_batch=True,
            )
        except GenerationError as error:
            if not error.violations:
                raise
            self._faults += [_at(index, violation) for violation in error.violations]
            return None
        generation = replace(wanted.generation, batch_id=self._batch_id, batch_index=index)
        if self._options.priority is not None:
            generation = replace(generation, priority=self._options.priority)
        self._faults += [_at(index, violation) for violation in self._graph.add(index, message, generation)]
        self.tally.add(generation, resubmit_usd(generation, self._catalog))
        return None if self._faults else BatchRequest(generation, wanted.reuse_within_seconds)

    def finish(self) -> Read:
        """The batch. InvalidRequest with what is wrong with it, by the index of the request."""
        dependencies: list[Dependency] = []
        if not self.count and not self._faults:
            self._faults.append(FieldViolation("requests", "required", "must be at least one"))
        if not self._faults:
            dependencies, faults = self._graph.resolve(is_parallel=self._options.is_parallel)
            self._faults += [_at(index, violation) for index, violation in faults]
        if self._faults:
            raise _refused(self._faults)
        return Read(self.count, dependencies, self.tally, self.tally.reserved_usd, self._digest.digest())

    def longest_seconds(self, seconds_of_model: dict[str, float]) -> float:
        """How long the longest chain of dependencies takes, by how long each model takes."""
        return self._graph.longest_seconds(lambda index: seconds_of_model[self._graph.model_of(index)])


def _at(index: int, violation: FieldViolation) -> FieldViolation:
    return replace(violation, field=f"requests[{index}].{violation.field}")


def _refused(faults: Sequence[FieldViolation]) -> GenerationError:
    """The first of them, for an answer has to be carried; and how many there are."""
    shown = faults[:_FAULTS_SHOWN]
    refusal = InvalidRequest(shown)
    if len(faults) == len(shown):
        return refusal
    message = f"{len(faults)} faults, the first of which are: {refusal.message}"
    return GenerationError(
        ErrorCode.INVALID_REQUEST, message, {**refusal.details, "faults": len(faults)}, violations=shown
    )
