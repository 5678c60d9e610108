"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Line breaks of cells become spaces, and `|` in cells is escaped.

    Args:
        header: the names of the columns.
        rows: for each row as many cells as the header has.

    Raises ValueError for a row with another number of cells.
    """
    lines = [_line(header), "|" + "---|" * len(header)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells in a table of {len(header)} columns: {row}")
        lines.append(_line([" ".join(cell.split()).replace("|", r"\|") for cell in row]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
