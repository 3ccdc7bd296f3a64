"""The scheduler and the poller pool: takes who is due, asks the provider, passes on what was seen."""

import asyncio
import random

from kling_async.api import Api
from kling_async.flight import Flight, Keeper
from kling_async.instrumentation import Hooks, Polled
from kling_async.protocol.errors import KlingError, NotFoundError, TaskLostError, WaitTimeoutError
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.schedule import Polling, Schedule
from kling_async.retries import poll_intervals

__all__ = ["Pollers"]

FLOOR = 1.0
"""Seconds between two polls of a task at least, unless the caller or the provider says otherwise."""
PATIENCE = 60.0
"""Seconds after its acknowledgement in which "no such task" is a reader that lags behind the writer."""
LOST_AFTER = 600.0
"""Seconds of "no such task" after which a task is lost."""
ACCOUNT_WAIT = 60.0
"""Seconds until a task is asked for again after its account was refused."""


class Pollers:
    """Polls every flight until it is terminal. One schedule, one timer, a few workers for all tasks.

    Args:
        api: makes the call.
        polling: when.
        rng: jitter.
        keeper: told of what was seen.
        hooks: told of every poll.
    """

    def __init__(
        self,
        api: Api,
        *,
        polling: Polling,
        rng: random.Random,
        keeper: Keeper,
        hooks: Hooks,
    ) -> None:
        floor = max(api.provider.poll_floor, FLOOR) if polling.floor is None else polling.floor
        intervals = poll_intervals(polling)
        self._api = api
        self._polling = polling
        self._keeper = keeper
        self._hooks = hooks
        self._schedule: Schedule[Flight] = Schedule(intervals, floor=floor, jitter=polling.jitter, rng=rng)
        self._due: asyncio.Queue[Flight] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0

    @property
    def polls(self) -> int:
        """How many polls were made."""
        return self._asked

    def watch(self, flight: Flight, hint: float | None = None) -> None:
        """Have *flight* polled after its next interval; the server's *hint* can lengthen it."""
        now = asyncio.get_running_loop().time()
        due = now + self._schedule.wait(flight.polls, hint)
        if flight.acknowledged_at is not None:
            due = min(due, max(now, flight.acknowledged_at + self._polling.give_up))
        self._schedule.add(flight, due)
        self._set_timer()

    def forget(self, flight: Flight) -> None:
        """*flight* is terminal: never poll it again."""
        self._schedule.discard(flight)

    def stop(self) -> None:
        """Poll nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def work(self) -> None:
        """One worker of the pool; runs until cancelled."""
        while True:
            flight = await self._due.get()
            if not flight.ended:
                await self._poll(flight)

    def _set_timer(self) -> None:
        due = self._schedule.next_due()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if due is None else loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for flight in self._schedule.pop_due(asyncio.get_running_loop().time()):
            self._due.put_nowait(flight)
        self._set_timer()

    async def _poll(self, flight: Flight) -> None:
        task_id = flight.judged.task_id or flight.judged.external_task_id or ""
        self._asked += 1
        flight.polls += 1
        hint: float | None = None
        try:
            seen = await self._api.task(flight.endpoint, task_id)
        except NotFoundError as error:
            self._tell(flight, None, error)
            self._missing(flight)
        except KlingError as error:
            self._tell(flight, None, error)
            hint = getattr(error, "retry_after", None)
            if self._api.stops_account(error):
                hint = max(hint or 0.0, ACCOUNT_WAIT)
                self._keeper.observe(flight, flight.judged, flight.about(error))
        else:
            flight.missing_since = None
            self._tell(flight, seen.status, None)
            self._keeper.observe(flight, seen)
        if not flight.ended:
            self._give_up(flight)
        if not flight.ended:
            self.watch(flight, hint)

    def _missing(self, flight: Flight) -> None:
        """No such task at the server: just after the create that is a lag, for ten minutes a loss."""
        now = asyncio.get_running_loop().time()
        if flight.acknowledged_at is None or now - flight.acknowledged_at <= PATIENCE:
            return
        if flight.missing_since is None:
            flight.missing_since = now
        if now - flight.missing_since >= LOST_AFTER:
            error = TaskLostError("the server has not known this task for ten minutes")
            self._keeper.observe(
                flight, Task(flight.judged.task_id, status=TaskStatus.LOST), flight.about(error)
            )

    def _give_up(self, flight: Flight) -> None:
        now = asyncio.get_running_loop().time()
        # the same sum as in `watch`: a difference could round the other way, and be asked for without end
        if flight.acknowledged_at is None or now < flight.acknowledged_at + self._polling.give_up:
            return
        error = WaitTimeoutError(f"not done {self._polling.give_up:g} s after its acknowledgement, given up")
        self._keeper.observe(
            flight, Task(flight.judged.task_id, status=TaskStatus.GIVEN_UP), flight.about(error)
        )

    def _tell(self, flight: Flight, status: TaskStatus | None, error: KlingError | None) -> None:
        self._hooks.tell(
            Polled(
                key=flight.name,
                task_id=flight.judged.task_id,
                external_task_id=flight.judged.external_task_id,
                status=status,
                polls=flight.polls,
                error=error,
            )
        )
