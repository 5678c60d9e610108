"""Why an image cannot be had: one exception for all of it, light enough to cross from a worker process."""

from __future__ import annotations

from typing import Literal, get_args

Rule = Literal[
    "not_an_image",
    "size",
    "dimensions",
    "pixels",
    "frames",
    "scans",
    "chunk_size",
    "profile_size",
    "truncated",
    "corrupt",
    "animated",
    "aspect_ratio",
    "max_size_kb",
    "memory",
    "cpu_time",
    "decoder_crashed",
    "encoding",
    "output_size",
    "format",
]
"""What was broken, for programs and for metrics."""

RULES: tuple[Rule, ...] = get_args(Rule)


class ImageFault(Exception):
    """An image breaks a rule.

    Args:
        rule: which one.
        why: in words, for whoever sent it; it begins where "The image …" ends.
    """

    def __init__(self, rule: Rule, why: str) -> None:
        super().__init__(rule, why)
        self.rule = rule
        self.why = why

    def __str__(self) -> str:
        return f"The image {self.why}"
