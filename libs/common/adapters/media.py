"""Finds outputs in the replies of synchronous vendors: URLs, `data:` URLs and base64, under any usual name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from yarl import URL

from libs.common.adapters.base import ProviderOutput
from libs.common.adapters.searching import objects_in, path_of
from libs.common.adapters.walking import ECHOES, walk
from libs.common.encodings import content_of, is_media

_WEB_URL = re.compile(r"https?://[^\s]", re.IGNORECASE)
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]{0,200}\]\((https?://[^\s)]{1,4000})")
_MARKDOWN_LIMIT = 100_000
_LONE_URL = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
_LIMIT = 100
_ANY_HOST = "https://provider.invalid"
_ERRORS = frozenset({"error", "errors", "detail", "details"})
# A URL under one of these names leads to an output, also beside an error; one under `url` may lead to its explanation.
_OUTPUT_NAMES = ("image_url", "imageUrl", "image", "images", "video_url", "videoUrl", "video", "videos", "output_url",
                 "outputUrl", "output", "outputs", "result_url", "resultUrl", "file_url", "download_url",
                 "downloadUrl")  # fmt: skip
_LISTS = ("data", "images", "output", "outputs", "results", "artifacts")
_NAMES = ("b64_json", "b64", "base64", "image_base64", "imageBase64", "image_b64", "bytesBase64Encoded", "url",
          "image_url", "imageUrl", "image", "uri", "data", "content", "output", "result")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outputs:
    """The readable outputs of a reply, and the number of outputs that cannot be read."""

    read: tuple[ProviderOutput, ...]
    unread: int


def outputs_in(body: Any, base_url: str | None = None) -> Outputs:
    """The outputs in the reply of a synchronous vendor: those of its list, otherwise those of any other member.

    Args:
        body: the reply's JSON. Large ones take seconds: call it in a thread.
        base_url: of the vendor: URLs without a host are relative to it. None: they are not read.
    """
    entries = _entries(body)
    read = [output_of(entry, base_url=base_url) for entry in entries]
    if any(read):
        return Outputs(tuple(one for one in read if one is not None), sum(one is None for one in read))
    return Outputs(tuple(outputs_elsewhere(body)) or _in_markdown(body), len(entries))


def names_output(body: Any, text: str = "", *, any_url: bool = False) -> bool:
    """Whether the reply of an error may name an output: its provider may have made and billed one all the same.

    Bytes of an image or a video anywhere do, and URLs in a list of outputs, under the name of an image, or in Markdown.
    A link in the error itself does not.

    Args:
        body: the reply's JSON; None where it is none. Large ones take seconds: call it in a thread.
        text: the beginning of the reply.
        any_url: whether a URL under any name does, as it may where the status is good.
    """
    if any(output_of(entry, strictly=True, base_url=_ANY_HOST) is not None for entry in _entries(body)):
        return True
    if any(output.content is not None for output in outputs_elsewhere(body)):
        return True
    nodes = [place.node for place in walk(body, ECHOES | _ERRORS)]
    if any_url and any(isinstance(value, str) and _WEB_URL.match(value) for node in nodes for value in node.values()):
        return True
    values = (value for node in nodes for name in _OUTPUT_NAMES if name in node for value in _listed(node[name]))
    if any(output_of(value, strictly=True, base_url=_ANY_HOST) is not None for value in values):
        return True
    return _MARKDOWN_IMAGE.search(text) is not None or (body is None and _LONE_URL.fullmatch(text) is not None)


def _listed(value: Any) -> list[Any]:
    return value[:_LIMIT] if isinstance(value, list) else [value]


def output_of(entry: Any, *, strictly: bool = False, base_url: str | None = None) -> ProviderOutput | None:
    """Read one output from a text, or from an object that has it under one of the usual names; None if it has none.

    Args:
        entry: an entry of a reply's list.
        strictly: take only URLs and bytes that begin as images and videos do.
        base_url: as for `outputs_in`.
    """
    found = [one for text in _texts(entry) if (one := read_output(text)) is not None]
    known = [one for one in found if one.url is not None or is_media(one.content or b"")]
    if not known and base_url is not None:
        known = [ProviderOutput(url=url) for text in _texts(entry) if (url := _absolute(text, base_url)) is not None]
    return next(iter(known if known or strictly else found), None)


def read_output(text: str) -> ProviderOutput | None:
    """An output given as a URL, a `data:` URL or base64; None for what is none of them."""
    text = text.strip()
    if _WEB_URL.match(text):
        return ProviderOutput(url=text)
    content = content_of(text)
    return ProviderOutput(content=content) if content else None


def _absolute(text: str, base_url: str) -> str | None:
    """A path, or a URL without its scheme, as a whole URL; None for any other text."""
    if path_of(text) is None:
        return None
    try:
        return str(URL(base_url).join(URL(text)))
    except ValueError:
        return None


def _entries(body: Any) -> list[Any]:
    if isinstance(body, list):
        return [entry for entry in body if not _is_preview(entry)][:_LIMIT]
    for name in _LISTS if isinstance(body, dict) else ():
        listed = body.get(name)
        if isinstance(listed, list) and any(listed):
            return listed[:_LIMIT]
        if isinstance(listed, str) and output_of(listed, strictly=True) is not None:
            return [listed]
        if isinstance(listed, Mapping):
            return [*objects_in(listed, "images"), *objects_in(listed, "data")] or [listed]
    return []


def _in_markdown(body: Any) -> tuple[ProviderOutput, ...]:
    """The images that texts show in Markdown, as models answer that make images in a conversation."""
    texts = (text for place in walk(body, ECHOES) for text in place.node.values() if isinstance(text, str))
    urls = [url for text in texts for url in _MARKDOWN_IMAGE.findall(text[:_MARKDOWN_LIMIT])]
    return tuple(ProviderOutput(url=url) for url in urls[:_LIMIT])


def outputs_elsewhere(body: Any) -> Iterator[ProviderOutput]:
    """The outputs in whatever objects a reply has: URLs, and bytes that begin as images and videos do."""
    nodes = (place.node for place in walk(body))
    found = (output_of(node, strictly=True) for node in nodes if not _is_preview(node))
    return (output for output in found if output is not None)


def _is_preview(entry: Any) -> bool:
    """Whether an event of a stream has an unfinished image, as `image_generation.partial_image` has."""
    return isinstance(entry, dict) and "partial" in str(entry.get("type"))


def _texts(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for name in _NAMES if isinstance(entry, dict) else ():
        value = entry.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (inner for key in _NAMES if isinstance(inner := value.get(key), str))
        elif isinstance(value, list):
            yield from (inner for inner in value[:_LIMIT] if isinstance(inner, str))
