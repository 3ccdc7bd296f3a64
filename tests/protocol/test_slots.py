"""The slots of one slot key: a given limit, and one learned from refusals."""

import random

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kling_async.protocol.slots import ALONE, FIRST_LIMIT, POLITENESS, SHARED, TEST, Slots

LATER = 1e9
"""Seconds at which every wait is over."""


def filled(slots: Slots, count: int):
    """*count* tasks accepted one after the other."""
    for _ in range(count):
        assert slots.is_free(LATER)
        slots.start()
        slots.accept()
    return slots


def refused(slots: Slots, now: float = 0.0):
    """One POST more than fits is refused at *now*."""
    slots.start()
    slots.refuse(now, random.Random(0))
    return slots


def test_given_limit_is_never_exceeded():
    """With a limit of 2 the third waits, and no acceptance raises it."""
    slots = filled(Slots.of(2), 2)
    assert not slots.is_free(0.0)
    for now in range(100):
        slots.release(float(now))
        filled(slots, 1)
        assert slots.limit == 2
        assert not slots.is_free(LATER)


def test_given_limit_above_the_account_s():
    """Ten were promised and five are there: that is learned, and a probe finds out when there are ten."""
    slots = refused(filled(Slots.of(10), 5))
    assert slots.limit == 5
    for now in range(1000, 3000, 100):
        slots.release(float(now))
        slots.start()
        slots.accept()
    assert slots.limit == 6
    filled(slots, 5)
    assert (slots.limit, slots.held) == (10, 10)
    assert not slots.is_free(LATER)


def test_resumed_tasks_beyond_the_given_limit():
    """Three of an earlier run are found while a POST is out, which is refused: still at most two."""
    slots = Slots.of(2)
    slots.start()
    for _ in range(3):
        slots.hold()
    slots.refuse(0.0, random.Random(0))
    assert slots.limit == 2
    slots.release(100.0)
    assert not slots.is_free(LATER)


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
    slots = refused(filled(Slots.of(None), 7))
    assert slots.limit == 7
    assert not slots.is_free(LATER)


def test_refusal_is_judged_once_the_posts_already_out_are_answered():
    """Five at once, three accepted and two refused: nothing leaves meanwhile, and the limit is three."""
    slots = Slots.of(None)
    for _ in range(5):
        slots.start()
    slots.accept()
    slots.refuse(0.0, random.Random(0))
    slots.accept()
    assert not slots.is_free(LATER)
    slots.refuse(0.0, random.Random(0))
    slots.accept()
    assert (slots.limit, slots.accepted) == (3, 3)


def test_task_that_ends_while_a_refusal_waits_to_be_judged():
    """Five accepted, two out: one is refused, a task ends, the other is refused. There are five slots."""
    slots = filled(Slots.of(None), 5)
    slots.start()
    slots.start()
    slots.refuse(0.0, random.Random(0))
    slots.release(0.0)
    assert not slots.is_free(LATER), "the other one is still out"
    slots.refuse(0.0, random.Random(0))
    assert (slots.limit, slots.accepted) == (5, 4)


def test_freed_slot_lets_the_refused_one_go_before_its_timer():
    """Others took a slot and the next try is seconds away: a task of ours that ends opens the way."""
    slots = refused(filled(Slots.of(None), 3))
    slots.release(0.0)
    refused(slots, 50.0)
    assert slots.opens_at > 51.0
    slots.release(50.5)
    slots.release(50.5)
    assert slots.is_free(50.5), "nothing else is ours"


def test_first_refusal_leaves_one_slot_to_others_once():
    """It was to come anyway: if nobody takes the first freed slot in `TEST` seconds, we do."""
    slots = refused(filled(Slots.of(None), 5), 1.0)
    slots.release(70.0)
    assert not slots.is_free(70.0 + TEST - 0.1)
    slots.release(80.0)
    assert slots.is_free(80.0), "only one is left"
    slots.start()
    slots.accept()
    assert not slots.is_free(80.0)
    assert slots.is_free(70.0 + TEST)
    slots.start()
    slots.accept()
    slots.release(170.0)
    assert slots.is_free(170.0)


def test_timer_doubles_up_to_thirty_seconds():
    """Others hold every slot: the tries come 1, 2, 4, 8, 16, 30, 30 s apart, give or take a fifth."""
    slots, waits, now = Slots.of(None), [], 0.0
    for _ in range(7):
        slots.start()
        slots.refuse(now, random.Random(1))
        waits.append(slots.opens_at - now)
        now = slots.opens_at
    jitter = waits[0]
    assert 0.8 <= jitter <= 1.2
    assert [round(wait / jitter) for wait in waits] == [1, 2, 4, 8, 16, 30, 30]
    slots.start()
    slots.accept()
    slots.release(0.0)
    slots.start()
    slots.refuse(now, random.Random(1))
    assert slots.opens_at - now == pytest.approx(jitter), "an acceptance begins the waits anew"


def turn(slots: Slots, now: float):
    """A task ends and the next one is accepted, as soon as it may leave."""
    slots.release(now)
    slots.start()
    slots.accept()


def shared(count: int):
    """Slots of a client that had one more than *count* and lost it to another process."""
    slots = refused(filled(Slots.of(None), count + 1))
    slots.release(0.0)
    return refused(slots, TEST)


def test_probe_follows_completions_without_a_refusal():
    """With no sign of others 5 slots are probed after 15 completions, each time; refused, nothing changes."""
    slots = refused(filled(Slots.of(None), 5))
    for _ in range(3):
        for completion in range(1, ALONE * 5 + 1):
            assert slots.limit == 5
            turn(slots, 100.0 * completion)
        assert slots.limit == 6
        refused(slots, 100.0 * ALONE * 5)
        assert slots.limit == 5


def test_accepted_probe_is_followed_by_another():
    """Where there is room it is all found at once."""
    slots = refused(filled(Slots.of(None), 5))
    for completion in range(1, ALONE * 5 + 1):
        turn(slots, 100.0 * completion)
    filled(slots, 4)
    assert slots.limit == 10
    assert refused(slots, 1600.0).limit == 9


def test_slot_lost_to_another_process():
    """For `SHARED` completions a freed slot is left to others, and probes come three times as often."""
    slots = shared(5)
    waits, probed = [], []
    for completion in range(1, SHARED + 8):
        now = 100.0 * completion
        slots.release(now)
        waits.append(max(0.0, slots.opens_at - now))
        slots.start()
        slots.accept()
        if slots.limit > 5:
            probed.append(completion)
            refused(slots, now)
    assert waits == [POLITENESS] * SHARED + [0.0] * 7
    assert probed == [5, 10, 15]


def test_last_slot_is_not_left():
    """Who has one slot takes it again at once."""
    slots = shared(1)
    slots.release(100.0)
    assert slots.is_free(100.0)


def test_probe_that_met_a_task_already_ended():
    """It is accepted, and the next POST is refused: nobody took a slot, so none is left to others for it."""
    slots = refused(filled(Slots.of(None), 5))
    for completion in range(1, ALONE * 5 + 1):
        turn(slots, 100.0 * completion)
    filled(slots, 1)
    refused(slots, 1501.0)
    assert slots.limit == 6, "though one of the six has ended"
    slots.release(1502.0)
    assert not slots.is_free(1502.0 + TEST - 0.1)
    refused(slots, 1502.0 + TEST)
    assert slots.limit == 5
    slots.release(1600.0)
    assert slots.is_free(1600.0)


def test_first_refusal_below_the_smallest_pack_tells_of_others():
    """No account has fewer than five slots: who is refused with three is not alone."""
    slots = refused(filled(Slots.of(None), 3))
    assert slots.limit == 3
    for now in (100.0, 200.0):
        slots.release(now)
        assert slots.opens_at == now + POLITENESS
        slots.start()
        slots.accept()


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
            assert self.given >= self.slots.limit
            assert self.given >= self.slots.held

    @invariant()
    def never_parked_for_ever(self) -> None:
        """With nothing out and nothing accepted, no event can come: then time alone must open the way."""
        if not self.slots.held:
            assert self.slots.is_free(self.now + TEST)


TestAccount = Account.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.integers(1, 50))
def test_any_given_limit_lets_exactly_so_many_through(limit):
    """`max_in_flight=n` is n."""
    slots = filled(Slots.of(limit), limit)
    assert not slots.is_free(LATER)
