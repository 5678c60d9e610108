"""Pages with generated sections, each between two comments that Markdown does not show.

<!-- settings: written by make reference -->
| variable | default | meaning |
<!-- end -->
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox.plan import ROOT
from sandbox.reference.sections import SECTIONS

_END = "<!-- end -->"
_START = re.compile(r"^<!-- ([a-z ]+): written by make reference -->$", re.MULTILINE)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


class ReferenceFault(Exception):
    """A page and the sections of the reference do not fit together."""


def rewritten(text: str, sections: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace the generated sections of a page. Answers the new page and the names of its sections.

    Args:
        text: the Markdown of the page.
        sections: the content of each section by its name.

    Raises ReferenceFault for a section that does not exist or has no end.
    """
    parts, place, names = [], 0, []
    for start in _START.finditer(text):
        name, end = start[1], text.find(_END, start.end())
        following = _START.search(text, start.end())
        if name not in sections:
            raise ReferenceFault(f"there is no section {name!r}; there are {', '.join(sections)}")
        if end < 0 or (following and following.start() < end):
            raise ReferenceFault(f"section {name!r} has no {_END}")
        parts += [text[place : start.end()], f"\n{sections[name]}\n"]
        place = end
        names.append(name)
    return "".join([*parts, text[place:]]), names


def changed_pages(pages: Sequence[Path] = PAGES) -> dict[Path, str]:
    """The pages that differ from what is generated, with their new text.

    Raises ReferenceFault as `rewritten`, and for a section that stands on no page or more than once.
    """
    sections = {name: make() for name, make in SECTIONS.items()}
    changed: dict[Path, str] = {}
    placed: list[str] = []
    for page in pages:
        text = page.read_text()
        try:
            new, names = rewritten(text, sections)
        except ReferenceFault as fault:
            raise ReferenceFault(f"{page}: {fault}") from fault
        placed += names
        if new != text:
            changed[page] = new
    misplaced = [name for name in sections if placed.count(name) != 1]
    if misplaced:
        raise ReferenceFault(f"each section must be on the pages exactly once; not so: {', '.join(misplaced)}")
    return changed


def write_reference() -> int:
    """Write the pages that differ, and print which. Answers the exit code."""
    try:
        changed = changed_pages()
    except (ReferenceFault, ValueError) as fault:
        print(fault, file=sys.stderr)
        return 1
    for path, text in changed.items():
        path.write_text(text)
        print(f"updated {path.relative_to(ROOT)}")
    return 0
