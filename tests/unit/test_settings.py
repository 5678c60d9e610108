from __future__ import annotations

import pytest
from pydantic import ValidationError

from libs.common.settings import Settings
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


def test_a_bad_value_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_LEASE_SECONDS", "-1")
    with pytest.raises(ValidationError, match="lease_seconds"):
        Settings()
