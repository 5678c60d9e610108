"""What the console says, in the viewer's language. English is in the code; other languages are in a .po file each.

The files are read at the start, so that there is nothing to build. `make translations` renews them.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

from services.gateway.console.viewer import LANGUAGES, current_viewer

FOLDER = Path(__file__).parent
SOURCE_LANGUAGE = "en"


def gettext(message: str) -> str:
    """A text in the viewer's language."""
    return _spoken().gettext(message)


def ngettext(singular: str, plural: str, number: int) -> str:
    """A text about so many."""
    return _spoken().ngettext(singular, plural, number)


def marked(message: str) -> str:
    """A text that is translated where it is shown: `make translations` finds it here."""
    return message


def catalog_of(language: str) -> Catalog:
    """What there is in a language other than English."""
    with (FOLDER / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


@cache
def _translations(language: str) -> NullTranslations:
    if language == SOURCE_LANGUAGE or language not in LANGUAGES:
        return NullTranslations()
    packed = io.BytesIO()
    write_mo(packed, catalog_of(language))
    packed.seek(0)
    return Translations(packed)


def _spoken() -> NullTranslations:
    return _translations(current_viewer().language)
