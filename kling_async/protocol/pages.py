"""Whether reading a provider's list beats asking for tasks one by one, and how much of it to read.

The list has no documented order, no filter and no total (API reference, legacy query and list), and it moves
while it is read. So nothing is assumed of it: where tasks lay the last time is where they are looked for
first, what is not found is asked for by itself, and after a reading that spared nothing the list is left
alone for a while.
"""

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import attrs

__all__ = ["Pages", "Sweep"]

T = TypeVar("T")

LARGEST = 500
"""Tasks on a page at most (API reference, legacy query and list)."""
LAST = 1000
"""The highest page number (the same)."""
FIRST_PAUSE = 60.0
"""Seconds the list is left alone after a reading in vain; twice as long after each further one."""
LONGEST_PAUSE = 3600.0


@attrs.define
class Pages:
    """What is known of the list of one kind of task. Times are seconds of the loop's clock.

    Attributes:
        depth: how many entries from the list's beginning held all that were found last time, or are to be
            looked through next after a reading in vain; 0: never read.
        paused_until: the list is not read before.
    """

    depth: int = 0
    paused_until: float = 0.0
    _pause: float = FIRST_PAUSE
    _in_vain: bool = True

    def extent(self, in_flight: int) -> tuple[int, int]:
        """The page size and how many such pages hold the tasks in flight, by all that is known.

        As deep as last time and a quarter more, for tasks made since then; at first, and at least, as many
        as are in flight.
        """
        deep = max(self.depth, in_flight)
        entries = deep + deep // 4 + 5
        return min(entries, LARGEST), min(-(-entries // LARGEST), LAST)

    def spares(self, due: int, in_flight: int, now: float) -> bool:
        """Whether reading the list takes fewer requests than asking for that many tasks one by one."""
        return now >= self.paused_until and self.extent(in_flight)[1] < due

    def learn(self, sweep: "Sweep[T]", now: float) -> None:
        """After *sweep*: where tasks lay, and whether it spared requests."""
        if sweep.found > sweep.read:
            self.depth, self._pause, self._in_vain = sweep.depth, FIRST_PAUSE, False
        elif sweep.read:
            self.depth = 2 * sweep.page_size * sweep.pages
            if self._in_vain:  # a list that served may miss a straggler or two, once
                self.pause(now)
            self._in_vain = True

    def pause(self, now: float) -> None:
        """Leave the list alone for a while: to read it spares nothing, or cannot be done."""
        self.paused_until = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


@attrs.define(eq=False)
class Sweep(Generic[T]):
    """One reading of the list, perhaps by several readers at once, each taking a page after the other.

    Attributes:
        wanted: by task_id, what is sought and not found yet.
        page_size: entries of a page.
        pages: how many are read at once; further ones one by one, while each spares more than it costs.
        read: pages read.
        found: tasks found.
        depth: how deep the deepest of them lay, counted from 1.
        out: pages being read.
    """

    wanted: dict[str, T]
    page_size: int
    pages: int
    read: int = 0
    found: int = 0
    depth: int = 0
    out: int = 0
    _next: int = 1
    _goes_on: bool = True

    def take(self) -> int | None:
        """The page to read next, counted from 1; None: no more, as far as is known by now."""
        beyond = self._next > self.pages
        if not self.wanted or not self._goes_on or self._next > LAST:
            return None
        if beyond and (self.out or self.read >= len(self.wanted)):
            return None
        self.out += 1
        self._next += 1
        return self._next - 1

    def look(self, page: int, task_ids: Sequence[str | None]) -> Iterator[tuple[int, T]]:
        """Look through *page*, read: the places on it, from 0, of those who were sought, with each."""
        self.out -= 1
        self.read += 1
        before = self.found
        for place, task_id in enumerate(task_ids):
            item = None if task_id is None else self.wanted.pop(task_id, None)
            if item is not None:
                self.found += 1
                self.depth = max(self.depth, (page - 1) * self.page_size + place + 1)
                yield place, item
        if len(task_ids) < self.page_size or (page >= self.pages and self.found == before):
            self._goes_on = False  # the end of the list, or of where ours are

    def stop(self) -> None:
        """A page could not be read: read no more."""
        self.out -= 1
        self._goes_on = False
