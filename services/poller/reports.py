"""From a ReportTask message to what a provider's webhook says of a task."""

from __future__ import annotations

from darkroom.common.v1 import common_pb2
from darkroom.poller.v1 import poller_pb2
from google.protobuf.json_format import MessageToDict

from libs.common.adapters.base import ProviderOutput, TaskStatus
from libs.common.database.states import TaskState
from libs.common.errors import ErrorCode, GenerationError

_PREFIX = "TASK_STATE_"


def reported(request: poller_pb2.ReportTaskRequest) -> TaskStatus | None:
    """The end of a task, if the report says all that is to be known of it. None: it is only a hint."""
    state = _state(request)
    if state is TaskState.SUCCESS and request.output_urls:
        return TaskStatus(state, tuple(ProviderOutput(url=url) for url in request.output_urls))
    if state in {TaskState.FAILED, TaskState.CANCELLED} and request.HasField("error"):
        return TaskStatus(state, error=_error(request.error))
    return None


def hint(request: poller_pb2.ReportTaskRequest) -> tuple[TaskState | None, int | None]:
    """The state and the progress, in percent, of a task that is still under way by the report."""
    state = _state(request)
    progress = min(100, max(0, request.progress)) if request.HasField("progress") else None
    return (None if state is None or state.has_ended else state), progress


def _state(request: poller_pb2.ReportTaskRequest) -> TaskState | None:
    if request.state not in poller_pb2.TaskState.values():
        return None
    name = poller_pb2.TaskState.Name(request.state).removeprefix(_PREFIX)
    return TaskState(name) if name in TaskState.__members__ else None


def _error(message: common_pb2.GenerationError) -> GenerationError:
    names = {value: name.removeprefix("ERROR_CODE_") for name, value in common_pb2.ErrorCode.items()}
    name = names.get(message.code, "")
    code = ErrorCode(name) if name in ErrorCode.__members__ else ErrorCode.TASK_FAILED
    return GenerationError(code, message.message, MessageToDict(message.details), is_retryable=message.is_retryable)
