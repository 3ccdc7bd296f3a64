"""Every task that one engine knows: those under way, by number and by name, and what became of others."""

import asyncio

import attrs

from kling_async.flight import Flight
from kling_async.protocol.models import Task, TaskStatus

__all__ = ["Register"]

MOST_SETTLED = 10_000
"""How many ended tasks with a key are remembered, the last ones; about a kilobyte each."""
MOST_LEFT = 1_000
"""How many tasks that nobody waits for any more are remembered, the last ones."""


_SETTLED_AS = (TaskStatus.SUCCEED, TaskStatus.FAILED, TaskStatus.LOST, TaskStatus.GIVEN_UP)
"""The ends of tasks that were made: wanted again under their key, they are not made again."""


class Register:
    """The flights of one engine.

    Attributes:
        live: every task not yet terminal, by its number, the earliest first.
        idle: set while there is none.
        unresolved: what may exist and only the caller can decide to submit anew, by external_task_id.
        succeeded: tasks that succeeded.
        failed: tasks that ended otherwise.
    """

    def __init__(self) -> None:
        self.live: dict[int, Flight] = {}
        self.idle = asyncio.Event()
        self.idle.set()
        self.unresolved: dict[str, Flight] = {}
        self.succeeded = self.failed = 0
        self._named: dict[str, Flight] = {}
        self._by_task_id: dict[str, Flight] | None = None
        self._settled: dict[str, Task] = {}
        self._left: dict[str, Flight] = {}
        self._successors: dict[str, str] = {}

    def add(self, flight: Flight, name: str | None = None) -> None:
        """*flight* is under way, and found by *name* if it has one yet."""
        self.live[flight.order] = flight
        self.idle.clear()
        if name is not None:
            self.name(flight, name)

    def name(self, flight: Flight, name: str) -> None:
        """*flight* is found by *name*: its external_task_id, or its task_id where that is all it has."""
        self._named[name] = flight

    def find(self, name: str | None) -> Flight | None:
        """The flight of that name, if it is one of ours and not over."""
        return None if name is None else self._named.get(self._current(name))

    def is_new(self, flight: Flight) -> bool:
        """Whether *flight*, named and in line, is to be submitted: nobody wanted the same before."""
        name = flight.judged.external_task_id or ""
        known = self.find(name) or self.settled(name) or self.may_exist(name)
        return flight.in_line and not flight.resumed and known is None

    def by_task_id(self, task_id: str) -> Flight | None:
        """The flight whose task has that id at the provider, if it is one of ours and not over.

        An index is kept from the first call on: 100 bytes a task that only those pay who ask for it.
        """
        if self._by_task_id is None:
            self._by_task_id = {}
            for flight in self.live.values():
                self.learned_id(flight)
        return self._by_task_id.get(task_id)

    def learned_id(self, flight: Flight) -> None:
        """The provider's id of *flight* is known now."""
        if self._by_task_id is not None and flight.judged.task_id is not None:
            self._by_task_id[flight.judged.task_id] = flight

    def remove(self, flight: Flight) -> None:
        """*flight* needs nothing done: it shows another one, or an earlier run brought it to its end."""
        del self.live[flight.order]
        self.keep_unresolved(flight)
        if not self.live:
            self.idle.set()

    def land(self, flight: Flight) -> None:
        """*flight* is over: forget it, but for what may be asked for again."""
        task = flight.judged
        for index in (self._named, self._by_task_id or {}):
            for name in (task.external_task_id, task.task_id):
                if name is not None and index.get(name) is flight:
                    del index[name]
        if task.status is TaskStatus.SUCCEED:
            self.succeeded += 1
        else:
            self.failed += 1
        self.keep_unresolved(flight)
        self._keep_settled(flight)
        if task.status in (TaskStatus.GIVEN_UP, TaskStatus.LOST):
            self._left.update((name, flight) for name in (task.external_task_id, task.task_id) if name)
            while len(self._left) > 2 * MOST_LEFT:
                del self._left[next(iter(self._left))]
        del self.live[flight.order]

    def left(self, seen: Task) -> Flight | None:
        """The flight of a task that may exist, or was given up or lost: news of it can still come."""
        for name in (seen.task_id, seen.external_task_id):
            flight = self.unresolved.get(name or "") or self._left.get(name or "")
            if flight is not None:
                return flight
        return None

    def revived(self, flight: Flight) -> None:
        """What was counted as failed did succeed."""
        if flight.judged.status is TaskStatus.SUCCEED:
            self.failed, self.succeeded = self.failed - 1, self.succeeded + 1

    def settled(self, external_task_id: str) -> Task | None:
        """How a task with a key ended before in this engine: the same key and request is the same task."""
        return self._settled.get(self._current(external_task_id))

    def may_exist(self, external_task_id: str) -> Flight | None:
        """What ended as unresolved under that name, or under the one it was resubmitted as."""
        return self.unresolved.get(self._current(external_task_id))

    def succeed(self, former: str, name: str) -> None:
        """What was wanted under the name *former* is wanted under *name* from now on."""
        if former != name:  # the caller's own id stays what it is
            self._successors[former] = name

    def _current(self, name: str) -> str:
        while name in self._successors:
            name = self._successors[name]
        return name

    def keep_unresolved(self, flight: Flight) -> None:
        """Keep what only the caller can decide to submit anew."""
        name = flight.judged.external_task_id
        if flight.judged.status is TaskStatus.MAY_EXIST and name is not None:
            self.unresolved[name] = flight

    def _keep_settled(self, flight: Flight) -> None:
        name = flight.judged.external_task_id
        is_settled = flight.judged.status in _SETTLED_AS
        if name is not None and flight.key is not None and is_settled:
            self._settled[name] = attrs.evolve(flight.judged, raw={})
            if len(self._settled) > MOST_SETTLED:
                del self._settled[next(iter(self._settled))]
