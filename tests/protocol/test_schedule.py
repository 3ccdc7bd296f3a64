"""Who is polled next: the options, the order, that nobody is forgotten, and that little is held."""

import math

import attrs
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
NO_NUMBERS = (0, -1, math.nan, math.inf, -math.inf)
"""What no time, share or count may be."""


@attrs.define(eq=False)
class Item:
    """What stands in a schedule: of two that are due at once, the lower order goes first."""

    order: int
    due: float | None = None


def of(items):
    """A schedule for *items*."""
    return Schedule({item.order: item for item in items})


# The options


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(
    "name", ["aim", "factor", "base", "max_interval", "floor", "jitter", "give_up", "pollers"]
)
def test_out_of_range_is_refused(name, value):
    """Waits that could spin or never end are a configuration error, which names the option."""
    if (name, value) == ("jitter", 0):
        assert Polling(jitter=0).jitter == 0
        return
    with pytest.raises(ConfigurationError, match=rf"^Polling\.{name} must be"):
        Polling(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("base", 0.99), ("jitter", 0.51)])
def test_shrinking_or_wild_waits_are_refused(name, value):
    """Waits never shrink from one to the next, and jitter takes at most half of one."""
    with pytest.raises(ConfigurationError, match=rf"^Polling\.{name} must be"):
        Polling(**{name: value})


def test_extremes_are_allowed():
    """The ends of the ranges themselves are fine; None learns nothing, or takes the provider's floor."""
    polling = Polling(aim=None, base=1, jitter=0.5, floor=None, pollers=1)
    assert (polling.aim, polling.base, polling.jitter, polling.floor) == (None, 1, 0.5, None)


@given(pollings)
def test_intervals_grow_to_one_that_repeats(polling):
    """The wait sequence never shrinks and ends at one that jitter does not take over the longest allowed."""
    waits = poll_intervals(polling)
    assert list(waits) == sorted(waits)
    assert waits[-1] * (1 + polling.jitter) <= polling.max_interval * (1 + 1e-9)


def test_default_intervals_are_as_documented():
    """5 s, each a fifth longer, until one that jitter can take to 15 s."""
    assert poll_intervals(Polling()) == pytest.approx((5, 6, 7.2, 8.64, 10.368, 12.4416, 12.5))


# The heap


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=60))
def test_every_item_comes_once_at_its_latest_time(additions):
    """However often items are moved, also to where they were: each comes once, in order, never early."""
    items, wanted = [Item(rank) for rank in range(6)], {}
    schedule = of(items)
    for rank, due in additions:
        schedule.add(items[rank], due)
        wanted[rank] = due
    assert len(schedule) == len(wanted)
    seen = []
    while (due := schedule.next_due()) is not None:
        assert not list(schedule.pop_due(due - 1e-6))
        seen += [(when, item.order) for when, item in schedule.pop_due(due)]
    assert seen == sorted((due, rank) for rank, due in wanted.items())
    assert len(schedule) == 0


@given(st.lists(st.tuples(st.sampled_from("+-?"), st.integers(0, 5), st.integers(0, 9)), max_size=60))
def test_heap_agrees_with_a_plain_dictionary(steps):
    """Any order of adding, forgetting and taking out is that of a dictionary of due times."""
    items, wanted = [Item(rank) for rank in range(6)], {}
    schedule = of(items)
    for step, rank, time in steps:
        if step == "+":
            schedule.add(items[rank], time)
            wanted[rank] = time
        elif step == "-":
            schedule.discard(items[rank])
            wanted.pop(rank, None)
        else:
            due = sorted((when, each) for each, when in wanted.items() if when <= time)
            assert [(when, item.order) for when, item in schedule.pop_due(time)] == due
            wanted = {each: when for each, when in wanted.items() if when > time}
        assert (len(schedule), schedule.next_due()) == (len(wanted), min(wanted.values(), default=None))
        assert {item.order: item.due for item in items if item.due is not None} == wanted


def test_longest_due_come_first_and_equals_by_their_own_order():
    """Those who are due are taken in the order of time, equals in their own, and tell when they were due."""
    items = [Item(rank) for rank in range(4)]
    schedule = of(items)
    for item, due in zip(reversed(items), (2.0, 1.0, 2.0, 3.0), strict=True):
        schedule.add(item, due)
    assert [(due, item.order) for due, item in schedule.pop_due(2.0)] == [(1.0, 2), (2.0, 1), (2.0, 3)]
    assert (len(schedule), schedule.next_due()) == (1, 3.0)


def test_discarded_item_never_comes():
    """A task that ended is not asked for again; added anew it is. Who is not there cannot be forgotten."""
    first, second = Item(0), Item(1)
    schedule = of([first, second])
    schedule.add(first, 1.0)
    schedule.add(second, 2.0)
    schedule.discard(first)
    schedule.discard(first)
    schedule.discard(Item(2))
    assert (len(schedule), schedule.next_due()) == (1, 2.0)
    schedule.add(first, 3.0)
    assert list(schedule.pop_due(9.0)) == [(2.0, second), (3.0, first)]


def test_items_left_by_a_reader_who_stops_stay():
    """Taking out only the first of many that are due leaves the others in their places."""
    items = [Item(rank) for rank in range(3)]
    schedule = of(items)
    for item in items:
        schedule.add(item, 1.0)
    assert next(schedule.pop_due(1.0)) == (1.0, items[0])
    assert len(schedule) == 2
    assert [item for _, item in schedule.pop_due(1.0)] == items[1:]


@pytest.mark.parametrize(
    "times",
    [range(1000), range(1000, 0, -1), [1.0] * 1000, [1.0, 2.0] * 500],
    ids=["later", "sooner", "same", "to-and-fro"],
)
@pytest.mark.parametrize("count", [1, 50])
def test_moving_items_costs_no_memory(count, times):
    """However often items are moved, and wherever to, the heap holds two entries an item and 64 at most."""
    items = [Item(rank) for rank in range(count)]
    schedule = of(items)
    for time in times:
        for item in items:
            schedule.add(item, time)
            assert len(schedule._heap) <= 2 * len(schedule) + 64
    assert [item for _, item in schedule.pop_due(1e9)] == items
    assert schedule._heap == []
