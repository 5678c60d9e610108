"""The comparison of two recordings: what differs is reported, what may differ by time is not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.differential.aliases import Aliases
from tests.differential.comparing import ABSENT, Difference, compare, show
from tests.differential.projection import document
from tests.differential.recording import Recorded, Recording, Rows, Tolerance, load

ROW: dict[str, Any] = {"status": "SUCCESS", "money": {"spent_micros": 40_000}, "outputs": ["a", "b"]}


def recording(rows: Rows, *, part: str = "sequence") -> Recording:
    return Recording(commit="abc", parts={part: Recorded(seconds=1.0, rows=rows)})


def differences(after: Rows) -> list[tuple[str, str, str, str]]:
    found = compare(recording({"first": ROW}), recording(after), {})
    return [(one.row, one.field, one.before, one.after) for one in found]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param({**ROW, "status": "FAILED"}, [("status", '"SUCCESS"', '"FAILED"')], id="a status word"),
        pytest.param(
            {name: value for name, value in ROW.items() if name != "status"},
            [("status", '"SUCCESS"', ABSENT)],
            id="a removed field",
        ),
        pytest.param(
            {**ROW, "money": {"spent_micros": 40}}, [("money.spent_micros", "40000", "40")], id="the unit of a field"
        ),
        pytest.param(
            {**ROW, "money": {"spent_usd": 0.04}},
            [("money.spent_micros", "40000", ABSENT), ("money.spent_usd", ABSENT, "0.04")],
            id="the unit and the name of a field",
        ),
        pytest.param(
            {**ROW, "outputs": ["b", "a"]}, [("outputs[0]", '"a"', '"b"'), ("outputs[1]", '"b"', '"a"')], id="an order"
        ),
        pytest.param(
            {**ROW, "outputs": []},
            [("outputs[0]", '"a"', ABSENT), ("outputs[1]", '"b"', ABSENT), ("outputs", ABSENT, "[]")],
            id="an empty list",
        ),
        pytest.param(ROW, [], id="nothing"),
    ],
)
def test_a_change_is_reported_with_its_field_and_both_values(
    after: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    assert differences({"first": after}) == [("first", *values) for values in expected]


def test_rows_and_parts_that_one_recording_lacks_are_reported() -> None:
    assert differences({"second": ROW}) == [("first", "", "(present)", ABSENT), ("second", "", ABSENT, "(present)")]
    found = compare(recording({"first": ROW}), recording({"first": ROW}, part="chaos"), {})
    assert found == [
        Difference("sequence", "", "", "(present)", ABSENT),
        Difference("chaos", "", "", ABSENT, "(present)"),
    ]


def test_a_tolerance_holds_for_its_field_within_its_bound() -> None:
    before, after = ({"first": {"polls": polls, "bills": polls}} for polls in (10, 12))
    tolerances = [Tolerance("first: polls", 2, "Checks are repeated until a task ends.")]
    found = compare(recording(before), recording(after), {"sequence": tolerances})
    assert [one.field for one in found] == ["bills"]
    too_far = compare(recording(before), recording({"first": {"polls": 13, "bills": 10}}), {"sequence": tolerances})
    assert [one.field for one in too_far] == ["polls"]


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = recording({"first": ROW, "zweite Zeile": {"prompt": "ä 中"}})
    written.save(tmp_path / "out.json")
    assert load(tmp_path / "out.json") == written


def test_the_table_names_part_row_field_and_values() -> None:
    before, after = recording({"first": ROW}), recording({"first": {**ROW, "status": "[FAILED]"}})
    text = io.StringIO()
    show(compare(before, after, {}), before, after, Console(file=text, width=160))
    assert all(word in text.getvalue() for word in ("sequence: 1 rows differ", "first", "status", "[FAILED]"))


def test_ids_are_replaced_in_the_order_of_their_first_appearance() -> None:
    row = {"b": "gen_01kbbbbbbbbbbbbbbbbbbbbbbb of batch_000007", "a": ["gen_000002", "gen_01kbbbbbbbbbbbbbbbbbbbbbbb"]}
    assert Aliases().within(row) == {"b": "gen#1 of batch#1", "a": ["gen#2", "gen#1"]}


def test_money_and_times_of_messages_become_canonical() -> None:
    given = {
        "costUsd": 0.1,
        "spent_usd": 0.0000005,
        "createdAt": "2026-11-30T00:00:00Z",
        "ended_at": None,
        "n": 1.00000049,
    }
    assert document(given) == {
        "cost_micros": 100_000, "spent_micros": 0, "created_at": True, "ended_at": False, "n": 1.0,
    }  # fmt: skip
    assert document({"cost_micros": "100000"}) == {"cost_micros": 100_000}
