"""The slots of one slot key: a given limit, and one learned from refusals."""

import random

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kling_async.protocol.slots import ALONE, FIRST_LIMIT, LONGEST_WAIT, POLITENESS, SHARED, Slots

LATER = 100.0
"""Seconds at which every wait that began at 0 is over."""


def filled(slots: Slots, count: int):
    """*count* tasks accepted one after the other."""
    for _ in range(count):
        assert slots.is_free(LATER)
        slots.start()
        slots.accept()
    return slots


def test_given_limit_is_never_exceeded_and_never_learned():
    """With a limit of 2 the third waits, and acceptances do not raise it."""
    slots = filled(Slots.of(2), 2)
    assert not slots.is_free(0.0)
    assert slots.limit == 2
    slots.release(0.0)
    assert slots.is_free(0.0)


def test_slot_is_held_while_the_post_is_out():
    """A POST without an answer occupies its slot as a task does."""
    slots = Slots.of(1)
    slots.start()
    assert not slots.is_free(0.0)
    slots.fail()
    assert slots.is_free(0.0)


def test_learned_limit_grows_with_each_acceptance_until_refused():
    """Without a given limit, 20 acceptances in a row are all let through."""
    slots = filled(Slots.of(None), 20)
    assert slots.limit > 20 > FIRST_LIMIT


def test_refusal_measures_the_limit():
    """Seven accepted and the eighth refused: the limit is seven."""
    slots = filled(Slots.of(None), 7)
    slots.start()
    slots.refuse(0.0, random.Random(0))
    assert slots.limit == 7
    assert not slots.is_free(1e9)


def test_refusal_is_judged_once_the_posts_already_out_are_answered():
    """Five at once, three accepted and two refused: nothing leaves meanwhile, and the limit is three."""
    slots = Slots.of(None)
    for _ in range(5):
        slots.start()
    slots.accept()
    slots.refuse(0.0, random.Random(0))
    slots.accept()
    assert not slots.is_free(100.0)
    slots.refuse(0.0, random.Random(0))
    slots.accept()
    assert (slots.limit, slots.accepted) == (3, 3)


def test_freed_slot_lets_the_refused_one_go_before_its_timer():
    """A task of ours that ends opens the way a moment later, for others wait too; our last one at once."""
    slots = filled(Slots.of(None), 2)
    slots.start()
    slots.refuse(50.0, random.Random(0))
    slots.release(60.0)
    assert not slots.is_free(60.0 + POLITENESS - 0.1)
    assert slots.is_free(60.0 + POLITENESS)
    slots.release(60.5)
    assert slots.is_free(60.5), "nothing else is ours"


def test_timer_doubles_up_to_thirty_seconds():
    """Others hold every slot: the tries come 1, 2, 4, 8, 16, 30, 30 s apart, give or take a fifth."""
    slots, waits, now = Slots.of(None), [], 0.0
    for _ in range(7):
        slots.start()
        slots.refuse(now, random.Random(1))
        waits.append(slots.retry_at - now)
        now = slots.retry_at
    jitter = waits[0]
    assert 0.8 <= jitter <= 1.2
    assert [round(wait / jitter) for wait in waits] == [1, 2, 4, 8, 16, 30, 30]
    slots.start()
    slots.accept()
    slots.release(0.0)
    slots.start()
    slots.refuse(now, random.Random(1))
    assert slots.retry_at - now == pytest.approx(jitter), "an acceptance begins the waits anew"


def test_probe_after_as_many_completions_as_the_limit():
    """A limit of 3 learned from a refusal is tried at 4 after three completions without another."""
    slots = filled(Slots.of(None), 3)
    slots.start()
    slots.refuse(0.0, random.Random(0))
    for _ in range(2):
        slots.release(0.0)
        filled(slots, 1)
        assert slots.limit == 3
    slots.release(0.0)
    assert slots.limit == 4


def probes_until(slots: Slots, limit: int) -> int:
    """How many completions it takes until one more than *limit* is tried; then that one is refused."""
    completions = 0
    while slots.limit == limit:
        slots.release(0.0)
        completions += 1
        while slots.held < limit:
            filled(slots, 1)
    slots.start()
    slots.refuse(0.0, random.Random(0))
    assert slots.limit == limit
    return completions


def test_politeness_ends_with_the_others():
    """After `SHARED` completions without another such refusal, a freed slot is taken at once again."""
    slots = filled(Slots.of(None), 3)
    slots.start()
    slots.refuse(0.0, random.Random(0))
    waits = []
    for now in range(100, 100 * (SHARED + 3), 100):
        slots.release(now)
        waits.append(slots.retry_at - now)
        slots.start()
        slots.accept()
    assert waits == [POLITENESS] * SHARED + [0.0] * 2


def test_probes_become_rarer_alone():
    """With no sign of others, a limit of 3 is probed after nine completions in place of three."""
    slots = filled(Slots.of(None), 3)
    slots.start()
    slots.refuse(0.0, random.Random(0))
    gaps = [probes_until(slots, 3) for _ in range(SHARED // 3 + 3)]
    assert gaps == [3] * (SHARED // 3) + [3 * ALONE] * 3


def test_refusal_below_what_is_known_is_no_probe():
    """Another process took a slot: the limit shrinks, and probes do not become rarer for it."""
    slots = filled(Slots.of(None), 3)
    slots.start()
    slots.refuse(0.0, random.Random(0))
    slots.release(0.0)
    slots.start()
    slots.refuse(0.0, random.Random(0))
    assert slots.limit == 2
    assert probes_until(slots, 2) == 2


class Account(RuleBasedStateMachine):
    """Slots against a server with a limit of its own, of which other processes hold a changing part."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(0)
        self.now = 0.0
        self.others = 0
        self.given = self.rng.choice([None, 3])
        self.slots = Slots.of(self.given)
        self.tasks = 0

    @precondition(lambda self: self.slots.is_free(self.now))
    @rule()
    def start(self) -> None:
        """A request leaves as soon as it may."""
        self.slots.start()

    @precondition(lambda self: self.slots.posting)
    @rule()
    def answer(self) -> None:
        """The server answers by what it has."""
        if self.tasks + self.others < 6:
            self.tasks += 1
            self.slots.accept()
        else:
            self.slots.refuse(self.now, self.rng)

    @precondition(lambda self: self.slots.posting)
    @rule()
    def fail(self) -> None:
        """A POST fails."""
        self.slots.fail()

    @precondition(lambda self: self.tasks)
    @rule()
    def end(self) -> None:
        """A task ends."""
        self.tasks -= 1
        self.slots.release(self.now)

    @rule(others=st.integers(0, 6))
    def change_others(self, others: int) -> None:
        """Other processes take or free slots."""
        self.others = others

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @invariant()
    def counts_are_true(self) -> None:
        """What is accepted is what the server has of ours, and a given limit holds."""
        assert self.slots.accepted == self.tasks
        assert self.slots.posting >= 0
        assert self.slots.limit >= 1
        if self.given is not None:
            assert self.slots.limit == self.given >= self.slots.held

    @invariant()
    def never_parked_for_ever(self) -> None:
        """With nothing out and nothing accepted, no event can come: then time alone must open the way."""
        if not self.slots.held:
            assert self.slots.is_free(self.now + LONGEST_WAIT * 1.2)


TestAccount = Account.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 50))
def test_any_given_limit_lets_exactly_so_many_through(limit):
    """`max_in_flight=n` is n."""
    slots = filled(Slots.of(limit), limit)
    assert not slots.is_free(1e9)
