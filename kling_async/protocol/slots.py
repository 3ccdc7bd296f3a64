"""How many tasks may be in flight for one slot key, and what Kling's 1303 teaches about it.

A slot is held from the first byte of the POST until the task is terminal. With a given limit that is all.
Without one the limit is learned:

- it starts at `FIRST_LIMIT`, and until the first refusal each acceptance at the limit allows one more;
- a refusal (1303) is a measurement: once the POSTs already out are answered, the limit is what was accepted
  and is not terminal, at least 1;
- the refused request stays first. It goes again when a slot of ours is freed, or by a timer of 1, 2, 4 ...
  30 s, for other processes of the account may hold every slot;
- after some completions without a refusal one more is tried, a probe; a refused one changes nothing, after an
  accepted one the limit grows as in the beginning;
- a refusal that was no probe tells of others on the account, for the next `SHARED` completions. Each of these
  leaves its slot to them for `POLITENESS` seconds, unless it was our last one: so nobody starves, and whoever
  has many slots loses them sooner. Probes come after `limit` completions then, for others leave slots too;
  when nothing tells of others, after `ALONE` times as many.
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
ALONE = 3
"""Times `limit` completions between two probes when nothing tells of others: most cost a refused create."""
SHARED = 16
"""Completions for which a refusal tells of others. Fewer, and one who has no slot and tries every 30 s is
forgotten before it got one; more, and who is alone loses time after the refusal that ends its first growth,
for that one counts too."""
POLITENESS = 15.0
"""Seconds a freed slot is left to others: half of `LONGEST_WAIT`, so that every second try of one without a
slot falls into them. Three clients on one account of 5 slots then have a slot each or more, averaged over an
hour (not quite in one run of 200), and lose a tenth of the time; with 5 s one may have half a slot."""


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
    _shared: int = 0
    """Completions left for which others are believed to be there."""

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
            self._probing = False
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
        if not self._probing or self.held < self.limit - 1:  # there was less than we knew of
            self._shared = SHARED
        self._probing = False
        wait = min(FIRST_WAIT * 2**self._waits, LONGEST_WAIT)
        self._waits += 1
        self.retry_at = now + wait * rng.uniform(0.8, 1.2)
        self._settle()

    def release(self, now: float) -> None:
        """A task became terminal: its slot is free, and with it soon the way for a refused request."""
        self.accepted -= 1
        moment = POLITENESS if self._shared and self.held else 0.0
        self._shared = max(0, self._shared - 1)
        self.retry_at = min(self.retry_at, now + moment) if self.retry_at > now else now + moment
        if not self._settled or self._probing:
            return  # one probe at a time: a client with little to do would raise its limit without end
        self._completions += 1
        if self._completions >= self.limit * (1 if self._shared else ALONE):
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
