"""Logs: one line an event, a constant phrase with fields, JSON or pretty, to stdout and to a rotated file."""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from libs.common.errors import GenerationError
from libs.common.settings import Settings

_LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_SECRET_FIELD = re.compile(r"(authorization|api_?key|x-key|secret|password|token$|credential)", re.IGNORECASE)
FIELD_LIMIT = 4_000


def size_in_bytes(text: str) -> int:
    """`10M` → 10485760. Units K, M and G are powers of 1,024. ValueError for anything else."""
    match = re.fullmatch(r"(\d+)([KMG]?)B?", text.strip().upper())
    if match is None:
        raise ValueError(f"not a size: {text!r}; write for instance 10M")
    return int(match[1]) * _UNITS[match[2]]


def _protect(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if _SECRET_FIELD.search(key):
            event[key] = "[redacted]"
        elif isinstance(value, str) and len(value) > FIELD_LIMIT:
            event[key] = value[:FIELD_LIMIT] + "…"
    return event


def _spread_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    error = event.get("error")
    if isinstance(error, GenerationError):
        event["error"] = {"name": error.code.value, "message": error.message, **error.details}
    elif isinstance(error, BaseException):
        event["error"] = {"name": type(error).__name__, "message": str(error)[:FIELD_LIMIT]}
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
    level = _LEVELS[settings.log_level]

    def add_source(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("source", source)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        add_source,
        _spread_error,
        _protect,
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer(default=str)
        shared.append(structlog.processors.EventRenamer("message"))
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=28)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    root = logging.getLogger()
    root.handlers.clear()
    for handler in _handlers(settings):
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level)
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer", "asyncio", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        # structlog knows no level below debug: trace lets all through.
        wrapper_class=structlog.make_filtering_bound_logger(level if level >= logging.DEBUG else logging.NOTSET),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
