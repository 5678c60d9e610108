"""The documentation agrees with the code, and its links lead to files."""

from __future__ import annotations

import re

from sandbox.plan import ROOT
from sandbox.reference.pages import PAGES, changed_pages

_LINK_TO_A_FILE = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def test_generated_sections_are_up_to_date() -> None:
    outdated = [str(page.relative_to(ROOT)) for page in changed_pages()]
    assert not outdated, f"run make reference: {', '.join(outdated)} differ from the code"


def test_links_between_pages_lead_to_files() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in _LINK_TO_A_FILE.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []
