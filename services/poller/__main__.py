"""Starts a poller."""

from __future__ import annotations

import asyncio
from functools import partial

from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.poller.v1.poller_pb2_grpc import add_PollingServiceServicer_to_server

from libs.common.adapters.accounts import Accounts
from libs.common.api_keys import key_secret
from libs.common.database.stores import live_ids
from libs.common.database.stores.callbacks import CallbackQueue
from libs.common.database.stores.late_results import LatePolicy, LateStore
from libs.common.database.stores.pauses import PausePolicy, PauseStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from libs.common.rpc.channel import open_channel
from libs.common.rpc.service import Frame, run
from libs.common.rpc.wakeups import Wakeups, batch_wakeups
from libs.common.storage.download import Downloader
from libs.common.storage.objects import ObjectStore
from libs.common.storage.results import Results
from services.poller.asking import Asking
from services.poller.callbacks import Callbacks
from services.poller.handlers import PollerHandlers
from services.poller.late import LateChecks
from services.poller.polling import Polling
from services.poller.storing import Storing

# A task is polled well within a second of its due time.
_TICK_SECONDS = 0.25
_FORGOTTEN_SECONDS = 30.0
_CALLBACKS_SECONDS = 1.0
# What follows an end in its batch may wait so long for company.
_BETWEEN_WAKEUPS_SECONDS = 0.1
# A try may be redirected; each hop gets its whole time.
_LEASE_OF_A_CALLBACK = 4


async def wire(frame: Frame) -> None:
    """Connect the parts of a poller."""
    pauses = PausePolicy(
        probe_seconds=frame.settings.poll_probe_seconds, limit_seconds=frame.settings.poll_pause_seconds
    )
    objects, accounts, batches = ObjectStore(frame.settings), Accounts(frame.catalog), _batch_wakeups(frame)
    frame.on_close(objects.close)
    frame.on_close(accounts.close)
    asking = Asking(accounts)
    poll_store = _poll_store(frame, pauses)
    polling = _polling(frame, poll_store, asking, batches)
    storing = _storing(frame, pauses, asking, objects, batches)
    polling.storing_loop = storing.window.refill
    late = _late_checks(frame, pauses, asking, storing)
    frame.loop("live_ids", partial(live_ids.follow, frame.database), interval_seconds=live_ids.LOOK_SECONDS)
    frame.serve(
        PollerHandlers(poll_store, frame.catalog, polling, late, objects.url),
        add_PollingServiceServicer_to_server,
        "darkroom.poller.v1.PollingService",
    )
    # At the same time: while one of them waits for its work, the other renews its leases.
    frame.on_drain(partial(_drain, polling, storing))
    _deliver_callbacks(frame, objects)
    frame.on_drain(batches.close)


def _batch_wakeups(frame: Frame) -> Wakeups[str]:
    channel = open_channel(frame.settings.dispatcher_address, frame.settings)
    frame.on_close(channel.close)
    return batch_wakeups(DispatcherServiceStub(channel), between_seconds=_BETWEEN_WAKEUPS_SECONDS)


def _poll_store(frame: Frame, pauses: PausePolicy) -> PollStore:
    return PollStore(
        frame.database,
        owner=frame.owner,
        lease_seconds=frame.settings.lease_seconds,
        pauses=pauses,
        late_first_seconds=frame.settings.late_poll_first_seconds,
    )


def _polling(frame: Frame, store: PollStore, asking: Asking, batches: Wakeups[str]) -> Polling:
    polling = Polling(store, frame.catalog, asking, frame.settings, batches=batches)
    polling.window.refill = frame.loop("poll", polling.claim, interval_seconds=_TICK_SECONDS)
    frame.loop("renew_tasks", polling.renew, interval_seconds=frame.settings.lease_seconds / 3)
    frame.loop("forgotten", polling.end_forgotten, interval_seconds=_FORGOTTEN_SECONDS)
    return polling


def _storing(frame: Frame, pauses: PausePolicy, asking: Asking, objects: ObjectStore, batches: Wakeups[str]) -> Storing:
    settings = frame.settings
    store = ResultStore(frame.database, owner=frame.owner, lease_seconds=settings.lease_seconds, pauses=pauses)
    downloader = Downloader(
        limit_bytes=settings.download_limit_bytes, timeout_seconds=settings.download_timeout_seconds
    )
    frame.on_close(downloader.close)
    results = Results(downloader, objects, limit_bytes=settings.download_limit_bytes)
    storing = Storing(store, frame.catalog, asking, results, settings, batches=batches)
    storing.window.refill = frame.loop("store", storing.claim, interval_seconds=settings.sweep_seconds)
    frame.loop("renew_results", storing.renew, interval_seconds=settings.lease_seconds / 3)
    return storing


def _late_checks(frame: Frame, pauses: PausePolicy, asking: Asking, storing: Storing) -> LateChecks:
    settings = frame.settings
    policy = LatePolicy(
        settings.late_poll_first_seconds, settings.late_poll_longest_seconds, settings.late_poll_seconds
    )
    late = LateChecks(
        LateStore(frame.database, policy),
        PauseStore(frame.database, pauses),
        frame.catalog,
        asking,
        stores_results=storing.wake,
    )
    frame.loop("late", late.check, interval_seconds=settings.sweep_seconds)
    return late


def _deliver_callbacks(frame: Frame, objects: ObjectStore) -> None:
    settings = frame.settings
    queue = CallbackQueue(
        frame.database,
        owner=frame.owner,
        lease_seconds=settings.callback_timeout_seconds * _LEASE_OF_A_CALLBACK + settings.lease_seconds,
    )
    callbacks = Callbacks(queue, settings, secret=key_secret(settings), url_of=objects.url)
    frame.loop("callbacks", callbacks.claim, interval_seconds=_CALLBACKS_SECONDS)
    frame.on_drain(callbacks.drain)
    frame.on_close(callbacks.close)


async def _drain(polling: Polling, storing: Storing) -> None:
    await asyncio.gather(polling.drain(), storing.drain())


if __name__ == "__main__":
    run("poller", wire)
