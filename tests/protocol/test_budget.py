"""The accounting of a budget: what is reserved, spent and left."""

from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from kling_async import ConfigurationError
from kling_async.protocol.budget import Budget

UNITS = st.decimals(min_value=0, max_value=100, places=2, allow_nan=False)
STEPS = st.lists(st.tuples(st.sampled_from(("reserve", "settle")), st.sampled_from("abcde"), UNITS))


@pytest.mark.parametrize(
    ("given_as", "limit"), [(10, "10"), (0.3, "0.3"), ("12.5", "12.5"), (Decimal("0.30"), "0.3"), (0, "0")]
)
def test_a_limit_is_taken_as_it_is_written(given_as, limit):
    """A float means what it looks like: 0.3 is three tenths."""
    assert Budget(given_as).limit == Decimal(limit)


@pytest.mark.parametrize("wrong", [-1, "-0.01", "ten", "", float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(wrong):
    """A budget is a finite number from 0."""
    with pytest.raises(ConfigurationError, match="number of units"):
        Budget(wrong)


@given(STEPS)
def test_sums_are_those_of_the_last_words(steps):
    """Whatever comes in whatever order, of each task the last word counts, and counts once."""
    budget, reserved, spent = Budget(1000), {}, {}
    for word, name, units in steps:
        reserved.pop(name, None)
        spent.pop(name, None)
        (reserved if word == "reserve" else spent)[name] = units
        getattr(budget, word)(name, units)
    assert budget.reserved == sum(reserved.values())
    assert budget.spent == sum(spent.values())
    assert budget.left == 1000 - budget.reserved - budget.spent


@given(STEPS, UNITS)
def test_what_fits_may_fit(steps, units):
    """Room that is there now is also there when what is in flight costs nothing."""
    budget = Budget(100)
    for word, name, cost in steps:
        getattr(budget, word)(name, cost)
    assert budget.may_fit(units) or not budget.fits(units)
    assert budget.fits(units) == (units <= budget.left)


def test_who_waits_is_woken_once_by_an_end():
    """An end may make room; a reservation never does."""
    budget, woken = Budget(5), []
    budget.on_settled(lambda: woken.append("a"))
    budget.reserve("one", Decimal(5))
    assert woken == []
    budget.settle("one", Decimal(2))
    budget.settle("two", Decimal(1))
    assert woken == ["a"]


def test_the_figures_are_shown():
    """The repr tells what is spent and what is on its way."""
    budget = Budget(5)
    budget.reserve("one", Decimal("1.5"))
    assert repr(budget) == "<Budget 5 units: 0 spent, 1.5 reserved>"
