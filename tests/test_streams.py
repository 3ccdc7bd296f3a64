"""Streams: many requests in, completions out, whatever reader, iterable and account do."""

import asyncio
import gc
import logging
from types import NoneType
from typing import Any

import pytest
import virtual_time
from integration.sockets import png

from kling_async import (
    AccountError,
    EngineError,
    GatewayError,
    KlingError,
    Outcome,
    PolicyError,
    RequestError,
    ResponseLostError,
    TaskFailedError,
    TaskStatus,
    WaitTimeoutError,
)
from kling_async.protocol.wire import Response
from kling_async.simulator import Faults


def counted(requests, taken):
    """*requests*, each noted in *taken* as it is taken."""
    for request in requests:
        taken.append(request.prompt)
        yield request


async def silent(requests, *, then=None):
    """*requests*, and then silence for ever, or an exception."""
    for request in requests:
        yield request
    if then is not None:
        raise then
    await asyncio.get_running_loop().create_future()


async def read(stream, seen):
    """Read *stream* into *seen*, which keeps what came before an exception."""
    async for done in stream:
        seen.append(done)


async def prompts(stream):
    """The prompts of a stream's completions in the order they came."""
    return [done.request.prompt async for done in stream]


def by_prompt(lengths):
    """How long each generation takes, by its prompt."""
    return lambda body: lengths[body["prompt"]]


# What comes out


def test_each_request_yields_exactly_one_completion(world):
    """Twenty requests over three slots: each comes once, with its index, key, request and task."""

    async def main():
        async with here.client(max_in_flight=3) as kling:
            return [done async for done in kling.completions(requests)]

    here = world()
    requests = here.requests(20)
    completions = virtual_time.run(main())
    assert sorted(done.index for done in completions) == list(range(20))
    assert all(done.ok and done.request is requests[done.index] for done in completions)
    assert {done.result().task_id for done in completions} == {made.task_id for made in here.ledger.made}
    assert [done.key for done in sorted(completions, key=lambda done: done.index)][:3] == ["a", "a-2", "a-3"]
    assert here.ledger.most_in_flight == 3


def test_completions_come_as_they_finish(world):
    """The quick one is handed out while the slow one still runs."""

    async def main():
        async with here.client() as kling:
            requests = [("slow", here.request("slow")), ("quick", here.request("quick"))]
            return [(done.key, here.time()) async for done in kling.completions(requests)]

    here = world(seconds=by_prompt({"slow": 200.0, "quick": 20.0}))
    assert virtual_time.run(main()) == [("quick", 20), ("slow", 200)]


def test_ordered_holds_back(world):
    """With `ordered=True` the order is that of the requests, though the first is the slowest."""

    async def main():
        async with here.client(max_in_flight=3) as kling:
            return await prompts(kling.completions(here.requests(6), ordered=True))

    here = world(seconds=lambda body: 300.0 - 40 * int(body["prompt"]))
    assert virtual_time.run(main()) == list("012345")


def test_failures_are_values(world):
    """A failed task, one refused for its content and one refused here are completions; the stream goes on."""

    async def main():
        async with here.client() as kling:
            requests = [
                here.request("[fail]"),
                here.request("[policy]"),
                here.request("lost", image="no/such/file.png"),
                here.request("good"),
            ]
            return {done.request.prompt: done.error async for done in kling.completions(requests)}

    here = world()
    errors = virtual_time.run(main())
    assert isinstance(errors["[fail]"], TaskFailedError)
    assert isinstance(errors["[policy]"], PolicyError)
    assert isinstance(errors["lost"], RequestError)
    assert errors["good"] is None
    assert len(here.ledger.made) == 2


def test_timeout_counts_from_each_acknowledgement(world):
    """Ten tasks over one slot, 100 s each, a timeout of 150: none is late, however long it stood in line."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            async for done in kling.completions(here.requests(10), timeout=150):
                assert done.ok
            assert asyncio.get_running_loop().time() == 1000

    here = world()
    virtual_time.run(main())


def test_a_stream_of_known_length_waits_for_no_slot_at_its_end(world):
    """The last request is taken and late: the loop ends then, and not when its slot is free at last."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            async for done in kling.completions([here.request("late")], timeout=50):
                assert isinstance(done.error, WaitTimeoutError)
            assert asyncio.get_running_loop().time() == 50

    here = world(seconds=5000.0)
    virtual_time.run(main())


def test_a_list_that_grows_while_it_is_read(world):
    """What is appended before the end is taken too."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            requests = here.requests(2)
            seen = 0
            async for done in kling.completions(requests):
                assert done.ok
                seen += 1
                if seen == 1:
                    requests += here.requests(5)[2:]
            return seen

    here = world()
    assert virtual_time.run(main()) == 5


def stopped_at(here, seconds, requests, **options):
    """What becomes of *requests* when their stream is stopped after so many seconds; and when POSTs left."""

    async def main():
        async with here.client(**options) as kling:
            stream = kling.completions(requests)
            reading = asyncio.ensure_future(read(stream, seen))
            await asyncio.sleep(seconds)
            stream.stop()
            stream.stop()
            await reading
            await asyncio.sleep(1000)
            assert kling.tasks() == []

    seen = []
    virtual_time.run(main())
    return [type(done.error) for done in sorted(seen, key=lambda done: done.index)]


def test_a_post_that_is_out_is_not_repeated_after_a_stop(world):
    """Kling has no slot for it: it does not go back in line. What is made is delivered."""
    here = world(latency=2.0, parallel=1)
    ends = stopped_at(here, 1.0, here.requests(4))
    assert sorted(ends, key=str) == [NoneType, KlingError, KlingError, KlingError]
    assert len(here.ledger.made) == 1
    assert max(here.times("POST")) <= 1.0


def test_a_lost_answer_is_looked_for_after_a_stop_and_not_sent_again(world):
    """By look-ups it was not made: that is its end."""
    here = world(faults=Faults.parse("create:lost_reply_before times=1"))
    assert stopped_at(here, 5.0, here.requests(1)) == [KlingError]
    assert here.ledger.made == []
    assert here.times("POST") == [0.0]


def test_what_an_earlier_run_made_comes_after_a_stop_too(world, tmp_path):
    """It costs nothing more: of a list it is taken, while what is new ends as withdrawn."""

    async def main(requests):
        async with here.client(journal=tmp_path / "journal.sqlite", max_in_flight=1) as kling:
            stream = kling.completions(requests)
            seen = []
            async for done in stream:
                seen.append((done.request.prompt, done.ok))
                stream.stop()
            return seen

    here = world()
    old = ("old", here.request("old"))
    assert virtual_time.run(main([old])) == [("old", True)]
    seen = virtual_time.run(main([*map(here.request, "abcd"), old]))
    assert sorted(seen) == [("a", True), ("b", False), ("c", False), ("d", False), ("old", True)]
    assert len(here.ledger.made) == 2


def test_a_stopped_stream_waits_for_no_slot(world):
    """Where tasks take for ever and hold every slot, it ends when the last is no longer waited for."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            stream = kling.completions(here.requests(3), timeout=50)
            seen = []
            async for done in stream:
                seen.append(type(done.error))
                stream.stop()
            return seen, asyncio.get_running_loop().time()

    here = world(seconds=5000.0)
    seen, ended = virtual_time.run(main())
    assert (seen, ended) == ([WaitTimeoutError, KlingError, KlingError], 50)
    assert len(here.ledger.made) == 1


@pytest.mark.parametrize("size", [0, 70_000])
def test_no_post_begins_after_a_stop(world, size):
    """Not of what waits for an upload place, nor of what is to be tried again."""
    picture = png(size)
    here = world(latency=2.0)
    requests = [here.request(str(number), image=picture) for number in range(12)]
    ends = stopped_at(here, 1.0, requests, max_in_flight=12, max_uploads=2)
    begun = [when for when in here.times("POST") if when <= 1.0]
    assert here.times("POST") == begun
    assert ends.count(NoneType) == len(begun) == len(here.ledger.made)


def test_what_others_want_goes_on_after_a_stop(world):
    """A handle that nobody awaits, a stream that is not stopped, and who comes later; two stops end it."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            busy = await kling.submit(here.request("busy"))
            soon = kling.submit_soon(here.request("soon"), key="soon")
            twins = [kling.completions([("k", here.request("k"))]) for _ in range(2)]
            first = kling.completions([("soon", here.request("soon")), ("late", here.request("late"))])
            reading = [asyncio.ensure_future(anext(stream)) for stream in (*twins, first)]
            await asyncio.sleep(5)
            for stream in (*twins, first):
                stream.stop()
            await asyncio.gather(*reading)
            assert (await soon.result()).status is TaskStatus.SUCCEED
            late = await kling.submit(here.request("late"), key="late")
            await asyncio.gather(busy.result(), late.result())

    here = world()
    virtual_time.run(main())
    assert sorted(each.body["prompt"] for each in here.ledger.made) == ["busy", "late", "soon"]


def test_a_lost_submit_of_an_earlier_run_is_not_sent_after_a_stop(world, tmp_path):
    """Whenever its item is taken: it is looked for, and that it is not there is its end."""

    async def main():
        async with here.client(journal=tmp_path / "journal.sqlite", max_in_flight=1) as kling:
            stream = kling.completions([here.request("a"), here.request("b"), ("k", here.request("k"))])
            reading = asyncio.ensure_future(read(stream, seen := []))
            await asyncio.sleep(5)
            stream.stop()
            await reading
            return [done.ok for done in sorted(seen, key=lambda done: done.index)]

    async def lose():
        async with here.client(journal=tmp_path / "journal.sqlite") as kling:
            handle = kling.submit_soon(here.request("k"), key="k")
            await asyncio.sleep(1)
            return handle

    here = world(faults=Faults.parse("create:lost_reply_before times=1"))
    virtual_time.run(lose())
    assert virtual_time.run(main()) == [False, False, False]  # it holds the slot while it is looked for
    assert here.ledger.made == []


def test_the_twin_of_what_waits_is_withdrawn_with_it(world):
    """Twice the same in one stream is wanted by nobody else."""
    here = world()
    first, other = here.requests(2)
    ends = stopped_at(here, 5.0, [first, ("k", other), ("k", other)], max_in_flight=1)
    assert ends[0] is NoneType
    assert set(ends[1:]) <= {KlingError}
    assert len(here.ledger.made) == 1


def test_a_stream_that_never_began_is_stopped(world):
    """It begins nothing then."""

    async def main():
        kling = here.client()
        stream = kling.completions(here.requests(3))
        stream.stop()
        assert [done async for done in stream] == []
        late = kling.completions(here.requests(1))
        await kling.aclose()
        late.stop()
        assert len(asyncio.all_tasks()) == 1

    here = world()
    virtual_time.run(main())
    assert here.calls == []


def test_a_stream_is_stopped_by_what_gives_its_requests(world):
    """What it gives in that very step is not submitted."""

    async def give():
        for number, request in enumerate(here.requests(5)):
            if number == 2:
                await asyncio.sleep(1)
                stream.stop()
            yield request

    async def main():
        nonlocal stream
        async with here.client() as kling:
            stream = kling.completions(give())
            return [done.ok async for done in stream]

    here = world()
    stream: Any = None
    assert virtual_time.run(main()) == [True, True]
    assert len(here.ledger.made) == 2


def test_late_task_is_a_completion_and_is_polled_on(world):
    """A late task is told with WaitTimeoutError and token; it keeps its slot and is found in the end."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            async for done in kling.completions([here.request("late")], timeout=50):
                assert asyncio.get_running_loop().time() == 50
                assert isinstance(done.error, WaitTimeoutError)
                assert (done.error.outcome, done.error.task_id) == (Outcome.CREATED, done.task.task_id)
                (handle,) = kling.tasks()
                assert handle.token == done.error.token
                await kling.submit(here.request("next"))
                assert asyncio.get_running_loop().time() == 200
                assert (await handle.result()).task_id == done.task.task_id

    here = world(seconds=200.0)
    virtual_time.run(main())


# Taking


def test_requests_are_taken_as_slots_are_free(world):
    """Two slots: two requests are taken at once, and one more for each task that ends."""

    async def main():
        async with (
            here.client(max_in_flight=2) as kling,
            kling.completions(counted(here.requests(6), taken)) as stream,
        ):
            seen = []
            async for _ in stream:
                await asyncio.sleep(0.5)
                seen.append(len(taken))
            return seen

    here, taken = world(seconds=lambda body: 100.0 + int(body["prompt"])), []
    assert virtual_time.run(main())[:2] == [3, 4]
    assert len(taken) == 6


def test_nothing_is_taken_before_the_stream_is_read(world):
    """A stream nobody iterates over takes nothing and costs nothing."""

    async def main():
        async with here.client() as kling:
            kling.completions(counted(here.requests(6), taken))
            await asyncio.sleep(100)

    here, taken = world(), []
    virtual_time.run(main())
    assert taken == []


@pytest.mark.parametrize("ordered", [False, True])
def test_idle_reader_bounds_what_is_submitted(world, ordered):
    """Completions nobody reads stop the submitting at sixteen; reading goes on and nothing is lost."""

    async def main():
        async with here.client(max_in_flight=4) as kling:
            stream = kling.completions(counted(here.requests(60), taken), ordered=ordered)
            first = await anext(stream)
            await asyncio.sleep(10_000)
            assert len(taken) == len(here.ledger.made) == 17
            return [first.index, *[done.index async for done in stream]]

    # the slowest is the head of the line: with `ordered` nothing can be handed out before it
    here, taken = world(seconds=lambda body: 900.0 if body["prompt"] == "0" else 50.0), []
    indexes = virtual_time.run(main())
    assert sorted(indexes) == list(range(60))
    if ordered:
        assert indexes == list(range(60))


def test_slow_head_does_not_stop_an_ordered_stream(world):
    """While the head takes an hour the others run on to the bound; all come out in order after it."""

    async def main():
        async with here.client(max_in_flight=2) as kling:
            out = [
                (done.index, here.time()) async for done in kling.completions(here.requests(20), ordered=True)
            ]
            assert out[0] == (0, 3600)
            assert out[15] == (15, 3600)
            return [index for index, _ in out]

    here = world(seconds=lambda body: 3600.0 if body["prompt"] == "0" else 50.0)
    assert virtual_time.run(main()) == list(range(20))


def test_run_inside_the_loop_body_with_one_slot(world):
    """`run` in the body of a loop over the only slot: it takes its turn and nothing hangs."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            seen = []
            async for done in kling.completions(here.requests(3)):
                again = await kling.run(here.request(f"again {done.request.prompt}"), timeout=None)
                seen.append((done.task.task_id, again.task_id))
            return seen

    here = world()
    assert len(set(sum(virtual_time.run(main()), ()))) == 6
    assert here.ledger.most_in_flight == 1


def test_two_streams_one_never_read(world):
    """A stream that is begun and left alone does not starve another on the same client."""

    async def main():
        async with here.client(max_in_flight=2) as kling:
            left = kling.completions(here.requests(100))
            await anext(left)
            got = await prompts(kling.completions(here.request(f"read {n}") for n in range(10)))
            assert len(got) == 10
            await left.aclose()

    here = world()
    virtual_time.run(main())


# Iterables that misbehave


def test_completions_are_delivered_while_the_iterable_is_silent(world):
    """An async iterable that says nothing for ever holds up no completion; leaving ends it."""

    async def main():
        async with here.client() as kling, kling.completions(silent(here.requests(2))) as stream:
            assert {(await anext(stream)).index, (await anext(stream)).index} == {0, 1}
            assert here.time() == 100

    here = world()
    virtual_time.run(main())


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_error_of_the_iterable_comes_once_after_what_is_in_flight(world, kind):
    """It raises after three requests: three completions, then that very exception, then the end."""
    error = ZeroDivisionError("theirs")

    def plain(requests):
        yield from requests
        raise error

    async def main():
        async with here.client() as kling:
            requests = here.requests(3)
            stream = kling.completions(silent(requests, then=error) if kind == "async" else plain(requests))
            for _ in range(3):
                assert (await anext(stream)).ok
            with pytest.raises(ZeroDivisionError) as caught:
                await anext(stream)
            assert caught.value is error
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    here = world()
    virtual_time.run(main())


@pytest.mark.parametrize("wrong", ["a prompt", ("key",), (1, 2), None])
def test_what_is_no_request_ends_the_stream(world, wrong):
    """The exception says what a stream takes."""

    async def main():
        async with here.client() as kling:
            with pytest.raises(RequestError, match="a stream takes requests"):
                await prompts(kling.completions([wrong]))

    virtual_time.run(main()) if (here := world()) else None


def test_what_cannot_be_iterated_ends_the_stream(world):
    """Neither hangs nor passes for empty."""

    async def main():
        async with here.client() as kling:
            with pytest.raises(TypeError):
                await prompts(kling.completions(7))

    here = world()
    virtual_time.run(main())


def test_iterable_that_is_cancelled_from_within_ends_the_stream_aloud(world):
    """A CancelledError out of the caller's own iterable is no silent end: requests may be missing."""

    async def main():
        async with here.client() as kling:
            stream = kling.completions(silent(here.requests(1), then=asyncio.CancelledError()))
            assert (await anext(stream)).ok
            with pytest.raises(KlingError, match="requests were at their end"):
                await anext(stream)

    here = world()
    virtual_time.run(main())


def test_iterable_that_closes_the_client(world):
    """The caller's own iterable may close the client: no deadlock, and the stream says what is missing."""

    async def closing(kling):
        yield here.request()
        await asyncio.sleep(5)
        left.extend(await kling.aclose())
        yield here.request()

    async def main():
        kling, seen = here.client(), []
        with pytest.raises(KlingError, match="closed"):
            await read(kling.completions(closing(kling)), seen)
        outcomes = {done.index: done.error.outcome for done in seen}
        assert outcomes == {0: Outcome.CREATED, 1: Outcome.NOT_CREATED}
        assert await kling.aclose() == []

    here, left = world(), []
    virtual_time.run(main())
    assert [handle.task_id for handle in left] == [made.task_id for made in here.ledger.made]


def test_empty_stream_ends_at_once(world):
    """No requests, no completions, no calls."""

    async def main():
        async with here.client() as kling:
            assert await prompts(kling.completions([])) == []

    here = world()
    virtual_time.run(main())
    assert here.calls == []


def test_same_key_twice_is_one_task_and_two_completions(world):
    """A stream that names one video twice pays once and tells twice."""

    async def main():
        async with here.client() as kling:
            pair = ("cat", here.request())
            return [done.task.task_id async for done in kling.completions([pair, pair])]

    here = world()
    ids = virtual_time.run(main())
    assert ids == [here.ledger.made[0].task_id] * 2
    assert len(here.ledger.made) == 1


# Leaving


def test_break_stops_taking_and_tasks_go_on(world):
    """After `break` and `aclose` nothing more is taken; what was submitted is in `tasks()` and is found."""

    async def main():
        async with here.client(max_in_flight=2) as kling:
            async with kling.completions(counted(here.requests(9), taken)) as stream:
                async for _ in stream:
                    break
            await asyncio.sleep(0)
            count = len(taken)
            results = await asyncio.gather(*(handle.result() for handle in kling.tasks()))
            assert len(taken) == count
            assert {task.task_id for task in results} <= {made.task_id for made in here.ledger.made}
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    here, taken = world(), []
    virtual_time.run(main())
    assert len(here.ledger.made) <= 4


def test_aclose_in_the_middle_of_anext(world):
    """Another task closes the stream while one waits for its next completion: that one ends."""

    async def main():
        async with here.client() as kling:
            stream = kling.completions(here.requests(2))
            reader = asyncio.ensure_future(anext(stream, "the end"))
            await asyncio.sleep(30)
            await stream.aclose()
            assert await reader == "the end"
            assert here.time() == 30
            assert len(kling.tasks()) == 2

    here = world()
    virtual_time.run(main())


def test_cancelled_anext_loses_nothing(world):
    """A reader that times out again and again still gets every completion."""

    async def main():
        async with here.client(max_in_flight=2) as kling:
            stream, seen = kling.completions(here.requests(7)), []
            while True:
                try:
                    async with asyncio.timeout(7):
                        seen.append((await anext(stream)).index)
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    return seen

    here = world()
    assert sorted(virtual_time.run(main())) == list(range(7))


def test_dropped_stream_stops_taking(world):
    """A stream whose object is gone takes no more requests, with no help of its caller."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            stream = kling.completions(counted(here.requests(50), taken))
            await anext(stream)
            del stream
            gc.collect()
            await asyncio.sleep(5000)

    here, taken = world(), []
    virtual_time.run(main())
    assert len(taken) == 2


def test_exception_in_the_body_leaves_as_itself(world):
    """The caller's own exception passes stream and client untouched."""

    async def main():
        async with here.client() as kling, kling.completions(here.requests(3)) as stream:
            async for _ in stream:
                raise ZeroDivisionError("mine")

    here = world()
    with pytest.raises(ZeroDivisionError, match="mine"):
        virtual_time.run(main())


@pytest.mark.parametrize("count", [1, 2, 40])
def test_client_closed_while_a_stream_is_read(world, count):
    """Each task in flight is one completion that says it goes on, with its token.

    A stream that knows its requests to be at their end ends then; another one raises: some may be missing.
    """

    async def main():
        kling = here.client(max_in_flight=2)
        seen, failure = [], None

        async def reading():
            nonlocal failure
            try:
                await read(kling.completions(here.requests(count)), seen)
            except KlingError as error:
                failure = error

        reader = asyncio.ensure_future(reading())
        await asyncio.sleep(30)
        left = await kling.aclose()
        await reader
        assert [type(done.error) for done in seen] == [WaitTimeoutError] * min(count, 2)
        assert {done.error.token for done in seen} == {handle.token for handle in left}
        if count <= 2:
            assert failure is None
        else:
            assert "before the requests were at their end" in str(failure)
        return failure

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == min(count, 2)


def test_client_closed_while_its_requests_wait_in_line(world):
    """A request of a stream that was taken but not submitted is told as never made."""

    async def main():
        kling = here.client(max_in_flight=1)
        await kling.submit(here.request("first"))
        stream = kling.completions(here.requests(1))
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(30)
        await kling.aclose()
        done = await reader
        assert done.error.outcome is Outcome.NOT_CREATED

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_drain_delivers_what_is_in_flight(world):
    """Closing with `drain` lets the running tasks come to their end as good completions."""

    async def main():
        kling, seen = here.client(max_in_flight=2), []

        reader = asyncio.ensure_future(read(kling.completions(here.requests(9)), seen))
        await asyncio.sleep(30)
        assert await kling.aclose(drain=1000) == []
        with pytest.raises(KlingError, match="closed"):
            await reader
        return [done.ok for done in seen]

    here = world()
    seen = virtual_time.run(main())
    assert seen.count(True) == len(here.ledger.made) == 2


# Accounts and gateways


def test_empty_account_stops_the_stream_after_what_is_in_flight(world):
    """1102 after three good creates: those are delivered, the refused told, then it is raised once."""

    async def tamper(request, send):
        if request.method == "POST" and len(here.ledger.made) == 3:
            here.simulator.account_code = 1102
        return await send()

    async def main():
        async with here.client(max_in_flight=3) as kling:
            stream, seen = kling.completions(here.requests(50)), []
            with pytest.raises(AccountError) as caught:
                await read(stream, seen)
            assert caught.value.code == 1102
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            return seen

    here = world(tamper=tamper)
    seen = virtual_time.run(main())
    assert [done.ok for done in sorted(seen, key=lambda done: done.index)][:3] == [True] * 3
    refused = [done for done in seen if not done.ok]
    assert {done.error.code for done in refused} == {1102}
    assert len(here.times("POST")) <= 6


def test_wrong_base_url_stops_the_stream(world):
    """Web pages from the first answer on: the stream stops after the first POSTs and says why."""

    async def tamper(request, send):
        return Response(200, {"content-type": "text/html"}, b"<html></html>")

    async def main():
        async with here.client(max_in_flight=3) as kling:
            with pytest.raises((GatewayError, ResponseLostError)):
                await prompts(kling.completions(here.requests(50)))

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.times("POST")) <= 3


def test_bug_ends_the_stream_with_an_engine_error(world):
    """Tasks in flight are told with it, and so is the stream: requests are missing."""

    async def tamper(request, send):
        if request.method == "GET":
            raise RuntimeError("a bug")
        return await send()

    async def main():
        kling, seen = here.client(max_in_flight=2), []
        with pytest.raises(EngineError):
            await read(kling.completions(here.requests(9)), seen)
        assert [type(done.error) for done in seen] == [EngineError] * 2
        await kling.aclose()

    here = world(tamper=tamper)
    virtual_time.run(main())


def test_forbidden_model_does_not_stop_another(world):
    """1103 for one model is a value; the stream's other model goes on."""

    async def tamper(request, send):
        if request.document and request.document["model_name"] == "kling-v3":
            body = b'{"code": 1103, "message": "No permission"}'
            return Response(403, {"content-type": "application/json"}, body)
        return await send()

    async def main():
        async with here.client() as kling:
            requests = [here.request(str(n), model_name=("kling-v3", "kling-v2-6")[n % 2]) for n in range(6)]
            return {done.index: done.ok async for done in kling.completions(requests)}

    here = world(tamper=tamper)
    assert virtual_time.run(main()) == {n: bool(n % 2) for n in range(6)}


def test_finished_requests_are_let_go(world):
    """A stream that runs on holds the requests of what is in flight, not of all that ever was."""

    async def main():
        async with here.client(max_in_flight=2) as kling:
            stream = kling.completions(counted((here.request("x" * number) for number in range(1, 200)), []))
            await anext(stream)
            for _ in range(100):
                await anext(stream)
            gc.collect()
            return sum(type(each).__name__ == "Flight" for each in gc.get_objects())

    here = world(seconds=5.0)
    with_logging = logging.getLogger("kling_async").level
    assert virtual_time.run(main()) < 40
    assert logging.getLogger("kling_async").level == with_logging


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_client_closed_at_once_ends_the_stream(world, turns):
    """However soon the client is closed under a stream, its reader is told, and does not wait for ever."""

    async def main():
        kling = here.client()
        reading = asyncio.ensure_future(anext(kling.completions(here.requests(3))))
        for _ in range(turns):
            await asyncio.sleep(0)
        await kling.aclose()
        with pytest.raises(KlingError, match="closed"):
            (await reading).result()

    here = world()
    virtual_time.run(main())
