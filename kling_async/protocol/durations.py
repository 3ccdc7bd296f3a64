"""How long tasks take, as learned from those that ended, and what follows for when to ask.

Polls ``w(t) = c * sqrt(S(t) / f(t))`` apart are the fewest for a given mean delay: with a density ``1 / w``
of polls a task needs ``∫ S / w dt`` of them and is found ``∫ f w / 2 dt`` after its end; their product is
least, ``(∫ sqrt(S f) dt)² / 2``, for that ``w``, whatever ``c``. What is learned is a list of pieces of time
with the same number of ends in each; within a piece the spacing is constant.
"""

import bisect
import collections
import itertools
import math
import random
import statistics
from collections.abc import Iterable, Sequence

import attrs

from kling_async.protocol.schedule import Polling

__all__ = ["Durations", "Plan", "TaskClass", "usual_seconds"]

TaskClass = tuple[str, str, str, str]
"""Kind of task, model, mode and duration: what decides how long a task takes."""

WINDOW = 512
"""Ended tasks that are remembered: 22 pieces of 23 each tell the density to a fifth, which costs a hundredth
more polls or delay, and a Kling of another speed is known after a night's batch."""
SOME = 3
"""Ended tasks whose median tells more than the API reference does of the model in general."""
ENOUGH = 20
"""Ended tasks that tell how they spread, and what is soonest."""
EARLY = 0.01
"""The share of tasks that may end before any is asked for: one freak shall not cost all others polls."""
LATE = 0.05
"""The share of tasks that take longer than what is called late."""
FEWEST = 4
"""Polls that the span in which tasks end is worth at least: with fewer, chance decides the delay."""

MEDIANS = (
    ("image2video", "kling-v2-5", 45.0),
    ("image2video", "kling-v2-6", 90.0),
    ("image2video", "kling-v3", 90.0),
    ("", "", 164.0),
)
"""Seconds a usual task takes, by kind and by how the model's name begins (API reference, timings); for v2-6,
of which nothing is told, what its neighbours take."""
SPREAD = 0.5
"""Standard deviation of the logarithm of what is not yet learned: two thirds within a factor of 1.65."""


def _polls_by_then(plan: "Plan") -> Sequence[float]:
    """How many polls there were by the end of each piece."""
    starts = (0.0, *plan.ends)
    pieces = zip(starts, plan.ends, plan.waits, strict=False)
    return tuple(itertools.accumulate((end - start) / wait for start, end, wait in pieces))


@attrs.frozen
class Plan:
    """When a task of one class is asked for, by its age.

    Attributes:
        ends: where each piece of the task's life ends, seconds; the last goes on for ever.
        waits: the spacing of polls within each piece, seconds.
        delay: the mean delay aimed at, seconds; 0 where nothing is aimed at.
        late: the age at which 19 of 20 of those known, or all of fewer, have ended, seconds; 0 where fewer
            than three are known.
    """

    ends: Sequence[float]
    waits: Sequence[float]
    delay: float = 0.0
    late: float = 0.0
    _polls: Sequence[float] = attrs.field(
        init=False, repr=False, default=attrs.Factory(_polls_by_then, takes_self=True)
    )

    def next(self, age: float, step: float = 1.0) -> float:
        """The age at which a task seen at *age* is asked for next, *step* times the usual spacing later."""
        piece = bisect.bisect_right(self.ends, age)
        start, polls = self._start(piece)
        target = polls + (age - start) / self.waits[piece] + step
        piece = bisect.bisect_right(self._polls, target)
        start, polls = self._start(piece)
        return start + (target - polls) * self.waits[piece]

    def _start(self, piece: int) -> tuple[float, float]:
        return (self.ends[piece - 1], self._polls[piece - 1]) if piece else (0.0, 0.0)


class Durations:
    """What is known of how long tasks take, by class.

    Args:
        polling: how polls are to be spaced.
        intervals: the waits of a task that takes longer than all known, seconds; the last one repeats.
        floor: the shortest wait, seconds.
        rng: where the spread of waits comes from.
    """

    def __init__(
        self, polling: Polling, intervals: Sequence[float], *, floor: float, rng: random.Random
    ) -> None:
        self._polling = polling
        self._intervals = intervals
        self._floor = floor
        self._rng = rng
        self._known: dict[TaskClass, _Known] = {}

    def learn(self, task_class: TaskClass, seconds: float, *, ended: bool = True) -> None:
        """A task took *seconds*, or, not *ended*, was given up at that age: it takes longer (censored)."""
        if self._polling.aim is None or not 0 < seconds < math.inf:
            return
        known = self._class(task_class)
        known.seen.append((seconds, ended))
        known.news += 1

    def plan(self, task_class: TaskClass) -> Plan:
        """When tasks of this class are asked for, as known by now."""
        known = self._class(task_class)
        # a sixteenth more tells little new, and a plan costs as much as some polls
        if known.plan is None or known.news >= max(1, len(known.seen) // 16):
            known.news = 0
            known.plan = self._made(task_class, known)
        return known.plan

    def wait(self, task_class: TaskClass, age: float) -> float:
        """Seconds until a task seen at *age* is asked for again."""
        jitter = self._polling.jitter
        step = 1.0 + jitter * (2.0 * self._rng.random() - 1.0) if jitter else 1.0
        return max(self.plan(task_class).next(age, step) - age, self._floor)

    def _class(self, task_class: TaskClass) -> "_Known":
        known = self._known.get(task_class)
        if known is None:
            known = self._known[task_class] = _Known()
        return known

    def _made(self, task_class: TaskClass, known: "_Known") -> Plan:
        aim = self._polling.aim
        if aim is None:
            return _plan([], [], self._intervals)
        longest = self._polling.max_interval / (1 + self._polling.jitter)
        survival = _survival(known.seen)
        if len(survival) < ENOUGH:
            median = _median(survival) if len(survival) >= SOME else usual_seconds(*task_class[:2])
            plan = _spaced(_around(median), aim, longest, self._intervals, first=longest)
        else:
            usual = survival[
                int(EARLY * len(survival)) : -1
            ]  # the last may be a freak that stretches the end
            plan = _spaced(usual, aim, longest, self._intervals, first=None)
        if len(survival) < SOME:  # that a guess is over says nothing
            return plan
        late = next((seconds for seconds, share in survival if share <= LATE), survival[-1][0])
        return attrs.evolve(plan, late=late)


@attrs.define
class _Known:
    """The last tasks of one class: seconds, and whether they had ended; newest last."""

    seen: collections.deque[tuple[float, bool]] = attrs.field(
        factory=lambda: collections.deque[tuple[float, bool]](maxlen=WINDOW)
    )
    news: int = 0
    plan: Plan | None = None


def _survival(seen: Iterable[tuple[float, bool]]) -> list[tuple[float, float]]:
    """The time of each end and the share that takes longer (Kaplan and Meier's product)."""
    ordered = sorted(seen)
    share, points = 1.0, list[tuple[float, float]]()
    for place, (seconds, ended) in enumerate(ordered):
        if ended:
            share *= 1.0 - 1.0 / (len(ordered) - place)
            points.append((seconds, share))
    return points


def _median(survival: Sequence[tuple[float, float]]) -> float:
    """What half of the tasks take longer than, as far as that is known."""
    return next((seconds for seconds, share in survival if share <= 0.5), survival[-1][0])


def usual_seconds(endpoint: str, model_name: str) -> float:
    """How long such a task takes, as far as the API reference tells: the median, for all modes alike."""
    return next(each for a, b, each in MEDIANS if endpoint.startswith(a) and model_name.startswith(b))


def _around(median: float) -> list[tuple[float, float]]:
    """A survival curve of which the median alone is known: lognormal."""
    normal, count = statistics.NormalDist(math.log(median), SPREAD), 32
    return [(math.exp(normal.inv_cdf(place / count)), 1.0 - place / count) for place in range(1, count)]


def _spaced(
    survival: Sequence[tuple[float, float]],
    aim: float,
    longest: float,
    intervals: Sequence[float],
    *,
    first: float | None,
) -> Plan:
    """The plan for a survival curve; *first* is the spacing before its beginning, None: no poll there."""
    count = len(survival)
    pieces = math.isqrt(count)
    knots = [survival[place * (count - 1) // pieces] for place in range(pieces + 1)]
    roots: list[float] = []
    for (start, above), (end, below) in itertools.pairwise(knots):
        # sqrt(S / f) with f = (above - below) / (end - start); a millisecond keeps equal times apart
        roots.append(math.sqrt((above + below) / 2 * max(end - start, 1e-3) / (above - below)))
    whole = sum(
        root * (above - below)
        for root, ((_, above), (_, below)) in zip(roots, itertools.pairwise(knots), strict=True)
    )
    delay = min(aim * _median(survival), whole * whole / (2 * FEWEST), longest / 2)
    c = 2 * delay / whole
    begin = knots[0][0]
    ends = [begin, *(end for end, _ in knots[1:])]
    waits = [2 * begin if first is None else first, *(min(c * root, longest) for root in roots)]
    return _plan(ends, waits, intervals, delay)


def _plan(
    ends: Sequence[float],
    waits: Sequence[float],
    intervals: Sequence[float],
    delay: float = 0.0,
) -> Plan:
    """Pieces with what follows them: the intervals, one poll each, the last for ever."""
    last = ends[-1] if ends else 0.0
    beyond = [last + sum(intervals[: place + 1]) for place in range(len(intervals) - 1)]
    return Plan((*ends, *beyond), (*waits, *intervals), delay)
