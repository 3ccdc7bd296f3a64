"""How long tasks take, and when they are asked for: polls and delay against what is least, and the laws."""

import heapq
import itertools
import math
import random
import statistics

import pytest
from hypothesis import given, strategies as st

from kling_async.protocol.durations import ENOUGH, MEDIANS, SOME, WINDOW, Durations, _survival
from kling_async.protocol.schedule import Polling
from kling_async.retries import poll_intervals

NORMAL = statistics.NormalDist()
CLASS = ("image2video", "kling-v2-6", "std", "5")
SHORT = ("image2video", "kling-v2-5", "std", "5")
LONG = ("multi-image2video", "kling-v1-6", "std", "5")
STEADY = Polling(jitter=0)
SETTLED = WINDOW + 88
"""Completions after which nothing is left of how a run began."""


def median(task_class):
    """What tasks of a class are taken to need before any has ended."""
    kind, model, *_ = task_class
    return next(each for a, b, each in MEDIANS if kind.startswith(a) and model.startswith(b))


class Lognormal:
    """Durations as those of most services are, around 90 s."""

    def __init__(self, *modes):
        self.modes = modes

    def draw(self, rng):
        """Seconds that a task takes."""
        _, middle, sigma = rng.choices(self.modes, [share for share, *_ in self.modes])[0]
        return rng.lognormvariate(math.log(middle), sigma)

    def cdf(self, time):
        """The share of tasks that has ended by then."""
        return sum(share * NORMAL.cdf(math.log(time / middle) / sigma) for share, middle, sigma in self.modes)


class Uniform:
    """A quarter less to a quarter more than 90 s."""

    def draw(self, rng):
        """Seconds that a task takes."""
        return rng.uniform(67.5, 112.5)

    def cdf(self, time):
        """The share of tasks that has ended by then."""
        return min(max((time - 67.5) / 45, 0.0), 1.0)


UNIFORM = Uniform()
LOGNORMAL = Lognormal((1.0, 90, 0.25))
BIMODAL = Lognormal((0.6, 60, 0.15), (0.4, 150, 0.15))


def bound(durations, step=0.05):
    """The least that polls x mean delay can be: ``(∫ sqrt(S f) dt)² / 2``."""
    shares = [durations.cdf(step * (count + 1e-9)) for count in range(int(600 / step))]
    roots = (math.sqrt((1 - (a + b) / 2) * (b - a) * step) for a, b in itertools.pairwise(shares))
    return sum(roots) ** 2 / 2


def draws(durations, count, seed=0):
    """Seconds that each of so many tasks takes."""
    rng = random.Random(seed)
    return [durations.draw(rng) for _ in range(count)]


def simulate(seconds, task_class=CLASS, *, in_flight=20, seed=0):
    """Polls and delay of each task, in the order they are found; each is followed by the next."""
    polling, floor, left = Polling(), 1.0, iter(seconds)
    known = Durations(polling, poll_intervals(polling), floor=floor, rng=random.Random(seed))
    first = enumerate(itertools.islice(left, in_flight))
    heap = [(known.wait(task_class, 0.0), slot, 0.0, took, 1) for slot, took in first]
    heapq.heapify(heap)
    found = []
    while heap:
        now, slot, begun, took, polls = heap[0]
        if now - begun >= took:
            found.append((polls, now - begun - took))
            known.learn(task_class, took)
            begun, took, polls = now, next(left, None), 0
        if took is None:
            heapq.heappop(heap)
        else:
            due = now + known.wait(task_class, now - begun)
            heapq.heapreplace(heap, (due, slot, begun, took, polls + 1))
    return found


def means(found):
    """Polls a task, and mean delay."""
    return statistics.fmean(polls for polls, _ in found), statistics.fmean(delay for _, delay in found)


def plain(polling=STEADY, *, floor=1e-9):
    """What is known at first: nothing."""
    return Durations(polling, poll_intervals(polling), floor=floor, rng=random.Random(0))


def taught(seconds, task_class=CLASS, polling=STEADY):
    """What is known after tasks that took so long."""
    known = plain(polling)
    for each in seconds:
        known.learn(task_class, each)
    return known


def polls_until(known, end, task_class=CLASS):
    """The ages at which a task that takes *end* seconds is asked for; the last one finds it."""
    ages = [0.0]
    while ages[-1] < end:
        ages.append(ages[-1] + known.wait(task_class, ages[-1]))
    return ages[1:]


# What waiting costs


@pytest.mark.parametrize(
    ("durations", "least"),
    [(UNIFORM, 10.0), (LOGNORMAL, 20.4), (BIMODAL, 23.0)],
    ids=["uniform", "lognormal", "bimodal"],
)
def test_settled_schedule_is_near_the_least_possible(durations, least):
    """Polls x mean delay is at most 1.3 times the least that any schedule of such durations can have."""
    assert bound(durations) == pytest.approx(least, abs=0.1)
    polls, delay = means(simulate(draws(durations, 3600))[SETTLED:])
    assert polls * delay <= 1.3 * least


@pytest.mark.parametrize(
    ("durations", "most"), [(UNIFORM, 6.5), (LOGNORMAL, 13)], ids=["uniform", "lognormal"]
)
def test_twenty_in_flight_without_a_list(durations, most):
    """A task of about 90 s needs so many polls at most and is found within 2 s of its end on average."""
    polls, delay = means(simulate(draws(durations, 3600, seed=1))[SETTLED:])
    assert polls <= most
    assert delay <= 2


def test_tasks_without_memory_cost_what_fixed_polls_cost():
    """Where age tells nothing of the end, nothing is to be won: polls x delay is that of a poll every 5 s."""
    products = []
    for seed in range(4):
        rng = random.Random(seed)
        seconds = [rng.expovariate(1 / 90) for _ in range(3000)]
        polls, delay = means(simulate(seconds)[SETTLED:])
        fixed_polls, fixed_delay = means([(math.ceil(each / 5), -each % 5) for each in seconds])
        products.append(polls * delay / (fixed_polls * fixed_delay))
    assert sum(products) / len(products) <= 1.05


@pytest.mark.parametrize(
    ("wrong", "right", "times"), [(SHORT, LONG, 4), (LONG, SHORT, 0.25)], ids=["too-short", "too-long"]
)
@pytest.mark.parametrize("durations", [UNIFORM, LOGNORMAL, BIMODAL], ids=["uniform", "lognormal", "bimodal"])
def test_wrong_beginning_is_forgotten(durations, wrong, right, times):
    """Tasks that take four times or a fourth of what the reference tells: after 20 ends that costs little."""
    middle = times * median(wrong)
    assert middle == pytest.approx(median(right), rel=0.1)
    products, late = {}, 0.0
    for task_class in (wrong, right):
        found = []
        for seed in range(6):
            seconds = [each * middle / 90 for each in draws(durations, ENOUGH + 400, seed)]
            run = simulate(seconds, task_class, seed=seed)
            found += run[ENOUGH:]
            late = max(late, *(delay for _, delay in run[:ENOUGH]))
        polls, delay = means(found)
        products[task_class] = polls * delay
    assert products[wrong] <= 1.2 * products[right]
    assert late <= Polling().max_interval


@pytest.mark.parametrize("known", [24, 200, WINDOW])
@pytest.mark.parametrize("long", [3600.0, 1.7e9], ids=["an-hour", "since-1970"])
def test_one_straggler_costs_the_others_nothing(known, long):
    """One that took an hour, or whose clock was wrong: the others need a fifth or one poll more at most."""
    usual, asked = draws(UNIFORM, known), []
    for learned in (usual, [long, *usual[1:]]):
        knows = plain(floor=1.0)
        for each in learned:
            knows.learn(CLASS, each)
        asked.append(statistics.fmean(len(polls_until(knows, each)) for each in draws(UNIFORM, 200, seed=1)))
    assert asked[1] <= max(1.2 * asked[0], asked[0] + 1)


# What is learned


def test_unlearned_plan_is_that_of_what_the_reference_tells():
    """With nothing learned, tasks around the reference's 90 s are found about 2 % of that after their end."""
    known = plain(Polling())
    ends = draws(Lognormal((1.0, 90, 0.5)), 1000)
    asked = [polls_until(known, end) for end in ends]
    polls, delay = means([(len(ages), ages[-1] - end) for ages, end in zip(asked, ends, strict=True)])
    assert delay == pytest.approx(1.8, rel=0.25)
    assert polls * delay <= 1.3 * bound(Lognormal((1.0, 90, 0.5)))


@pytest.mark.parametrize(
    ("task_class", "middle"),
    [
        (SHORT, 45.0),
        (("image2video", "kling-v2-5-turbo", "pro", "10"), 45.0),
        (CLASS, 90.0),
        (("image2video", "kling-v3", "std", "5"), 90.0),
        (("image2video", "kling-v1", "std", "5"), 164.0),
        (("multi-image2video", "kling-v2-6", "std", "5"), 164.0),
        (("", "", "", ""), 164.0),
    ],
)
def test_every_class_has_a_beginning(task_class, middle):
    """The delay aimed at is 2 % of what the reference tells of the model, whatever mode and duration."""
    assert plain().plan(task_class).delay == pytest.approx(0.02 * middle)


def test_enough_ends_replace_what_the_reference_tells():
    """Two ends change nothing, from the third on their median counts, from the twentieth on their spread.

    Then nobody is asked for before the first of them; until then nobody is left alone for `max_interval`.
    """
    known, unlearned = plain(), plain().plan(CLASS)
    for count in range(ENOUGH):
        assert (known.plan(CLASS) == unlearned) is (count < SOME)
        assert known.wait(CLASS, 0.0) <= 15.0
        known.learn(CLASS, 400.0 + count)
        if SOME <= count + 1 < ENOUGH:
            assert known.plan(CLASS).delay == pytest.approx(0.02 * 400, rel=0.1)
    assert known.wait(CLASS, 0.0) >= 400.0


def test_first_poll_comes_half_a_spacing_after_the_first_end():
    """Before the first end nobody is asked for; half a spacing later, so that jitter spreads the polls."""
    known = taught(draws(UNIFORM, WINDOW))
    plan = known.plan(CLASS)
    assert plan.ends[0] == pytest.approx(67.5, abs=1)
    assert known.wait(CLASS, 0.0) == pytest.approx(plan.ends[0] + plan.waits[1] / 2, abs=0.5)


def test_narrow_span_is_worth_four_polls():
    """Where all tasks end within 10 s, the delay is not 2 % of their time, but what four polls come to."""
    ends = [95 + 10 * (draw - 67.5) / 45 for draw in draws(UNIFORM, WINDOW)]
    assert taught(ends).plan(CLASS).delay == pytest.approx(bound(UNIFORM) * 10 / 45 / 4, rel=0.1)


def test_longest_wait_also_bounds_what_is_learned():
    """Who aims at long delays is still asked for every `max_interval`, once the first end is past."""
    polls = polls_until(taught(draws(UNIFORM, 200), polling=Polling(aim=1, max_interval=2, jitter=0)), 200)
    assert polls[0] >= 67.5
    assert max(later - earlier for earlier, later in itertools.pairwise(polls)) == pytest.approx(2)


def test_one_freak_in_a_hundred_is_not_waited_for():
    """One task in 100 that ended at once does not have the others asked for from their beginning."""
    assert taught([1.0, *draws(UNIFORM, 99)]).wait(CLASS, 0.0) >= 67.5


@pytest.mark.parametrize(
    "other",
    [
        ("multi-image2video", "kling-v2-6", "std", "5"),
        ("image2video", "kling-v3", "std", "5"),
        ("image2video", "kling-v2-6", "pro", "5"),
        ("image2video", "kling-v2-6", "std", "10"),
    ],
)
def test_classes_do_not_mix(other):
    """What one model takes tells nothing of another, nor of another duration, mode or kind."""
    known = taught(draws(UNIFORM, 100))
    assert known.plan(CLASS) != plain().plan(CLASS)
    assert known.plan(other) == plain().plan(other)
    known.learn(other, 500.0)
    assert known.plan(CLASS) == taught(draws(UNIFORM, 100)).plan(CLASS)


def test_other_speed_is_learned_and_the_old_one_forgotten():
    """After 512 tasks of another speed the plan is that of one who never knew the old one."""
    old, new = draws(UNIFORM, 700), [4 * each for each in draws(UNIFORM, WINDOW, seed=1)]
    assert taught([*old, *new]).plan(CLASS) == taught(new).plan(CLASS)


def test_plan_in_use_is_renewed_with_every_eighth_end():
    """A plan that is looked at all along keeps no more than an eighth of a window of the old speed."""
    known = taught(draws(UNIFORM, 700))
    for each in draws(UNIFORM, WINDOW + WINDOW // 8, seed=1):
        known.learn(CLASS, 4 * each)
        known.plan(CLASS)
    assert known.plan(CLASS).ends[0] >= 4 * 67.5


@pytest.mark.parametrize("seconds", [0.0, -0.0, -5.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ended", [True, False])
def test_unknown_durations_are_ignored(seconds, ended):
    """Clocks that are absent, wrong or turned back teach nothing."""
    known = plain()
    for _ in range(2 * ENOUGH):
        known.learn(CLASS, seconds, ended=ended)
    assert known.plan(CLASS) == plain().plan(CLASS)


def test_equal_durations():
    """Tasks that take the same to the millisecond are found in three polls at most."""
    known = taught([100.0] * WINDOW, polling=Polling())
    polls = [polls_until(known, 100.0) for _ in range(100)]
    assert max(map(len, polls)) <= 3
    assert max(ages[-1] for ages in polls) <= 100 + Polling().max_interval


def test_nothing_aimed_at_learns_nothing():
    """Without an aim the polls come at the cumulated intervals, whatever ended and however often."""
    polling = Polling(aim=None, factor=2, base=2, max_interval=10, jitter=0)
    known = taught(draws(UNIFORM, 100), polling=polling)
    assert polls_until(known, 60) == pytest.approx([2, 6, 14, 24, 34, 44, 54, 64])
    assert known.plan(CLASS).delay == 0


# Given up


def test_survival_counts_the_given_up_as_longer():
    """Kaplan and Meier by hand: ends at 1, 3 and 5 s, given up at 2 and 4 s."""
    seen = [(5.0, True), (2.0, False), (1.0, True), (4.0, False), (3.0, True)]
    times, shares = zip(*_survival(seen), strict=True)
    assert times == (1.0, 3.0, 5.0)
    assert shares == pytest.approx((4 / 5, 4 / 5 * 2 / 3, 0.0))


def test_survival_without_given_up_falls_evenly():
    """With all ended, each end takes the same share with it."""
    points = _survival((float(place), True) for place in range(10))
    assert [share for _, share in points] == pytest.approx([1 - (place + 1) / 10 for place in range(10)])


def test_half_given_up_survive():
    """Where half are given up, survival ends at a half, and past what ended waits grow from the first on."""
    ends = draws(UNIFORM, 200)
    seen = [(each, True) for each in ends] + [(3600.0, False)] * 200
    assert _survival(seen)[-1] == (max(ends), pytest.approx(0.5))
    known = plain()
    for seconds, ended in seen:
        known.learn(CLASS, seconds, ended=ended)
    waits = poll_intervals(STEADY)
    age = known.plan(CLASS).ends[-len(waits)]
    assert sorted(ends)[-5] < age <= max(ends)
    for wait in (*waits, waits[-1], waits[-1]):
        assert known.wait(CLASS, age) == pytest.approx(wait)
        age += wait


def test_given_up_alone_are_not_enough():
    """Nothing is known of when tasks end while none has: given-up ones do not replace the reference."""
    known = plain()
    for _ in range(WINDOW):
        known.learn(CLASS, 3600.0, ended=False)
    assert known.plan(CLASS) == plain().plan(CLASS)


# Laws

pollings = st.builds(
    Polling,
    aim=st.none() | st.floats(0.001, 1),
    factor=st.floats(0.5, 60),
    base=st.floats(1, 3),
    max_interval=st.floats(1, 120),
    jitter=st.floats(0, 0.5),
)
lives = st.lists(st.tuples(st.floats(0.1, 10_000), st.booleans()), max_size=60) | st.lists(
    st.tuples(st.sampled_from([60.0, 60.5, 100.0]), st.just(True)), min_size=ENOUGH, max_size=60
)
ages = st.floats(0, 11_000)
steps = st.floats(0.5, 1.5)


def knowing(polling, lived, floor=1.0, seed=0):
    """What is known after tasks that *lived* so long and then ended, or were given up."""
    known = Durations(polling, poll_intervals(polling), floor=floor, rng=random.Random(seed))
    for seconds, ended in lived:
        known.learn(CLASS, seconds, ended=ended)
    return known


@given(pollings, lives, ages, steps)
def test_next_poll_is_later(polling, lived, age, step):
    """A task is never due when it was just seen: polls come to no standstill."""
    assert knowing(polling, lived).plan(CLASS).next(age, step) > age


@given(pollings, lives, st.tuples(ages, ages), st.tuples(steps, steps))
def test_next_poll_grows_with_age_and_step(polling, lived, between, stepped):
    """Who was seen later, or is to be spread further, is asked for no sooner."""
    plan = knowing(polling, lived).plan(CLASS)
    (young, old), (near, far) = sorted(between), sorted(stepped)
    bit = 1e-9 * (1 + old)
    assert plan.next(young, near) <= plan.next(old, near) + bit
    assert plan.next(young, near) <= plan.next(young, far) + bit


@given(st.floats(0.5, 60), st.floats(1, 3), st.floats(1, 120))
def test_intervals_alone_are_kept_to(factor, base, longest):
    """Without aim and jitter, polls come at the cumulated intervals, the last of which repeats."""
    polling = Polling(aim=None, factor=factor, base=base, max_interval=longest, jitter=0)
    waits = poll_intervals(polling)
    expected = list(itertools.accumulate([*waits, waits[-1], waits[-1]]))
    known = plain(polling)
    assert polls_until(known, expected[-1] * (1 - 1e-9)) == pytest.approx(expected)


@given(pollings, lives, ages, st.floats(0.1, 60), st.integers(0, 99))
def test_wait_keeps_the_floor(polling, lived, age, floor, seed):
    """No wait is under the floor."""
    assert knowing(polling, lived, floor, seed).wait(CLASS, age) >= floor


@pytest.mark.parametrize(("ends", "late"), [(2, 0.0), (3, 30.0), (19, 190.0), (40, 380.0)])
def test_late_is_what_19_of_20_are_not(ends, late):
    """Of fewer than three nothing is late, of fewer than twenty whoever outlives all of them."""
    known = plain(Polling())
    for number in range(1, ends + 1):
        known.learn(CLASS, 10.0 * number)
    assert known.plan(CLASS).late == late


@given(pollings, lives, ages, st.integers(0, 99))
def test_no_wait_is_over_the_longest(polling, lived, age, seed):
    """None is over `max_interval`: always while nothing is learned, then from the first learned end on."""
    known = knowing(polling, lived, floor=1e-3, seed=seed)
    ended = sorted(seconds for seconds, ended in lived if ended)
    if polling.aim is not None and len(ended) >= ENOUGH:
        age = max(age, ended[0])
    assert known.wait(CLASS, age) <= polling.max_interval * (1 + 1e-9)


@given(pollings, lives)
def test_waits_are_spread_by_the_jitter_alone(polling, lived):
    """Two who know the same ask at times that differ by the jitter: between shortest and longest step."""
    plan = knowing(polling, lived).plan(CLASS)
    known = knowing(polling, lived, floor=1e-9, seed=1)
    shortest, longest = plan.next(0.0, 1 - polling.jitter), plan.next(0.0, 1 + polling.jitter)
    for _ in range(5):
        assert shortest * (1 - 1e-9) <= known.wait(CLASS, 0.0) <= longest * (1 + 1e-9)
