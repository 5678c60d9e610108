"""Lists of hosts, as the catalog has them, and URLs as they were written."""

from __future__ import annotations

import re
from collections.abc import Sequence

from yarl import URL

# Source: RFC 3986, section 2: all characters that a URL may have.
_ASCII_URL = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


def is_listed(host: str, hosts: Sequence[str]) -> bool:
    """Whether `host` is one of `hosts`, or below one that begins with a dot."""
    host = host.lower().rstrip(".")
    return any(host.endswith(name.lower()) if name.startswith(".") else host == name.lower() for name in hosts)


def host_of(url: URL) -> str:
    """Return the host of a URL; empty if it has none or the host is not a valid name, such as `xn--` (RFC 5891).

    yarl decodes the name only when `URL.host` is read, and raises then.
    """
    try:
        return url.host or ""
    except ValueError:
        return ""


def url_as_written(text: str) -> URL:
    """Return a URL that is requested as it is written: escapes are neither decoded nor added.

    Signed URLs are checked by their hosts byte by byte. A text that is no URL by RFC 3986, for instance with spaces
    inside, is escaped as browsers do. White space around it is left out.

    Raises ValueError for what is no URL.
    """
    text = text.strip()
    url = URL(text)
    if not _ASCII_URL.fullmatch(text):
        return url
    written = URL(text, encoded=True)
    # Only where both name the same place: what is checked is what is asked.
    is_same = (written.scheme, host_of(written), written.port) == (url.scheme, host_of(url), url.port)
    return written if is_same else url
