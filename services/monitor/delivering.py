"""Notices on their way: grouped by channel and event, tried until they are taken, each attempt recorded."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import aiohttp
import structlog

from libs.common import metrics
from libs.common.catalog import Retry
from libs.common.database.records_monitor import ClaimedDelivery, DeliveryOutcome
from libs.common.database.states import DeliveryState
from libs.common.database.stores.deliveries import DeliveryQueue
from libs.common.ids import new_id
from libs.common.retry import wait_seconds
from services.monitor.channels.base import TIMEOUT_SECONDS, Channel, ChannelFailed, Notification, event_of
from services.monitor.rules import RulesHolder
from services.monitor.telling import notification

log = structlog.get_logger()
_LIMIT = 100
_ATTEMPTS = 30
"""With the waits below, about a day."""
RETRY = Retry(first_wait_seconds=5, longest_wait_seconds=3_600)
LEASE_SECONDS = TIMEOUT_SECONDS * 3


async def attempt(channel: Channel, message: Notification) -> tuple[str | None, bool]:
    """Try once; why it failed, or None, and whether a repeat is hopeless."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS + 1):
            await channel.send(message)
    except ChannelFailed as error:
        return str(error), error.is_hopeless
    except TimeoutError:
        return f"There was no answer within {TIMEOUT_SECONDS:g} s.", False
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"It could not be sent: {type(error).__name__}.", False
    return None, False


class Delivering:
    """Delivers what is due.

    Args:
        queue: claims and outcomes.
        rules: channels by name.
        console_url: where people reach the console.
    """

    def __init__(self, queue: DeliveryQueue, rules: RulesHolder, *, console_url: str | None) -> None:
        self._queue = queue
        self._rules = rules
        self._console_url = console_url
        self._busy: set[asyncio.Task[None]] = set()

    async def deliver(self) -> bool:
        """Take what is due and send it; channels do not wait for each other. A turn of a loop."""
        for channel in self._rules.current.channels:
            # A counter that begins with its first failure shows no increase.
            metrics.ALERT_DELIVERIES.labels(channel, "dead")
        claimed = await self._queue.claim(_LIMIT, notification_id=new_id("ntf"))
        groups: dict[str, list[ClaimedDelivery]] = defaultdict(list)
        for delivery in claimed:
            groups[delivery.notification_id].append(delivery)
        for group in groups.values():
            task = asyncio.create_task(self._send(group))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        return len(claimed) == _LIMIT

    async def drain(self) -> None:
        """Let those under way end; each is short."""
        while self._busy:
            await asyncio.wait(self._busy)

    async def _send(self, group: Sequence[ClaimedDelivery]) -> None:
        try:
            error, is_hopeless = await self._try(group)
            outcomes = [_outcome(delivery, error, is_hopeless=is_hopeless) for delivery in group]
            states = await self._queue.end(outcomes)
        except Exception:
            # The lease ends, and another try follows.
            log.exception("notice failed", channel=group[0].channel)
            return
        for delivery, state in zip(group, states, strict=True):
            word = {DeliveryState.DELIVERED: "delivered", DeliveryState.DEAD: "dead", None: "fenced"}.get(
                state, "failed"
            )
            metrics.ALERT_DELIVERIES.labels(delivery.channel, word).inc()
            log.info(
                "notice tried",
                alert_id=delivery.alert.id,
                alert_type=delivery.alert.type,
                channel=delivery.channel,
                notice=delivery.event,
                outcome=word,
                why=error,
                attempts=delivery.attempts,
            )

    async def _try(self, group: Sequence[ClaimedDelivery]) -> tuple[str | None, bool]:
        first, rules = group[0], self._rules.current
        channel = rules.channels.get(first.channel)
        if channel is None:
            return "The channel is not configured any more.", True
        message = notification(
            first.notification_id,
            event_of(first.event),
            [delivery.alert for delivery in group],
            created_at=first.created_at,
            rules=rules,
            console_url=self._console_url,
        )
        return await attempt(channel, message)


def _outcome(delivery: ClaimedDelivery, error: str | None, *, is_hopeless: bool) -> DeliveryOutcome:
    return DeliveryOutcome(
        id=delivery.id,
        lease_token=delivery.lease_token,
        attempt=delivery.attempts,
        error=error,
        delay_seconds=wait_seconds(RETRY, delivery.attempts, at_least_seconds=None),
        is_hopeless=error is not None and (is_hopeless or delivery.attempts >= _ATTEMPTS),
    )
