"""Reading a provider's list: how much of it, whether at all, and that a list that moves hides nobody."""

import math
import random

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kling_async.protocol.pages import FIRST_PAUSE, LARGEST, LAST, LONGEST_PAUSE, Pages, Sweep


def sweep_of(count, page_size=10, pages=1):
    """A reading in search of tasks 0, 1, 2 ..., with page size and number."""
    return Sweep({str(number): number for number in range(count)}, page_size, pages)


def read(sweep, listing):
    """One reader reads *listing*, which stands still; the tasks found, in the order they were."""
    found = []
    while (page := sweep.take()) is not None:
        entries = listing[(page - 1) * sweep.page_size : page * sweep.page_size]
        found += [task for _, task in sweep.look(page, entries)]
    return found


def ended(found, pages_read, depth=0):
    """A reading that is over."""
    return Sweep[str]({}, 10, 1, read=pages_read, found=found, depth=depth)


# Pages: how much


@pytest.mark.parametrize(
    ("depth", "in_flight", "extent"),
    [
        (0, 1, (6, 1)),
        (0, 20, (30, 1)),
        (0, 396, (500, 1)),
        (0, 397, (500, 2)),
        (0, 100_000, (500, 251)),
        (0, 10_000_000, (500, 1000)),
        (1, 20, (30, 1)),
        (60, 20, (80, 1)),
        (396, 20, (500, 1)),
        (397, 20, (500, 2)),
        (100_000, 20, (500, 251)),
        (10_000_000, 20, (500, 1000)),
    ],
)
def test_extent(depth, in_flight, extent):
    """A quarter more than held all last time and than are in flight; no page or number is too high."""
    assert Pages(depth).extent(in_flight) == extent


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_extent_holds_what_it_promises(depth, in_flight):
    """The pages hold more than lay there last time and are in flight, but for what no list can show."""
    page_size, pages = Pages(depth).extent(in_flight)
    assert 1 <= page_size <= LARGEST
    assert 1 <= pages <= LAST
    assert page_size * pages > max(depth, in_flight) or pages == LAST
    assert pages == 1 or page_size == LARGEST


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_extent_grows_with_the_tasks(depth, few, many):
    """Who has more tasks in flight, or found them deeper, reads no less."""
    few, many = sorted((few, many))
    assert math.prod(Pages(depth).extent(few)) <= math.prod(Pages(depth).extent(many))
    assert math.prod(Pages(few).extent(1)) <= math.prod(Pages(many).extent(1))


@pytest.mark.parametrize(
    ("depth", "due", "in_flight", "spares"),
    [
        (0, 1, 1, False),
        (0, 2, 2, True),
        (0, 2, 397, False),
        (0, 3, 397, True),
        (1000, 3, 3, False),
        (1000, 4, 4, True),
        (0, 251, 100_000, False),
        (0, 252, 100_000, True),
    ],
)
def test_list_is_read_where_it_takes_fewer_requests(depth, due, in_flight, spares):
    """As many pages as tasks are due spare nothing; one page fewer does."""
    assert Pages(depth).spares(due, in_flight, 0.0) is spares


# Pages: whether


def test_reading_that_spared_tells_where_tasks_lie():
    """Two tasks on one page: their depth counts from now on, and nothing pauses."""
    pages = Pages()
    pages.learn(ended(found=2, pages_read=1, depth=300), 50.0)
    assert (pages.depth, pages.paused_until) == (300, 0.0)
    pages.learn(ended(found=5, pages_read=2, depth=7), 60.0)
    assert pages.depth == 7


@pytest.mark.parametrize(("found", "pages_read"), [(0, 1), (1, 1), (3, 3), (3, 7)])
def test_reading_in_vain_leaves_the_list_alone(found, pages_read):
    """As many pages as tasks spared nothing: for a minute the list is let be, then it is read deeper."""
    pages = Pages(depth=40)
    pages.learn(ended(found, pages_read, depth=3), 100.0)
    assert not pages.spares(20, 20, 100.0)
    assert not pages.spares(20, 20, 100.0 + FIRST_PAUSE - 1e-3)
    assert pages.spares(20, 20, 100.0 + FIRST_PAUSE)
    assert pages.depth == 20  # twice the page of ten that was expected to do


def test_pause_doubles_up_to_an_hour_and_ends_with_success():
    """1, 2, 4 ... 60, 60 minutes; after one that spared, one in vain is forgiven, then it is a minute."""
    pages, now, pauses = Pages(), 0.0, []
    for _ in range(9):
        pages.learn(ended(found=0, pages_read=1), now)
        pauses.append((pages.paused_until - now) / 60)
        now = pages.paused_until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pauses[-1] * 60 == LONGEST_PAUSE
    pages.learn(ended(found=2, pages_read=1, depth=2), now)
    pages.learn(ended(found=0, pages_read=1), now)
    assert pages.paused_until == now
    pages.learn(ended(found=0, pages_read=1), now)
    assert pages.paused_until == now + FIRST_PAUSE


# A list that stands still


def test_all_on_the_expected_pages_are_found_there():
    """25 tasks at the list's beginning: three pages of ten, in any order, and depth is that of the last."""
    ours = [str(number) for number in range(25)]
    random.Random(0).shuffle(ours)
    sweep = sweep_of(25, pages=3)
    assert read(sweep, [*ours, *["other"] * 50]) == [int(each) for each in ours]
    assert (sweep.read, sweep.found, sweep.depth, sweep.wanted) == (3, 25, 25, {})


def test_reading_ends_when_all_are_found():
    """What the first page tells is not sought on the second, however many were expected."""
    sweep = sweep_of(2, pages=5)
    assert read(sweep, ["x", "0", "y", "1", *"abcdefghij"]) == [0, 1]
    assert (sweep.read, sweep.depth) == (1, 4)


def test_page_in_vain_ends_it():
    """Past the expected pages, one with none of ours ends it: the rest is asked alone."""
    listing = ["0", *"abcdefghi", *"klmnopqrst", "1", *"ABCDEFGHI", *"KLMNOPQRST", "2", *"yzyzyzyzy"]
    sweep = sweep_of(6, pages=3)
    assert read(sweep, listing) == [0, 1]
    assert (sweep.read, "2" in sweep.wanted) == (4, True)


@pytest.mark.parametrize("listing", [[], ["x"], ["x"] * 9])
def test_short_page_ends_it(listing):
    """A page that is not full is the last of the list."""
    sweep = sweep_of(30, pages=3)
    assert read(sweep, ["0", *listing][:9]) == [0]
    assert sweep.read == 1


@pytest.mark.parametrize(
    ("ours", "on_a_page", "pages_read"), [(20, 2, 7), (20, 10, 2), (20, 1, 10), (21, 1, 11)]
)
def test_it_goes_on_past_the_expected_pages_while_that_spares(ours, on_a_page, pages_read):
    """Tasks lie deeper: it goes on while every page tells of some and fewer were read than are left."""
    listing = []
    for first in range(0, ours, on_a_page):
        listing += [str(first + place) if place < on_a_page else "x" for place in range(10)]
    sweep = sweep_of(ours, pages=1)
    assert read(sweep, listing) == list(range(pages_read * on_a_page))
    assert sweep.read == pages_read


def test_nobody_sought_reads_nothing():
    """With nobody to look for, there is no page to read."""
    assert sweep_of(0).take() is None


def test_last_page_is_the_last():
    """No page beyond the highest number is asked for, whoever may lie there."""
    sweep = sweep_of(3 * LAST, page_size=1, pages=LAST)
    read(sweep, list(sweep.wanted))
    assert (sweep.read, len(sweep.wanted)) == (LAST, 2 * LAST)


@pytest.mark.parametrize("task_ids", [[None] * 10, [None, "0", None, "0", *[None] * 6]])
def test_entries_without_an_id_and_repeated_ones(task_ids):
    """Entries that name no task are nobody's; a task that stands twice on a page is found once."""
    sweep = sweep_of(2)
    page = sweep.take()
    assert page == 1
    assert list(sweep.look(page, task_ids)) == ([(1, 0)] if "0" in task_ids else [])
    assert list(sweep.wanted) == (["1"] if "0" in task_ids else ["0", "1"])


def test_several_readers_share_the_expected_pages():
    """Three readers take three pages at once; a fourth page is read by one alone, once it spares."""
    sweep = sweep_of(20, page_size=5, pages=3)
    assert [sweep.take() for _ in range(4)] == [1, 2, 3, None]
    for page in (3, 1, 2):
        assert sweep.out == {3: 3, 1: 2, 2: 1}[page]
        assert sweep.take() is None
        list(sweep.look(page, [str(page * 5 + place - 5) for place in range(5)]))
    assert (sweep.take(), sweep.take(), sweep.depth) == (4, None, 15)


def test_failed_page_ends_it():
    """After a page that could not be read no other is asked for; those being read still count."""
    sweep = sweep_of(20, pages=3)
    assert [sweep.take(), sweep.take()] == [1, 2]
    sweep.stop()
    assert sweep.take() is None
    assert [task for _, task in sweep.look(2, ["7", *"abcdefghi"])] == [7]
    assert (sweep.take(), sweep.out, sweep.read) == (None, 0, 1)


def test_tasks_behind_those_of_others_are_found_in_the_end():
    """Twenty tasks behind 300 others: each reading in vain looks deeper, and then the depth is known."""
    listing = [*["other"] * 300, *[str(number) for number in range(20)], *["other"] * 300]
    pages, now, sizes = Pages(), 0.0, []
    while not pages.depth or now < pages.paused_until:
        now = max(now, pages.paused_until)
        sweep = sweep_of(20, *pages.extent(20))
        read(sweep, listing)
        pages.learn(sweep, now)
        sizes.append(sweep.page_size)
    assert sizes == [30, 80, 205, 500]
    assert pages.depth == 320


# A list that moves


class MovingList(RuleBasedStateMachine):
    """Several readers of a list that grows, shrinks and is put in another order while they read."""

    @initialize(
        ours=st.integers(1, 25),
        others=st.integers(0, 60),
        missing=st.integers(0, 5),
        page_size=st.integers(1, 12),
        pages=st.integers(1, 6),
        order=st.randoms(use_true_random=False),
        mixed=st.booleans(),
    )
    def begin(self, ours, others, missing, page_size, pages, order, mixed):
        """Some of those sought are not in the list at all."""
        self.sought = {str(number): number for number in range(ours + missing)}
        self.sweep = Sweep(dict(self.sought), page_size, pages)
        self.listing = [str(number) for number in range(ours)] + ["x"] * others
        if mixed:
            order.shuffle(self.listing)
        self.out, self.taken, self.found, self.failed, self.in_vain = [], [], [], 0, False

    @rule(readers=st.integers(1, 3))
    def take(self, readers):
        """Readers that are free ask for a page: the next one, if any, and none after one in vain."""
        for _ in range(readers):
            page = self.sweep.take()
            if page is None:
                break
            assert not self.in_vain
            assert not self.failed
            self.taken.append(page)
            self.out.append((page, None))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 9))
    def answer(self, which):
        """The provider takes its look at the list: what it saw is under way."""
        place = which % len(self.out)
        page, seen = self.out[place]
        size = self.sweep.page_size
        if seen is None:
            self.out[place] = (page, self.listing[(page - 1) * size : page * size])

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 9))
    def look(self, which):
        """A page arrives, the oldest or another."""
        self.answer(which)
        page, seen = self.out.pop(which % len(self.out))
        found = [task for _, task in self.sweep.look(page, seen)]
        self.found += found
        self.in_vain = self.in_vain or (page >= self.sweep.pages and not found)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 9))
    def fail(self, which):
        """A page cannot be read."""
        self.out.pop(which % len(self.out))
        self.failed += 1
        self.sweep.stop()

    @rule(place=st.integers(0, 99), count=st.integers(1, 10))
    def grow(self, place, count):
        """New tasks move all behind them to later pages."""
        place %= len(self.listing) + 1
        self.listing[place:place] = ["new"] * count

    @rule(place=st.integers(0, 99), count=st.integers(1, 10))
    def shrink(self, place, count):
        """Tasks that are purged move all behind them to earlier pages."""
        del self.listing[place : place + count]

    @rule(order=st.randoms(use_true_random=False))
    def sort(self, order):
        """The list is in another order."""
        order.shuffle(self.listing)

    @invariant()
    def everyone_is_yielded_once_or_still_wanted(self):
        """Nobody comes twice, and nobody is lost."""
        found = sorted(self.found)
        assert sorted([*found, *self.sweep.wanted.values()]) == list(self.sought.values())

    @invariant()
    def pages_are_taken_in_turn(self):
        """Each page is read by one reader."""
        assert self.taken == list(range(1, len(self.taken) + 1))

    @invariant()
    def counts_are_right(self):
        """What the sweep tells of itself is what happened."""
        sweep = self.sweep
        assert (sweep.out, sweep.found) == (len(self.out), len(self.found))
        assert sweep.read == len(self.taken) - len(self.out) - self.failed
        assert sweep.depth <= len(self.taken) * sweep.page_size
        assert (sweep.depth > 0) is (sweep.found > 0)

    @invariant()
    def costs_no_more_than_the_expected_pages(self):
        """All pages, and a request for each who was not found: at most what singles take and those pages."""
        assert len(self.taken) <= self.sweep.found + max(self.sweep.pages, 1)

    def teardown(self):
        """Whatever happened, reading comes to an end, and then stays there."""
        if not hasattr(self, "sweep"):
            return
        for _ in range(len(self.sought) + self.sweep.pages + 1):
            self.take(1)
            while self.out:
                self.look(0)
        assert self.sweep.take() is None
        assert self.sweep.out == 0
        self.everyone_is_yielded_once_or_still_wanted()
        self.counts_are_right()
        self.costs_no_more_than_the_expected_pages()


TestMovingList = MovingList.TestCase
TestMovingList.settings = settings(max_examples=80, stateful_step_count=30)
