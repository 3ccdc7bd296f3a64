"""How far callbacks are believed: which hints are worth a poll, and whether polling may rest on them."""

import attrs

from kling_async.flight import Flight, SlotKey

__all__ = ["TIMELY", "Hints", "Trust", "Trusts"]

TIMELY = 2.0
"""Seconds after an end within which its callback comes if it is of use: later, polling alone is as quick."""
ENOUGH = 5
"""Timely callbacks in a row from which on polling rests on them."""
ENOUGH_AGAIN = 20
"""The same once one did not come: where one in ten is lost, twenty in a row come once in eight times."""
POLLS = 2
"""Polls that a hint is worth: the first may ask before the reader knows what the callback's writer knew."""


@attrs.define
class Trust:
    """Whether the ends of one sort of tasks are told by callbacks.

    Attributes:
        holds: polling may rest on callbacks.
        since: when the last timely callback came, seconds of the loop's clock.
    """

    holds: bool = False
    since: float = 0.0
    _in_a_row: int = 0
    _enough: int = ENOUGH

    def came(self, now: float) -> None:
        """An end was told in time."""
        self._in_a_row += 1
        self.holds = self._in_a_row >= self._enough
        self.since = now

    def missed(self) -> bool:
        """An end was not told in time; whether that is new."""
        held, self.holds = self.holds, False
        self._in_a_row, self._enough = 0, ENOUGH_AGAIN
        return held


class Trusts:
    """What is known of callbacks, for each model and kind by itself: some may be told of, and others not.

    Args:
        expected: whether all tasks submitted here ask for callbacks; else those whose request says so, which
            are apart in any case, for their callbacks may go elsewhere.

    Attributes:
        expected: as given.
    """

    def __init__(self, *, expected: bool) -> None:
        self.expected = expected
        self._trusts: dict[tuple[SlotKey, bool], Trust] = {}

    @property
    def any_hold(self) -> bool:
        """Whether polling may rest on callbacks at all."""
        return bool(self._trusts) and any(trust.holds for trust in self._trusts.values())

    def of(self, flight: Flight) -> Trust | None:
        """What is known of tasks like *flight*; None: nobody is to tell of it.

        It is to be told of if it was submitted here, with a ``callback_url``.
        """
        own = flight.request is not None and flight.request.callback_url is not None
        if not flight.made_here or not (self.expected or own):
            return None
        return self._trusts.setdefault((flight.slot_key, own), Trust())


@attrs.define
class _Hint:
    """What somebody said of a task, and we have not seen.

    Attributes:
        last: when it has the task polled, or had it polled last, seconds of the loop's clock.
        polls: how many it is still worth.
        is_open: no answer has shown it to be false.
    """

    last: float
    polls: int = POLLS
    is_open: bool = True


class Hints:
    """The hints that tasks have ended, one a task at a time: more of them are worth no more polls.

    Args:
        floor: seconds between two polls of a task that hints cause.
    """

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._hints: dict[int, _Hint] = {}

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._hints)

    def take(self, flight: Flight, now: float) -> float | None:
        """When a hint has *flight* polled, seconds of the loop's clock; None: an earlier one does already."""
        before = self._hints.get(flight.order)
        if before is not None and before.polls:
            return None
        at = now if before is None else max(now, before.last + self._floor)
        self._hints[flight.order] = _Hint(at)
        return at

    def answered(self, flight: Flight, now: float, *, told: bool) -> float | None:
        """When *flight*, just polled and not over, is polled once more because of its hint, if it is.

        Args:
            flight: which.
            now: seconds of the loop's clock.
            told: whether there was an answer: the last one that says "goes on" shows the hint to be false.
        """
        hint = self._hints.get(flight.order)
        if hint is None:
            return None
        hint.polls = max(0, hint.polls - 1)
        if hint.polls:
            hint.last = now + self._floor
            return hint.last
        hint.is_open = hint.is_open and not told
        return None

    def is_open(self, flight: Flight) -> bool:
        """Whether *flight* is said to have ended, and nothing shows that it has not."""
        hint = self._hints.get(flight.order)
        return hint is not None and hint.is_open

    def forget(self, flight: Flight) -> None:
        """*flight* is over."""
        self._hints.pop(flight.order, None)
