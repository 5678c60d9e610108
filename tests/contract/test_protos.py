"""The contracts hold what the design names."""

from __future__ import annotations

import pytest
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.experiments.v1 import experiments_pb2
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.monitor.v1 import monitor_pb2
from darkroom.poller.v1 import poller_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import EnumDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from libs.common.database.states import TaskState

FILES = {
    "GenerationService": gateway_pb2.DESCRIPTOR,
    "AdminService": admin_pb2.DESCRIPTOR,
    "DispatcherService": dispatcher_pb2.DESCRIPTOR,
    "PollingService": poller_pb2.DESCRIPTOR,
    "MonitorService": monitor_pb2.DESCRIPTOR,
    "ExperimentService": experiments_pb2.DESCRIPTOR,
}
RPCS = {
    "GenerationService": "CreateGeneration GetGeneration ListGenerations CancelGeneration WatchGeneration "
    "RerunGeneration "
    "RateGeneration CreateBatch UploadBatch ListBatches GetBatch WatchBatch CancelBatch ResumeBatch EstimateCost "
    "PreprocessImage ListModels ListSubmissions "
    "ResolveSubmission ResolveSubmissions ListCallbacks ReplayCallback GetCallbackSecret",
    "AdminService": "CreateApiKey ListApiKeys UpdateApiKey RevokeApiKey",
    "DispatcherService": "Dispatch CancelGeneration GetQueue",
    "PollingService": "AddTask RemoveTask GetTaskStatus ListTasks ReportTask",
    "MonitorService": "LogError ListErrors ResolveError ListErrorLogs GetErrorStats SendAlert GetAlert ListAlerts "
    "ListChannels AcknowledgeAlert SilenceAlerts ListSilences EndSilence GetHealth GetStats ListInstances SetLogLevel",
    "ExperimentService": "CreateExperiment GetExperiment ListExperiments StartExperiment PauseExperiment "
    "CompleteExperiment ChangeAllocation AllocateVariant GetAllocations GetResults",
}
# A call that changes nothing may be repeated; clients, gRPC's tools and our own server rely on that.
CHANGE_NOTHING = {
    "GenerationService": "GetGeneration ListGenerations WatchGeneration ListBatches GetBatch WatchBatch EstimateCost "
    "ListModels ListSubmissions ListCallbacks GetCallbackSecret",
    "AdminService": "ListApiKeys",
    "DispatcherService": "GetQueue",
    "PollingService": "GetTaskStatus ListTasks",
    "MonitorService": "ListErrors ListErrorLogs GetErrorStats GetAlert ListAlerts ListChannels ListSilences GetHealth "
    "GetStats ListInstances",
    "ExperimentService": "GetExperiment ListExperiments GetAllocations GetResults",
}
ROUTES = {
    "post /api/external/generation",
    "get /api/external/generation/{id}",
    "get /api/external/generation",
    "delete /api/external/generation/{id}",
    "get /api/external/generation/{id}/events",
    "post /api/external/generation/{id}/rate",
    "post /api/external/generation/batch",
    "get /api/external/generation/batch",
    "get /api/external/generation/batch/{batch_id}",
    "delete /api/external/generation/batch/{batch_id}",
    "post /api/external/generation/batch/{batch_id}/resume",
    "post /api/external/generation/estimate",
    "get /api/external/models",
    "get /api/external/callbacks",
    "get /api/external/callbacks/secret",
    "post /api/external/callbacks/{id}/replay",
    "get /api/admin/keys",
    "post /api/admin/keys",
    "patch /api/admin/keys/{id}",
    "post /api/admin/keys/{id}/revoke",
    "get /api/admin/submissions",
    "post /api/admin/submissions/{submission_id}/resolve",
    "get /api/admin/monitoring/stats",
    "get /api/admin/monitoring/errors",
    "get /api/admin/monitoring/alerts",
    "post /api/admin/monitoring/errors/{id}/resolve",
    "post /api/admin/monitoring/alerts/{id}/acknowledge",
    "post /api/admin/experiments",
    "get /api/admin/experiments",
    "get /api/admin/experiments/{id}",
    "post /api/admin/experiments/{id}/start",
    "post /api/admin/experiments/{id}/pause",
    "post /api/admin/experiments/{id}/complete",
    "post /api/admin/experiments/{id}/allocation",
    "get /api/admin/experiments/{id}/results",
    "get /api/health/detailed",
    "get /api/admin/monitoring/error-logs",
    "get /api/admin/monitoring/error-stats",
    "post /api/admin/monitoring/alerts",
    "get /api/admin/monitoring/alerts/{id}",
    "post /api/admin/monitoring/silences",
    "get /api/admin/monitoring/silences",
    "delete /api/admin/monitoring/silences/{id}",
    "get /api/admin/monitoring/instances",
    "post /api/admin/monitoring/log-level",
}


@pytest.mark.parametrize("service", sorted(RPCS))
def test_a_service_has_its_rpcs(service: str) -> None:
    found = FILES[service].services_by_name[service]
    assert {method.name for method in found.methods} == set(RPCS[service].split())


@pytest.mark.parametrize("service", sorted(CHANGE_NOTHING))
def test_what_changes_nothing_is_declared_so(service: str) -> None:
    methods = FILES[service].services_by_name[service].methods
    declared = {
        method.name for method in methods if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    }
    assert declared == set(CHANGE_NOTHING[service].split())


def test_what_is_read_over_http_changes_nothing() -> None:
    for name, file in FILES.items():
        for method in file.services_by_name[name].methods:
            if method.GetOptions().Extensions[annotations_pb2.http].get:
                assert method.name in CHANGE_NOTHING[name].split()


def test_the_routes_are_declared_beside_the_rpcs() -> None:
    declared = set()
    for name, file in FILES.items():
        for method in file.services_by_name[name].methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            verb = rule.WhichOneof("pattern")
            if verb:
                declared.add(f"{verb} {getattr(rule, verb)}")
    assert declared >= ROUTES


def _enums(file: FileDescriptor) -> list[EnumDescriptor]:
    nested = [enum for message in file.message_types_by_name.values() for enum in message.enum_types]
    return [*file.enum_types_by_name.values(), *nested]


@pytest.mark.parametrize("service", sorted(FILES))
def test_every_enum_starts_unspecified(service: str) -> None:
    for enum in _enums(FILES[service]):
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED"), enum.full_name


def test_task_states_are_the_same_words() -> None:
    words = {name.removeprefix("TASK_STATE_") for name in poller_pb2.TaskState.DESCRIPTOR.values_by_name}
    assert words == {state.value for state in TaskState} | {"UNSPECIFIED"}
