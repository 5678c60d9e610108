"""Starts the experiments service."""

from __future__ import annotations

from darkroom.experiments.v1.experiments_pb2_grpc import add_ExperimentServiceServicer_to_server
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.database.stores.experiment_measures import MeasureStore
from libs.common.database.stores.experiment_segments import SegmentStore
from libs.common.database.stores.experiment_traffic import TrafficStore
from libs.common.database.stores.experiments import ExperimentStore
from libs.common.rpc.channel import open_channel
from libs.common.rpc.service import Frame, run
from services.experiments.adapting import Adapting
from services.experiments.handlers import ExperimentHandlers, Stores
from services.experiments.measuring import Measuring
from services.experiments.reporting import Reporting
from services.experiments.running import RunningExperiments

_FOLD_SECONDS = 1.0
_TELL_SECONDS = 2.0


async def wire(frame: Frame) -> None:
    """Put the service together."""
    settings, database = frame.settings, frame.database
    experiments, measures = ExperimentStore(database), MeasureStore(database)
    to_monitor = open_channel(settings.monitor_address, settings)
    measuring = Measuring(measures)
    adapting = Adapting(experiments, measures, MonitorServiceStub(to_monitor))
    frame.serve(
        ExperimentHandlers(
            frame.catalog,
            Stores(experiments, TrafficStore(database)),
            RunningExperiments(experiments),
            Reporting(measuring, measures, SegmentStore(frame.reading())),
        ),
        add_ExperimentServiceServicer_to_server,
        "darkroom.experiments.v1.ExperimentService",
    )
    frame.loop("fold", measuring.fold, interval_seconds=_FOLD_SECONDS)
    frame.loop("adapt", adapting.look, interval_seconds=settings.experiment_adapt_seconds)
    frame.loop("tell", adapting.tell, interval_seconds=_TELL_SECONDS)
    frame.on_close(to_monitor.close)


if __name__ == "__main__":
    run("experiments", wire)
