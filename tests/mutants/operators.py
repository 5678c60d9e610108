"""Which faults are put in: operators of Cosmic Ray for Python, and one for SQL, in strings and in files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from cosmic_ray.operators import (
    boolean_replacer,
    break_continue,
    comparison_operator_replacement,
    operator,
    unary_operator_replacement,
    zero_iteration_for_loop,
)
from parso.tree import Leaf, NodeOrLeaf

_IS_SQL = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE|FROM|AND|SET|RETURNING)\b")
# A pattern and what takes its place. Each leaves valid SQL in most places; where it does not, any test finds it. That
# two times are equal to the microsecond is no case.
_CHANGES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\S) AND [\w.]+ (?:=|<>|<|>|<=|>=) [:\w.']+(?= |$)", ""),
        (r"(?<= )AND [\w.]+ (?:=|<>|<|>|<=|>=) [:\w.']+(?= AND|$)", "AND true"),
        (r"\bNOT EXISTS\b", "EXISTS"),
        (r"(?<!NOT )(?<!IF )\bEXISTS\b", "NOT EXISTS"),
        (r"\bIS NULL\b", "IS NOT NULL"),
        (r"\bIS NOT NULL\b", "IS NULL"),
        (r"(?<!now\(\)) <= (?!now\(\))", " < "),
        (r"(?<!now\(\)) >= (?!now\(\))", " > "),
        (r"(?<!now\(\)) < (?!now\(\))", " <= "),
        (r"(?<!now\(\)) > (?!now\(\))", " >= "),
        (r" <> ALL", " = ANY"),
        (r"(?<=lease_token) \+ 1\b", ""),
        (r"\bFOR UPDATE(?: OF \w+)?(?: SKIP LOCKED)?", ""),
        (r"\bGREATEST\b", "LEAST"),
        (r"\bLEAST\b", "GREATEST"),
        (r"\bNULLS FIRST\b", "NULLS LAST"),
        (r"\bDESC\b", ""),
        (r"(?<!AND )(?<!OR )\bAND NOT (?!EXISTS)", "AND "),
    )
)


class ChangeSql(operator.Operator):  # type: ignore[misc]  # Cosmic Ray has no types.
    """Changes one condition, lock or order of an SQL statement."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterable[tuple[Any, Any]]:
        """Where: one for each change, all with the position of the string."""
        for _ in _changed(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        """The string with one of the changes."""
        assert isinstance(node, Leaf)
        node.value = list(_changed(node))[index]
        return node

    @classmethod
    def examples(cls) -> Iterable[Any]:
        """Examples for Cosmic Ray's own tests; none."""
        return ()


def _changed(node: NodeOrLeaf) -> Iterator[str]:
    """The string in each of the ways in which it can be changed."""
    if node.type in {"string", "fstring_string"} and isinstance(node, Leaf) and _IS_SQL.search(node.value):
        yield from changed_sql(node.value)


def changed_sql(text: str) -> Iterator[str]:
    """The SQL in each of the ways in which it can be changed."""
    for pattern, replacement in _CHANGES:
        for found in pattern.finditer(text):
            yield text[: found.start()] + replacement + text[found.end() :]


# Members of an enumeration are equal where they are the same.
_EQUIVALENT = {"_Is_Eq", "_IsNot_NotEq", "_Eq_Is", "_NotEq_IsNot"}
OPERATORS: tuple[type[operator.Operator], ...] = (
    ChangeSql,
    *(kind for kind in comparison_operator_replacement.operators() if not kind.__name__.endswith(tuple(_EQUIVALENT))),
    unary_operator_replacement.ReplaceUnaryOperator_Delete_Not,
    boolean_replacer.AddNot,
    boolean_replacer.ReplaceTrueWithFalse,
    boolean_replacer.ReplaceFalseWithTrue,
    boolean_replacer.ReplaceAndWithOr,
    boolean_replacer.ReplaceOrWithAnd,
    break_continue.ReplaceBreakWithContinue,
    break_continue.ReplaceContinueWithBreak,
    zero_iteration_for_loop.ZeroIterationForLoop,
)
"""Those in use: no changes of numbers, which mostly are durations and sizes, and none of annotations."""
