"""From a template and its values to HTML. Whatever is put into a template is escaped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.gateway.console import charts, formats, wording
from services.gateway.console.translations import gettext, ngettext
from services.gateway.console.viewer import LANGUAGES, THEMES, current_viewer

_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"
LIVE_PREFIX = "live_"


@cache
def static_version() -> str:
    """Changes with each change of a file that pages load, so that browsers may keep them for good."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def environment() -> Environment:
    """The templates."""
    made = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    # The extension adds it, which types do not know.
    cast("Any", made).install_gettext_callables(gettext, ngettext, newstyle=True)
    made.globals.update(
        fmt=formats,
        charts=charts,
        wording=wording,
        viewer=current_viewer,
        languages=LANGUAGES,
        themes=THEMES,
        static=f"/admin/static/{static_version()}",
    )
    # Known everywhere, in parts that are rendered by themselves, too.
    made.globals["ui"] = made.get_template("parts.html").module
    return made


def page(template: str, values: Mapping[str, Any]) -> str:
    """A whole page."""
    return environment().get_template(template).render(values)


def is_live(template: str) -> bool:
    """Whether parts of a page keep up by themselves."""
    return bool(_live_blocks(template))


def live_parts(template: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a page that keep up by themselves, by their names."""
    found = environment().get_template(template)
    context = found.new_context(dict(values))
    return {name: "".join(found.blocks[name](context)) for name in _live_blocks(template)}


def _live_blocks(template: str) -> list[str]:
    return [name for name in environment().get_template(template).blocks if name.startswith(LIVE_PREFIX)]
