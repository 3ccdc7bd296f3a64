"""Who is polled next, and when. Given `now`, a random source and the intervals; it never reads a clock."""

import heapq
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import attrs

from kling_async.protocol.errors import ConfigurationError

__all__ = ["Polling", "Schedule"]

T = TypeVar("T")


def _positive(instance: object, field: "attrs.Attribute[Any]", value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigurationError(f"Polling.{field.name} must be a number of seconds above 0, not {value!r}")


@attrs.frozen(kw_only=True)
class Polling:
    """How a client waits for tasks. All times are seconds.

    The wait before a task's n-th poll (n = 0, 1, 2 ...) is

        ``min(factor * base**n, max_interval / (1 + jitter)) * uniform(1 - jitter, 1 + jitter)``

    and never less than the floor. With the defaults the polls of a task that takes 90 s come after about 5,
    11, 18, 27, 37, 49, 62, 74, 87 and 99 s. A server that asks for a longer wait (``Retry-After``) is
    obeyed.

    Attributes:
        factor: the first wait.
        base: how much longer each wait is than the one before, at least 1.
        max_interval: the longest wait: how late a finished task may be found.
        floor: the shortest wait; left out, 1 s, or 15 s for gateways that ask Kling only that often.
        jitter: how far waits are spread so that tasks do not line up, 0 to 0.5.
        give_up: a task not done this long after its acknowledgement is GIVEN_UP and frees its slot.
        pollers: how many polls may be under way at once.

    Raises:
        ConfigurationError: a value is 0, negative or not finite.
    """

    factor: float = attrs.field(default=5.0, validator=_positive)
    base: float = attrs.field(default=1.2, validator=_positive)
    max_interval: float = attrs.field(default=15.0, validator=_positive)
    floor: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    jitter: float = 0.2
    give_up: float = attrs.field(default=3 * 3600.0, validator=_positive)
    pollers: int = attrs.field(default=8, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.base < 1:
            raise ConfigurationError(f"Polling.base must be at least 1, not {self.base!r}")
        if not 0 <= self.jitter <= 0.5:
            raise ConfigurationError(f"Polling.jitter must be from 0 to 0.5, not {self.jitter!r}")


class Schedule(Generic[T]):
    """A heap of items by the time they are due.

    An item may be added again to move it; only its latest due time counts.

    Args:
        intervals: the waits before poll 0, 1, 2 ..., seconds; the last one repeats.
        floor: the shortest wait, seconds.
        jitter: how far waits are spread, 0 to 0.5.
        rng: where the spread comes from.
    """

    def __init__(
        self, intervals: Sequence[float], *, floor: float, jitter: float, rng: random.Random
    ) -> None:
        self._intervals = intervals
        self._floor = floor
        self._jitter = jitter
        self._rng = rng
        self._heap: list[tuple[float, int, T]] = []
        self._places: dict[T, int] = {}
        self._count = itertools.count()

    def __len__(self) -> int:
        """How many items wait for their time."""
        return len(self._places)

    def wait(self, polls: int, hint: float | None = None) -> float:
        """Seconds from poll number *polls* (0: none yet) to the next; a server's *hint* only lengthens it."""
        interval = self._intervals[min(polls, len(self._intervals) - 1)]
        spread = interval * self._rng.uniform(1 - self._jitter, 1 + self._jitter)
        return max(spread, self._floor, hint or 0.0)

    def add(self, item: T, due: float) -> None:
        """Make *item* due at that time, wherever it stood before."""
        place = next(self._count)
        self._places[item] = place
        heapq.heappush(self._heap, (due, place, item))

    def discard(self, item: T) -> None:
        """Forget *item*, if it is there."""
        self._places.pop(item, None)

    def next_due(self) -> float | None:
        """When the first item is due; None: nothing waits."""
        while self._heap and self._places.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Iterator[T]:
        """Take out every item that is due, the longest due first."""
        while (due := self.next_due()) is not None and due <= now:
            item = heapq.heappop(self._heap)[2]
            del self._places[item]
            yield item
