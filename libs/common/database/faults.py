"""Maps failures of Postgres, by SQLSTATE, to `GenerationError`.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html. An error that is not listed here (a broken
constraint, wrong SQL) is a fault of Darkroom and is raised unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from libs.common.errors import Details, ErrorCode, GenerationError, StatementEnded

DEADLOCK, SERIALIZATION, READ_ONLY = "40P01", "40001", "25006"
REPEATED_AT_ONCE = frozenset({DEADLOCK, SERIALIZATION})
"""SQLSTATEs after which a transaction is repeated at once, as the documentation of Postgres recommends."""

_UNREACHABLE = "The database cannot be reached."
_ROOM = "Nothing was committed; try again later."


def _away(message: str) -> Callable[[Details], GenerationError]:
    return lambda details: GenerationError(ErrorCode.SERVICE_UNAVAILABLE, message, details)


def _ended(message: str, *, is_slow: bool = False) -> Callable[[Details], GenerationError]:
    return lambda details: StatementEnded(message, details, is_slow=is_slow)


# By the whole SQLSTATE, else by its class.
_MEANINGS: dict[str, Callable[[Details], GenerationError]] = {
    "08": _away(_UNREACHABLE),
    "57P01": _away(_UNREACHABLE),
    "57P02": _away(_UNREACHABLE),
    "57P03": _away(_UNREACHABLE),
    "57P04": _away(_UNREACHABLE),
    "57P05": _away(_UNREACHABLE),
    "58": _ended(f"The server of the database has a fault, for instance of its disk. {_ROOM}"),
    READ_ONLY: _away("The database takes no writes: the server that was reached is a standby, or recovers."),
    "53": _away(f"The database has run out of a resource. {_ROOM}"),
    "53100": _away(f"The disk of the database is full. {_ROOM}"),
    "53200": _ended(f"The database has run out of memory. {_ROOM}"),
    "53300": _away(f"The database has no connection free. {_ROOM}"),
    "53400": _away(f"The database has reached a limit of its configuration. {_ROOM}"),
    "57014": _ended("A statement of the database took too long and was ended; nothing was committed.", is_slow=True),
    "55P03": _ended(
        "A row or table was locked by another transaction for too long; nothing was committed.", is_slow=True
    ),
    DEADLOCK: _ended(
        "Two transactions waited for each other, and this one was ended; nothing was committed.", is_slow=True
    ),
    SERIALIZATION: _ended("Another transaction changed the same rows at the same time; nothing was committed."),
}
# A connection that is refused has no SQLSTATE in psycopg2, only the server's (or PgBouncer's) English text.
_REFUSALS = {
    "too many clients already": "53300",
    "too many connections for": "53300",
    "remaining connection slots are reserved": "53300",
    "no more connections allowed": "53300",
    "the database system is": "57P03",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error of the driver, or of the pool of connections.

    `sqlstate` is empty where the server gave none, for instance because it is not there.
    """

    error: DBAPIError | PoolTimeoutError
    sqlstate: str

    @classmethod
    def of(cls, error: DBAPIError | PoolTimeoutError) -> Fault:
        """Return the fault with its SQLSTATE."""
        original = error.orig if isinstance(error, DBAPIError) else None
        sqlstate = getattr(original, "pgcode", None) or _refusal(str(original))
        return cls(error, sqlstate)

    @property
    def lost_connection(self) -> bool:
        """Whether the connection was lost, so that the outcome of a COMMIT that was sent is unknown."""
        if isinstance(self.error, PoolTimeoutError):
            return False
        is_connections = isinstance(self.error, OperationalError | InterfaceError) and not self.sqlstate
        return self.error.connection_invalidated or is_connections or self.sqlstate.startswith(("08", "57P"))

    def meaning(self) -> GenerationError | None:
        """Return the error for the caller; None for a fault of Darkroom."""
        details: Details = {"cause": type(getattr(self.error, "orig", None) or self.error).__name__}
        if self.sqlstate:
            details["sqlstate"] = self.sqlstate
        if isinstance(self.error, PoolTimeoutError):
            return _away("No connection to the database came free in time; nothing was committed.")(details)
        make = _MEANINGS.get(self.sqlstate) or _MEANINGS.get(self.sqlstate[:2])
        if make is not None:
            return make(details)
        return _away(_UNREACHABLE)(details) if self.lost_connection else None


def _refusal(text: str) -> str:
    return next((sqlstate for words, sqlstate in _REFUSALS.items() if words in text), "")
