"""Which of two states wins: every pair, and the laws that make the order of news irrelevant."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from kling_async.protocol.errors import Outcome
from kling_async.protocol.lifecycle import STATES, is_terminal, observe
from kling_async.protocol.models import Task, TaskStatus

ORDER = (
    {TaskStatus.INTENDED},
    {TaskStatus.AMBIGUOUS},
    {TaskStatus.SUBMITTED},
    {TaskStatus.UNKNOWN},
    {TaskStatus.PROCESSING},
    {TaskStatus.REFUSED, TaskStatus.GIVEN_UP, TaskStatus.LOST},
    {TaskStatus.MAY_EXIST},
    {TaskStatus.FAILED},
    {TaskStatus.SUCCEED},
)
"""The states from the weakest news to the strongest."""

PAIRS = [
    (weaker, stronger)
    for low, high in itertools.combinations(ORDER, 2)
    for weaker in sorted(low)
    for stronger in sorted(high)
]

moments = st.none() | st.integers(0, 3).map(lambda second: datetime.fromtimestamp(second, UTC))
tasks = st.builds(
    Task,
    st.sampled_from([None, "7"]),
    st.sampled_from([None, "ka-a"]),
    st.sampled_from(TaskStatus),
    created_at=st.none() | st.just(datetime.fromtimestamp(0, UTC)),
    updated_at=moments,
)


def test_every_status_has_its_place():
    """No status is without a row, and no row without a status."""
    assert set(STATES) == set(TaskStatus) == set().union(*ORDER)


@pytest.mark.parametrize(("weaker", "stronger"), PAIRS)
def test_higher_rank_wins_in_either_order(weaker, stronger):
    """Of two states the stronger one stays, whichever was seen first."""
    assert observe(Task("7", status=weaker), Task("7", status=stronger)).status is stronger
    assert observe(Task("7", status=stronger), Task("7", status=weaker)).status is stronger


@pytest.mark.parametrize("status", TaskStatus)
def test_terminal_states_are_those_from_refused_on(status):
    """What is ranked as an end is one, and nothing below it."""
    assert is_terminal(status) is any(status in row for row in ORDER[5:])


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (TaskStatus.INTENDED, Outcome.NOT_CREATED),
        (TaskStatus.AMBIGUOUS, Outcome.MAY_EXIST),
        (TaskStatus.REFUSED, Outcome.NOT_CREATED),
        (TaskStatus.MAY_EXIST, Outcome.MAY_EXIST),
        (TaskStatus.LOST, Outcome.CREATED),
        (TaskStatus.GIVEN_UP, Outcome.CREATED),
        (TaskStatus.FAILED, Outcome.CREATED),
    ],
)
def test_outcome_says_whether_a_task_exists(status, outcome):
    """Each state answers whether submitting again could pay twice."""
    assert STATES[status].outcome is outcome


@given(tasks, tasks)
def test_observing_twice_changes_nothing(known, seen):
    """News that comes again is no news."""
    once = observe(known, seen)
    assert observe(once, seen) == once


@given(st.lists(tasks, min_size=1, max_size=5), st.randoms())
def test_order_of_news_does_not_matter(news, rng):
    """Status and ids are the same in whatever order polls, callbacks and journal rows arrive."""

    def joined(tasks):
        task = tasks[0]
        for seen in tasks[1:]:
            task = observe(task, seen)
        return (
            task.status
            if len({STATES[each.status].rank for each in tasks}) == len(tasks)
            else STATES[task.status].rank,
            task.task_id,
            task.external_task_id,
        )

    shuffled = list(news)
    rng.shuffle(shuffled)
    assert joined(shuffled) == joined(news)


@given(tasks, tasks)
def test_nothing_known_is_forgotten(known, seen):
    """An id or a time that was known once stays known."""
    joined = observe(known, seen)
    for name in ("task_id", "external_task_id", "created_at"):
        if getattr(known, name) is not None or getattr(seen, name) is not None:
            assert getattr(joined, name) is not None


def test_between_equals_the_later_update_wins():
    """Two snapshots of one status: the one the server updated later is kept."""
    early, late = (
        Task(
            "7", status=TaskStatus.PROCESSING, status_message=text, updated_at=datetime.fromtimestamp(at, UTC)
        )
        for at, text in ((1, "early"), (2, "late"))
    )
    assert observe(late, early).status_message == "late"
    assert observe(early, late).status_message == "late"
