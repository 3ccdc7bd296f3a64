"""Streams that are held to a budget, in virtual time against the simulator."""

import asyncio
import contextlib
import random
import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest
import virtual_time

from kling_async import (
    COMETAPI,
    KLING,
    BudgetError,
    ConfigurationError,
    ImageToVideo,
    KlingError,
    Outcome,
    Polling,
    TaskFailedError,
    TaskStatus,
    new_api,
)
from kling_async.checking import estimate, spent
from kling_async.protocol.budget import Budget
from kling_async.protocol.prices import Prices
from kling_async.protocol.wire import Response

FAILS = "please fail"


def read(here, requests, budget, **options):
    """The completions of *requests* under *budget*, and what was spent by then."""

    async def main():
        async with here.client(**options) as kling:
            return [done async for done in kling.completions(requests, budget=budget)]

    return virtual_time.run(main())


def charged(here):
    """Units that the simulated Kling deducted."""
    return sum((made.units for made in here.ledger.made), Decimal(0))


def shuffled(rng, here):
    """A random batch: models, modes, lengths and sounds that have a price; some fail, some have no price."""
    for number in range(rng.randint(1, 9)):
        prompt = f"{FAILS} {number}" if rng.random() < 0.25 else str(number)
        model, mode, seconds, sound = rng.choice(
            [
                ("kling-v2-6", "std", 5, "off"),
                ("kling-v2-6", "std", 10, None),
                ("kling-v2-6", "pro", 5, "on"),
                ("kling-v2-5-turbo", "pro", 10, None),
                ("kling-v3", "std", rng.randint(3, 15), rng.choice(["on", "off"])),
                ("kling-v3", "4k", 3, None),
                ("kling-v1-6", "std", 5, None),
            ]
        )
        yield here.request(prompt, model_name=model, mode=mode, duration=seconds, sound=sound)


@pytest.mark.parametrize("seed", range(20))
def test_a_budget_is_never_exceeded(world, seed):
    """In a thousand random batches, fifty a case, never more is spent than the limit.

    What is left is less than any priced request costs that was not made, so nothing that fits is left out.
    """
    rng = random.Random(seed)
    for _ in range(50):
        here = world(seconds=(10.0, 200.0), fail_marker=FAILS, parallel=rng.choice([None, 1, 3]))
        requests = list(shuffled(rng, here))
        budget = Budget(rng.choice([0, rng.randint(1, 12), rng.randint(10, 60)]))
        completions = read(here, requests, budget, max_in_flight=rng.choice([None, 1, 2, 5]))
        assert len(completions) == len(requests)
        assert charged(here) == budget.spent <= budget.limit
        assert budget.reserved == 0
        left_out = [done for done in completions if isinstance(done.error, BudgetError)]
        assert len(here.ledger.made) == len(requests) - len(left_out)
        for done in left_out:
            cost = estimate(done.request)
            assert cost is None or cost > budget.left
            assert done.error.outcome is Outcome.NOT_CREATED


def test_reservations_never_cross_the_limit(world):
    """While three run, a fourth that would fit only if one of them failed waits, and goes when one did."""
    here = world(seconds=100.0, fail_marker=FAILS)
    requests = [here.request(FAILS), here.request("1"), here.request("2"), here.request("3")]
    completions = read(here, requests, 4.5)
    assert [done.error is None for done in sorted(completions, key=lambda done: done.index)] == [
        False,
        True,
        True,
        True,
    ]
    assert here.times("POST") == [0.0, 0.0, 0.0, 100.0]
    assert charged(here) == Decimal("4.5")


def test_nobody_else_waits_for_a_budget(world):
    """What waits for room leaves its place to those behind it that fit, and to others of the client."""

    async def main():
        async with here.client() as kling:
            dear = here.request("dear", mode="pro", duration=10)
            stream = kling.completions([here.request(FAILS), dear, here.request("cheap")], budget=6)
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(10)
            other = asyncio.ensure_future(kling.run(here.request("another")))
            seen = [await reading, *[each async for each in stream]]
            await other
            return seen

    here = world(seconds=100.0, fail_marker=FAILS)
    seen = virtual_time.run(main())
    assert {done.request.prompt: done.error is None for done in seen} == {
        FAILS: False,
        "dear": False,
        "cheap": True,
    }
    assert here.times("POST") == [0.0, 0.0, 10.0]


def test_what_waits_goes_when_there_is_room(world):
    """A dear request behind one that fails is made when that has failed; the first that waits goes first."""
    here = world(seconds=lambda body: 50.0 if body["prompt"] == FAILS else 100.0, fail_marker=FAILS)
    dear = {"mode": "pro", "duration": 10}
    requests = [here.request(FAILS, **dear), here.request("1", **dear), here.request("2", **dear)]
    budget = Budget(6)
    completions = sorted(read(here, requests, budget), key=lambda done: done.index)
    assert [done.error is None for done in completions] == [False, True, False]
    assert here.times("POST") == [0.0, 50.0]
    assert budget.spent == 5


def test_what_is_cheaper_goes_on_behind_what_does_not_fit(world):
    """A request too dear for what is left is a completion; the next ones that fit are made."""
    here = world()
    requests = [here.request("dear", mode="pro", duration=10), here.request("cheap")]
    dear, cheap = sorted(read(here, requests, 2), key=lambda done: done.index)
    assert dear.error.what == "it would cost 5, and 2 of 2 units are left"
    assert dear.error.units == 5
    assert dear.error.key == "a"
    assert cheap.ok


def test_no_price_is_no_start(world):
    """What has no known price is not made under a budget, unless it is allowed; then its units count."""
    here = world()
    (left_out,) = read(here, [here.request(model_name="kling-v1-6")], 100)
    assert isinstance(left_out.error, BudgetError)
    assert "its price is in no table (kling-v1-6)" in str(left_out.error)
    assert left_out.error.units is None
    (made,) = read(here, [here.request(model_name="kling-v1-6")], Budget(0, allow_unpriced=True))
    assert made.ok


def test_a_gateway_has_prices_of_its_own(world):
    """Kling's list prices mean nothing at a gateway: there only your own table counts."""
    here = world(face="cometapi")
    own = Prices.read('["kling-v2-6"]\nsilent = { std = 7 }')
    options = {"provider": COMETAPI.at("http://127.0.0.1:1")}
    (unknown,) = read(here, [here.request()], 1000, **options)
    assert isinstance(unknown.error, BudgetError)
    budget = Budget(40, prices=own)
    first, second = sorted(
        read(here, [here.request("1"), here.request("2")], budget, **options), key=lambda done: done.index
    )
    assert first.ok
    assert "it would cost 35, and 5 of 40 units are left" in str(second.error)


def test_what_may_exist_is_spent(world):
    """A lost answer that nobody can look up counts with its estimate: it may have been paid."""

    async def lost(request, send):
        if request.method == "POST" and request.document["prompt"] == "lost":
            await send()
            return Response(504, {}, b"")
        return await send()

    here = world(face="new-api-2026", tamper=lost)
    budget = Budget(10, prices=Prices.read('["kling-v2-6"]\nsilent = { std = 1 }'))
    provider = new_api("http://127.0.0.1:1")
    requests = [here.request("lost"), here.request("second"), here.request("third")]
    completions = sorted(read(here, requests, budget, provider=provider), key=lambda done: done.index)
    assert completions[0].error is not None
    assert completions[0].error.outcome is Outcome.MAY_EXIST
    assert budget.spent == 10
    assert isinstance(completions[2].error, BudgetError)


def test_the_same_video_twice_is_paid_once(world):
    """Two equal requests under one key are one task, and one estimate."""

    async def main():
        async with here.client() as kling:
            requests = [("a", here.request()), ("a", here.request())]
            return [done async for done in kling.completions(requests, budget=budget)]

    here, budget = world(), Budget("1.5")
    assert all(done.ok for done in virtual_time.run(main()))
    assert budget.spent == Decimal("1.5")


def test_two_streams_share_a_budget(world):
    """A `Budget` given to two streams is one purse."""

    async def main():
        async with here.client() as kling:
            one = kling.completions([here.request("1")], budget=budget)
            two = kling.completions([here.request("2")], budget=budget)
            return [done async for done in one] + [done async for done in two]

    here, budget = world(), Budget(2)
    first, second = virtual_time.run(main())
    assert first.ok
    assert isinstance(second.error, BudgetError)


def test_what_earlier_runs_paid_is_told_by_the_caller(world, tmp_path):
    """What an earlier run made, or has in flight, does not count by itself, and costs nothing again."""

    async def main(requests, budget, rest=None):
        async with here.client(journal=tmp_path / "journal.sqlite") as kling:
            stream = kling.completions(requests, budget=budget)
            if rest is not None:
                reading = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(rest)
                await kling.aclose()
                await asyncio.wait([reading])
                return [reading.exception()]
            return [done async for done in stream]

    here = world(seconds=100.0)
    before = Budget(3)
    virtual_time.run(main(here.requests(2), before, rest=10))
    assert (before.spent, before.reserved) == (3, 0), "nobody will tell what became of them"
    budget = Budget("4.5", spent=3)
    again = virtual_time.run(main(here.requests(4), budget))
    assert [type(done.error) for done in again if not done.ok] == [BudgetError]
    assert budget.spent == Decimal("4.5")
    assert len(here.ledger.made) == 3


@pytest.mark.parametrize("seed", range(5))
def test_a_shared_budget_is_never_exceeded(world, seed):
    """Two streams of one purse, keys that repeat, tasks that never end, a client closed early: it holds."""

    async def main():
        async with here.client(polling=quick) as one:
            streams = [one.completions(list(keyed(rng, here)), budget=budget) for _ in range(2)]
            await asyncio.gather(*(all_of(stream) for stream in streams))
            late = one.completions(list(keyed(rng, here)), budget=budget)
            reading = asyncio.ensure_future(all_of(late))
            await asyncio.sleep(rng.uniform(0, 150))
        await asyncio.wait([reading])
        async with here.client(polling=quick) as two:
            await all_of(two.completions(list(keyed(rng, here)), budget=budget))

    async def all_of(stream):
        with contextlib.suppress(KlingError):
            return [done async for done in stream]

    rng = random.Random(seed)
    quick = Polling(aim=None, factor=10, base=1, max_interval=10, jitter=0, give_up=150)
    for _ in range(20):
        here = world(seconds=lambda _: 10_000.0 if rng.random() < 0.2 else 50.0, fail_marker=FAILS)
        budget = Budget(rng.randint(2, 20))
        virtual_time.run(main())
        assert sum(estimate_of(made.body) for made in here.ledger.made if made.succeeds) <= budget.limit
        assert charged(here) <= budget.spent <= budget.limit
        assert budget.reserved == 0


def keyed(rng, here):
    """Requests under keys of which some are used twice."""
    for _ in range(rng.randint(1, 6)):
        prompt = FAILS if rng.random() < 0.2 else "a"
        yield rng.choice("vwxyz"), here.request(prompt, mode=rng.choice(["std", "pro"]))


def estimate_of(body):
    """What a request as Kling received it costs."""
    return Decimal("2.5") if body.get("mode") == "pro" else Decimal("1.5")


def test_a_key_that_may_exist_is_not_sent_again(world):
    """Without a journal too: the same key and request is sent again by `resubmit` alone."""

    async def lost(request, send):
        reply = await send()
        return Response(504, {}, b"") if request.method == "POST" else reply

    async def main():
        async with here.client(provider=new_api("http://127.0.0.1:1")) as kling:
            requests = [("cat", here.request()), ("cat", here.request())]
            first = [done async for done in kling.completions(requests)]
            again = [done async for done in kling.completions(requests[:1])]
            return first + again

    here = world(face="new-api-2026", tamper=lost)
    for done in virtual_time.run(main()):
        assert done.error is not None
        assert done.error.outcome is Outcome.MAY_EXIST
    assert len(here.times("POST")) == 1


def test_what_a_budget_refuses_leaves_no_row(world, tmp_path):
    """Refused for want of money, a request takes no slot and no row of the journal."""

    async def main():
        async with here.client(journal=tmp_path / "journal.sqlite") as kling:
            return [done async for done in kling.completions([here.request()], budget=0)]

    here = world()
    (done,) = virtual_time.run(main())
    assert isinstance(done.error, BudgetError)
    assert here.calls == []
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal:
        assert journal.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def test_closing_ends_a_wait_for_room(world):
    """A client that is closed while a request waits for its budget withdraws it."""

    async def main():
        async with here.client() as kling:
            stream = kling.completions([here.request("1"), here.request("2")], budget=2)
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(50)
            left = await kling.aclose()
            reading.cancel()
            await asyncio.wait([reading])
            return left

    here = world(seconds=100.0)
    left = virtual_time.run(main())
    assert [handle.task.status for handle in left] == ["processing"]
    assert here.times("POST") == [0.0]


@pytest.mark.parametrize("wrong", [-1, "many"])
def test_a_wrong_budget_is_told_at_once(world, wrong):
    """A stream whose budget is no number does not begin."""

    async def main():
        async with here.client() as kling:
            kling.completions([], budget=wrong)

    here = world()
    with pytest.raises(ConfigurationError):
        virtual_time.run(main())


def test_leaving_early_withdraws_what_waits(world):
    """Who leaves the loop leaves nothing behind that is submitted later, when there is room."""

    async def main():
        async with here.client() as kling:
            requests = [here.request(f"{FAILS} {number}") for number in range(12)]
            async with kling.completions(requests, budget=3) as stream:
                assert not (await anext(stream)).ok
            waiting = kling.statistics().waiting
            await asyncio.sleep(1000)
            return waiting, kling.tasks()

    here = world(seconds=100.0, fail_marker=FAILS)
    assert virtual_time.run(main()) == (0, [])
    assert len(here.times("POST")) <= 4


def test_a_stopped_stream_withdraws_what_waits(world):
    """What waits for room or for a slot is withdrawn, what is in flight comes to its end and is delivered."""

    async def main(**options):
        async with here.client(**options) as kling:
            requests = [here.request(FAILS), *(here.request(str(number)) for number in range(11))]
            stream = kling.completions(requests, budget=budget)
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(10)
            stream.stop()
            return [await reading, *[done async for done in stream]]

    here, budget = world(seconds=100.0, fail_marker=FAILS), Budget(3)
    ends = {done.index: type(done.error) for done in virtual_time.run(main())}
    assert ends.pop(0) is TaskFailedError
    assert ends.pop(1) is type(None)
    assert ends
    assert set(ends.values()) == {KlingError}
    assert budget.spent == Decimal("1.5")
    here, budget = world(seconds=100.0, fail_marker=FAILS, parallel=2), None
    ends = {done.index: type(done.error) for done in virtual_time.run(main(max_in_flight=3))}
    assert list(ends.values()).count(type(None)) == 1  # the account has two slots; one waits, and goes
    assert len(here.ledger.made) == 2


def test_a_stopped_stream_lets_others_have_what_they_want(world):
    """What another stream waits for too is not taken from it."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            busy = await kling.submit(here.request("busy"))
            one, other = (kling.completions([("k", here.request("k"))]) for _ in range(2))
            reading = [asyncio.ensure_future(anext(each)) for each in (one, other)]
            await asyncio.sleep(10)
            one.stop()
            await busy.result()
            return [(await each).ok for each in reading]

    here = world(seconds=100.0)
    assert virtual_time.run(main()) == [True, True]
    assert len(here.ledger.made) == 2


def test_what_waits_for_one_budget_goes_by_another(world):
    """The same is wanted by a stream that has room for it: it goes, and counts there alone."""

    async def main():
        async with here.client() as kling:
            narrow = kling.completions([here.request("busy"), ("k", here.request("k"))], budget=small)
            reading = asyncio.ensure_future(anext(narrow))
            await asyncio.sleep(1)
            wide = kling.completions([("k", here.request("k"))], budget=large)
            (done,) = [each async for each in wide]
            assert done.ok
            await reading
            assert [each.ok async for each in narrow] == [True]

    here, small, large = world(seconds=100.0), Budget(2), Budget(100)
    virtual_time.run(main())
    assert len(here.ledger.made) == 2
    assert (small.spent, large.spent) == (Decimal("1.5"), Decimal("1.5"))
    assert small.reserved == large.reserved == 0


def test_a_stop_takes_nothing_from_another_stream_s_budget(world):
    """What waits for the stopped stream's budget too is made for the one that has room."""

    async def main():
        async with here.client() as kling:
            narrow = kling.completions([here.request("busy"), ("k", here.request("k"))], budget=2)
            reading = asyncio.ensure_future(anext(narrow))
            await asyncio.sleep(1)
            wide = kling.completions([("k", here.request("k"))], budget=100)
            other = asyncio.ensure_future(anext(wide))
            await asyncio.sleep(1)
            narrow.stop()
            return (await other).ok, (await reading).ok

    here = world(seconds=100.0)
    assert virtual_time.run(main()) == (True, True)
    assert len(here.ledger.made) == 2


@pytest.mark.parametrize("much", ["1e9999999", "1e500", 10**10])
def test_a_budget_too_large_to_reckon_with_is_told(much):
    """A slip is refused, before a sum of it overflows."""
    with pytest.raises(ConfigurationError, match="from 0 to 1000000000"):
        Budget(much)


def test_a_failure_at_a_gateway_costs_nothing_known(world):
    """What the gateway passes on of Kling's units is in another currency than the caller's prices."""
    request = ImageToVideo(image="https://cdn.example.org/a.png", prompt="x")
    prices = Prices.from_mapping({"kling-v2-6": {"silent": {"std": Decimal("0.1")}}})
    for provider, failed in ((COMETAPI, 0), (KLING, 3)):
        assert spent(TaskStatus.FAILED, Decimal(3), request, provider, prices) == failed
        assert spent(TaskStatus.FAILED, None, request, provider, prices) == 0
        assert spent(TaskStatus.MAY_EXIST, None, request, provider, prices) == Decimal("0.5")
    assert spent(TaskStatus.SUCCEED, Decimal(3), request, COMETAPI) is None


def rows(path):
    """Key, state and task of each row of a journal."""
    with closing(sqlite3.connect(path)) as journal:
        return journal.execute("SELECT key, state, task_id FROM tasks").fetchall()


def test_what_waits_leaves_no_row(world, tmp_path):
    """Closed while a request waits for its budget, the client has recorded nothing of it."""

    async def main():
        async with here.client(journal=tmp_path / "journal.sqlite") as kling:
            stream = kling.completions([("f", here.request(FAILS)), ("k", here.request("1"))], budget=2)
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(10)
        reading.cancel()
        await asyncio.wait([reading])

    here = world(seconds=100.0, fail_marker=FAILS)
    virtual_time.run(main())
    assert [key for key, _, _ in rows(tmp_path / "journal.sqlite")] == ["f"]


@pytest.mark.parametrize("keyed", [True, False])
def test_the_twin_of_what_waits_is_the_same_task(world, tmp_path, keyed):
    """Wanted by somebody else too while it waits, a request is sent once, and its row is that task's."""

    async def main():
        async with here.client(journal=tmp_path / "journal.sqlite") as kling:
            waiting = [here.request(FAILS), here.request("1")]
            pairs = [("f", waiting[0]), ("k", waiting[1])]
            first = kling.completions(pairs if keyed else waiting, budget=2)
            reading = asyncio.ensure_future(anext(first))
            await asyncio.sleep(10)
            second = kling.completions(pairs[1:] if keyed else waiting[1:])
            others = [done async for done in second]
            return [await reading, *[done async for done in first], *others]

    here = world(seconds=100.0, fail_marker=FAILS)
    ends = virtual_time.run(main())
    assert [done.ok for done in ends] == [False, True, True]
    assert len(here.ledger.made) == 2
    assert {state for _, state, _ in rows(tmp_path / "journal.sqlite")} == {"failed", "succeed"}


def test_a_refused_poll_settles_nothing(world):
    """While polls are refused, what is in flight stays reserved, and is given back when it failed."""

    async def refusing(request, send):
        if request.method == "GET" and 5 < here.time() < 95:
            return Response(401, {}, b'{"code": 1002, "message": "no", "request_id": "r"}')
        return await send()

    async def main():
        async with here.client() as kling:
            stream = kling.completions([here.request(FAILS), here.request("1")], budget=budget)
            with contextlib.suppress(KlingError):
                [done async for done in stream]
            await asyncio.sleep(500)

    here, budget = world(seconds=100.0, fail_marker=FAILS, tamper=refusing), Budget(4)
    virtual_time.run(main())
    assert budget.reserved == 0
    assert budget.spent == Decimal("1.5")


def test_what_was_resubmitted_is_known_by_its_key(world):
    """After `resubmit`, the same key and request is the task that it made."""

    async def lost_once(request, send):
        if request.method == "POST" and len(here.times("POST")) == 1:
            return Response(504, {}, b"")
        return await send()

    async def main():
        async with here.client(provider=new_api("http://127.0.0.1:1")) as kling:
            requests = [("cat", here.request())]
            (first,) = [done async for done in kling.completions(requests)]
            handle = await kling.resubmit(first.error)
            while_it_runs = await kling.submit(requests[0][1], key="cat")
            await handle.result()
            (after,) = [done async for done in kling.completions(requests)]
            return handle, while_it_runs, after

    here = world(face="new-api-2026", tamper=lost_once)
    handle, while_it_runs, after = virtual_time.run(main())
    assert handle.task_id == while_it_runs.task_id == after.task.task_id
    assert len(here.ledger.made) == 1


def test_what_was_resubmitted_in_vain_is_not_sent_again(world):
    """However often its answer is lost: the same key and request is sent by `resubmit` alone."""

    async def lost(request, send):
        return Response(504, {}, b"") if request.method == "POST" else await send()

    async def main():
        async with here.client(provider=new_api("http://127.0.0.1:1")) as kling:
            requests = [("cat", here.request())]
            (first,) = [done async for done in kling.completions(requests)]
            last = first.error
            for _ in range(2):
                with pytest.raises(KlingError) as caught:
                    await kling.resubmit(last)
                last = caught.value
            (after,) = [done async for done in kling.completions(requests)]
            return after

    here = world(face="new-api-2026", tamper=lost)
    assert virtual_time.run(main()).error.outcome is Outcome.MAY_EXIST
    assert len(here.times("POST")) == 3


def test_who_asks_no_budget_does_not_wait_for_one(world, tmp_path):
    """A plain submit of what waits for a budget sends it at once, and keeps it when the stream is left."""

    async def main():
        async with here.client(journal=tmp_path / "journal.sqlite") as kling:
            stream = kling.completions([("f", here.request(FAILS)), ("k", here.request("1"))], budget=budget)
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(10)
            handle = await kling.submit(here.request("1"), key="k")
            await stream.aclose()
            await asyncio.wait([reading])
            return await handle.result()

    here, budget = world(seconds=100.0, fail_marker=FAILS), Budget(2)
    assert virtual_time.run(main()).status == "succeed"
    assert here.times("POST") == [0.0, 10.0]
    assert budget.spent == 0, "the caller without a budget pays for it"
    assert ("k", "succeed") in [(key, state) for key, state, _ in rows(tmp_path / "journal.sqlite")]


def test_twins_that_wait_leave_no_row(world, tmp_path):
    """A key that stands twice in a budgeted stream and waits is not recorded before it is admitted."""

    async def main():
        async with here.client(journal=tmp_path / "journal.sqlite") as kling:
            twin = ("k", here.request("1"))
            stream = kling.completions([("f", here.request(FAILS)), twin, twin], budget=2)
            reading = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(10)
            seen = rows(tmp_path / "journal.sqlite")
            rest = [await reading, *[done async for done in stream]]
            return seen, rest

    here = world(seconds=100.0, fail_marker=FAILS)
    seen, rest = virtual_time.run(main())
    assert [key for key, _, _ in seen] == ["f"]
    assert [done.ok for done in rest] == [False, True, True]
    assert len(here.ledger.made) == 2
