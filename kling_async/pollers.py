"""The scheduler and the poller pool: who is due, and who asks."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kling_async.answers import Answers
from kling_async.api import Api
from kling_async.flight import Flight, Keeper
from kling_async.instrumentation import Hooks
from kling_async.protocol.durations import Durations
from kling_async.protocol.errors import KlingError, NotFoundError
from kling_async.protocol.models import TaskStatus
from kling_async.protocol.schedule import Polling, Schedule
from kling_async.retries import poll_intervals
from kling_async.sweeps import TAKEN_AT_ONCE, Kind, Sweeps

__all__ = ["Pollers"]

FLOOR = 1.0
"""Seconds between two polls of a task at least, unless the caller or the provider says otherwise."""


GRACE = 1.0
"""Seconds a callback may take before it is called overdue."""


class Pollers:
    """Polls every flight until it is terminal.

    One schedule and one timer for each kind of task, a few workers for all: a flight that waits is an entry
    in a heap. Workers take flights that are due, or together read the list that many of them are on.

    Args:
        api: makes the call.
        flights: all there are, by their order.
        polling: when.
        rng: jitter.
        keeper: told of what was seen.
        hooks: told of every poll.
        told_by_itself: whether Kling can be relied on to tell of a flight's end by a callback.

    Attributes:
        floor: seconds between two polls of a task at least.
    """

    def __init__(
        self,
        api: Api,
        flights: Mapping[int, Flight],
        *,
        polling: Polling,
        rng: random.Random,
        keeper: Keeper,
        hooks: Hooks,
        told_by_itself: Callable[[Flight], bool],
    ) -> None:
        self.floor = floor = max(api.provider.poll_floor, FLOOR) if polling.floor is None else polling.floor
        self._api = api
        self._polling = polling
        self._durations = Durations(polling, poll_intervals(polling), floor=floor, rng=rng)
        self._flights = flights
        self._told_by_itself = told_by_itself
        self._once_more: set[int] = set()
        self._kinds: dict[str, Kind] = {}
        self._answers = Answers(
            keeper=keeper,
            hooks=hooks,
            give_up=polling.give_up,
            stops_account=api.stops_account,
            watch=self.watch,
        )
        self._jobs: asyncio.Queue[tuple[Callable[[Any], Awaitable[None]], Any]] = asyncio.Queue()
        self._sweeps = Sweeps(
            api,
            answers=self._answers,
            keeper=keeper,
            delay=lambda flight: self._durations.plan(flight.task_class).delay,
            floor=floor,
            workers=polling.pollers,
            enqueue=self._jobs.put_nowait,
            poll=self._poll,
            ended=self._set_timer,
        )
        self._polls = 0

    @property
    def requests(self) -> int:
        """How many status requests were made."""
        return self._polls + self._sweeps.requests

    def watch(
        self, flight: Flight, *, seen_at: float | None = None, hint: float | None = None, soon: bool = False
    ) -> None:
        """Have *flight* polled when it may be done.

        Args:
            flight: acknowledged, not terminal.
            seen_at: when the question left that told how it stands; left out, now.
            hint: the server asks for this many seconds at least, from now.
            soon: nobody here knows how it stands: poll it at once.
        """
        now = asyncio.get_running_loop().time()
        begun = now if flight.acknowledged_at is None else flight.acknowledged_at
        due = now
        if not soon:
            seen_at = now if seen_at is None else seen_at
            hint = None if hint is None else hint + now - seen_at
            wait = self._durations.wait(flight.task_class, seen_at - begun, hint)
            if not flight.made_here:  # it may be older than we know, so its age says little
                wait = min(wait, max(self._polling.max_interval, hint or 0.0))
            due = seen_at + wait
            if flight.made_here and self._told_by_itself(flight):  # nobody asks until a callback is overdue
                due = max(due, begun + self._durations.plan(flight.task_class).late + GRACE)
            if flight.order in self._once_more:
                self._once_more.discard(flight.order)
                due = min(due, now + self.floor)
        self._set_due(flight, min(due, max(now, begun + self._polling.give_up)))

    def ask(self, flight: Flight, at: float) -> None:
        """Have *flight* polled at that time of the loop's clock, for news of it is said to be there.

        One that is being asked for, perhaps a moment too early, is asked for once more; and so is each at a
        gateway that looks at Kling only now and then.
        """
        if flight.due is None or self._api.provider.poll_floor:
            self._once_more.add(flight.order)
        if flight.due is None:
            return
        if at <= asyncio.get_running_loop().time():
            self._kinds[flight.endpoint].schedule.discard(flight)
            self._jobs.put_nowait((self._poll, flight))
        elif at < flight.due:
            self._set_due(flight, at)

    def reschedule(self, since: float) -> None:
        """What is known of ends has changed; *since* that time of the loop's clock nobody told of any."""
        self._jobs.put_nowait((self._reschedule, since))

    async def _reschedule(self, since: float) -> None:
        for count, flight in enumerate(list(self._flights.values()), start=1):
            if flight.due is not None and flight.acknowledged_at is not None:
                self.watch(flight, seen_at=max(since, flight.acknowledged_at))
            if count % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _set_due(self, flight: Flight, due: float) -> None:
        kind = self._kinds.get(flight.endpoint)
        if kind is None:
            kind = self._kinds[flight.endpoint] = Kind(flight.endpoint, Schedule(self._flights))
        kind.schedule.add(flight, due)
        if not kind.sweeping:
            self._set_timer(kind)

    def landed(self, flight: Flight) -> None:
        """*flight* is terminal: never poll it again, and learn how long such tasks take."""
        self._once_more.discard(flight.order)
        kind = self._kinds.get(flight.endpoint)
        if kind is not None:
            kind.schedule.discard(flight)
        task = flight.judged
        if task.status is TaskStatus.GIVEN_UP:
            self._durations.learn(flight.task_class, self._polling.give_up, ended=False)
        elif task.status in (TaskStatus.SUCCEED, TaskStatus.FAILED) and task.created_at and task.updated_at:
            seconds = (task.updated_at - task.created_at).total_seconds()
            self._durations.learn(flight.task_class, seconds)

    def stop(self) -> None:
        """Poll nobody any more."""
        for kind in self._kinds.values():
            if kind.timer is not None:
                kind.timer.cancel()

    async def work(self) -> None:
        """One worker of the pool; runs until cancelled."""
        while True:
            work, on = await self._jobs.get()
            if self._jobs.empty():  # while all workers are busy nobody need be woken up
                for kind in self._kinds.values():
                    if not kind.sweeping:
                        self._set_timer(kind)
            await work(on)

    def _set_timer(self, kind: Kind) -> None:
        """Wake up for who is due first, but not for the list sooner than it is to be read again."""
        if not self._jobs.empty():  # whoever takes the last job sees to it
            return
        due = kind.schedule.next_due()
        if due is not None:
            due = max(due, kind.not_before)
        if kind.timer is not None:
            if due is not None and kind.wakes_at <= due:
                return
            kind.timer.cancel()
            kind.timer = None
        if due is not None:
            kind.wakes_at = due
            kind.timer = asyncio.get_running_loop().call_at(due, self._wake, kind)

    def _wake(self, kind: Kind) -> None:
        """Somebody is due: he is polled, alone or with all others who are due about now."""
        kind.timer = None
        now = asyncio.get_running_loop().time()
        if self._sweeps.may_begin(kind, now):
            kind.sweeping = True
            self._jobs.put_nowait((self._sweeps.begin, kind))
        else:
            for _, flight in itertools.islice(kind.schedule.pop_due(now), TAKEN_AT_ONCE):
                self._jobs.put_nowait((self._poll, flight))
            self._set_timer(kind)

    async def _poll(self, flight: Flight) -> None:
        if flight.ended:  # other news was faster
            return
        task_id = flight.judged.task_id or flight.judged.external_task_id or ""
        asked_at = asyncio.get_running_loop().time()
        self._polls += 1
        flight.polls += 1
        try:
            seen = await self._api.poll(flight.endpoint, task_id, flight.judged)
        except NotFoundError as error:
            self._answers.missing(flight, error)
        except KlingError as error:
            self._answers.failed(flight, error)
        else:
            self._answers.told(flight, seen, asked_at)
