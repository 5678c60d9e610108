"""Who calls, and what they may: known from the API key once, and asked of here for the rest of the call."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from libs.common.database.records_edge import ApiKeyRecord, Quota, Role
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.shares import hold_as

ADMIN_SERVICES = (
    "/darkroom.gateway.v1.AdminService/",
    "/darkroom.monitor.v1.MonitorService/",
    "/darkroom.experiments.v1.ExperimentService/",
)
ADMIN_METHODS = frozenset(
    {
        "/darkroom.gateway.v1.GenerationService/ListSubmissions",
        "/darkroom.gateway.v1.GenerationService/ResolveSubmission",
        "/darkroom.gateway.v1.GenerationService/ResolveSubmissions",
    }
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid key."""

    key_id: str
    role: Role
    owner: str
    quota: Quota = field(default_factory=Quota)
    callback_url: str | None = None

    @classmethod
    def of(cls, record: ApiKeyRecord) -> Caller:
        """The holder of that key."""
        return cls(record.id, record.role, record.owner, record.quota, record.callback_url)

    @property
    def is_admin(self) -> bool:
        """Whether everything is open to them."""
        return self.role == "admin"

    @property
    def sees(self) -> str | None:
        """The owner whose generations alone there are for them; None: everybody's."""
        return None if self.is_admin else self.owner


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def admit_caller(caller: Caller) -> None:
    """Let the rest of this call be this caller's."""
    _current.set(caller)
    hold_as(key=caller.key_id, owner=caller.owner)


def current_caller() -> Caller:
    """Who calls. A call that nobody has looked at is a fault of ours, and goes no further."""
    caller = _current.get()
    if caller is None:
        raise GenerationError(ErrorCode.AUTHENTICATION_FAILED, "This call was not authenticated.")
    return caller


def check_role(caller: Caller, method: str) -> None:
    """PERMISSION_DENIED unless the caller may call `/package.Service/Method`."""
    if is_for_admins(method) and not caller.is_admin:
        raise permission_denied()


def is_for_admins(method: str) -> bool:
    """Whether `/package.Service/Method` is for admin keys alone."""
    return method.startswith(ADMIN_SERVICES) or method in ADMIN_METHODS


def permission_denied() -> GenerationError:
    """The key is good, and not for this."""
    return GenerationError(ErrorCode.PERMISSION_DENIED, "This is for admin keys.")
