"""What pages are made of: the RPCs that they call and the rows that they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub
from darkroom.gateway.v1.admin_pb2_grpc import AdminServiceStub
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.catalog import CatalogHolder
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.database.stores.audit import AuditStore
from libs.common.database.stores.batches import BatchStore
from libs.common.database.stores.callbacks import CallbackStore
from libs.common.database.stores.console_reads import ConsoleReads
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.database.stores.submissions import SubmissionStore
from libs.common.preprocessing.preparing import Preparer
from libs.common.storage.objects import ObjectStore
from services.gateway.batches.export import Export
from services.gateway.console.recent import Recent
from services.gateway.sending import Downloads

if TYPE_CHECKING:
    from services.gateway.console.pages.overview import Facts

_OVERVIEW_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Whatever a page may need. What changes anything goes through the RPCs, which check it as they check everybody."""

    generation: GenerationServiceStub
    admin: AdminServiceStub
    monitor: MonitorServiceStub
    experiment: ExperimentServiceStub
    catalog: CatalogHolder
    reads: ConsoleReads
    generations: GenerationStore
    submissions: SubmissionStore
    callbacks: CallbackStore
    batches: BatchStore
    accounts: AccountStore
    keys: ApiKeyStore
    statistics: StatisticsStore
    audit: AuditStore
    objects: ObjectStore
    downloads: Downloads
    export: Export
    preparer: Preparer
    is_stopping: Callable[[], bool]
    overview: Recent[Facts] = field(default_factory=lambda: Recent(_OVERVIEW_SECONDS))
