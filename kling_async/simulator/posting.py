"""Posts the callbacks that are due, over real connections and to this machine alone."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

import aiohttp
from yarl import URL

from kling_async.simulator.callbacks import Delivery
from kling_async.simulator.core import Simulator

_MOST: Final = 64
"""Callbacks that are posted at once."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)
_SHORTEST: Final = 0.001
"""Seconds of a wait, so that a clock that stands still just before the time keeps nothing busy."""


class CallbackSender:
    """Posts each callback once, those of one task one after the other. What becomes of it is not its affair.

    A callback to another machine than this one is not sent, but counted in the ledger as withheld.
    """

    def __init__(self, simulator: Simulator, clock: Callable[[], float]) -> None:
        self._simulator = simulator
        self._clock = clock
        self._changed = asyncio.Event()
        self._running = 0
        self._last: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Look again: a callback may have become due sooner, or there is room for one more."""
        if self._simulator.next_callback() is not None:
            self._changed.set()

    async def run(self) -> None:
        """Post what is due until cancelled, which also ends what is on its way."""
        # no connection is kept: one that the receiver closes meanwhile would lose the next callback
        connector = aiohttp.TCPConnector(limit=_MOST, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session,
            asyncio.TaskGroup() as group,
        ):
            while True:
                self._changed.clear()
                for delivery in self._simulator.due_callbacks(self._clock(), _MOST - self._running):
                    self._start(delivery, session, group)
                await self._until_next()

    async def _until_next(self) -> None:
        due = self._simulator.next_callback() if self._running < _MOST else None
        wait = None if due is None else max(due - self._clock(), _SHORTEST)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._changed.wait()

    def _start(self, delivery: Delivery, session: aiohttp.ClientSession, group: asyncio.TaskGroup) -> None:
        name = delivery.task_id
        running = group.create_task(self._send(delivery, session, self._last.get(name)))
        self._last[name] = running
        self._running += 1

        def end(done: "asyncio.Task[None]") -> None:
            self._running -= 1
            if self._last[name] is done:
                del self._last[name]
            self.wake()

        running.add_done_callback(end)

    async def _send(
        self, delivery: Delivery, session: aiohttp.ClientSession, before: "asyncio.Task[None] | None"
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        outcome = await self._post(delivery, session)
        if self._simulator.on_request is not None:
            faults = f" [{', '.join(delivery.faults)}]" if delivery.faults else ""
            # without the URL: its query may be the receiver's secret
            self._simulator.on_request(f"callback {delivery.status} -> {outcome}{faults}")

    async def _post(self, delivery: Delivery, session: aiohttp.ClientSession) -> str:
        """What came of it, in a word."""
        try:
            url = URL(delivery.url)
        except ValueError:
            url = URL()
        if not _is_loopback(url.host or ""):
            self._simulator.ledger.withheld[url.host or ""] += 1
            return "not sent: no address of this machine"
        try:
            async with session.post(
                url, data=delivery.body, headers=delivery.headers, allow_redirects=False
            ) as reply:
                return str(reply.status)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            return type(error).__name__


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
