"""How many tasks may be in flight for one slot key, and what Kling's 1303 teaches about it.

A slot is held from the first byte of the POST until the task is terminal. With a given limit that is all.
Without one the limit is learned:

- it starts at `FIRST_LIMIT`, and until the first refusal each acceptance at the limit allows one more;
- a refusal (1303) is a measurement: once the POSTs already out are answered, the limit is what was accepted
  and is not terminal, at least 1;
- the refused request stays first. It goes again when a slot of ours is freed, or by a timer of 1, 2, 4 ...
  30 s, for other processes of the account may hold every slot;
- after `limit` completions without a refusal one more is tried, a probe; a refused probe doubles that gap,
  once; after an accepted one the limit grows as in the beginning;
- a refusal that was no probe tells of others on the account. For the next completions a freed slot is left to
  them for a moment, the longer the more slots we keep: so nobody starves, and whoever has many gets fewer.
"""

import random

import attrs

__all__ = ["Slots"]

FIRST_LIMIT = 5
"""The smallest resource pack known allows five video tasks in parallel (API reference, concurrency)."""
FIRST_WAIT = 1.0
"""Seconds after the first refusal; Kling advises a backoff from one second on."""
LONGEST_WAIT = 30.0
"""Seconds between two tries when other processes hold every slot."""
LONGEST_GAP = 2
"""Times `limit` completions between two probes at most: slots that others leave must not stay empty."""
SHARED = 2
"""Times `limit` completions for which a refusal makes us leave freed slots to others for a moment."""
POLITENESS = 3.0
"""Seconds of that moment for each slot we keep. With it three clients that begin at once on one account of 5
slots share them within a few minutes; without it the first keeps them, as others try only every 30 s."""
MOST_POLITE = 3
"""Slots that count in it."""


@attrs.define
class Slots:
    """The slots of one slot key. Times are seconds of the loop's clock, given by the caller.

    Attributes:
        limit: how many tasks may be in flight now.
        learns: the limit was not given, so refusals and acceptances move it.
        posting: POSTs out and not answered.
        accepted: tasks accepted and not terminal.
        retry_at: no POST before this time, unless a slot is freed earlier.
    """

    limit: int
    learns: bool = False
    posting: int = 0
    accepted: int = 0
    retry_at: float = 0.0
    _refused: bool = False
    _settled: bool = False
    _probing: bool = False
    _waits: int = 0
    _completions: int = 0
    _gap: int = 1
    _shared: int = 0
    """Completions for which others are still believed to be there."""

    @classmethod
    def of(cls, max_in_flight: int | None) -> "Slots":
        """Slots with the limit given, or None: learned."""
        return cls(FIRST_LIMIT, learns=True) if max_in_flight is None else cls(max_in_flight)

    @property
    def held(self) -> int:
        """Slots taken now."""
        return self.posting + self.accepted

    def is_free(self, now: float) -> bool:
        """Whether a POST may leave now."""
        return self.held < self.limit and now >= self.retry_at and not self._refused

    def start(self) -> None:
        """A POST leaves."""
        self.posting += 1

    def accept(self) -> None:
        """Its task was accepted."""
        self.posting -= 1
        at_limit = self.held + 1 >= self.limit
        self.accepted += 1
        self._waits = 0
        if self._probing and self.accepted >= self.limit:
            self._probing, self._gap = False, 1
            self._settled = False  # there is room: how much is to be found out
        if self.learns and at_limit and not self._settled and not self._refused:
            self.limit += 1
        self._settle()

    def hold(self) -> None:
        """A task that was not submitted here is in flight: resumed, attached or adopted."""
        self.accepted += 1
        if self.learns:
            self.limit = max(self.limit, self.accepted)

    def fail(self) -> None:
        """A POST ended without a task."""
        self.posting -= 1
        self._settle()

    def refuse(self, now: float, rng: random.Random) -> None:
        """A POST was answered with 1303."""
        self.posting -= 1
        self._refused = True
        self._completions = 0
        if self._probing and self.held >= self.limit - 1:
            self._gap = min(2 * self._gap, LONGEST_GAP)  # the refused one was the probe above what we knew
        else:
            self._shared = SHARED * self.limit
        self._probing = False
        wait = min(FIRST_WAIT * 2**self._waits, LONGEST_WAIT)
        self._waits += 1
        self.retry_at = now + wait * rng.uniform(0.8, 1.2)
        self._settle()

    def release(self, now: float) -> None:
        """A task became terminal: its slot is free, and with it soon the way for a refused request."""
        self.accepted -= 1
        moment = POLITENESS * min(self.held, MOST_POLITE) if self._shared else 0.0
        self._shared = max(0, self._shared - 1)
        self.retry_at = min(self.retry_at, now + moment) if self.retry_at > now else now + moment
        if not self._settled or self._probing:
            return  # one probe at a time: a client with little to do would raise its limit without end
        self._completions += 1
        if self._completions >= self.limit * self._gap:
            self._completions = 0
            self._probing = True
            self.limit += 1

    def _settle(self) -> None:
        """After a refusal, once no POST is out: what was accepted is the limit."""
        if self._refused and self.posting == 0:
            self._refused = False
            if self.learns:
                self.limit = max(1, self.accepted)
                self._settled = self.accepted > 0  # while others hold every slot, nothing is learned
