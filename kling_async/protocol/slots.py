"""How many tasks may be in flight for one slot key, and what Kling's 1303 teaches about it.

A slot is held from the first byte of the POST until the task is terminal. How many there are is learned, up
to the number given by the caller:

- the limit starts at the number given, or at `FIRST_LIMIT` and then each acceptance at the limit allows one
  more;
- a refusal (1303) ends that growth and is a measurement: the limit is what is held without it, at least 1;
- the refused request stays first. It goes again when a slot of ours is freed, or by a timer of 1, 2, 4 ...
  30 s, for other processes of the account may hold every slot;
- after some completions without a refusal the limit may grow again: the next acceptance at the limit is
  followed by a probe. A refused probe changes nothing.

Whoever shares an account gets no slot as long as the others take every freed one at once. So a slot is left
to them for a while, a window:

- after growth that found room, one window of `TEST` seconds: the refusal that ended it was to come anyway,
  but who waits for a slot asks within that time and takes this one;
- after a refusal of a slot that we knew to be ours, somebody is there: `SHARED` windows of `POLITENESS`
  seconds, one slot at a time and never the last of ours. So nobody starves, and whoever has many slots loses
  them sooner. Probes come after `limit` completions then, for others leave slots too; when nothing tells of
  others, after `ALONE` times as many.

A slot found by a probe is known to be ours only at the next one: the probe may have met a task of ours that
had ended and had not been seen to end. One more task is then believed to be in flight than there are, and
the refusal that follows tells of nobody.
"""

import math
import random

import attrs

__all__ = ["Slots"]

FIRST_LIMIT = 5
"""The smallest resource pack known allows five video tasks in parallel (API reference, concurrency): who is
refused with fewer is not alone."""
FIRST_WAIT = 1.0
"""Seconds after the first refusal; Kling advises a backoff from one second on."""
LONGEST_WAIT = 30.0
"""Seconds between two tries when other processes hold every slot."""
JITTER = 0.2
"""How far these waits are spread, so that processes refused together do not come back together."""
ALONE = 3
"""Times `limit` completions between two probes when nothing tells of others: most cost a refused create."""
TEST = LONGEST_WAIT * (1 + JITTER)
"""Seconds in which whoever waits for a slot has asked for one. One slot left for so long is 0.2 % of 200
tasks on 5 slots; each of 16 freed slots left for 15 s would be 1.3 %, and find others no more surely."""
SHARED = 16
"""Windows after a refusal that tells of others. With 12, one of three clients on 5 slots has less than a slot
in one run of a hundred, with 16 in none of two hundred; with 20 an account of two slots, where `FIRST_LIMIT`
is wrong, loses 2 % in place of 1.6."""
POLITENESS = 18.0
"""Seconds of such a window: more than half of `LONGEST_WAIT`, so that every second try of one without a slot
falls into one. Three clients on one account of 5 slots then have a slot each or more, averaged over an hour,
and lose a tenth of the time; with 15 s one of them has less in one run of fifty."""


@attrs.define
class Slots:
    """The slots of one slot key. Times are seconds of the loop's clock, given by the caller.

    Attributes:
        limit: how many tasks may be in flight now.
        most: what the caller gave as the most; the limit is never more.
        posting: POSTs out and not answered.
        accepted: tasks accepted and not terminal.
    """

    limit: int
    most: float = math.inf
    posting: int = 0
    accepted: int = 0
    _growing: bool = True
    """Whether an acceptance at the limit allows one more."""
    _known: int = 0
    """The limit that refusals have confirmed; 0 before the first one."""
    _completions: int = 0
    """Since the last refusal or the last leave to grow."""
    _refused: bool = False
    """A refusal was read while POSTs were out; it is judged when they are answered."""
    _waits: int = 0
    _retry_at: float = 0.0
    _windows: int = 0
    """How many times a freed slot is still to be left to others."""
    _window: float = 0.0
    """For how many seconds."""
    _left_until: float = 0.0
    """Until then one slot is left to others."""

    @classmethod
    def of(cls, max_in_flight: int | None) -> "Slots":
        """Slots with the limit given, or None: learned."""
        return cls(FIRST_LIMIT) if max_in_flight is None else cls(max_in_flight, most=max_in_flight)

    @property
    def held(self) -> int:
        """Slots taken now."""
        return self.posting + self.accepted

    @property
    def opens_at(self) -> float:
        """No POST leaves before this time, unless a slot is freed earlier."""
        is_last = self.held >= self.limit - 1
        return max(self._retry_at, self._left_until) if is_last else self._retry_at

    def is_free(self, now: float) -> bool:
        """Whether a POST may leave now."""
        return self.held < self.limit and now >= self.opens_at and not self._refused

    def start(self) -> None:
        """A POST leaves."""
        self.posting += 1

    def accept(self) -> None:
        """Its task was accepted."""
        if self._growing and not self._refused and self.limit <= self.held and self.limit < self.most:
            self.limit += 1
        self.posting -= 1
        self.accepted += 1
        self._waits = 0
        self._judge()

    def hold(self) -> None:
        """A task that was not submitted here is in flight: resumed, attached or adopted."""
        self.accepted += 1
        if self.limit < self.accepted <= self.most:
            self.limit = self.accepted

    def fail(self) -> None:
        """A POST ended without a task."""
        self.posting -= 1
        self._judge()

    def refuse(self, now: float, rng: random.Random) -> None:
        """A POST was answered with 1303."""
        self.posting -= 1
        # POSTs still out count as held, and a task that ends meanwhile leaves its slot
        room = self.limit - 1 if self._refused else min(self.limit, self.held)
        self.limit = max(1, room)
        self._refused = True
        wait = min(FIRST_WAIT * 2**self._waits, LONGEST_WAIT)
        self._waits += wait < LONGEST_WAIT  # for days, perhaps: two to a large power is no number of seconds
        self._retry_at = now + wait * rng.uniform(1 - JITTER, 1 + JITTER)
        self._judge()

    def release(self, now: float) -> None:
        """A task became terminal: its slot is free, and with it soon the way for a refused request."""
        self.accepted -= 1
        self._retry_at = min(self._retry_at, now)
        if self._windows and now >= self._left_until:
            self._windows -= 1
            if self.held:
                self._left_until = now + self._window
        self._completions += 1
        if self._completions >= self.limit * (1 if self._windows else ALONE):
            self._completions = 0
            self._growing = True
            self._known = self.limit if self._known else 0

    def _judge(self) -> None:
        """After a refusal, once no POST is out: what it tells of others, and of the limit."""
        if not self._refused or self.posting:
            return
        self._refused = False
        if self.limit < (self._known or min(FIRST_LIMIT, self.most)):
            self._windows, self._window = SHARED, POLITENESS
        elif self._growing and self.limit != self._known and not self._windows:
            self._windows, self._window = 1, TEST
        self._known = min(self._known or self.limit, self.limit)
        self._completions = 0
        self._growing = not self.accepted  # while others hold every slot, nothing is learned
