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
from kling_async.trust import TIMELY, Hints, Trust, Trusts

__all__ = ["Pollers"]

FLOOR = 1.0
"""Seconds between two polls of a task at least, unless the caller or the provider says otherwise."""


MOVED_AT_ONCE = 200
"""Flights that are made due anew before the event loop gets its turn: some milliseconds."""


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
        trusts: whether callbacks tell of ends.

    Attributes:
        floor: seconds between two polls of a task at least.
        hints: what is said of tasks, and not seen.
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
        trusts: Trusts,
    ) -> None:
        self.floor = floor = max(api.provider.poll_floor, FLOOR) if polling.floor is None else polling.floor
        self._api = api
        self._polling = polling
        self._durations = Durations(polling, poll_intervals(polling), floor=floor, rng=rng)
        self._flights = flights
        self._trusts = trusts
        self.hints = Hints(floor)
        self._held: dict[int, float] = {}  # until when the server does not want to be asked
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
        self,
        flight: Flight,
        *,
        seen_at: float | None = None,
        at_least: float | None = None,
        soon: bool = False,
    ) -> None:
        """Have *flight* polled when it may be done.

        Args:
            flight: acknowledged, not terminal.
            seen_at: when the question left that told how it stands; left out, now.
            at_least: the server asks for this many seconds, from now.
            soon: nobody here knows how it stands: poll it at once.
        """
        now = asyncio.get_running_loop().time()
        if at_least:
            self._held[flight.order] = now + at_least
        elif self._held:
            self._held.pop(flight.order, None)
        due = now if soon else self._due(flight, now if seen_at is None else seen_at)
        if self.hints.any:
            again = self.hints.answered(flight, now, told=seen_at is not None)
            due = due if again is None else min(due, again)
        self._set_due(flight, due, now)

    def _due(self, flight: Flight, seen_at: float) -> float:
        """When *flight*, seen going on at *seen_at*, is polled next, seconds of the loop's clock."""
        begun = seen_at if flight.acknowledged_at is None else flight.acknowledged_at
        wait = self._durations.wait(flight.task_class, seen_at - begun)
        if not flight.made_here:  # it may be older than we know, so its age says little
            wait = min(wait, self._polling.max_interval)
        due = seen_at + wait
        return max(due, self._overdue_at(flight)) if self._trusts.any_hold else due

    def _overdue_at(self, flight: Flight) -> float:
        """When the callback of *flight* is overdue, where callbacks come; 0 if it will not, or did."""
        trust = self._trusts.of(flight)
        told = trust is not None and trust.holds and not self.hints.is_open(flight)
        late = self._durations.plan(flight.task_class).late if told else 0.0
        return (flight.acknowledged_at or 0.0) + late + TIMELY if late else 0.0

    def expedite(self, flight: Flight) -> None:
        """News of *flight* is said to be there: poll it now, and once more if that finds none.

        Not sooner than the server allows, and never again within `floor` because somebody says so again.
        """
        now = asyncio.get_running_loop().time()
        at = self.hints.take(flight, now)
        if at is not None and flight.due is not None and at < flight.due:  # else it is being polled
            self._set_due(flight, at, now, at_once=True)

    def catch_up(self, trust: Trust) -> None:
        """Callbacks of that sort of tasks do not come, and may not have come since the last one."""
        self._jobs.put_nowait((self._catch_up, trust))

    async def _catch_up(self, trust: Trust) -> None:
        for count, flight in enumerate(list(self._flights.values()), start=1):
            begun, was_due = flight.acknowledged_at, flight.due
            if begun is not None and was_due is not None and self._trusts.of(flight) is trust:
                due = self._due(flight, max(trust.since, begun))
                if due < was_due:
                    self._set_due(flight, due, asyncio.get_running_loop().time())
            if count % MOVED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _set_due(self, flight: Flight, due: float, now: float, *, at_once: bool = False) -> None:
        """Have *flight* polled at *due*, or alone and now if it is due, but not before the server allows."""
        if self._held:
            due = max(due, self._held.get(flight.order, 0.0))
        begun = now if flight.acknowledged_at is None else flight.acknowledged_at
        due = min(due, max(now, begun + self._polling.give_up))
        kind = self._kinds.get(flight.endpoint)
        if kind is None:
            kind = self._kinds[flight.endpoint] = Kind(flight.endpoint, Schedule(self._flights))
        if at_once and due <= now:
            kind.schedule.discard(flight)
            self._jobs.put_nowait((self._poll, flight))
            return
        kind.schedule.add(flight, due)
        if not kind.sweeping:
            self._set_timer(kind)

    def landed(self, flight: Flight) -> None:
        """*flight* is terminal: never poll it again, and learn how long such tasks take."""
        self.hints.forget(flight)
        self._held.pop(flight.order, None)
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
        if self._trusts.any_hold and not self._any_due(kind, now):
            self._set_timer(kind)
        elif self._sweeps.may_begin(kind, now):
            kind.sweeping = True
            self._jobs.put_nowait((self._sweeps.begin, kind))
        else:
            for _, flight in itertools.islice(kind.schedule.pop_due(now), TAKEN_AT_ONCE):
                self._jobs.put_nowait((self._poll, flight))
            self._set_timer(kind)

    def _any_due(self, kind: Kind, now: float) -> bool:
        """Whether anybody is due whose callback is overdue, by what was learned since he was made due."""
        due = list(itertools.islice(kind.schedule.pop_due(now), TAKEN_AT_ONCE))
        for when, flight in due:
            kind.schedule.add(flight, max(when, self._overdue_at(flight)))
        return any(flight.due is not None and flight.due <= now for _, flight in due)

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
