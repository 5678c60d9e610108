"""What a run has found, for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

_EXAMPLES = 3
_TEXT_LIMIT = 1_500


@dataclass(frozen=True, order=True)
class Key:
    """Names a case: with the seed of the run it makes the same case again."""

    face: str
    role: str
    number: int

    def __str__(self) -> str:
        return f"{self.face}:{self.role}:{self.number}"


@dataclass
class Finding:
    """A fault with examples."""

    fault: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Counts and findings of one run."""

    seed: str
    cases: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    findings: dict[str, Finding] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)

    def note(self, key: Key, status: str) -> None:
        """Count one case."""
        self.cases[key.face, key.role] += 1
        self.statuses[key.face][status] += 1

    def find(self, fault: str, example: str) -> None:
        """Note a fault."""
        finding = self.findings.setdefault(fault, Finding(fault))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(example[:_TEXT_LIMIT])

    def text(self) -> str:
        """All of it."""
        lines = [f"seed {self.seed}, {self.cases.total()} cases"]
        for face in sorted(self.statuses):
            roles = ", ".join(f"{role} {count}" for (of, role), count in sorted(self.cases.items()) if of == face)
            told = ", ".join(f"{status} {count}" for status, count in sorted(self.statuses[face].items()))
            lines += [f"{face}: {roles}", f"    {told}"]
        lines += [f"{name}: {figure}" for name, figure in self.figures.items()]
        for finding in sorted(self.findings.values(), key=lambda one: -one.count):
            lines += [f"FOUND {finding.count} x {finding.fault}", *(f"    {example}" for example in finding.examples)]
        lines += [] if self.findings else ["nothing found"]
        return "\n".join(lines)
