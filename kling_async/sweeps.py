"""Reads a provider's list for many flights at once: who joins, how often, and what a page tells."""

import asyncio
import copy
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs

from kling_async.answers import Answers
from kling_async.api import Api
from kling_async.flight import Flight, Keeper
from kling_async.protocol.codes import is_retryable
from kling_async.protocol.errors import ConnectError, KlingError, ResponseLostError
from kling_async.protocol.families import external_id, glance, task_from
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.pages import Pages, Sweep
from kling_async.protocol.schedule import Schedule

__all__ = ["Kind", "Sweeps"]

JOINED = 3.0
"""Times the mean delay aimed at: who is due so soon is looked for on the list together with who is due."""
APART = 2.05
"""Times that delay from one sweep to the next: a task that ends in between is found half of it late on
average, and a little sooner, since sweeps come when ends are likely."""
CROWD = 16
"""Flights from which on sweeps are that far apart. With fewer a sweep saved is a task found later, so they
come the closer the fewer there are, as soon as one of them is due."""
HELD = 60.0
"""Seconds at most for which a ``Retry-After`` of the list holds back tasks that were not sought on it."""
TAKEN_AT_ONCE = 1000
"""Flights that are taken from the schedule before the event loop gets its turn: some milliseconds."""
JUDGED_AT_ONCE = 100
"""Flights with news, or without an answer, that are judged before it does: as much."""

_ENDED = (TaskStatus.SUCCEED, TaskStatus.FAILED)

_News = list[tuple[Flight, Task | None]]


@attrs.define(eq=False)
class Kind:
    """The flights of one endpoint: those that one list can tell of.

    Attributes:
        endpoint: the kind of task.
        schedule: who waits to be polled.
        timer: wakes up for the first.
        wakes_at: when it does, seconds of the loop's clock: uvloop's handles do not tell, once it is past.
        pages: what is known of the list.
        sweeping: a sweep is about to begin or under way: its end sets the timer.
        not_before: when the list may be read again, seconds of the loop's clock.
        failed: the last sweep could not be read to its end.
    """

    endpoint: str
    schedule: Schedule[Flight]
    timer: asyncio.TimerHandle | None = None
    wakes_at: float = 0.0
    pages: Pages = attrs.field(factory=Pages)
    sweeping: bool = False
    not_before: float = 0.0
    failed: bool = False


@attrs.define(eq=False)
class _UnderWay:
    """A sweep of the list of *kind*, by as many workers as are free.

    Attributes:
        kind: whose list.
        sweep: which pages, and who is sought.
        failure: why a page could not be read.
        over: its end was handled.
    """

    kind: Kind
    sweep: Sweep[Flight]
    failure: KlingError | None = None
    over: bool = False


class Sweeps:
    """Answers for all flights that are due about now, from the list where that spares requests.

    Args:
        api: makes the calls.
        answers: told what a page means for a flight.
        keeper: knows flights by the name that we gave them.
        delay: the mean delay aimed at for a flight, seconds.
        floor: between two sweeps at least, seconds.
        workers: how many may read pages at once.
        enqueue: has a worker call a function with an argument.
        poll: asks for one flight alone.
        ended: told when a kind is no longer swept.

    Attributes:
        requests: how many pages were asked for.
    """

    def __init__(
        self,
        api: Api,
        *,
        answers: Answers,
        keeper: Keeper,
        delay: Callable[[Flight], float],
        floor: float,
        workers: int,
        enqueue: Callable[[tuple[Callable[[Any], Awaitable[None]], Any]], None],
        poll: Callable[[Flight], Awaitable[None]],
        ended: Callable[[Kind], None],
    ) -> None:
        self._api = api
        self._answers = answers
        self._keeper = keeper
        self._delay = delay
        self._floor = floor
        self._workers = workers
        self._enqueue = enqueue
        self._poll = poll
        self._ended = ended
        self.requests = 0

    def may_begin(self, kind: Kind, now: float) -> bool:
        """Whether the list of *kind* could spare requests now."""
        count = len(kind.schedule)
        return self._api.provider.lists and count > 1 and kind.pages.spares(count, count, now)

    async def begin(self, kind: Kind) -> None:
        """Sweep the list for all who are due about now; if that spares nothing, have them polled alone."""
        now = asyncio.get_running_loop().time()
        due, gap = await self._due(kind, now)
        in_flight = len(due) + len(kind.schedule)
        if kind.pages.spares(len(due), in_flight, now):
            kind.not_before = now + gap
            page_size, pages = kind.pages.extent(in_flight)
            under_way = _UnderWay(kind, Sweep(self._wanted(due), page_size, pages))
            for _ in range(min(pages, self._workers)):
                self._enqueue((self._read, under_way))
            return
        for when, flight in due:
            if when <= now:
                self._enqueue((self._poll, flight))
            elif not flight.ended:
                kind.schedule.add(flight, when)
        self._end(kind)

    async def _due(self, kind: Kind, now: float) -> tuple[list[tuple[float, Flight]], float]:
        """Take out who is due about now; and how many seconds the next sweep is to be away.

        Whoever is left is due after the next sweep may begin.
        """
        due = list(itertools.islice(kind.schedule.pop_due(now), 1))
        if not due:  # who set the timer has ended since
            return [], self._floor
        delay = shortest = self._delay(due[0][1])
        for when, flight in kind.schedule.pop_due(now + max(JOINED * delay, self._floor)):
            due.append((when, flight))
            shortest = min(shortest, self._delay(flight))
            if len(due) % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)
        share = min(1.0, (len(due) + len(kind.schedule)) / CROWD)
        return due, max(APART * shortest * share, self._floor)

    def _wanted(self, due: Sequence[tuple[float, Flight]]) -> dict[str, Flight]:
        """Who of those *due* is to be looked for on the list, by task_id."""
        wanted: dict[str, Flight] = {}
        for _, flight in due:
            task_id = flight.judged.task_id
            if task_id is None or task_id in wanted:  # known by our name alone, or attached to twice
                self._enqueue((self._poll, flight))
            else:
                flight.polls += 1
                wanted[task_id] = flight
        return wanted

    async def _read(self, under_way: _UnderWay) -> None:
        """One worker's part of a sweep: page after page while there are any."""
        kind, sweep = under_way.kind, under_way.sweep
        while (page := sweep.take()) is not None:
            asked_at = asyncio.get_running_loop().time()
            self.requests += 1
            news: _News = []

            def look(
                entries: Sequence[Mapping[str, Any]], page: int = page, asked_at: float = asked_at
            ) -> _News:
                return self._look(sweep, page, entries, asked_at)

            try:
                news = await self._api.entries(kind.endpoint, page, sweep.page_size, look)
            except KlingError as error:
                under_way.failure = error
                sweep.stop()
            for count, (flight, seen) in enumerate(news, start=1):
                self._answers.told(flight, seen, asked_at)
                if count % JUDGED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        if not sweep.out and not under_way.over:
            under_way.over = True
            await self._finish(under_way)

    def _look(
        self, sweep: Sweep[Flight], page: int, entries: Sequence[Mapping[str, Any]], asked_at: float
    ) -> _News:
        """Look for flights on a page, and tell who is no longer as he was. Only those are made a `Task`."""
        news: _News = []
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

    async def _finish(self, under_way: _UnderWay) -> None:
        """The last page was read: who was not found is asked for alone, unless there was no answer.

        A list that is refused, that did not answer at all, or gave errors twice running, is left alone for
        a while: the tasks themselves may answer.
        """
        kind, failure, now = under_way.kind, under_way.failure, asyncio.get_running_loop().time()
        passing = failure is not None and (
            is_retryable(failure, creating=False) or self._api.stops_account(failure)
        )
        if failure is None:
            kind.pages.learn(under_way.sweep, now)
        elif not isinstance(failure, ConnectError) and (  # else nobody would answer the tasks' polls either
            not passing or kind.failed or isinstance(failure, ResponseLostError)
        ):
            kind.pages.pause(now)
        kind.failed = failure is not None
        if passing:
            asked = getattr(failure, "retry_after", None) or 0.0
            kind.pages.paused_until = max(kind.pages.paused_until, now + asked)
            kind.not_before = max(kind.not_before, now + min(asked, HELD))
        for count, flight in enumerate(under_way.sweep.wanted.values(), start=1):
            if not flight.ended and failure is not None and passing:
                self._answers.failed(flight, copy.copy(failure))
            elif not flight.ended:
                self._enqueue((self._poll, flight))
            if count % JUDGED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._end(kind)

    def _end(self, kind: Kind) -> None:
        kind.sweeping = False
        self._ended(kind)
