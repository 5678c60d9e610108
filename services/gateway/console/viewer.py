"""Who looks at a page, as far as it changes how things are written: language, zone, theme."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel import negotiate_locale

LANGUAGES = {"en": "English", "zh": "简体中文"}
THEMES = ("auto", "light", "dark")
LANGUAGE_COOKIE, THEME_COOKIE, ZONE_COOKIE = "darkroom_language", "darkroom_theme", "darkroom_zone"
_ZONE_LIMIT = 64
_LANGUAGES_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Viewer:
    """How to write for somebody. `zone`: that of their browser, once a script has told it; else UTC."""

    language: str
    zone: tzinfo
    theme: str
    now: datetime

    @property
    def locale(self) -> str:
        """What Babel calls the language."""
        return {"zh": "zh_Hans_CN"}.get(self.language, "en_US")


_ENGLISH = Viewer("en", UTC, "auto", datetime.min.replace(tzinfo=UTC))
_current: ContextVar[Viewer | None] = ContextVar("viewer", default=None)


def viewer_of(cookies: Mapping[str, str], accept_language: str) -> Viewer:
    """Who sent these cookies and `Accept-Language` (RFC 9110); whatever makes no sense is as if it were not there."""
    language = cookies.get(LANGUAGE_COOKIE, "")
    theme = cookies.get(THEME_COOKIE, "")
    return Viewer(
        language if language in LANGUAGES else _preferred(accept_language),
        _zone(cookies.get(ZONE_COOKIE, "")),
        theme if theme in THEMES else "auto",
        datetime.now(UTC),
    )


def look_as(viewer: Viewer) -> None:
    """Write the rest of this request for them."""
    _current.set(viewer)


def current_viewer() -> Viewer:
    """For whom is written."""
    return _current.get() or _ENGLISH


def _preferred(accept_language: str) -> str:
    weighed = []
    for place, part in enumerate(accept_language.split(",")[:_LANGUAGES_LIMIT]):
        tag, _, quality = part.strip().partition(";q=")
        try:
            weighed.append((-float(quality or 1), place, tag))
        except ValueError:
            continue
    wanted = [tag.partition("-")[0] for _, _, tag in sorted(weighed)]
    return negotiate_locale(wanted, list(LANGUAGES)) or "en"


def _zone(name: str) -> tzinfo:
    name = name.replace("%2F", "/")
    if not name or len(name) > _ZONE_LIMIT:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC
