"""Numbers with units, money, times in the viewer's zone: as their language writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from babel.dates import format_date, format_datetime, format_time
from babel.numbers import format_currency, format_decimal, format_percent
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from markupsafe import Markup, escape

from libs.common.database.records import Json
from libs.common.database.stores.second_payment import written_usd
from libs.common.rpc.structs import from_struct
from libs.common.storage.media import INLINE_TYPES
from services.gateway.console.translations import gettext as _
from services.gateway.console.viewer import current_viewer

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_KILOBYTE = 1_000
NOTHING = "\N{EN DASH}"


def number(value: float, digits: int = 0) -> str:
    """A number with at most so many decimals."""
    pattern = "#,##0" + (f".{'#' * digits}" if digits else "")
    return str(format_decimal(value, format=pattern, locale=current_viewer().locale))


def compact(value: float) -> str:
    """A number that has little room: 12.3K."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{number(value / (1e3 if unit == 'k' else size), 1)} {unit}"
    return number(value, 0 if float(value).is_integer() else 2)


def money(value: float) -> str:
    """US dollars; small amounts with up to four decimals."""
    pattern = "¤#,##0.00##" if 0 < abs(value) < 1 else "¤#,##0.00"
    return str(format_currency(value, "USD", format=pattern, currency_digits=False, locale=current_viewer().locale))


def price(amount_usd: float) -> str:
    """A price to which a visitor consents, in US dollars: as refusals name it, without rounding to cents."""
    return written_usd(amount_usd)


def percent(share: float, digits: int = 1) -> str:
    """A share, 0 to 1, in percent."""
    pattern = f"#,##0{'.' + '#' * digits if digits else ''} %"
    return str(format_percent(share, format=pattern, locale=current_viewer().locale))


def seconds(value: float) -> str:
    """A duration: in milliseconds, seconds, minutes, hours or days, whichever a person would say."""
    if value < 1:
        return _("%(number)s ms") % {"number": number(value * 1_000)}
    if value < _MINUTE:
        return _("%(number)s s") % {"number": number(value, 1)}
    if value < _HOUR:
        whole = round(value)
        return _("%(minutes)s min %(seconds)s s") % {"minutes": number(whole // 60), "seconds": number(whole % 60)}
    if value < 2 * _DAY:
        whole = round(value / 60)
        return _("%(hours)s h %(minutes)s min") % {"hours": number(whole // 60), "minutes": number(whole % 60)}
    return _("%(number)s days") % {"number": number(value / _DAY, 1)}


def shown_as(output: Json) -> str:
    """`image` or `video` for an output that pages show; empty for one that is only offered as a download."""
    content_type = output.get("content_type") or ""
    if content_type not in INLINE_TYPES | {"image/heic"}:
        return ""
    return content_type.partition("/")[0]


def size(value: int) -> str:
    """Bytes, in units of 1,000."""
    if value < _KILOBYTE:
        return _("%(number)s bytes") % {"number": number(value)}
    if value < _KILOBYTE**2:
        return f"{number(value / _KILOBYTE, 1)} kB"
    return f"{number(value / _KILOBYTE**2, 1)} MB"


def instant(value: datetime | Timestamp | None) -> datetime | None:
    """A point in time of a row or a message, in the viewer's zone."""
    if isinstance(value, Timestamp):
        value = value.ToDatetime(tzinfo=UTC) if value.seconds or value.nanos else None
    return value.astimezone(current_viewer().zone) if value is not None else None


def exact(value: datetime | Timestamp | None) -> str:
    """A point in time to the millisecond, with its zone."""
    at = instant(value)
    if at is None:
        return NOTHING
    locale = current_viewer().locale
    return f"{format_date(at, 'full', locale=locale)} {at:%H:%M:%S}.{at.microsecond // 1_000:03} {at.tzname()}"


def time(value: datetime | Timestamp | None) -> Markup:
    """A point in time as short as its age allows, and exactly where the pointer rests."""
    at = instant(value)
    if at is None:
        return escape(NOTHING)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), exact(at), _short(at))


def clock(value: datetime | Timestamp | None) -> str:
    """The time of day, to the minute."""
    at = instant(value)
    return str(format_time(at, "HH:mm", locale=current_viewer().locale)) if at else NOTHING


def between(begin: datetime | Timestamp | None, end: datetime | Timestamp | None) -> str:
    """How long it took; until now where it has not ended."""
    first, last = instant(begin), instant(end) or current_viewer().now
    return seconds(max(timedelta(), last - first).total_seconds()) if first else NOTHING


def indented(value: Mapping[str, Any] | Message | Any) -> str:
    """JSON for people to read."""
    if isinstance(value, Struct):
        value = from_struct(value)
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def _short(at: datetime) -> str:
    viewer = current_viewer()
    today = viewer.now.astimezone(viewer.zone).date()
    if at.date() == today:
        pattern = "HH:mm:ss"
    elif at.year == today.year:
        pattern = "MMM d, HH:mm" if viewer.language == "en" else "M月d日 HH:mm"
    else:
        pattern = "MMM d, y" if viewer.language == "en" else "y年M月d日"
    return str(format_datetime(at, pattern, locale=viewer.locale))
