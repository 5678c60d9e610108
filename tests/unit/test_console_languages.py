"""Every text of the console in every language, and no text beside those."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from babel.messages.catalog import Catalog, Message

from sandbox.plan import ROOT
from sandbox.translations import CONSOLE, extracted
from services.gateway.console.translations import SOURCE_LANGUAGE, catalog_of, gettext, ngettext
from services.gateway.console.viewer import LANGUAGES, Viewer, look_as, viewer_of

OTHERS = sorted(LANGUAGES.keys() - {SOURCE_LANGUAGE})
TEMPLATES = sorted((CONSOLE / "templates").glob("*.html"))
_PLACEHOLDER = re.compile(r"%\(\w+\)s|%%|\{\w+\}")
# Names, and what is the same in every language.
_SAME = {"Darkroom", "HTTP"}


def _texts(catalog: Catalog) -> dict[str, Message]:
    return {message.id if isinstance(message.id, str) else message.id[0]: message for message in catalog if message.id}


def _strings(message: Message) -> Iterator[str]:
    found = message.string
    yield from [found] if isinstance(found, str) else found or ()


@pytest.mark.parametrize("language", OTHERS)
def test_no_text_lacks_a_translation_and_none_is_left_over(language: str) -> None:
    named, known = _texts(extracted()), _texts(catalog_of(language))
    assert len(named) > 400
    assert named.keys() - known.keys() == set()
    assert known.keys() - named.keys() == set()
    empty = [text for text, message in known.items() if not all(_strings(message))]
    assert empty == []
    assert not [text for text, message in known.items() if message.fuzzy]


@pytest.mark.parametrize("language", OTHERS)
def test_translations_hold_what_is_put_into_them(language: str) -> None:
    for text, message in _texts(catalog_of(language)).items():
        wanted = {one for one in _PLACEHOLDER.findall(text) if one != "%(num)s"}
        for string in _strings(message):
            assert {one for one in _PLACEHOLDER.findall(string) if one != "%(num)s"} == wanted, text


def test_a_translation_is_in_another_script() -> None:
    han = re.compile(r"[一-鿿]")
    bare = [text for text, message in _texts(catalog_of("zh")).items() if not any(map(han.search, _strings(message)))]
    assert bare == []


# What fields of forms hold.
_VALUES = {
    *("ATTACHED", "RESUBMITTED", "DISMISSED", "BILLED", "NOT", "chosen", "all"),
    *("table", "yes", "variant", "metric"),
}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_no_words_stand_in_a_template_beside_those_that_are_translated(path: object) -> None:
    text = (ROOT / str(path)).read_text()
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|<!doctype[^>]*>", " ", text, flags=re.DOTALL)
    spoken = re.findall(r'\b(?:alt|title|aria-label|placeholder|value)="([^"]*)"', text)
    text = re.sub(r"<[^>]*>", " ", text)
    words = {word for part in (text, *spoken) for word in re.findall(r"[A-Za-z]{3,}", part)}
    assert words - _SAME - _VALUES == set()


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("fr, zh;q=0.5, en;q=0.4", "zh"),
        ("fr", "en"),
        ("", "en"),
        ("zh;q=high", "en"),
        (",".join(["xx"] * 10_000), "en"),
    ],
)
def test_the_browser_says_which_language(accepted: str, language: str) -> None:
    assert viewer_of({}, accepted).language == language


def test_what_is_chosen_goes_before_what_the_browser_says() -> None:
    chosen = {"darkroom_language": "zh", "darkroom_theme": "dark", "darkroom_zone": "Asia%2FShanghai"}
    viewer = viewer_of(chosen, "en")
    assert (viewer.language, viewer.theme, str(viewer.zone)) == ("zh", "dark", "Asia/Shanghai")
    nonsense = viewer_of({"darkroom_language": "xx", "darkroom_theme": "<", "darkroom_zone": "../../etc/passwd"}, "en")
    assert (nonsense.language, nonsense.theme, str(nonsense.zone)) == ("en", "auto", "UTC")


def test_texts_are_in_the_language_of_the_viewer() -> None:
    english = viewer_of({}, "en")
    chinese = Viewer("zh", english.zone, "auto", english.now)
    look_as(chinese)
    assert gettext("Sign in") == "登录"
    assert ngettext("%(num)s hour", "%(num)s hours", 4) == "%(num)s 小时"
    look_as(english)
    assert gettext("Sign in") == "Sign in"
    assert ngettext("%(num)s hour", "%(num)s hours", 4) == "%(num)s hours"
