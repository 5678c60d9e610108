from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from libs.common.settings import Settings, load
from sandbox.plan import SERVICES


@pytest.fixture(autouse=True)
def _database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql+psycopg2://user:hunter2@host/darkroom")


@pytest.mark.parametrize("name", ["LOG_LEVEL", "DARKROOM_LOG_LEVEL"])
def test_log_settings_answer_to_both_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "DEBUG")
    assert Settings().log_level == "debug"


def test_ports_are_those_of_the_design() -> None:
    settings = Settings()
    assert [settings.grpc_port(name) for name in SERVICES] == [50051, 50052, 50053, 50054, 50055]
    assert [settings.metrics_port(name) for name in SERVICES] == [9101, 9102, 9103, 9104, 9105]


def test_credentials_do_not_show() -> None:
    assert "hunter2" not in repr(Settings())


def test_files_are_variables_but_for_what_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {
        "DARKROOM_S3_BUCKET": "from-a-file\n",
        "DARKROOM_S3_REGION": "from-a-file",
        "EXAMPLE_API_KEY": "secret",
        "..data": "kubernetes' own",
    }.items():
        (tmp_path / name).write_text(content)
    for name in ("DARKROOM_S3_BUCKET", "EXAMPLE_API_KEY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("DARKROOM_S3_REGION", "from-the-environment")
    monkeypatch.setenv("DARKROOM_SECRETS", str(tmp_path))
    settings = load()
    assert (settings.s3_bucket, settings.s3_region) == ("from-a-file", "from-the-environment")
    assert os.environ["EXAMPLE_API_KEY"] == "secret"
    assert "..data" not in os.environ


def test_a_bad_value_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_LEASE_SECONDS", "-1")
    with pytest.raises(ValidationError, match="lease_seconds"):
        Settings()
