"""The requests that wait, one line per slot key: who is next, and whether a slot is free."""

import asyncio
import heapq
import random
from collections.abc import Callable

import attrs

from kling_async.flight import Flight, Keeper, SlotKey
from kling_async.protocol.errors import KlingError, Outcome, RateLimitError
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.slots import LONGEST_WAIT, Slots

__all__ = ["Lines"]


POSTS_AT_ONCE = 32
"""Creates of one line on their way at most, so that a thousand slots are not a thousand new connections in
one turn of the event loop. At Kling's half a second each that is 64 creates a second. One that waits to be
tried again keeps its place: what delays it would delay the others."""


@attrs.define(eq=False)
class _Line:
    """The requests of one slot key, in order, and its slots."""

    slots: Slots
    queue: list[Flight] = attrs.field(factory=list[Flight])
    aside: set[Flight] = attrs.field(factory=set[Flight])
    timer: asyncio.TimerHandle | None = None
    watchers: list[asyncio.Future[None]] = attrs.field(factory=list[asyncio.Future[None]])


class Lines:
    """Lets flights leave in order, each when it has its slot. Lines do not block each other.

    Args:
        max_in_flight: tasks at once per slot key; None: learned.
        send: sends off a flight; what becomes of its POST is told by `accepted`, `failed` or `no_slot`.
        keeper: told of whoever is refused in line.
        rng: jitter.
    """

    def __init__(
        self,
        *,
        max_in_flight: int | None,
        send: Callable[[Flight], None],
        keeper: Keeper,
        rng: random.Random,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._send = send
        self._keeper = keeper
        self._rng = rng
        self._lines: dict[SlotKey, _Line] = {}
        self._stopped: Callable[[], KlingError] | None = None
        self._pauses = 0
        self._paused_until = 0.0

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return sum(flight.in_line for line in self._lines.values() for flight in (*line.queue, *line.aside))

    @property
    def limit(self) -> int:
        """The largest limit of any slot key, known or assumed."""
        return max(
            (line.slots.limit for line in self._lines.values()), default=Slots.of(self._max_in_flight).limit
        )

    def join(self, flight: Flight) -> None:
        """Put *flight* in line. It leaves when it is `ready` and its slot is free."""
        flight.taken_at = asyncio.get_running_loop().time()
        flight.in_line = True
        heapq.heappush(self._line(flight.slot_key).queue, flight)

    def set_aside(self, flight: Flight) -> None:
        """Let those behind *flight* pass while it waits for something else than a slot; see `take_back`."""
        line = self._line(flight.slot_key)
        line.aside.add(flight)
        line.queue.remove(flight)
        heapq.heapify(line.queue)
        self.dispatch(flight.slot_key)

    def take_back(self, flight: Flight) -> None:
        """*flight* was set aside, and is in its place again; nobody leaves before the next `dispatch`."""
        line = self._line(flight.slot_key)
        line.aside.discard(flight)
        heapq.heappush(line.queue, flight)

    def withdraw(self, flight: Flight) -> bool:
        """Take *flight* out of line; False: it has left."""
        was_in_line, flight.in_line = flight.in_line, False
        return was_in_line

    def hold(self, flight: Flight) -> None:
        """Count a task that was not submitted here."""
        flight.holds_slot = True
        self._line(flight.slot_key).slots.hold()

    def settle(self, flight: Flight) -> None:
        """The task of *flight* exists: if it waits in line for a second attempt, it only takes its slot."""
        if self.withdraw(flight):
            self.hold(flight)

    def release(self, flight: Flight) -> None:
        """A task is terminal: its slot is free for the next in line."""
        if flight.holds_slot:
            flight.holds_slot = False
            self._line(flight.slot_key).slots.release(asyncio.get_running_loop().time())
            self.dispatch(flight.slot_key)

    def accepted(self, flight: Flight) -> None:
        """The POST of *flight* was acknowledged: its slot is a task's now."""
        self._pauses = 0
        self._line(flight.slot_key).slots.accept()
        flight.holds_slot = True

    def failed(self, flight: Flight) -> None:
        """The POST of *flight* ended without a task."""
        self._line(flight.slot_key).slots.fail()

    def no_slot(self, flight: Flight) -> None:
        """The POST of *flight* was refused for want of a slot."""
        self._line(flight.slot_key).slots.refuse(asyncio.get_running_loop().time(), self._rng)

    def pause(self, error: RateLimitError) -> None:
        """1302 speaks of the account: nothing of it leaves for a while."""
        wait = error.retry_after
        if not wait:
            wait = min(2.0**self._pauses, LONGEST_WAIT) * self._rng.uniform(0.8, 1.2)
        self._pauses = min(self._pauses + 1, 10)  # for days, perhaps, and 2.0**1024 is no number
        until = asyncio.get_running_loop().time() + wait
        self._paused_until = max(self._paused_until, until)

    def rejoin(self, flight: Flight) -> None:
        """Put *flight* back in its place; it leaves again when there is a slot."""
        if flight.acknowledged_at is not None:  # other news was faster
            self.hold(flight)
            if flight.ended:
                self.release(flight)
            return
        flight.in_line = True
        heapq.heappush(self._line(flight.slot_key).queue, flight)
        if self._stopped is not None:
            self.refuse(flight.slot_key, self._stopped)

    async def room(self, slot_key: SlotKey, is_over: Callable[[], bool]) -> None:
        """Wait until a request that joined this line now would leave at once, or the wait is over."""
        line = self._line(slot_key)
        while not (self._has_room(line) or is_over()):
            watcher = asyncio.get_running_loop().create_future()
            line.watchers.append(watcher)
            self.dispatch(slot_key)
            try:
                await watcher
            finally:
                if watcher in line.watchers:
                    line.watchers.remove(watcher)

    def wake(self) -> None:
        """Have everyone who waits for room look whether that is over."""
        for line in self._lines.values():
            _wake(line)

    def dispatch(self, slot_key: SlotKey) -> None:
        """Send off whoever is first in line for as long as there are slots."""
        line = self._line(slot_key)
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        loop = asyncio.get_running_loop()
        if self._stopped is not None:
            return
        while (first := self._first(line)) is not None and first.prepared is not None:
            if not self._may_leave(line, first):
                break
            heapq.heappop(line.queue)
            first.in_line = False
            line.slots.start()
            self._send(first)
        again = max(line.slots.opens_at, self._paused_until)
        if (line.queue or line.watchers) and again > loop.time():
            line.timer = loop.call_at(again, self.dispatch, slot_key)
        if line.watchers and self._has_room(line):
            _wake(line)

    def stop(self, error: Callable[[], KlingError]) -> None:
        """Take everyone out of line, now and from now on."""
        self._stopped = error
        self.refuse(None, error)
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()

    def refuse(self, slot_key: SlotKey | None, error: Callable[[], KlingError]) -> None:
        """Refuse everyone in this line, or in all; each gets an error of its own."""
        lines = list(self._lines.values()) if slot_key is None else [self._line(slot_key)]
        for line in lines:
            waiting = sorted((*line.queue, *line.aside))
            line.queue = []
            for flight in waiting:
                if self.withdraw(flight):
                    seen = Task(None, flight.judged.external_task_id, TaskStatus.REFUSED)
                    refusal = error()
                    refusal.outcome = Outcome.NOT_CREATED  # this one was not sent
                    self._keeper.observe(flight, seen, flight.about(refusal))

    def _line(self, slot_key: SlotKey) -> _Line:
        line = self._lines.get(slot_key)
        if line is None:
            line = self._lines[slot_key] = _Line(Slots.of(self._max_in_flight))
        return line

    def _first(self, line: _Line) -> Flight | None:
        while line.queue and not line.queue[0].in_line:
            heapq.heappop(line.queue)
        return line.queue[0] if line.queue else None

    def _may_leave(self, line: _Line, first: Flight | None = None) -> bool:
        now = asyncio.get_running_loop().time()
        few = line.slots.posting < POSTS_AT_ONCE or (first is not None and not first.waits)
        return few and now >= self._paused_until and line.slots.is_free(now)

    def _has_room(self, line: _Line) -> bool:
        return self._first(line) is None and self._may_leave(line)


def _wake(line: _Line) -> None:
    for watcher in line.watchers:
        if not watcher.done():
            watcher.set_result(None)
