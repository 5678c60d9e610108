from __future__ import annotations

import json
import logging as standard
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from libs.common import logging
from libs.common.errors import ErrorCode, GenerationError
from libs.common.settings import Settings


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Logs in JSON into a file, from the level of the parameter on if there is one; answers its path."""
    monkeypatch.setenv("LOG_LEVEL", getattr(request, "param", "info"))
    path = tmp_path / "logs" / "darkroom.log"
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql://nowhere")
    monkeypatch.setenv("LOG_FILE_PATH", str(path))
    root = standard.getLogger()
    handlers, level = list(root.handlers), root.level
    logging.configure(Settings(), "gateway")
    yield path
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _configure_anew() -> None:
    """As a process that starts with other settings."""
    for handler in list(standard.getLogger().handlers):
        if isinstance(handler, standard.FileHandler):
            handler.close()
    structlog.reset_defaults()
    logging.configure(Settings(), "gateway")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_json_with_its_source_and_fields(configured: Path) -> None:
    structlog.get_logger("test").info("generation accepted", generation_id="gen_1")
    (line,) = _lines(configured)
    assert line["timestamp"].endswith("Z")
    assert (line["message"], line["level"], line["source"], line["context"]) == (
        "generation accepted",
        "info",
        "gateway",
        {"generation_id": "gen_1"},
    )


@pytest.mark.parametrize("field", ["api_key", "authorization", "x-key", "password", "client_secret", "access_token"])
def test_a_field_that_holds_a_secret_is_redacted(configured: Path, field: str) -> None:
    structlog.get_logger("test").warning("careless", **{field: "sk-123"})
    assert "sk-123" not in configured.read_text()


def test_long_fields_are_cut(configured: Path) -> None:
    structlog.get_logger("test").info("long", body="x" * 100_000)
    assert len(configured.read_text()) < logging.FIELD_LIMIT + 500


def test_an_error_is_spread_into_its_facts(configured: Path) -> None:
    error = GenerationError(ErrorCode.RATE_LIMITED, "slow down", {"http_status": 429})
    structlog.get_logger("test").warning("check failed", error=error)
    assert _lines(configured)[0]["error"] == {
        "name": "RATE_LIMITED",
        "message": "slow down",
        "details": {"http_status": 429},
    }


def test_the_standard_librarys_loggers_go_the_same_way(configured: Path) -> None:
    standard.getLogger("somebody").warning("else")
    assert (_lines(configured)[0]["message"], _lines(configured)[0]["source"]) == ("else", "gateway")


@pytest.mark.parametrize(("text", "size"), [("10M", 10 * 1024**2), ("512K", 512 * 1024), ("1GB", 1024**3), ("77", 77)])
def test_sizes(text: str, size: int) -> None:
    assert logging.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "10X", "-1M", "1.5M", "M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="10M"):
        logging.size_in_bytes(text)


@pytest.mark.parametrize("configured", ["trace", "debug", "info", "warn", "error", "fatal", "INFO"], indirect=True)
def test_every_level_can_be_set(configured: Path) -> None:
    structlog.get_logger("test").critical("at any level")
    assert "at any level" in configured.read_text()


def test_an_exception_comes_with_its_stack(configured: Path) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("test").exception("handler failed", method="/x")
    (line,) = _lines(configured)
    assert (line["level"], line["context"]) == ("error", {"method": "/x"})
    assert (line["error"]["name"], line["error"]["message"]) == ("ValueError", "broken")
    assert "test_logging.py" in line["error"]["stack"]


@pytest.mark.parametrize(
    "secret", ["drk_0123456789abcdef", "sk-0123456789abcdef", "r8_0123456789abcdef", "Bearer abcdefghijklmnop"]
)
def test_credentials_are_cut_out_of_texts_and_errors(configured: Path, secret: str) -> None:
    log = structlog.get_logger("test")
    log.warning("careless", url=f"https://x.example/?key={secret}", error=ValueError(f"refused {secret}"))
    log.warning("careless", faults=[f"at {secret}", {"inner": (secret,), "password": "x"}])
    log.warning("careless", error=GenerationError(ErrorCode.PROVIDER_ERROR, secret, {"reply": secret}))
    standard.getLogger("somebody").warning("it was %s", secret)
    text = configured.read_text()
    assert secret.removeprefix("Bearer ") not in text
    assert text.count("[redacted]") >= 8


def test_prompts_are_left_out_unless_a_setting_lets_them_in(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.get_logger("one").info("accepted", prompt="a secret project")
    monkeypatch.setenv("DARKROOM_LOG_PROMPTS", "true")
    _configure_anew()
    structlog.get_logger("two").info("accepted", prompt="a public one")
    text = configured.read_text()
    assert "a secret project" not in text
    assert "a public one" in text


def test_the_level_changes_at_work(configured: Path) -> None:
    log = structlog.get_logger("test")
    log.debug("unseen")
    logging.set_level("debug")
    log.debug("seen")
    logging.set_level("error")
    log.warning("too quiet")
    assert [line["message"] for line in _lines(configured)] == ["seen"]


def test_files_are_rotated(tmp_path: Path, configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FILE_MAX_SIZE", "10K")
    monkeypatch.setenv("LOG_FILE_MAX_FILES", "2")
    monkeypatch.setenv("LOG_FILE_PATH", str(tmp_path / "rotated.log"))
    _configure_anew()
    for number in range(400):
        structlog.get_logger("test").info("one of many", number=number)
    files = sorted(path.name for path in tmp_path.glob("rotated.log*"))
    assert files == ["rotated.log", "rotated.log.1", "rotated.log.2"]
    assert all(path.stat().st_size <= 10 * 1024 for path in tmp_path.glob("rotated.log*"))


def test_what_is_listened_to_is_redacted_and_comes_from_libraries_too(configured: Path) -> None:
    heard: list[Any] = []
    listener = logging.listen(heard.append, "warn")
    structlog.get_logger("test").warning("ours", api_key="drk_0123456789abcdef")
    structlog.get_logger("test").info("not loud enough")
    standard.getLogger("somebody").error("theirs with %s", "drk_0123456789abcdef")
    standard.getLogger().removeHandler(listener)
    assert [event["event"] for event in heard] == ["ours", "theirs with [redacted]"]
    assert heard[0]["api_key"] == "[redacted]"
