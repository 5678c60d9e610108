"""What of a batch depends on what: names become places, and whatever cannot be is told with the way to it. Pure."""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records import ImageFrom, NewGeneration
from libs.common.database.records_batches import Dependency
from libs.common.errors import FieldViolation

_REF = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NEEDS_LIMIT, _ALL_NEEDS_LIMIT = 50, 200_000
_SHOWN_LIMIT = 10
# So many faults are looked for, and for so many of them what may have been meant: both take time.
_FAULTS_LIMIT, _HINTS_LIMIT, _HINTED_REFS = 1_000, 20, 1_000


@dataclass(frozen=True, slots=True)
class _Named:
    """A request that others may depend on."""

    index: int
    media_type: str
    number_of_outputs: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that depends on others, by their refs."""

    depends_on: tuple[str, ...]
    images: tuple[ImageFrom, ...]
    is_required: bool

    def needs(self) -> Iterator[tuple[str, str]]:
        """The path of each field that names another, and the ref that it names."""
        yield from ((f"depends_on[{number}]", ref) for number, ref in enumerate(self.depends_on))
        yield from ((f"images_from[{number}].from", image.batch_ref) for number, image in enumerate(self.images))


class Graph:
    """Grows a request at a time, and is resolved when all are there: what is named may come later."""

    def __init__(self) -> None:
        self._named: dict[str, _Named] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._needs: dict[int, list[int]] = {}
        self._models: dict[int, str] = {}
        self._count = 0

    def model_of(self, index: int) -> str:
        """The model of a request that has a ref or waits for one that has."""
        return self._models[index]

    def add(
        self, index: int, message: gateway_pb2.CreateGenerationRequest, generation: NewGeneration
    ) -> Iterator[FieldViolation]:
        """Take in the request of that place; what is wrong with its names, by itself."""
        if message.ref or message.depends_on or message.images_from:
            self._models[index] = generation.model_identifier
        if message.ref:
            if not _REF.fullmatch(message.ref):
                yield FieldViolation("ref", "format", "must have 1 to 64 letters, digits, dots, hyphens or underscores")
            elif message.ref in self._named:
                first = self._named[message.ref].index
                yield FieldViolation("ref", "unique", f"{message.ref} is the ref of requests[{first}] already")
            else:
                self._named[message.ref] = _Named(index, generation.media_type, generation.number_of_outputs)
        for number, image in enumerate(message.images_from):
            if image.output < 0:
                yield FieldViolation(f"images_from[{number}].output", "range", "must be 0 or more")
        count = len(message.depends_on) + len(message.images_from)
        self._count += count
        if count > _NEEDS_LIMIT:
            yield FieldViolation("depends_on", "length", f"must name at most {_NEEDS_LIMIT}, pictures included")
        elif self._count > _ALL_NEEDS_LIMIT:
            yield FieldViolation("depends_on", "length", f"the batch must have at most {_ALL_NEEDS_LIMIT} in all")
        elif count:
            goes_on = message.on_failure == gateway_pb2.DEPENDENCY_FAILURE_POLICY_CONTINUE
            self._waiting[index] = _Waiting(tuple(message.depends_on), generation.images_from, is_required=not goes_on)

    def resolve(self, *, is_parallel: bool) -> tuple[list[Dependency], list[tuple[int, FieldViolation]]]:
        """Which place waits for which, and what cannot be, by place. Without faults the first is the whole truth."""
        faults: list[tuple[int, FieldViolation]] = []
        for index in self._waiting:
            hints = len(faults) < _HINTS_LIMIT
            faults += [(index, fault) for fault in self._faults(index, is_parallel=is_parallel, hints=hints)]
            if len(faults) >= _FAULTS_LIMIT:
                break
        if not faults:
            cycle = self._cycle()
            if cycle:
                faults = [(cycle[0], FieldViolation("depends_on", "cycle", f"runs in a circle: {self._path(cycle)}"))]
        dependencies = [
            Dependency(index, need, self._waiting[index].is_required)
            for index, needs in self._needs.items()
            for need in needs
        ]
        return dependencies, faults

    def longest_seconds(self, seconds_of: Callable[[int], float]) -> float:
        """How long the longest chain takes, if the request of a place takes `seconds_of` it. Of a resolved graph."""
        done: dict[int, float] = {}
        for index in self._in_order():
            before = max((done.get(need, seconds_of(need)) for need in self._needs.get(index, ())), default=0.0)
            done[index] = before + seconds_of(index)
        return max(done.values(), default=0.0)

    def _faults(self, index: int, *, is_parallel: bool, hints: bool) -> Iterator[FieldViolation]:
        waiting = self._waiting[index]
        needs: dict[int, None] = {}
        for path, ref in waiting.needs():
            named = self._named.get(ref)
            if named is None:
                yield FieldViolation(path, "exists", self._unknown(ref, hints=hints))
            elif not is_parallel and named.index >= index:
                yield FieldViolation(path, "order", f"{ref} must come before it, for the batch is not parallel")
            else:
                needs[named.index] = None
        self._needs[index] = list(needs)
        for number, image in enumerate(waiting.images):
            named = self._named.get(image.batch_ref)
            if named is not None and named.media_type != "image":
                yield FieldViolation(f"images_from[{number}].from", "image", f"{image.batch_ref} makes no image")
            elif named is not None and image.output >= named.number_of_outputs:
                makes = f"{image.batch_ref} makes {named.number_of_outputs}"
                yield FieldViolation(f"images_from[{number}].output", "range", f"{makes}, counted from 0")

    def _unknown(self, ref: str, *, hints: bool) -> str:
        near = difflib.get_close_matches(ref[:64], list(islice(self._named, _HINTED_REFS)), n=1) if hints else []
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"there is no request with the ref {ref[:64]!r}{hint}"

    def _in_order(self) -> list[int]:
        """The places that wait, each after those that it waits for; what is part of a circle is left out."""
        left = {index: sum(need in self._needs for need in needs) for index, needs in self._needs.items()}
        followers: dict[int, list[int]] = {}
        for index, needs in self._needs.items():
            for need in needs:
                followers.setdefault(need, []).append(index)
        ready = deque(index for index, count in left.items() if not count)
        order = []
        while ready:
            index = ready.popleft()
            order.append(index)
            for follower in followers.get(index, ()):
                left[follower] -= 1
                if not left[follower]:
                    ready.append(follower)
        return order

    def _cycle(self) -> list[int]:
        """The places of a circle, in the order in which each waits for the next; empty where there is none."""
        barred = set(self._needs) - set(self._in_order())
        if not barred:
            return []
        # Whoever is barred waits for another that is, so this walk comes back to where it was.
        seen: dict[int, int] = {}
        index = min(barred)
        while index not in seen:
            seen[index] = len(seen)
            index = next(need for need in self._needs[index] if need in barred)
        return [place for place, number in seen.items() if number >= seen[index]]

    def _path(self, cycle: Sequence[int]) -> str:
        names = {named.index: ref for ref, named in self._named.items()}
        shown = [names[index] for index in cycle[:_SHOWN_LIMIT]]
        left_out = ["…"] if len(cycle) > _SHOWN_LIMIT else []
        return " → ".join([*shown, *left_out, names[cycle[0]]])
