"""Learned limits against an account that changes, and shared with others: hours in virtual time."""

import asyncio
import heapq
import itertools

import pytest
import virtual_time

from kling_async import Polling
from kling_async.simulator.faults import Faults

EVERY_SECOND = Polling(factor=1, base=1, max_interval=1, jitter=0)
"""So dense that the delay of detection does not count."""
EVERY_FOUR = Polling(factor=4, base=1, max_interval=4, jitter=0.2)
"""A mean delay of detection of two seconds."""
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


def in_flight(here, seconds):
    """How many tasks were generated at that time."""
    now = here.ledger.made[0].created - here.ledger.made[0].created % 1 + seconds
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
        assert all(later - earlier < 115 for earlier, later in ends), "no slot of it was ever left empty"
    assert here.ledger.most_in_flight == 6


@pytest.mark.parametrize("slots", [1, 2, 5, 20])
def test_makespan_of_an_unknown_limit(world, slots):
    """200 tasks against slots nobody told of: hardly longer than with all knowledge, few refusals."""

    async def main():
        async with here.client(polling=EVERY_SECOND) as kling:
            await finished(kling, here.requests(200))
            return here.time()

    here = world(parallel=slots, seconds=GENERATION, latency=POST)
    makespan = virtual_time.run(main())
    assert makespan <= 1.03 * oracle(here, slots)
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


@pytest.mark.parametrize("seed", range(12))
def test_three_clients_share_an_account(world, seed):
    """They begin at once and know nothing of each other: none starves, and no slot stays empty for long."""

    async def main():
        clients = [here.client(polling=EVERY_FOUR) for _ in range(3)]
        requests = here.requests(200)

        async def work(number):
            await asyncio.sleep(number * STAGGER)
            await finished(clients[number], requests[number::3])
            ends.append(here.time())

        await asyncio.gather(*map(work, range(3)))
        for kling in clients:
            await kling.aclose()

    ends = []
    here = world(parallel=5, seconds=GENERATION, latency=POST)
    here.rng.seed(seed)
    here.simulator.rng.seed(seed)
    virtual_time.run(main())
    start, all_work = here.ledger.made[0].created, min(ends)
    shares = [0.0] * 3
    for made in here.ledger.made:
        used = min(made.ended - start, all_work) - min(made.created - start, all_work)
        shares[int(made.body["prompt"]) % 3] += used
    assert min(shares) >= 0.2 * sum(shares), "one slot at least"
    assert max(ends) <= 1.15 * oracle(here, 5)
    assert here.ledger.refused_creates <= 200
