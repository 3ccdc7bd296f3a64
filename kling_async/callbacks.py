"""What Kling tells of tasks by itself: whose it is, how far it is believed, and when polling may rest on it.

A callback that is proven to be Kling's is an observation like any other. One that is not is a hint: it has
the task asked for, and changes nothing by itself. Polling never stops; while callbacks tell of the ends of
tasks before polls do, a task is asked for only when its callback is overdue.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import attrs

from kling_async.flight import Flight, Keeper
from kling_async.protocol.callbacks import Callback
from kling_async.protocol.lifecycle import is_terminal
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.providers import Provider
from kling_async.register import Register

__all__ = ["Callbacks"]

logger = logging.getLogger("kling_async")

TRUSTED = 5
"""Ends in a row that a callback told first, from which on polling rests on callbacks: of callbacks half of
which are lost, five in a row come once in 32 ends. The first end that a poll finds is the end of it."""
KEPT = 60.0
"""Seconds for which a callback of an unknown task is kept: it may be faster than the create's own reply."""
KEPT_AT_ONCE = 1000
"""Callbacks of unknown tasks at once: whoever floods us with made-up ones displaces only those."""
REPLAYS = 600.0
"""Seconds for which the id of a callback is remembered: a signature is good for 300 s before and after."""
OVER = 10_000
"""Ended tasks whose names are remembered: late and repeated callbacks of them are ours, and no news."""


class _Ask(Protocol):
    """Has a flight asked for at a time of the loop's clock, once."""

    def __call__(self, flight: Flight, at: float) -> None: ...


class Callbacks:
    """Takes callbacks for the tasks of one engine.

    Args:
        register: its tasks.
        keeper: told of what is seen.
        provider: whose callbacks.
        expected: whether all tasks submitted here ask for callbacks; else those whose request says so.
        floor: seconds between two polls of a task that hints may cause.
        ask: has a flight polled.
        look_up: has a flight looked for whose submit was not answered.
        rely: told when polling can rest on callbacks, and when it no longer can: then since when nobody has
            told of ends, seconds of the loop's clock.

    Attributes:
        told_first: tasks whose end a callback told before a poll did.
    """

    def __init__(
        self,
        register: Register,
        *,
        keeper: Keeper,
        provider: Provider,
        expected: bool,
        floor: float,
        ask: _Ask,
        look_up: Callable[[Flight], None],
        rely: Callable[[float], None],
    ) -> None:
        self._register = register
        self._keeper = keeper
        self._signed = provider.signs_callbacks
        self._expected = expected
        self._floor = floor
        self._ask = ask
        self._look_up = look_up
        self._rely = rely
        self.told_first = 0
        self._in_a_row = 0
        self._last = 0.0
        self._replays: dict[str, float] = {}
        self._kept: dict[tuple[str | None, str | None], tuple[float, Callback]] = {}
        self._asked: dict[int, float] = {}
        self._ending: set[int] = set()
        self._over: dict[str, None] = {}

    def receive(self, callback: Callback) -> bool:
        """Act on *callback*; False: it is of no task known here, now or in the next minute."""
        now, seen = asyncio.get_running_loop().time(), callback.task
        self._forget(now)
        if callback.verified and callback.id in self._replays:
            return True
        flight = self._find(seen)
        if flight is None:
            return self._is_over(seen) or self._keep(callback, now)
        if callback.verified and callback.id is not None:
            self._replays[callback.id] = now
        self._act(flight, callback, now)
        return True

    def relied_on(self, flight: Flight) -> bool:
        """Whether Kling will tell of the end of *flight* by itself, by all that is known."""
        return self._in_a_row >= TRUSTED and self._expects(flight)

    def acknowledged(self, flight: Flight) -> None:
        """The id of *flight* is known now: a callback may have been faster."""
        if self._kept:
            now = asyncio.get_running_loop().time()
            for names, (_, callback) in list(self._kept.items()):
                if self._find(callback.task) is flight:
                    del self._kept[names]
                    self._act(flight, callback, now)

    def landed(self, flight: Flight) -> None:
        """*flight* is over: who told of it first?"""
        now, was_told = asyncio.get_running_loop().time(), flight.order in self._ending
        self._ending.discard(flight.order)
        self._asked.pop(flight.order, None)
        if flight.judged.status not in (TaskStatus.SUCCEED, TaskStatus.FAILED):
            return
        for name in (flight.judged.task_id, flight.judged.external_task_id):
            if name is not None:
                self._over[name] = None
        while len(self._over) > 2 * OVER:
            del self._over[next(iter(self._over))]
        if was_told:
            self.told_first += 1
            self._in_a_row += 1
            self._last = now
            if self._in_a_row == TRUSTED:
                logger.debug("callbacks come: polling rests on them")
                self._rely(now)
        elif self._expects(flight):
            was_trusted, self._in_a_row = self._in_a_row >= TRUSTED, 0
            if was_trusted:
                logger.warning("a callback did not come: tasks are polled as without callbacks")
                self._rely(self._last)

    def _expects(self, flight: Flight) -> bool:
        return self._expected or (flight.request is not None and flight.request.callback_url is not None)

    def _find(self, seen: Task) -> Flight | None:
        flight = None if seen.task_id is None else self._register.by_task_id(seen.task_id)
        return flight or self._register.find(seen.external_task_id)

    def _act(self, flight: Flight, callback: Callback, now: float) -> None:
        """Believe a callback that is proven, if it is of the task we know; otherwise go and look."""
        seen = callback.task
        exists = flight.acknowledged_at is not None
        if exists and is_terminal(seen.status):
            self._ending.add(flight.order)
        if self._signed and callback.verified and self._is_its_id(flight, seen):
            if not exists:
                self._ending.update([flight.order] if is_terminal(seen.status) else [])
                self._keeper.acknowledge(flight, seen)
            else:
                self._keeper.observe(flight, seen)
        elif exists and is_terminal(seen.status):
            self._ask(flight, self._turn(flight, now))
        elif flight.judged.status is TaskStatus.AMBIGUOUS:
            if self._turn(flight, now) <= now:
                self._look_up(flight)
        elif not exists:
            self._keep(callback, now)  # its create is not answered yet

    def _turn(self, flight: Flight, now: float) -> float:
        """When hints may have *flight* asked for again."""
        turn = max(now, self._asked.get(flight.order, now - self._floor) + self._floor)
        self._asked[flight.order] = turn
        return turn

    def _keep(self, callback: Callback, now: float) -> bool:
        """Keep what may be of a task that is known a moment later; of what is not proven its names alone."""
        seen = callback.task
        if not callback.verified:
            callback = attrs.evolve(
                callback, task=Task(seen.task_id, seen.external_task_id, status=seen.status)
            )
        names = seen.task_id, seen.external_task_id
        _, known = self._kept.pop(names, (now, callback))
        if is_terminal(known.task.status):  # whatever comes after the end is older news
            callback = known
        self._kept[names] = now, callback
        if len(self._kept) > KEPT_AT_ONCE:
            del self._kept[next(iter(self._kept))]
        return False

    def _is_over(self, seen: Task) -> bool:
        """Whether it is of a task of ours that has ended; one that only may exist does, by this."""
        lost = self._register.unresolved.get(seen.external_task_id or "")
        if lost is not None:
            logger.warning("%s was made: a callback tells of it as %s", lost.name, seen.status)
        return lost is not None or not self._over.keys().isdisjoint((seen.task_id, seen.external_task_id))

    def _forget(self, now: float) -> None:
        """Let go of what is too old to matter; what came first stands first."""
        while self._replays and next(iter(self._replays.values())) < now - REPLAYS:
            del self._replays[next(iter(self._replays))]
        while self._kept and next(iter(self._kept.values()))[0] < now - KEPT:
            del self._kept[next(iter(self._kept))]

    @staticmethod
    def _is_its_id(flight: Flight, seen: Task) -> bool:
        return seen.task_id is not None and flight.judged.task_id in (None, seen.task_id)
