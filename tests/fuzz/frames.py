"""HTTP/2 as no gRPC client writes it: frames and headers by hand (RFC 9113; RFC 7541, literals without Huffman)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from random import Random

from tests.fuzz.world import World

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_READ_SECONDS = 0.3
_PATH = b"/darkroom.gateway.v1.GenerationService/CreateGeneration"


def case(world: World, role: str, random: Random) -> bytes:
    """All that one connection sends."""
    headers = _headers(world, role, random)
    block = b"".join(_literal(name, value) for name, value in headers)
    frames = [_frame(_SETTINGS, 0, 0, b""), _frame(_HEADERS, _END_HEADERS, 1, block)]
    frames += [_frame(_DATA, _END_STREAM, 1, random.choice(_messages(random)))]
    if random.random() < 0.4:
        frames.insert(random.randrange(len(frames) + 1), random.choice(_odd_frames(block, random)))
    if random.random() < 0.2:
        frames *= random.choice((2, 30))
    return random.choice((_PREFACE,) * 9 + (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(40))) + b"".join(
        frames
    )


def written(headers: list[tuple[bytes, bytes]], content: bytes) -> bytes:
    """A connection's first call, with these headers and this content, as a client begins it."""
    block = b"".join(_literal(name, value) for name, value in headers)
    frames = (
        _frame(_SETTINGS, 0, 0, b""),
        _frame(_HEADERS, _END_HEADERS, 1, block),
        _frame(_DATA, _END_STREAM, 1, content),
    )
    return _PREFACE + b"".join(frames)


def unread(path: bytes, calls: int, *, message: bytes = b"", key: bytes = b"") -> bytes:
    """Unary calls on one connection, none of whose answers is let through: no stream has a window for them."""
    block = _call(path, key)
    content = struct.pack(">BI", 0, len(message)) + message
    frames = [_frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 0)), _frame(_SETTINGS, _ACK, 0, b"")]
    for stream in range(1, 2 * calls, 2):
        frames += [_frame(_HEADERS, _END_HEADERS, stream, block), _frame(_DATA, _END_STREAM, stream, content)]
    return _PREFACE + b"".join(frames)


def cancelled(path: bytes, calls: int, *, key: bytes = b"", message: bytes | None = b"") -> bytes:
    """Calls on one connection, each of which is reset at once (CVE-2023-44487).

    Args:
        path: of the method.
        calls: how many.
        key: the API key, if any.
        message: what each call sends. None: nothing, it is reset after its headers.
    """
    block = _call(path, key)
    frames = [_PREFACE, _frame(_SETTINGS, 0, 0, b""), _frame(_SETTINGS, _ACK, 0, b"")]
    for stream in range(1, 2 * calls, 2):
        frames.append(_frame(_HEADERS, _END_HEADERS, stream, block))
        if message is not None:
            frames.append(_frame(_DATA, _END_STREAM, stream, struct.pack(">BI", 0, len(message)) + message))
        frames.append(_frame(_RESET, 0, stream, struct.pack(">I", 8)))
    return b"".join(frames)


def one_call(path: bytes, key: bytes) -> bytes:
    """A connection's first call, with an empty message."""
    frames = (
        _frame(_SETTINGS, 0, 0, b""),
        _frame(_SETTINGS, _ACK, 0, b""),
        _frame(_HEADERS, _END_HEADERS, 1, _call(path, key)),
        _frame(_DATA, _END_STREAM, 1, bytes(5)),
    )
    return _PREFACE + b"".join(frames)


def of_no_call(size_bytes: int, kind: int = _SETTINGS, payload: bytes = b"") -> bytes:
    """Frames of the connection itself, so many bytes; `kind`: for example one that HTTP/2 does not define."""
    frame = _frame(kind, 0, 0, payload)
    return frame * (size_bytes // len(frame))


def unfinished(size_bytes: int) -> bytes:
    """A call without a key whose headers do not end: CONTINUATION frames of 11 kB, up to so many bytes."""
    begun = _call(b"/grpc.health.v1.Health/Check")
    more = _frame(_CONTINUATION, 0, 1, b"".join(_literal(b"x-%03d" % index, bytes(b"v" * 100)) for index in range(100)))
    frames = (_frame(_SETTINGS, 0, 0, b""), _frame(_HEADERS, 0, 1, begun))
    return _PREFACE + b"".join(frames) + more * (size_bytes // len(more))


async def send(port: int, content: bytes) -> str:
    """Send it, and read what comes for a moment; the fault where nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except TimeoutError:
        # The address is blocked for what other cases have sent.
        return ""
    except OSError as error:
        return f"cannot connect: {error}"
    try:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_READ_SECONDS):
                writer.write(content)
                await writer.drain()
                while await reader.read(65_536):
                    pass
    finally:
        writer.close()
    return ""


def _headers(world: World, role: str, random: Random) -> list[tuple[bytes, bytes]]:
    found = [
        (b":method", random.choice((b"POST",) * 6 + (b"GET", b"", b"\xff"))),
        (b":scheme", random.choice((b"http",) * 6 + (b"x", b""))),
        (b":path", random.choice((_PATH,) * 6 + (b"/grpc.health.v1.Health/Watch", b"*", b"", b"/\xff\xfe", b"x"))),
        (b":authority", b"fuzz"),
        (b"content-type", random.choice((b"application/grpc",) * 6 + (b"application/grpc+json", b"application/json", b"", b"application/grpc\xff"))),
        (b"te", random.choice((b"trailers",) * 6 + (b"", b"gzip"))),
        *world.credentials(role, random),
    ]  # fmt: skip
    odd = (
        (b"grpc-timeout", b"1H"), (b"grpc-timeout", b"99999999999n"), (b"grpc-timeout", b"-1S"),
        (b"grpc-timeout", b"x"), (b"grpc-encoding", b"gzip"), (b"grpc-encoding", b"nope"),
        (b"grpc-encoding", b"deflate"), (b"grpc-accept-encoding", b"\xff"), (b"x-request-id", b"\xff\xfe"),
        (b"X-Upper", b"a"), (b"", b"a"), (b"x y", b"a"), (b"x-bin", b"!!!"),
        (b"idempotency-key", b"\xff"), (b"authorization", b"Bearer \xff\xfe"), (b":path", b"/twice"), (b":nope", b"a"),
        (b"connection", b"close"), (b"x", b"a\r\nb"), (b"x", b"\x00"),
        (b"traceparent", b"\xff"), (b"grpc-previous-rpc-attempts", b"-1"), (b"x-api-key", b"\xff\xfe"),
        (b"user-agent", b"\xff" * 3_000), (b"content-length", b"5"),
    )  # fmt: skip
    found += random.choices(odd, k=random.choice((0, 1, 1, 2, 6)))
    if random.random() < 0.1:
        random.shuffle(found)
    return found


def _messages(random: Random) -> tuple[bytes, ...]:
    some = random.randbytes(20)
    return (
        struct.pack(">BI", 0, len(some)) + some, struct.pack(">BI", 0, 0), b"",
        struct.pack(">BI", 1, len(some)) + some, struct.pack(">BI", 2, 3) + b"abc", b"\x00\x00",
        struct.pack(">BI", 0, 2**32 - 1) + some, struct.pack(">BI", 0, 50) + some, struct.pack(">BI", 0, 0) * 50,
    )  # fmt: skip


def _odd_frames(block: bytes, random: Random) -> tuple[bytes, ...]:
    return (
        _frame(_RESET, 0, 1, bytes(4)), _frame(_RESET, 0, 0, bytes(4)), _frame(_WINDOW, 0, 0, bytes(4)),
        _frame(_WINDOW, 0, 1, b"\x7f\xff\xff\xff"), _frame(_PING, 0, 0, bytes(8)) * 50,
        _frame(_PING, 0, 1, bytes(7)), _frame(_GOAWAY, 0, 0, bytes(8)), _frame(_SETTINGS, 0, 0, bytes(5)),
        _frame(_SETTINGS, 0, 0, b"\x00\x04\xff\xff\xff\xff"), _frame(_SETTINGS, 1, 0, b""),
        _frame(_CONTINUATION, 0, 1, block), _frame(_HEADERS, 0, 3, block), _frame(_HEADERS, 5, 2, block),
        _frame(_HEADERS, 5, 0, block), _frame(_HEADERS, 5, 3, random.randbytes(90)),
        _frame(_PRIORITY, 0, 1, bytes(5)), _frame(99, 0, 1, random.randbytes(30)),
        _frame(_DATA, 8, 1, b"\xff" + bytes(3)), _frame(_DATA, 0, 9, b"x"), b"\xff\xff\xff\x00\x00" + bytes(40),
        _frame(_HEADERS, 0, 3, block) + _frame(_CONTINUATION, 0, 3, block) * 60,
        _frame(_SETTINGS, 0, 0, b"\x00\x03\x00\x00\x00\x00"),
    )  # fmt: skip


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + content


def _call(path: bytes, key: bytes = b"") -> bytes:
    """The headers of a call, with an API key where one is given."""
    headers = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *([(b"x-api-key", key)] if key else []),
    ]  # fmt: skip
    return b"".join(_literal(name, value) for name, value in headers)


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _length(name) + name + _length(value) + value


def _length(content: bytes) -> bytes:
    size = len(content)
    if size < 127:
        return bytes([size])
    found, size = b"\x7f", size - 127
    while size >= 128:
        found += bytes([size % 128 + 128])
        size //= 128
    return found + bytes([size])
