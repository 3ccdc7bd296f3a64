"""Learned limits against an account that changes, and shared with others: hours in virtual time."""

import asyncio
import heapq
import itertools

import pytest
import virtual_time

from kling_async import Polling
from kling_async.protocol.slots import POLITENESS
from kling_async.simulator.faults import Faults

EVERY_SECOND = Polling(factor=1, base=1, max_interval=1, jitter=0)
"""From when a task may be done: so dense that the delay of detection does not count."""
GENERATION = (67.5, 112.5)
"""Seconds a task takes, at least and at most."""
POST = 0.5
"""Seconds a create takes."""
STAGGER = 0.1
"""Seconds between the starts of clients: who is first is no matter of threads, and all ask for every slot."""


def oracle(here, slots):
    """Seconds that all tasks made take one who knows the limit and every end, and refills at once."""
    free = [0.0] * slots
    for made in here.ledger.made:
        heapq.heappush(free, heapq.heappop(free) + POST + made.ended - made.created)
    return max(free)


async def finished(kling, requests):
    """Run *requests* to their ends."""
    async for done in kling.completions(requests, timeout=None):
        assert done.ok, done.error


def began(here):
    """Unix seconds at which the loop began: a round number, and the first task was made soon after."""
    return here.ledger.made[0].created // 100 * 100


def in_flight(here, seconds):
    """How many tasks were generated at that time."""
    now = began(here) + seconds
    return sum(made.created <= now < made.ended for made in here.ledger.made)


def test_others_hold_every_slot_for_ten_minutes(world):
    """No slot for 600 s: few creates are refused, and when they are free all of ours are in use at once."""

    async def main():
        async with here.client(polling=EVERY_SECOND) as kling:
            await finished(kling, here.requests(10))
            return here.time()

    here = world(parallel=5, faults=Faults.parse("create:slots_held until=600"))
    assert virtual_time.run(main()) < 600 + 36 + 3 * 110
    creates = here.times("POST")
    accepted = creates[-10:]
    assert 600 <= accepted[0] <= 636
    assert accepted[4] - accepted[0] < 1
    assert here.ledger.outcomes["create", 1303] <= 30


def test_refusals_read_before_acceptances(world):
    """Five leave at once, the two refused are answered first: the limit is still what was accepted."""

    async def tamper(request, send):
        reply = await send()
        if request.method == "POST" and reply.status == 200:
            await asyncio.sleep(3)
        return reply

    async def main():
        async with here.client() as kling:
            handles = [kling.submit_soon(request) for request in here.requests(9)]
            await asyncio.sleep(2.9)
            assert len(here.times("POST")) == 5
            await asyncio.sleep(0.2)
            assert kling.statistics().limit == 3
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world(parallel=3, tamper=tamper)
    virtual_time.run(main())
    assert [made.body["prompt"] for made in here.ledger.made[:3]] == ["0", "1", "2"]
    assert sorted(made.body["prompt"] for made in here.ledger.made) == list("012345678")
    assert here.ledger.most_in_flight == 3


def test_limit_that_falls_and_rises(world):
    """5, then 2, then 9 slots: the lower limit is learned from refusals, the higher one from probes."""

    async def change():
        await asyncio.sleep(500)
        here.simulator.parallel = 2
        await asyncio.sleep(1500)
        here.simulator.parallel = 9

    async def main():
        async with here.client(polling=EVERY_SECOND) as kling:
            changing = asyncio.ensure_future(change())
            await finished(kling, here.requests(150))
            await changing

    here = world(parallel=5, seconds=GENERATION, latency=POST)
    virtual_time.run(main())
    assert {in_flight(here, seconds) for seconds in range(100, 500, 50)} <= {3, 4, 5}
    assert {in_flight(here, seconds) for seconds in range(800, 2000, 50)} <= {1, 2}
    risen = [in_flight(here, seconds) for seconds in range(2400, 2700, 10)]
    assert sum(risen) >= 8 * len(risen)
    assert here.ledger.most_in_flight == 9
    assert here.ledger.refused_creates <= 0.5 * 150


def test_models_with_limits_of_their_own(world):
    """Two slots for one model and four for all others: each line fills its own, whoever is refused."""

    async def main():
        async with here.client(polling=EVERY_SECOND) as kling:
            requests = [
                here.request(str(number), model_name="kling-v3" if number % 2 else "kling-v2-6")
                for number in range(24)
            ]
            handles = [kling.submit_soon(request) for request in requests]
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world(parallel=4, parallel_by_model={"kling-v3": 2}, latency=POST)
    virtual_time.run(main())
    for model, slots in (("kling-v3", 2), ("kling-v2-6", 4)):
        made = [each for each in here.ledger.made if each.body["model_name"] == model]
        ends = itertools.pairwise(each.created for each in made[slots - 1 :: slots])
        assert len(made) == 12
        assert all(later - earlier < 105 + POLITENESS for earlier, later in ends), "none was empty for long"
    assert here.ledger.most_in_flight == 6


@pytest.mark.parametrize(("slots", "most"), [(1, 1.01), (2, 1.025), (5, 1.01), (20, 1.015)])
def test_makespan_of_an_unknown_limit(world, slots, most):
    """200 tasks against slots nobody told of: hardly longer than with all knowledge, few refusals.

    With two slots the client believes that others have the other three of the smallest pack.
    """

    async def main():
        async with here.client(polling=EVERY_SECOND) as kling:
            await finished(kling, here.requests(200))
            return here.time()

    here = world(parallel=slots, seconds=GENERATION, latency=POST)
    makespan = virtual_time.run(main())
    assert makespan <= most * oracle(here, slots)
    assert here.ledger.refused_creates <= 0.5 * 200


def test_makespan_of_a_known_limit(world):
    """Told the limit, nothing is refused."""

    async def main():
        async with here.client(polling=EVERY_SECOND, max_in_flight=5) as kling:
            await finished(kling, here.requests(200))
            return here.time()

    here = world(parallel=5, seconds=GENERATION, latency=POST)
    assert virtual_time.run(main()) <= 1.02 * oracle(here, 5)
    assert here.ledger.refused_creates == 0


def test_makespan_of_a_limit_told_too_high(world):
    """Told ten where there are five: that is learned like an unknown limit."""

    async def main():
        async with here.client(polling=EVERY_SECOND, max_in_flight=10) as kling:
            await finished(kling, here.requests(200))
            return here.time()

    here = world(parallel=5, seconds=GENERATION, latency=POST)
    assert virtual_time.run(main()) <= 1.01 * oracle(here, 5)
    assert here.ledger.refused_creates <= 0.15 * 200


def together(here, seed, counts, starts):
    """Run a client for each of *counts* requests, begun at *starts*: when each one ended."""

    async def main():
        clients = [here.client(polling=Polling()) for _ in counts]
        ends = [0.0] * len(counts)

        async def work(number):
            await asyncio.sleep(starts[number])
            await finished(clients[number], [here.request(str(number)) for _ in range(counts[number])])
            ends[number] = here.time()

        await asyncio.gather(*map(work, range(len(counts))))
        for kling in clients:
            await kling.aclose()
        return ends

    here.rng.seed(seed)
    here.simulator.rng.seed(seed)
    return virtual_time.run(main())


def spans(here, number):
    """When each task of that client was generated, seconds of the loop."""
    return [
        (made.created - began(here), made.ended - began(here))
        for made in here.ledger.made
        if made.body["prompt"] == str(number)
    ]


def shares(here, count, since, until):
    """How much of all generation in that time was each client's."""
    used = [
        sum(max(0.0, min(end, until) - max(start, since)) for start, end in spans(here, number))
        for number in range(count)
    ]
    return [each / sum(used) for each in used]


@pytest.mark.parametrize("seed", range(12))
def test_three_clients_share_an_account(world, seed):
    """They begin at once and know nothing of each other: none starves, and no slot stays empty for long."""
    here = world(parallel=5, seconds=GENERATION, latency=POST)
    ends = together(here, seed, counts=(67, 67, 66), starts=(0, STAGGER, 2 * STAGGER))
    assert min(shares(here, 3, 1, min(ends))) >= 0.2, "one slot at least"
    assert max(ends) <= 1.15 * oracle(here, 5)
    assert here.ledger.refused_creates <= 200


@pytest.mark.parametrize("seed", range(2))
def test_two_clients_share_an_account(world, seed):
    """The first has every slot; the second gets one within three minutes, and its part of them in time."""
    here = world(parallel=5, seconds=GENERATION, latency=POST)
    ends = together(here, seed, counts=(100, 100), starts=(0, STAGGER))
    assert spans(here, 1)[0][0] <= 180
    assert min(shares(here, 2, 1, min(ends))) >= 0.2, "one slot at least"
    assert max(ends) <= 1.17 * oracle(here, 5)
    assert here.ledger.refused_creates <= 120


@pytest.mark.parametrize("seed", range(2))
def test_client_that_comes_late(world, seed):
    """The first was alone for ten minutes and leaves nothing to others; the second gets in all the same."""
    here = world(parallel=5, seconds=GENERATION, latency=POST)
    ends = together(here, seed, counts=(150, 50), starts=(0, 600))
    first = spans(here, 1)[0][0]
    assert first <= 600 + 1200
    assert min(shares(here, 2, first, min(ends))) >= 0.2, "one slot at least"


def test_three_clients_share_twenty_slots(world):
    """With more slots each has its part at once."""
    here = world(parallel=20, seconds=GENERATION, latency=POST)
    ends = together(here, 0, counts=(100, 100, 100), starts=(0, STAGGER, 2 * STAGGER))
    assert min(shares(here, 3, 1, min(ends))) >= 0.15
    assert max(ends) <= 1.15 * oracle(here, 20)
