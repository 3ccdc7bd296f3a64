"""A batch that is killed again and again, in each way that the other side can behave; see `kill`."""

import asyncio
import sys
from collections import Counter

import pytest
from integration.kill import MODES, RECKLESS, kill_all, table
from integration.killing import NAMED, Mode, Tally

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

KILLS = 21
"""In each mode: the deck of points once, so that five modes hit each named point at least ten times."""


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> dict[Mode, Tally]:
    """What came of each mode; they run side by side, for most of their time is waiting."""
    folder = tmp_path_factory.mktemp("kill")
    done = asyncio.run(kill_all(folder, kills=KILLS, items=40, seed=0, deadline=900.0))
    sys.stdout.write(table(done))
    return {tally.mode: tally for tally in done}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_each_item_is_paid_once_and_arrives(tallies: dict[Mode, Tally], mode: Mode):
    """However often and wherever the process dies: no item is made twice, and each video comes home whole.

    Where nothing can look a task up, an item may be in doubt instead, and is then named so.
    """
    tally = tallies[mode]
    assert tally.problems == []
    assert (tally.doubled, tally.lost) == (0, 0)
    assert tally.kills.total() >= 20
    assert tally.made == tally.items or mode.gateway
    assert (tally.may_exist > 0) == mode.gateway


@pytest.mark.parametrize("point", NAMED)
def test_each_named_point_is_hit(tallies: dict[Mode, Tally], point: str):
    """The kills strike where they were aimed, at least ten times at each point."""
    kills = sum((tallies[mode].kills for mode in MODES), Counter[str]())
    assert kills[point] >= 10


def test_without_quarantine_it_pays_twice(tallies: dict[Mode, Tally]):
    """A client that does not wait out the look-up's lag doubles where duplicates are accepted."""
    assert tallies[RECKLESS].doubled > 0
