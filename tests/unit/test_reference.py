"""The generator of the tables in the documentation, on made-up models and pages."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import AliasChoices, BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from libs.common import metrics
from libs.common.errors import ErrorCode
from sandbox.reference.fields import keys_table, settings_table
from sandbox.reference.metrics import database_metrics_table, metrics_table, process_metrics_table
from sandbox.reference.pages import ReferenceFault, changed_pages, rewritten
from sandbox.reference.sections import SECTIONS
from sandbox.reference.tables import table
from sandbox.reference.values import number_text


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    url: SecretStr = Field(description="Where.")
    token: SecretStr = Field(default=SecretStr("hunter2"), description="Shown to nobody.")
    key: SecretStr | None = Field(default=None, min_length=32, max_length=64, description="Another.")
    level: Literal["low", "high"] = Field(
        default="low", validation_alias=AliasChoices("EXAMPLE_LEVEL", "LEVEL"), description="How much."
    )
    format: Literal["json", "text"] = Field(default="json", description="`json` or `text`.")
    cache_bytes: int = Field(default=64 * 1024**2, description="Memory.")
    port: int = Field(default=50051, description="Where | it listens.")
    wait_seconds: float = Field(default=3_600.0, gt=0, le=86_400, description="How\nlong.")
    hosts: str = Field(default="", description="Which.")
    folder: Path = Field(default=Path("data"), description="Which.")
    is_on: bool = Field(default=True, description="Whether.")


def test_settings_are_listed_as_declared() -> None:
    assert settings_table(_Settings).splitlines() == [
        "| variable | default | meaning |",
        "|---|---|---|",
        "| `EXAMPLE_URL` | required | Where. |",
        "| `EXAMPLE_TOKEN` | secret | Shown to nobody. |",
        "| `EXAMPLE_KEY` | none | Another. From 32 to 64 characters. |",
        "| `EXAMPLE_LEVEL`, `LEVEL` | `low` | How much. One of `low`, `high`. |",
        "| `EXAMPLE_FORMAT` | `json` | `json` or `text`. |",
        "| `EXAMPLE_CACHE_BYTES` | 64 MiB | Memory. |",
        r"| `EXAMPLE_PORT` | 50051 | Where \| it listens. |",
        "| `EXAMPLE_WAIT_SECONDS` | 3,600 | How long. At most 86,400. |",
        "| `EXAMPLE_HOSTS` | none | Which. |",
        "| `EXAMPLE_FOLDER` | `data` | Which. |",
        "| `EXAMPLE_IS_ON` | `true` | Whether. |",
    ]


class _Inner(BaseModel):
    share: float = Field(default=0.5, ge=0, le=1, description="Inside.")


class _Outer(BaseModel):
    id: str
    inner: _Inner | None = None
    names: tuple[str, ...] = Field(default=(), max_length=10, description="Outside.")
    many: list[_Inner] = Field(default=[], description="Not shown inside.")


def test_keys_of_an_inner_model_have_its_prefix() -> None:
    assert keys_table(_Outer, without={"id"}).splitlines()[2:] == [
        "| `inner.share` | 0.5 | Inside. From 0 to 1. |",
        "| `names` | none | Outside. At most 10 entries. |",
        "| `many` | none | Not shown inside. |",
    ]


def test_field_without_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match=r"_Outer\.id has no description"):
        keys_table(_Outer)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("connections", 2_000, "2,000"),
        ("wait_seconds", 1_234_567.0, "1,234,567"),
        ("wait_seconds", 0.25, "0.25"),
        ("memory_bytes", 1_500_000_000, "1,500 MB"),
        ("bytes_per_owner", 2 * 1024**3, "2 GiB"),
        ("limit_bytes", 64_000_000, "64 MB"),
        ("limit_bytes", 1_001, "1,001 bytes"),
        ("limit_bytes", 0, "0"),
        ("http_port", 9101, "9101"),
    ],
)
def test_numbers_are_readable(name: str, value: float, text: str) -> None:
    assert number_text(name, value) == text


def test_row_with_another_number_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        table(["a", "b"], [["x"]])


def test_metrics_have_the_names_under_which_they_are_scraped() -> None:
    assert metrics_table([("m", "gauge", ("a", "b"), "Text.")]).endswith("\n| `m` | gauge | `a`, `b` | Text. |")
    processes, database = process_metrics_table(), database_metrics_table()
    assert "| `darkroom_ready` | gauge |  | 1 while" in processes
    assert "| `darkroom_claimed_total` | counter | `kind` |" in processes
    assert "| `darkroom_rpc_seconds` | histogram | `method`, `status` |" in processes
    assert len(database.splitlines()) == 2 + len(metrics.DATABASE_FAMILIES)


def test_every_error_code_is_listed() -> None:
    rows = SECTIONS["error codes"]().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(ErrorCode)
    assert rows[0].startswith("| `INVALID_REQUEST` | INVALID_ARGUMENT | 400 | no | The request breaks a rule")


_PAGE = "before\n<!-- one: written by make reference -->\nold\n<!-- end -->\nafter\n"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    new, names = rewritten(_PAGE, {"one": "new"})
    assert new == _PAGE.replace("old", "new")
    assert names == ["one"]
    assert rewritten(new, {"one": "new"}) == (new, ["one"])


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (_PAGE.replace("one", "other"), "there is no section 'other'; there are one"),
        (_PAGE.replace("<!-- end -->", ""), "section 'one' has no <!-- end -->"),
        (_PAGE.replace("<!-- end -->", "") + _PAGE, "section 'one' has no <!-- end -->"),
    ],
)
def test_page_that_does_not_fit_is_refused(page: str, fault: str) -> None:
    with pytest.raises(ReferenceFault, match=fault):
        rewritten(page, {"one": "new"})


def test_section_that_is_on_no_page_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- settings: written by make reference -->\n<!-- end -->\n")
    with pytest.raises(ReferenceFault, match="exactly once; not so: metrics"):
        changed_pages([page])
