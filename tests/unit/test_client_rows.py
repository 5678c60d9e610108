"""Requests out of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs.client.commands.rows import requests
from libs.client.errors import DarkroomError


def test_a_csv_names_fields_by_its_headings(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "model_identifier,prompt,number_of_outputs,parameters.seed,parameters.mode,labels.team,input_images\n"
        'flux-pro,"an apple, red",2,7,pro,12,http://a/1|http://a/2\n'
        "flux-dev,a pear,,,,,\n"
    )
    first, second = requests(path)
    assert (first.prompt, first.number_of_outputs, dict(first.labels)) == ("an apple, red", 2, {"team": "12"})
    assert (first.parameters["seed"], first.parameters["mode"]) == (7, "pro")
    assert list(first.input_images) == ["http://a/1", "http://a/2"]
    assert (second.HasField("number_of_outputs"), len(second.parameters.fields)) == (False, 0)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("rows.jsonl", '{"prompt": "x"}\n\n{"promt": "x"}\n{', ["line 3", "line 4"]),
        ("rows.csv", "prompt\nx\nx,y\n", ["line 3"]),
        ("rows.csv", "prompt,number_of_outputs\nx,two\n", ["line 2"]),
    ],
)
def test_every_line_at_fault_is_told(tmp_path: Path, name: str, text: str, lines: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DarkroomError) as caught:
        requests(path)
    assert list(caught.value.fields) == lines
