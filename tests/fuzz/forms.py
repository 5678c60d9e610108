"""Multipart and urlencoded forms, right and wrong (RFC 7578, RFC 2046)."""

from __future__ import annotations

from random import Random
from urllib.parse import quote_plus

Field = tuple[str, bytes, str | None]
"""A name, a value, and the name of the file where it is one."""

_DISPOSITIONS = (
    b'form-data; name="%s"', b"form-data; name=%s", b'form-data; name="%s"; name="x"', b"form-data",
    b'attachment; name="%s"', b'form-data; name="%s',
    b'form-data; name="%s"; filename*=utf-8\'\'%%ff', b'form-data; name="%s"; filename="../../x"',
    b'form-data; name="\xff%s"', b"",
)  # fmt: skip
_EXTRA = (
    b"content-transfer-encoding: base64", b"content-transfer-encoding: nope",
    b"content-type: text/plain; charset=nope", b"content-type: multipart/mixed; boundary=y",
    b"content-type: \xff", b"content-length: 99999999", b"content-encoding: gzip", b"x: " + b"a" * 9_000, b"no colon",
    b"content-type: text/plain; charset=utf-16",
)  # fmt: skip
_BOUNDARIES = (
    b"x",
    b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
    b"a" * 70,
    b"a" * 71,
    b"a" * 300,
    b"'()+_,-./:=?",
    b" ",
    b"\xff",
)


def multipart(fields: list[Field], random: Random) -> tuple[bytes, bytes]:
    """The content type and the body: in half of the cases as a library would write it."""
    is_good = random.random() < 0.5
    boundary = b"x" if is_good else random.choice(_BOUNDARIES)
    parts = [_part(field, random, is_good=is_good) for field in fields]
    if not is_good and parts and random.random() < 0.3:
        parts = random.choice((parts * 2, parts[:1] * 600, parts[1:], list(reversed(parts))))
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    kind = b"multipart/form-data; boundary=" + (
        boundary if is_good else random.choice((boundary, b'"' + boundary + b'"', b"y", b""))
    )
    if not is_good and random.random() < 0.3:
        body = random.choice(
            (
                body[:-6],
                body[: len(body) // 2],
                b"",
                body.replace(b"\r\n", b"\n"),
                b"preamble\r\n" + body + b"epilogue",
                b"--" + boundary,
                b"\x00" * 500,
            )
        )
    return kind, body


def urlencoded(fields: list[Field], random: Random) -> tuple[bytes, bytes]:
    """The same as a simple form."""
    body = "&".join(
        f"{quote_plus(name, errors='surrogatepass')}={quote_plus(value)}" for name, value, _ in fields
    ).encode()
    if random.random() < 0.2:
        body = random.choice(
            (
                body + b"&%ff=%fe",
                body.replace(b"=", b""),
                body + b"&a" * 2_000,
                b"%",
                body + b"&x=%00",
                b"&" * 3_000,
                body + b"&" + body,
                b"\xff\xfe=\xfd",
            )
        )
    return b"application/x-www-form-urlencoded" + random.choice((b"", b"", b"; charset=utf-8", b"; charset=nope")), body


def _part(field: Field, random: Random, *, is_good: bool) -> bytes:
    name, value, filename = field
    disposition = _DISPOSITIONS[0] if is_good or random.random() < 0.6 else random.choice(_DISPOSITIONS)
    told = disposition.replace(b"%s", name.encode(errors="replace").replace(b"\r", b"").replace(b"\n", b"")).replace(
        b"%%", b"%"
    )
    if filename is not None and is_good:
        told += b'; filename="' + filename.encode() + b'"\r\ncontent-type: image/png'
    lines = [b"content-disposition: " + told]
    if not is_good and random.random() < 0.3:
        lines.append(random.choice(_EXTRA))
    return b"\r\n".join(lines) + b"\r\n\r\n" + value
