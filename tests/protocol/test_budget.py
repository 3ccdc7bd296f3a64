"""The accounting of a budget: what is reserved, spent and left."""

from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from kling_async import ConfigurationError
from kling_async.protocol.budget import Budget

UNITS = st.decimals(min_value=0, max_value=100, places=2, allow_nan=False)
STEPS = st.lists(st.tuples(st.sampled_from(("reserve", "settle", "estimate")), st.integers(0, 5), UNITS))


@pytest.mark.parametrize(
    ("given_as", "limit"), [(10, "10"), (0.3, "0.3"), ("12.5", "12.5"), (Decimal("0.30"), "0.3"), (0, "0")]
)
def test_a_limit_is_taken_as_it_is_written(given_as, limit):
    """A float means what it looks like: 0.3 is three tenths."""
    assert Budget(given_as).limit == Decimal(limit)


@pytest.mark.parametrize("wrong", [-1, "-0.01", "ten", "", float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(wrong):
    """A budget is a finite number from 0, and so is what is spent of it."""
    with pytest.raises(ConfigurationError, match="number of units"):
        Budget(wrong)
    with pytest.raises(ConfigurationError, match="number of units"):
        Budget(1, spent=wrong)


def played(steps):
    """A budget of 100 after *steps*, and what is reserved and spent by them."""
    budget, held, spent = Budget(100, spent=7), {}, Decimal(7)
    for word, place, units in steps:
        if word == "reserve":
            held[budget.reserve(units)] = units
            continue
        number = next(iter(list(held)[place:]), -1)
        if number in held:
            estimate = held.pop(number)
            spent += units if word == "settle" else estimate
        budget.settle(number, units if word == "settle" else None)
    return budget, sum(held.values(), Decimal(0)), spent


@given(STEPS)
def test_each_reservation_counts_once(steps):
    """Whatever comes in whatever order: reserved until settled, then spent, and settled but once."""
    budget, reserved, spent = played(steps)
    assert (budget.reserved, budget.spent) == (reserved, spent)
    assert budget.left == 100 - reserved - spent


@given(STEPS, UNITS)
def test_what_fits_may_fit(steps, units):
    """Room that is there now is also there when what is in flight costs nothing."""
    budget, _, _ = played(steps)
    assert budget.may_fit(units) or not budget.fits(units)
    assert budget.fits(units) == (units <= budget.left)


def test_who_waits_is_woken_once_by_an_end():
    """An end may make room; a reservation never does, and neither does an end that was told already."""
    budget, woken = Budget(5), []
    budget.on_settled(lambda: woken.append("a"))
    one = budget.reserve(Decimal(5))
    assert woken == []
    budget.settle(one, Decimal(2))
    budget.on_settled(lambda: woken.append("b"))
    budget.settle(one, Decimal(1))
    assert woken == ["a"]
    assert budget.spent == 2


def test_the_figures_are_shown():
    """The repr tells what is spent and what is on its way."""
    budget = Budget(5, spent="0.5")
    budget.reserve(Decimal("1.5"))
    assert repr(budget) == "<Budget 5 units: 0.5 spent, 1.5 reserved>"
