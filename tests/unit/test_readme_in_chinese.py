"""The two READMEs say the same: headings, commands, tables, words of code and links."""

from __future__ import annotations

import re

from sandbox.plan import ROOT

ENGLISH = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh-CN.md").read_text()
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def _prose(text: str) -> str:
    return _BLOCK.sub("", text)


def test_headings_are_as_many_and_as_deep() -> None:
    def depths(text: str) -> list[int]:
        return [len(found) for found in re.findall(r"^(#+) \S", _prose(text), re.MULTILINE)]

    assert depths(CHINESE) == depths(ENGLISH)


def test_commands_are_the_same() -> None:
    assert _BLOCK.findall(CHINESE) == _BLOCK.findall(ENGLISH)


def test_tables_are_as_large() -> None:
    def cells(text: str) -> list[int]:
        return [line.count("|") for line in _prose(text).splitlines() if line.startswith("|")]

    assert cells(CHINESE) == cells(ENGLISH)


def test_words_of_code_are_the_same() -> None:
    def words(text: str) -> list[str]:
        return sorted(re.findall(r"`([^`]+)`", _prose(text)))

    assert words(CHINESE) == words(ENGLISH)


def test_links_lead_to_the_same_places() -> None:
    def targets(text: str) -> list[str]:
        return sorted(target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("README"))

    assert targets(CHINESE) == targets(ENGLISH)


def test_each_leads_to_the_other() -> None:
    assert "](README.zh-CN.md)" in ENGLISH
    assert "](README.md)" in CHINESE
