"""What Kling tells of tasks by itself: of which task it is, and what follows.

A callback that is proven to be Kling's is an observation like any other. One that is not is a hint: it has
the task polled, and changes nothing by itself. Polling never stops; while callbacks tell of the ends of
tasks in time, a task is polled only when its callback is overdue.
"""

import asyncio
import logging
from collections.abc import Callable

from kling_async.flight import Flight, Keeper
from kling_async.pollers import Pollers
from kling_async.protocol.callbacks import Callback
from kling_async.protocol.lifecycle import is_terminal
from kling_async.protocol.models import Task, TaskStatus
from kling_async.register import Register
from kling_async.trust import TIMELY, Trust, Trusts

__all__ = ["Callbacks"]

logger = logging.getLogger("kling_async")

UNKNOWN_FOR = 60.0
"""Seconds for which a signed callback of an unknown task is kept: it may overtake the reply to its create."""
MOST_UNKNOWN = 1000
"""Signed callbacks of unknown tasks that are kept, the latest."""
REPLAYS_FOR = 600.0
"""Seconds for which the id of a signed callback is remembered: a signature is good for 300 s either way."""
MOST_OVER = 20_000
"""Names of ended tasks that are remembered, the last ones: what comes of those is ours, and no news."""

_LEFT = (TaskStatus.MAY_EXIST, TaskStatus.GIVEN_UP, TaskStatus.LOST)


class Callbacks:
    """Takes callbacks for the tasks of one engine.

    Args:
        register: its tasks.
        keeper: told of what is seen.
        pollers: poll what is hinted at, and everything when callbacks no longer come.
        trusts: whether they come.
        look_up: has a flight looked for whose submit was not answered.
        signed: whether a signature is Kling's and ours; through a gateway it never is.

    Attributes:
        told_first: tasks whose end a callback told before a poll did.
    """

    def __init__(
        self,
        register: Register,
        *,
        keeper: Keeper,
        pollers: Pollers,
        trusts: Trusts,
        look_up: Callable[[Flight], None],
        signed: bool,
    ) -> None:
        self._register = register
        self._keeper = keeper
        self._pollers = pollers
        self._trusts = trusts
        self._in_use = trusts.expected
        self._look_up = look_up
        self._signed = signed
        self.told_first = 0
        self._only_signed = False
        self._replays: dict[str, float] = {}
        self._unknown: dict[str, tuple[float, Callback]] = {}
        self._early: dict[int, bool] = {}
        self._looked: dict[int, float] = {}
        self._proven: set[int] = set()
        self._over: dict[str, None] = {}
        self._awaited: dict[str, tuple[asyncio.TimerHandle, Task, Trust]] = {}

    def receive(self, callback: Callback) -> bool:
        """Act on *callback*; False: it is of no task known here."""
        now, proven = asyncio.get_running_loop().time(), self._signed and callback.verified
        self._in_use = True
        self._forget(now)
        if proven and callback.id in self._replays:
            return True
        flight = self._find(callback.task)
        if flight is None:
            return self._of_the_past(callback.task, now, proven=proven) or self._keep(callback, now, proven)
        if proven and callback.id is not None:
            self._replays[callback.id] = now
        self._only_signed = self._only_signed or proven
        self._act(flight, callback.task, now, proven=proven)
        return True

    def learned_id(self, flight: Flight) -> None:
        """The provider's id of *flight* is known now: a callback may have been faster."""
        now = asyncio.get_running_loop().time()
        told = [self._unknown.pop(name)[1] for name in _names(flight.judged) if name in self._unknown]
        if told:
            self._act(flight, told[0].task, now, proven=True)
        if self._early.pop(flight.order, False) and not flight.ended:
            self._pollers.expedite(flight)

    def landed(self, flight: Flight) -> None:
        """*flight* is over: who told of it first?"""
        order, status = flight.order, flight.judged.status
        proven = order in self._proven
        hinted = self._pollers.hints.is_open(flight) and not self._only_signed
        was_told_of = self._early.pop(order, None) is not None
        self._proven.discard(order)
        self._looked.pop(order, None)
        if status is TaskStatus.REFUSED:
            return
        if status is TaskStatus.MAY_EXIST:
            if was_told_of:
                _warn_made(flight)
            return
        self._remember(flight)
        if status not in (TaskStatus.SUCCEED, TaskStatus.FAILED):
            return
        loop = asyncio.get_running_loop()
        self.told_first += proven or hinted
        trust = self._trusts.of(flight)
        if trust is not None and (proven or hinted):
            trust.came(loop.time())
        elif trust is not None:
            timer = loop.call_later(TIMELY, self._missed, flight.judged, trust)
            awaited = timer, flight.judged, trust
            self._awaited.update(dict.fromkeys(_names(flight.judged), awaited))

    def stop(self) -> None:
        """Wait for no callback any more."""
        for timer, *_ in self._awaited.values():
            timer.cancel()

    def _find(self, seen: Task) -> Flight | None:
        flight = None if seen.task_id is None else self._register.by_task_id(seen.task_id)
        return flight or self._register.find(seen.external_task_id)

    def _act(self, flight: Flight, seen: Task, now: float, *, proven: bool) -> None:
        """Believe what is proven, of the very task we know and whole; otherwise go and look."""
        if flight.ended:
            return
        ends, exists = is_terminal(seen.status), flight.acknowledged_at is not None
        if proven and _is_credible(flight, seen):
            if ends:
                self._proven.add(flight.order)
            if exists:
                self._keeper.observe(flight, seen)
            else:
                self._keeper.acknowledge(flight, seen)
        elif exists:
            if ends:
                self._pollers.expedite(flight)
        elif flight.judged.status is TaskStatus.AMBIGUOUS:
            if now >= self._looked.get(flight.order, now - self._pollers.floor) + self._pollers.floor:
                self._looked[flight.order] = now
                self._look_up(flight)
        else:  # its create is not answered yet
            self._early[flight.order] = ends or self._early.get(flight.order, False)

    def _keep(self, callback: Callback, now: float, proven: bool) -> bool:
        """Keep what Kling says of a task that may be known a moment later; anyone could make up the rest."""
        if proven:
            for name in _names(callback.task):
                _, known = self._unknown.pop(name, (now, callback))
                news = known if is_terminal(known.task.status) else callback  # what follows an end is older
                self._unknown[name] = now, news
            while len(self._unknown) > 2 * MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
        return False

    def _of_the_past(self, seen: Task, now: float, *, proven: bool) -> bool:
        """Whether it is of a task of ours that is over; one that was left, or may exist, does by this."""
        left = self._register.left(seen)
        if left is not None and left.judged.status in _LEFT:
            if proven and is_terminal(seen.status) and _is_credible(left, seen):
                self._keeper.revive(left, seen)
                logger.warning("%s, no longer waited for, has ended: %s", left.name, seen.status)
            elif left.judged.status is TaskStatus.MAY_EXIST and left.order not in self._looked:
                self._looked[left.order] = now  # it is said once
                _warn_made(left)
        ours = [name for name in _names(seen) if name in self._over]
        if ours and is_terminal(seen.status) and (proven or not self._only_signed):
            awaited = self._awaited.get(ours[0])
            if awaited is not None:
                timer, task, trust = awaited
                timer.cancel()
                self._no_longer_await(task)
                trust.came(now)
        return left is not None or bool(ours)

    def _missed(self, task: Task, trust: Trust) -> None:
        """A poll found the end of *task*, and its callback did not come."""
        self._no_longer_await(task)
        if trust.missed():
            logger.warning(
                "the callback of task %s did not come: others like it are polled as without callbacks",
                task.task_id,
            )
            self._pollers.catch_up(trust)

    def _no_longer_await(self, task: Task) -> None:
        for name in _names(task):
            self._awaited.pop(name, None)

    def _remember(self, flight: Flight) -> None:
        if self._in_use:
            self._over.update(dict.fromkeys(_names(flight.judged)))
        while len(self._over) > MOST_OVER:
            del self._over[next(iter(self._over))]

    def _forget(self, now: float) -> None:
        """Let go of what is too old to matter; what came first stands first."""
        while self._replays and next(iter(self._replays.values())) < now - REPLAYS_FOR:
            del self._replays[next(iter(self._replays))]
        while self._unknown and next(iter(self._unknown.values()))[0] < now - UNKNOWN_FOR:
            del self._unknown[next(iter(self._unknown))]


def _is_credible(flight: Flight, seen: Task) -> bool:
    """Whether it is of the task we know, and whole: Kling's own test callback succeeds without a video."""
    is_it = seen.task_id is not None and flight.judged.task_id in (None, seen.task_id)
    return is_it and (bool(seen.videos) or seen.status is not TaskStatus.SUCCEED)


def _names(task: Task) -> list[str]:
    return [name for name in (task.task_id, task.external_task_id) if name is not None]


def _warn_made(flight: Flight) -> None:
    logger.warning("%s was made: a callback tells of it", flight.name)
