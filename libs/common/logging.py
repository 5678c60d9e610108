"""Logs: one line an event, a constant phrase with its context, JSON or pretty, to stdout and to a rotated file."""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from libs.common.errors import CALLERS_FAULTS, Details, GenerationError
from libs.common.settings import LogLevel, Settings

LEVELS: dict[str, int] = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}
_WORDS = {"warning": "warn", "critical": "fatal", "exception": "error"}
_NUMBERS = {**LEVELS, "warning": 30, "critical": 50, "exception": 40}
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_SECRET_FIELD = re.compile(r"(authorization|api_?key$|x-key|secret|password|token$|credential)", re.IGNORECASE)
# Keys of ours and of vendors, and what goes in an authorization header, wherever they turn up.
_SECRET_TEXT = re.compile(r"(drk_|sk-|r8_|whsec_|xox[abp]-)[A-Za-z0-9_-]{8,}|(?i:bearer|basic) +[A-Za-z0-9._~+/=-]{8,}")
_PROMPT_FIELD = re.compile(r"prompt", re.IGNORECASE)
REDACTED = "[redacted]"
FIELD_LIMIT = 4_000
STACK_LIMIT = 10_000
_DEPTH = 4
# What stands beside the context; the rest is the context.
_OUTSIDE = ("timestamp", "level", "source", "message", "error")
_NOISY = ("botocore", "boto3", "urllib3", "s3transfer", "asyncio", "alembic", "opentelemetry", "grpc")


class _Threshold:
    """From which level on lines are written: the settings' until somebody changes it at run time."""

    number = LEVELS["info"]


def size_in_bytes(text: str) -> int:
    """`10M` → 10485760. Units K, M and G are powers of 1,024. ValueError for anything else."""
    match = re.fullmatch(r"(\d+)([KMG]?)B?", text.strip().upper())
    if match is None:
        raise ValueError(f"not a size: {text!r}; write for instance 10M")
    return int(match[1]) * _UNITS[match[2]]


def set_level(level: LogLevel) -> None:
    """Write lines from this level on, from now on."""
    _Threshold.number = LEVELS[level]
    logging.getLogger().setLevel(_Threshold.number)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(_Threshold.number, logging.WARNING))


def redacted(text: str) -> str:
    """The text without what looks like a credential."""
    return _SECRET_TEXT.sub(REDACTED, text)


def _below_threshold(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if _NUMBERS.get(method, 0) < _Threshold.number:
        raise structlog.DropEvent
    return event


def _level_word(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event["level"] = _WORDS.get(method, method)
    return event


@lru_cache(maxsize=2_048)
def _is_hidden(key: str, *, shows_prompts: bool) -> bool:
    return bool(_SECRET_FIELD.search(key) or (not shows_prompts and _PROMPT_FIELD.search(key)))


def _clean(value: Any, *, shows_prompts: bool, depth: int = 0) -> Any:
    """A value without credentials, and without prompts unless they may be shown."""
    if isinstance(value, str):
        return redacted(value if len(value) <= FIELD_LIMIT else value[:FIELD_LIMIT] + "…")
    if depth < _DEPTH and isinstance(value, dict):
        return {
            key: REDACTED
            if isinstance(key, str) and _is_hidden(key, shows_prompts=shows_prompts)
            else _clean(inner, shows_prompts=shows_prompts, depth=depth + 1)
            for key, inner in value.items()
        }
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_clean(inner, shows_prompts=shows_prompts, depth=depth + 1) for inner in value]
    return value


def _protector(*, shows_prompts: bool) -> structlog.typing.Processor:
    def protect(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        for key, value in event.items():
            if _is_hidden(key, shows_prompts=shows_prompts):
                event[key] = REDACTED
            elif key != "error" and isinstance(value, str | dict | list | tuple):
                event[key] = _clean(value, shows_prompts=shows_prompts)
        return event

    return protect


def _describe_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Turns `error` and `exc_info` into name, message, details and stack."""
    error, given = event.get("error"), event.pop("exc_info", None)
    raised = _raised(given)
    if isinstance(error, dict):
        event["error"] = _clean(error, shows_prompts=False)
    if not isinstance(error, BaseException):
        error = raised
    if error is None:
        return event
    event["error"] = {"name": type(error).__name__, "message": redacted(str(error)[:FIELD_LIMIT])}
    if isinstance(error, GenerationError):
        event["error"] |= {"name": error.code.value, "message": redacted(error.message)}
        event["error"] |= {"details": _clean(error.details, shows_prompts=False)} if error.details else {}
    if raised is not None:
        stack = "".join(traceback.format_exception(raised))
        event["error"]["stack"] = redacted(stack[-STACK_LIMIT:])
    return event


def _raised(given: object) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return cast("BaseException | None", given[1])
    return sys.exc_info()[1] if given else None


def _nest(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Timestamp, level, source and message first; what is not of every line goes into `context`."""
    event["message"] = event.pop("event", "")
    context = {key: value for key, value in event.items() if key not in _OUTSIDE}
    line = {key: event[key] for key in _OUTSIDE[:-1] if key in event}
    return line | ({"context": context} if context else {}) | ({"error": event["error"]} if "error" in event else {})


def _flatten_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    error = event.pop("error", None)
    if isinstance(error, dict):
        event["error"] = f"{error['name']}: {error['message']}"
        if "stack" in error:
            event["exception"] = error["stack"]
    return event


def _handlers(settings: Settings) -> list[logging.Handler]:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if settings.log_file_path is not None:
        settings.log_file_path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                settings.log_file_path,
                maxBytes=size_in_bytes(settings.log_file_max_size),
                backupCount=settings.log_file_max_files,
            )
        )
    return handlers


def configure(settings: Settings, source: str) -> None:
    """Send structlog's and the standard library's events through one chain. `source` is the service's name."""

    def add_source(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("source", source)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _level_word,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        add_source,
        _describe_error,
        _protector(shows_prompts=settings.log_prompts),
    ]
    show: list[structlog.typing.Processor] = [
        _flatten_error,
        structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=28),
    ]
    if settings.log_format == "json":
        show = [_nest, structlog.processors.JSONRenderer(default=str)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *show],
    )
    root = logging.getLogger()
    root.handlers.clear()
    for handler in _handlers(settings):
        handler.setFormatter(formatter)
        root.addHandler(handler)
    set_level(settings.log_level)
    structlog.configure(
        processors=[_below_threshold, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def described(error: Details | None) -> Details | None:
    """A row's error as a log line shows it."""
    return {"name": error["code"], "message": error["message"], "details": error.get("details", {})} if error else None


def level_of_end(state: str, code: str) -> int:
    """How loud the end of a generation is: a provider's failure or ours is an error, a caller's is a warning."""
    if state != "FAILED":
        return LEVELS["info"]
    return LEVELS["warn"] if code in CALLERS_FAULTS else LEVELS["error"]


class Listener(logging.Handler):
    """Hands each event from a level on to somebody, as the chain has made it: redacted, with its error described.

    Args:
        take: is given the event. It must be quick and must not raise.
        level: of the standard library.
    """

    def __init__(self, take: Callable[[EventDict], None], level: int) -> None:
        super().__init__(level)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on."""
        if isinstance(record.msg, dict):
            self._take(record.msg)
        else:
            event = _describe_error(
                None, "", {"event": redacted(record.getMessage()[:FIELD_LIMIT]), "exc_info": record.exc_info}
            )
            self._take({**event, "level": _WORDS.get(record.levelname.lower(), record.levelname.lower())})


def listen(take: Callable[[EventDict], None], level: LogLevel) -> Listener:
    """Let `take` have each event from `level` on. `logging.getLogger().removeHandler` ends it."""
    listener = Listener(take, LEVELS[level])
    logging.getLogger().addHandler(listener)
    return listener
