"""Who is polled next, and when. Given `now`; it never reads a clock."""

import heapq
import math
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import attrs

from kling_async.protocol.errors import ConfigurationError

__all__ = ["Polling", "Schedule"]


def _positive(instance: object, field: "attrs.Attribute[Any]", value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ConfigurationError(f"Polling.{field.name} must be a number above 0, not {value!r}")


@attrs.frozen(kw_only=True)
class Polling:
    """How a client waits for tasks. All times are seconds.

    A client learns how long tasks take: from the last 512 of the same model, mode, duration and kind, by
    Kling's own ``updated_at - created_at``; while fewer than 20 have ended, from their median, and at the
    very first from what the API reference tells of the model. With ``S(t)`` the share that takes longer
    than *t* and ``f(t)`` the density of ends, polls of a task of age *t* are

        ``w(t) = c * sqrt(S(t) / f(t))``

    apart, which for a given mean delay needs the fewest polls; ``c = 2 * delay / ∫ sqrt(S f) dt`` sets the
    mean delay to *aim* times the median, and at most to half of *max_interval* and to what four polls in
    that span come to. So a task is first asked for when one in a hundred of its kind would be done. One
    that takes longer than all but one of those known is asked for after

        ``min(factor * base**n, max_interval / (1 + jitter))``

    for n = 0, 1, 2 ... Every wait is multiplied by ``uniform(1 - jitter, 1 + jitter)`` and never less than
    the floor; while little is learned, of a task whose age is not known (attached or taken up), and once one
    in a hundred would be done, none is longer than *max_interval*. A server that asks for a longer one
    (``Retry-After``) is obeyed. Where callbacks come, a task is not asked for until its own is overdue: when
    19 of 20 of its kind would be done. Where the provider lists tasks, those that are due within three times
    the mean delay are read together, a page in place of one call each.

    Attributes:
        aim: the mean time between a task's end and its discovery, as a share of the usual generation time:
            0.02 wastes 2 % of each slot. Half of it costs twice the polls. None learns nothing: waits grow
            exponentially from the first on.
        factor: the first wait, where nothing is learned of so long a task.
        base: how much longer each such wait is than the one before, at least 1.
        max_interval: the longest wait: how late a finished task may be found, unless it ends sooner than 99
            of 100 of its kind did.
        floor: the shortest wait; left out, 1 s, or 15 s for gateways that ask Kling only that often.
        jitter: how far waits are spread so that tasks do not line up, 0 to 0.5.
        give_up: a task not done this long after its acknowledgement is GIVEN_UP and frees its slot.
        pollers: how many status requests may be under way at once.

    Raises:
        ConfigurationError: a value is 0, negative or not finite.
    """

    aim: float | None = attrs.field(default=0.02, validator=_positive)
    factor: float = attrs.field(default=5.0, validator=_positive)
    base: float = attrs.field(default=1.2, validator=_positive)
    max_interval: float = attrs.field(default=15.0, validator=_positive)
    floor: float | None = attrs.field(default=None, validator=_positive)
    jitter: float = 0.2
    give_up: float = attrs.field(default=3 * 3600.0, validator=_positive)
    pollers: int = attrs.field(default=8, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.base < 1:
            raise ConfigurationError(f"Polling.base must be at least 1, not {self.base!r}")
        if not 0 <= self.jitter <= 0.5:
            raise ConfigurationError(f"Polling.jitter must be from 0 to 0.5, not {self.jitter!r}")


class Scheduled(Protocol):
    """What can stand in a `Schedule`.

    Attributes:
        order: its number among all; of two that are due at the same time the lower goes first.
        due: when it is due; None while it stands in none. The schedule sets it.
    """

    order: int
    due: float | None


T = TypeVar("T", bound=Scheduled)


class Schedule(Generic[T]):
    """A heap of items by the time they are due, one entry each.

    An item may be added again to move it; only its latest due time counts. The heap holds numbers: a pair
    of them is nothing to the garbage collector, where a pair with an item in it would be one object more to
    look through for each that waits.

    Args:
        items: all there are, by their order.
    """

    def __init__(self, items: Mapping[int, T]) -> None:
        self._items = items
        self._heap: list[tuple[float, int]] = []
        self._count = 0

    def __len__(self) -> int:
        """How many items wait for their time."""
        return self._count

    def add(self, item: T, due: float) -> None:
        """Make *item* due at that time, wherever it stood before."""
        if item.due == due:
            return
        self._count += item.due is None
        item.due = due
        heapq.heappush(self._heap, (due, item.order))
        if len(self._heap) > 2 * self._count + 64:  # most were moved since: let go of where they stood
            self._heap = [entry for entry in self._heap if self._stands(entry)]
            heapq.heapify(self._heap)

    def discard(self, item: T) -> None:
        """Forget *item*, if it is there."""
        self._count -= item.due is not None
        item.due = None

    def next_due(self) -> float | None:
        """When the first item is due; None: nothing waits."""
        while self._heap and not self._stands(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Iterator[tuple[float, T]]:
        """Take out every item that is due, the longest due first, each with its time."""
        while (due := self.next_due()) is not None and due <= now:
            item = self._items[heapq.heappop(self._heap)[1]]
            self.discard(item)
            yield due, item

    def _stands(self, entry: tuple[float, int]) -> bool:
        item = self._items.get(entry[1])
        return item is not None and item.due == entry[0]
