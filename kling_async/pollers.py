"""The scheduler and the poller pool: takes who is due, asks the provider, passes on what was seen."""

import asyncio
import copy
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs

from kling_async.answers import Answers
from kling_async.api import Api
from kling_async.flight import Flight, Keeper
from kling_async.instrumentation import Hooks
from kling_async.protocol.durations import Durations
from kling_async.protocol.errors import KlingError, NotFoundError, is_retryable
from kling_async.protocol.families import external_id, glance, task_from
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.pages import Pages, Sweep
from kling_async.protocol.schedule import Polling, Schedule
from kling_async.retries import poll_intervals

__all__ = ["Pollers"]

FLOOR = 1.0
"""Seconds between two polls of a task at least, unless the caller or the provider says otherwise."""
JOIN = 3.0
"""Times the mean delay aimed at: who is due so soon is looked for on the list together with who is due."""
EVERY = 2.05
"""Times that delay between two readings of the list: twice would find tasks with it by chance alone."""
MANY = 16
"""Flights for which that holds; with fewer, a reading saved is a task found later, and the list is read the
more often the fewer they are, as soon as one of them is due."""
AT_ONCE = 1000
"""Flights that are taken from the schedule before the event loop gets its turn: some milliseconds."""
A_FEW = 100
"""Tasks that ended and are judged before it does: as much."""

_ENDED = (TaskStatus.SUCCEED, TaskStatus.FAILED)


@attrs.define(eq=False)
class _Kind:
    """The flights of one endpoint: those that one list can tell of.

    Attributes:
        endpoint: the kind of task.
        schedule: who waits to be polled.
        timer: wakes up for the first.
        pages: what is known of the list.
        reading: the list is about to be read, or being read: its end sets the timer.
        not_before: when the list may be read again.
        failed: the last reading got no answer.
    """

    endpoint: str
    schedule: Schedule[Flight]
    timer: asyncio.TimerHandle | None = None
    pages: Pages = attrs.field(factory=Pages)
    reading: bool = False
    not_before: float = 0.0
    failed: bool = False


@attrs.define(eq=False)
class _Reading:
    """The list of *kind* being read, by as many workers as are free.

    Attributes:
        kind: whose list.
        sweep: which pages, and who is sought.
        failure: why a page could not be read.
        done: its end was handled.
    """

    kind: _Kind
    sweep: Sweep[Flight]
    failure: KlingError | None = None
    done: bool = False


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

    Attributes:
        requests: how many status requests were made.
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
    ) -> None:
        self._api = api
        self._polling = polling
        self._keeper = keeper
        self._floor = max(api.provider.poll_floor, FLOOR) if polling.floor is None else polling.floor
        self._durations = Durations(polling, poll_intervals(polling), floor=self._floor, rng=rng)
        self._flights = flights
        self._kinds: dict[str, _Kind] = {}
        self._answers = Answers(
            keeper=keeper,
            hooks=hooks,
            give_up=polling.give_up,
            stops_account=api.stops_account,
            watch=self.watch,
        )
        self._jobs: asyncio.Queue[tuple[Callable[[Any], Awaitable[None]], Any]] = asyncio.Queue()
        self.requests = 0

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
            due = seen_at + self._durations.wait(flight.task_class, seen_at - begun, hint)
        kind = self._kinds.get(flight.endpoint)
        if kind is None:
            kind = self._kinds[flight.endpoint] = _Kind(flight.endpoint, Schedule(self._flights))
        kind.schedule.add(flight, min(due, max(now, begun + self._polling.give_up)))
        if not kind.reading:
            self._set_timer(kind)

    def landed(self, flight: Flight) -> None:
        """*flight* is terminal: never poll it again, and learn how long such tasks take."""
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
                    if not kind.reading:
                        self._set_timer(kind)
            await work(on)

    # When

    def _set_timer(self, kind: _Kind) -> None:
        """Wake up for who is due first, but not for the list sooner than it is to be read again."""
        if not self._jobs.empty():  # whoever takes the last job sees to it
            return
        due = kind.schedule.next_due()
        if due is not None:
            due = max(due, kind.not_before)
        if kind.timer is not None:
            if due is not None and kind.timer.when() <= due:
                return
            kind.timer.cancel()
        loop = asyncio.get_running_loop()
        kind.timer = None if due is None else loop.call_at(due, self._tick, kind)

    def _tick(self, kind: _Kind) -> None:
        """Somebody is due: he is polled, alone or with all others who are due about now."""
        kind.timer = None
        now = asyncio.get_running_loop().time()
        count = len(kind.schedule)
        if self._api.provider.lists and count > 1 and kind.pages.spares(count, count, now):
            kind.reading = True
            self._jobs.put_nowait((self._begin_reading, kind))
        else:
            for _, flight in itertools.islice(kind.schedule.pop_due(now), AT_ONCE):
                self._jobs.put_nowait((self._poll, flight))
            self._set_timer(kind)

    # One by one

    async def _poll(self, flight: Flight) -> None:
        if flight.ended:  # other news was faster
            return
        task_id = flight.judged.task_id or flight.judged.external_task_id or ""
        asked_at = asyncio.get_running_loop().time()
        self.requests += 1
        flight.polls += 1
        try:
            seen = await self._api.poll(flight.endpoint, task_id, flight.judged)
        except NotFoundError as error:
            self._answers.missing(flight, error)
        except KlingError as error:
            self._answers.failed(flight, error)
        else:
            self._answers.told(flight, seen, asked_at)

    # Together

    async def _begin_reading(self, kind: _Kind) -> None:
        """Read the list for all who are due about now, if that spares requests."""
        now = asyncio.get_running_loop().time()
        due, gap = await self._due(kind, now)
        in_flight = len(due) + len(kind.schedule)
        if kind.pages.spares(len(due), in_flight, now):
            kind.not_before = now + gap
            page_size, pages = kind.pages.extent(in_flight)
            reading = _Reading(kind, Sweep(self._wanted(due), page_size, pages))
            for _ in range(min(pages, self._polling.pollers)):
                self._jobs.put_nowait((self._read_pages, reading))
            return
        for when, flight in due:
            if when <= now:
                self._jobs.put_nowait((self._poll, flight))
            elif not flight.ended:
                kind.schedule.add(flight, when)
        self._end_reading(kind)

    async def _due(self, kind: _Kind, now: float) -> tuple[list[tuple[float, Flight]], float]:
        """Take out who is due about now; and the seconds after which the list is to be read again."""
        due = list(itertools.islice(kind.schedule.pop_due(now), 1))
        delay = max((self._durations.plan(flight.task_class).delay for _, flight in due), default=0.0)
        for entry in kind.schedule.pop_due(now + max(JOIN * delay, self._floor)):
            due.append(entry)
            if len(due) % AT_ONCE == 0:
                await asyncio.sleep(0)
        share = min(1.0, (len(due) + len(kind.schedule)) / MANY)
        return due, max(EVERY * delay * share, self._floor)

    def _wanted(self, due: Sequence[tuple[float, Flight]]) -> dict[str, Flight]:
        """Who of those *due* is to be looked for on the list, by task_id."""
        wanted: dict[str, Flight] = {}
        for _, flight in due:
            task_id = flight.judged.task_id
            if task_id is None or task_id in wanted:  # known by our name alone, or attached to twice
                self._jobs.put_nowait((self._poll, flight))
            else:
                flight.polls += 1
                wanted[task_id] = flight
        return wanted

    async def _read_pages(self, reading: _Reading) -> None:
        """One worker's part of a reading: page after page while there are any."""
        kind, sweep = reading.kind, reading.sweep
        while (page := sweep.take()) is not None:
            asked_at = asyncio.get_running_loop().time()
            self.requests += 1
            news: list[tuple[Flight, Task | None]] = []

            def look(
                entries: Sequence[Mapping[str, Any]], page: int = page, asked_at: float = asked_at
            ) -> list[tuple[Flight, Task | None]]:
                return self._look(sweep, page, entries, asked_at)

            try:
                news = await self._api.entries(kind.endpoint, page, sweep.page_size, look)
            except KlingError as error:
                reading.failure = error
                sweep.stop()
            for count, (flight, seen) in enumerate(news, start=1):
                self._answers.told(flight, seen, asked_at)
                if count % A_FEW == 0:
                    await asyncio.sleep(0)
        if not sweep.out and kind.reading and not reading.done:
            reading.done = True
            self._read(reading)

    def _look(
        self,
        sweep: Sweep[Flight],
        page: int,
        entries: Sequence[Mapping[str, Any]],
        asked_at: float,
    ) -> list[tuple[Flight, Task | None]]:
        """Look for flights on a page, and tell who is no longer as he was. Only those are made a `Task`."""
        news: list[tuple[Flight, Task | None]] = []
        glances = [glance(entry) for entry in entries]
        # a word that nobody knows tells nothing, and the task itself may: it counts as not on the page
        told = [None if status is TaskStatus.UNKNOWN else task_id for task_id, status in glances]
        sought = dict(sweep.look(page, told))
        for place, (_, status) in enumerate(glances):
            flight = sought.get(place)
            if flight is None:
                early = self._keeper.find(external_id(entries[place])) if status in _ENDED else None
                seen = None if early is None else task_from(entries[place])
                if early is not None and seen is not None and early.judged.task_id == seen.task_id:
                    news.append((early, seen))
            elif status is flight.judged.status:
                self._answers.told(flight, None, asked_at)
            else:
                news.append((flight, task_from(entries[place])))
        return news

    def _read(self, reading: _Reading) -> None:
        """The last page was read: who was not found is asked for alone, unless there was no answer.

        A list that gives none twice running is left alone for a while: the tasks themselves may answer.
        """
        kind, failure, now = reading.kind, reading.failure, asyncio.get_running_loop().time()
        left = [flight for flight in reading.sweep.wanted.values() if not flight.ended]
        passing = failure is not None and (
            is_retryable(failure, creating=False) or self._api.stops_account(failure)
        )
        if failure is None:
            kind.pages.learn(reading.sweep, now)
        elif not passing or kind.failed:
            kind.pages.pause(now)
        kind.failed = failure is not None
        if passing:
            kind.not_before = max(kind.not_before, now + (getattr(failure, "retry_after", None) or 0.0))
        for flight in left:
            if failure is not None and passing:
                self._answers.failed(flight, copy.copy(failure))
            else:
                self._jobs.put_nowait((self._poll, flight))
        self._end_reading(kind)

    def _end_reading(self, kind: _Kind) -> None:
        kind.reading = False
        self._set_timer(kind)
