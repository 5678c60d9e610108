"""The RPCs of PollingService: parse, call, answer."""

from __future__ import annotations

import json
from typing import Any

import grpc
from darkroom.poller.v1 import poller_pb2 as messages
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceServicer

from libs.common.catalog import CatalogHolder
from libs.common.database.records_tasks import PollTaskRecord
from libs.common.database.stores.polling import PollStore
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.rpc.context import current_request_id
from libs.common.rpc.messages import UrlOf, error_message, output_messages, timestamp
from libs.common.rpc.requests import ID_LIMIT, raise_for, text_faults
from services.poller.late import LateChecks
from services.poller.polling import Polling
from services.poller.reports import hint, reported
from services.poller.requests import Page, adopted, page_of, page_token

Context = grpc.aio.ServicerContext[Any, Any]


class PollerHandlers(PollingServiceServicer):
    """Serves `darkroom.poller.v1.PollingService`."""

    def __init__(
        self, store: PollStore, catalog: CatalogHolder, polling: Polling, late: LateChecks, url_of: UrlOf
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._polling = polling
        self._late = late
        self._url_of = url_of

    async def AddTask(self, request: messages.AddTaskRequest, context: Context) -> messages.AddTaskResponse:
        """See the proto."""
        raise_for(text_faults({"generation_id": request.generation_id}, {"generation_id": ID_LIMIT}))
        if request.generation_id:
            # A hand-over that is committed already: look at the rows, whichever they are.
            self._polling.wake()
            if not request.task_id and self._polling.storing_loop is not None:
                # No task: results wait to be stored, or a cancel.
                self._polling.storing_loop.wake()
            return messages.AddTaskResponse(generation_id=request.generation_id, created=False)
        generation, task = adopted(request, self._catalog.current, current_request_id())
        generation_id, created = await self._store.adopt(generation, task)
        if not created:
            await self._store.wake(request.provider_id, request.task_id)
        self._polling.wake()
        return messages.AddTaskResponse(generation_id=generation_id, created=created)

    async def RemoveTask(self, request: messages.RemoveTaskRequest, context: Context) -> messages.RemoveTaskResponse:
        """See the proto."""
        await self._get(request.provider_id, request.task_id)
        reason = GenerationError(ErrorCode.TASK_CANCELLED, "The task was removed; the provider was not told.")
        removed = await self._store.remove(request.provider_id, request.task_id, json.dumps(reason.to_json()))
        return messages.RemoveTaskResponse(removed=removed)

    async def GetTaskStatus(
        self, request: messages.GetTaskStatusRequest, context: Context
    ) -> messages.GetTaskStatusResponse:
        """See the proto."""
        return messages.GetTaskStatusResponse(task=self._message(await self._get(request.provider_id, request.task_id)))

    async def ListTasks(self, request: messages.ListTasksRequest, context: Context) -> messages.ListTasksResponse:
        """See the proto."""
        page: Page = page_of(request)
        found = await self._store.list_page(
            page.size + 1,
            provider_id=request.provider_id or None,
            include_ended=request.include_ended,
            after=page.after,
        )
        return messages.ListTasksResponse(
            tasks=[self._message(record) for record in found[: page.size]],
            next_page_token=page_token(found[page.size - 1]) if len(found) > page.size else "",
        )

    async def ReportTask(self, request: messages.ReportTaskRequest, context: Context) -> messages.ReportTaskResponse:
        """See the proto."""
        found = await self._get(request.provider_id, request.task_id)
        status = reported(request)
        if found.ended_at is not None:
            applied = await self._late.report(request.provider_id, request.task_id, status)
            return messages.ReportTaskResponse(applied=applied)
        if status is not None:
            # Another report may end the task at the same time, and say otherwise.
            applied = await self._polling.report(
                request.provider_id, request.task_id, status
            ) or await self._late.report(request.provider_id, request.task_id, status)
            return messages.ReportTaskResponse(applied=applied)
        state, progress = hint(request)
        applied = await self._store.wake(request.provider_id, request.task_id, state=state, progress=progress)
        self._polling.wake()
        return messages.ReportTaskResponse(applied=applied)

    async def _get(self, provider_id: str, task_id: str) -> PollTaskRecord:
        found = await self._store.get(provider_id, task_id) if "\x00" not in provider_id + task_id else None
        if found is None:
            raise NotFound("task_id", f"There is no task {task_id[:100]!r} of provider {provider_id[:100]!r}.")
        return found

    def _message(self, record: PollTaskRecord) -> messages.PollTask:
        return messages.PollTask(
            provider_id=record.provider_id,
            task_id=record.task_id,
            generation_id=record.generation_id,
            adapter_name=record.adapter_name,
            state=messages.TaskState.Value(f"TASK_STATE_{record.state}"),
            attempts=record.attempts,
            retry_count=record.retry_count,
            next_poll_at=timestamp(record.next_poll_at) if record.ended_at is None else None,
            progress=record.progress,
            outputs=output_messages(record.outputs or [], self._url_of),
            last_error=error_message(record.last_error) if record.last_error else None,
            deadline_at=timestamp(record.deadline_at),
        )
