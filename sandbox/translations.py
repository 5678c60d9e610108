"""`make translations`: what the console says is looked for in its code, and each language's file gets what it lacks."""

from __future__ import annotations

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import write_po

from sandbox.plan import ROOT
from services.gateway.console.translations import FOLDER, SOURCE_LANGUAGE, catalog_of
from services.gateway.console.viewer import LANGUAGES

CONSOLE = ROOT / "services" / "gateway" / "console"
_KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "marked": None}
_METHODS = [("**.py", "python"), ("templates/**.html", "jinja2.ext:babel_extract")]
_WIDTH = 118


def extracted() -> Catalog:
    """All texts that the code of the console names."""
    found = Catalog(fuzzy=False)
    options = {"templates/**.html": {"newstyle_gettext": "true", "trim_blocks": "true", "silent": "false"}}
    for _, _, message, _, _ in extract_from_dir(str(CONSOLE), _METHODS, options, keywords=_KEYWORDS):
        found.add(message)
    return found


def renew() -> int:
    """Bring each language's file in line with the code; how many texts lack a translation then."""
    missing = 0
    for language in LANGUAGES.keys() - {SOURCE_LANGUAGE}:
        catalog = catalog_of(language)
        catalog.update(extracted(), no_fuzzy_matching=True, update_creation_date=False)
        catalog.obsolete.clear()
        catalog.fuzzy = False
        with (FOLDER / f"{language}.po").open("wb") as file:
            write_po(file, catalog, no_location=True, sort_output=True, width=_WIDTH, omit_header=True)
        lacking = [message.id for message in catalog if message.id and not message.string]
        for text in lacking:
            print(f"{language}: {text!r} has no translation yet")
        missing += len(lacking)
    return missing
