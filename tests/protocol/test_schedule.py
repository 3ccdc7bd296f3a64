"""Who is polled next and when: the waits, the order, and that nobody is forgotten."""

import random

import pytest
from hypothesis import given, strategies as st

from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.schedule import Polling, Schedule
from kling_async.retries import poll_intervals

seconds = st.floats(0.01, 1e4)
pollings = st.builds(
    Polling,
    factor=seconds,
    base=st.floats(1, 3),
    max_interval=seconds,
    jitter=st.floats(0, 0.5),
    floor=seconds,
)


def schedule(polling: Polling = Polling(), floor: float = 1.0, seed: int = 0):  # noqa: B008 - a frozen value
    """A schedule of *polling* with its own random source."""
    return Schedule(poll_intervals(polling), floor=floor, jitter=polling.jitter, rng=random.Random(seed))


@given(pollings, st.integers(0, 300), st.integers(0, 99))
def test_waits_stay_between_floor_and_longest(polling, polls, seed):
    """No wait is below the floor, and none is over `max_interval` unless the floor is."""
    wait = schedule(polling, polling.floor, seed).wait(polls)
    assert polling.floor <= wait <= max(polling.floor, polling.max_interval) * (1 + 1e-9)


@given(pollings, st.integers(0, 300), seconds)
def test_server_hint_lengthens_and_never_shortens(polling, polls, hint):
    """A `Retry-After` is obeyed, and one shorter than our own wait changes nothing."""
    plain = schedule(polling, polling.floor).wait(polls)
    assert schedule(polling, polling.floor).wait(polls, hint) == max(plain, hint)


def test_default_polls_come_as_documented():
    """The polls of a task that takes 90 s come after about 5, 11, 18, 27, 37, 49, 64, 79 and 94 s."""
    rng = Polling(jitter=0)
    waits = [schedule(rng).wait(polls) for polls in range(9)]
    seen = [round(sum(waits[: count + 1])) for count in range(9)]
    assert seen == pytest.approx([5, 11, 18, 27, 37, 49, 64, 79, 94], abs=1)


@pytest.mark.parametrize(
    "values",
    [
        {"factor": 0},
        {"base": 0.9},
        {"max_interval": float("inf")},
        {"floor": -1},
        {"jitter": 0.6},
        {"give_up": 0},
        {"pollers": 0},
    ],
)
def test_out_of_range_is_refused(values):
    """Waits that could spin or never end are a configuration error, which names the option."""
    with pytest.raises(ConfigurationError, match=f"Polling.{next(iter(values))}"):
        Polling(**values)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100)), max_size=60))
def test_every_item_comes_once_at_its_latest_time(additions):
    """However often items are moved: each comes once, in the order of time, never early."""
    polled = schedule()
    wanted = {}
    for item, due in additions:
        polled.add(item, due)
        wanted[item] = due
    assert len(polled) == len(wanted)
    seen = []
    while (due := polled.next_due()) is not None:
        assert not list(polled.pop_due(due - 1e-6))
        seen += [(due, item) for item in polled.pop_due(due)]
    assert [due for due, _ in seen] == sorted(wanted.values())
    assert {item: due for due, item in seen} == wanted
    assert len(polled) == 0


def test_discarded_item_never_comes():
    """A task that ended is not asked for again; added anew it is."""
    polled = schedule()
    polled.add("a", 1.0)
    polled.add("b", 2.0)
    polled.discard("a")
    polled.discard("unknown")
    assert polled.next_due() == 2.0
    polled.add("a", 3.0)
    assert list(polled.pop_due(9.0)) == ["b", "a"]


@given(pollings)
def test_intervals_grow_to_one_that_repeats(polling):
    """The wait sequence never shrinks and ends at the longest."""
    waits = poll_intervals(polling)
    assert list(waits) == sorted(waits)
    assert waits[-1] <= polling.max_interval
