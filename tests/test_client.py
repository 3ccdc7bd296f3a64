"""What a caller does with a client: submit, wait, withdraw, find again, list, close, begin anew."""

import asyncio
import gc
import json
from typing import Any

import pytest
import virtual_time

from kling_async import (
    COMETAPI,
    KLING,
    AccessKey,
    APIKey,
    ConcurrencyLimitError,
    ConfigurationError,
    GatewayError,
    ImageToVideo,
    KlingClient,
    KlingError,
    MultiImageToVideo,
    NotFoundError,
    Outcome,
    RequestError,
    ServerError,
    TaskStatus,
    UnsupportedError,
    WaitTimeoutError,
)
from kling_async.protocol.wire import Response

PICTURES = ("https://cdn.example.org/a.png", "https://cdn.example.org/b.png")


async def until(moment):
    """Wait until the loop's clock shows *moment*."""
    await asyncio.sleep(moment - asyncio.get_running_loop().time())


# Construction


@pytest.mark.parametrize("options", [{"max_in_flight": 0}, {"max_uploads": -1}])
def test_option_out_of_range_is_refused(options):
    """The error names the option."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        KlingClient(APIKey("k"), **options)


def test_gateway_takes_no_access_key():
    """An access key is for Kling's own hosts."""
    with pytest.raises(ConfigurationError, match="cometapi"):
        KlingClient(AccessKey("a", "b"), COMETAPI)


def test_repr_shows_no_key():
    """A client in a log gives nothing away."""
    assert "hush" not in repr(KlingClient(APIKey("hush"))) + repr(vars(KlingClient(APIKey("hush"))))


def test_from_env_reads_key_and_provider():
    """The key decides the provider; options go on to the constructor."""
    client = KlingClient.from_env(env={"COMETAPI_KEY": " 'Bearer k' "}, max_in_flight=3)
    assert client.provider is COMETAPI
    with pytest.raises(ConfigurationError):
        KlingClient.from_env(env={})


# Submitting and waiting


def test_submit_returns_when_acknowledged(world):
    """The handle has its ids; the task is not done."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request(), key="cat")
            assert here.time() == 2
            assert (handle.key, handle.status, handle.done()) == ("cat", TaskStatus.SUBMITTED, False)
            assert handle.task_id == here.ledger.made[0].task_id
            assert handle.external_task_id == here.ledger.made[0].external_task_id
            assert handle.external_task_id.startswith("ka-")
            assert "cat" in repr(handle)
            assert [each.task_id for each in kling.tasks()] == [handle.task_id]

    here = world(latency=2.0)
    virtual_time.run(main())


def test_run_gives_the_video(world):
    """`run` is submit and wait."""

    async def main():
        async with here.client() as kling:
            return await kling.run(here.request())

    here = world()
    assert virtual_time.run(main()).video.url


def test_same_key_and_request_is_one_task(world):
    """Ten calls at once with one key are one POST and one task; another request under that key is another."""

    async def main():
        async with here.client() as kling:
            handles = await asyncio.gather(*(kling.submit(here.request(), key="cat") for _ in range(10)))
            assert len({handle.task_id for handle in handles}) == 1
            results = await asyncio.gather(*(handle.result() for handle in handles))
            assert len({result.task_id for result in results}) == 1
            edited = await kling.submit(here.request("another"), key="cat")
            assert edited.task_id != handles[0].task_id
            assert len(kling.tasks()) == 1

    here = world(latency=1.0)
    virtual_time.run(main())
    assert len(here.times("POST")) == 2


def test_refresh_of_a_task_wanted_twice(world):
    """Both handles of one task can be refreshed, and both are at its end."""

    async def main():
        async with here.client() as kling:
            first, second = [await kling.submit(here.request(), key="cat") for _ in range(2)]
            await until(95)
            assert (await second.refresh()).status is TaskStatus.SUCCEED
            assert first.done()
            assert second.done()
            assert kling.tasks() == []

    here = world(seconds=95)
    virtual_time.run(main())


def test_without_a_key_the_same_request_is_two_videos(world):
    """The same photo twice on purpose is two tasks."""

    async def main():
        async with here.client() as kling:
            await asyncio.gather(kling.submit(here.request()), kling.submit(here.request()))

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made_by_external_id()) == 2


def test_cancelling_one_of_two_who_want_the_same_key(world):
    """The first caller goes while both wait in line: the second still gets the task."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            await kling.submit(here.request("first"))
            one = asyncio.ensure_future(kling.submit(here.request(), key="cat"))
            await asyncio.sleep(1)
            other = asyncio.ensure_future(kling.submit(here.request(), key="cat"))
            await asyncio.sleep(1)
            one.cancel()
            assert (await other).task_id == here.ledger.made[1].task_id

    here = world()
    virtual_time.run(main())


def test_no_wait_raises_when_no_slot_is_free(world):
    """`wait=False` with every slot taken: ConcurrencyLimitError at once, nothing sent or left in line."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            await kling.submit(here.request(), wait=False)
            with pytest.raises(ConcurrencyLimitError) as caught:
                await kling.submit(here.request(), wait=False)
            assert caught.value.outcome is Outcome.NOT_CREATED
            assert (here.time(), len(kling.tasks()), kling.statistics().waiting) == (0, 1, 0)

    here = world()
    virtual_time.run(main())
    assert here.times("POST") == [0]


def test_no_wait_raises_when_kling_has_no_slot(world):
    """Kling's own 1303 is raised too, and the request does not go again behind the caller's back."""

    async def main():
        async with here.client() as other, here.client() as kling:
            await other.submit(here.request())
            with pytest.raises(ConcurrencyLimitError) as caught:
                await kling.submit(here.request(), wait=False)
            assert (caught.value.code, here.time(), kling.tasks()) == (1303, 0, [])
            await asyncio.sleep(500)
            await kling.submit(here.request(), wait=False)

    here = world(parallel=1)
    virtual_time.run(main())
    assert len(here.ledger.made) == 2


def test_withdraw_takes_a_request_back(world):
    """A handle in line is withdrawn and its wait ends; one submitted is not."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            first, second, third = (kling.submit_soon(request) for request in here.requests(3))
            await asyncio.sleep(5)
            assert kling.statistics().waiting == 2
            wait = asyncio.ensure_future(second.result())
            await asyncio.sleep(0)
            assert (first.withdraw(), second.withdraw(), second.withdraw()) == (False, True, False)
            with pytest.raises(KlingError, match="withdrawn") as caught:
                await wait
            assert (caught.value.outcome, second.status) == (Outcome.NOT_CREATED, TaskStatus.REFUSED)
            await third.result()

    here = world()
    virtual_time.run(main())
    assert [made.body["prompt"] for made in here.ledger.made] == ["0", "2"]


def test_result_timeout_counts_from_the_call_and_leaves_the_task(world):
    """Two waits of 30 s time out with the token; the task is polled on and the third wait has it."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            for moment in (30, 60):
                with pytest.raises(WaitTimeoutError) as caught:
                    await handle.result(timeout=30)
                assert here.time() == moment
                assert (caught.value.token, caught.value.outcome) == (handle.token, Outcome.CREATED)
                assert isinstance(caught.value, TimeoutError)
            await handle.result()
            assert here.time() == 100

    here = world()
    virtual_time.run(main())


def test_run_timeout_counts_from_the_call(world):
    """90 s for everything: at 90 s the error comes, with a token that finds the task."""

    async def main():
        async with here.client() as kling:
            with pytest.raises(WaitTimeoutError) as caught:
                await kling.run(here.request(), timeout=90)
            assert here.time() == 90
            assert (await kling.attach(caught.value.token).result()).task_id == caught.value.task_id

    here = world()
    virtual_time.run(main())


def test_run_timeout_in_line_withdraws(world):
    """Time over while the request waits for its slot: nothing was paid, and the error says so."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            await kling.submit(here.request())
            with pytest.raises(WaitTimeoutError) as caught:
                await kling.run(here.request(), timeout=50)
            assert caught.value.outcome is Outcome.NOT_CREATED
            assert "nothing was paid" in str(caught.value)
            await asyncio.sleep(1000)

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_timeout_before_the_answer_does_not_claim_to_know(world):
    """The POST is out, or the request may still leave its line: MAY_EXIST, with the token."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            with pytest.raises(WaitTimeoutError) as caught:
                await kling.run(here.request(), timeout=5)
            assert (caught.value.outcome, bool(caught.value.token)) == (Outcome.MAY_EXIST, True)
            with pytest.raises(WaitTimeoutError) as caught:
                await kling.submit_soon(here.request()).result(timeout=5)
            assert caught.value.outcome is Outcome.MAY_EXIST
            await asyncio.sleep(100)
            assert len(here.ledger.made) == 1

    here = world(latency=20.0)
    virtual_time.run(main())


def test_cancelled_submit_in_line_is_withdrawn(world):
    """Cancelled before its POST, the request is taken back."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            await kling.submit(here.request())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await kling.submit(here.request())
            assert kling.statistics().waiting == 0
            await asyncio.sleep(500)

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_cancelled_submit_after_its_post_goes_on(world):
    """Cancelled while the POST is out, the task is in `tasks()`."""

    async def main():
        async with here.client() as kling:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await kling.submit(here.request())
            (handle,) = kling.tasks()
            assert (await handle.result()).task_id == here.ledger.made[0].task_id

    here = world(latency=10.0)
    virtual_time.run(main())


# Finding again


def test_attach_finds_a_task_by_its_token(world):
    """In a client of another day: same ids, key and result; the token is text that JSON takes."""

    async def main():
        async with here.client() as kling:
            token = (await kling.submit(here.request(), key="cat")).token
        assert json.loads(json.dumps(token)) == token
        assert "sim-key" not in token
        async with here.client() as kling:
            handle = kling.attach(token)
            assert kling.attach(token).external_task_id == handle.external_task_id
            assert len(kling.tasks()) == 1
            task = await handle.result()
            assert (handle.key, task.task_id) == ("cat", here.ledger.made[0].task_id)
            assert kling.tasks() == []

    here = world()
    virtual_time.run(main())
    assert len(here.times("POST")) == 1


def test_attach_in_the_same_client_is_the_same_task(world):
    """Attaching what is in flight here adds no poll."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            await asyncio.gather(kling.attach(handle.token).result(), handle.result())

    here = world()
    virtual_time.run(main())
    assert len(here.times("GET")) == 10


def test_attach_refuses_the_token_of_another(world):
    """Another account's, another host's and a damaged token are refused without a call."""

    async def main():
        async with here.client() as kling:
            token = (await kling.submit(here.request())).token
        for stranger in (
            here.client(APIKey("another")),
            here.client(provider=KLING.at("https://elsewhere.example.org")),
        ):
            async with stranger:
                with pytest.raises(RequestError, match="another account or provider"):
                    stranger.attach(token)
                with pytest.raises(RequestError):
                    stranger.attach(token[:-3])

    here = world()
    virtual_time.run(main())


def test_attached_task_can_be_given_up_and_attached_again(world):
    """Lost today, attached tomorrow: each attach polls anew."""

    async def tamper(request, send):
        if request.method == "GET" and here.time() < 2000:
            body = b'{"code": 1201, "message": "Task not found by id/external id: 7"}'
            return Response(400, {"content-type": "application/json"}, body)
        return await send()

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            with pytest.raises(KlingError):
                await handle.result()
            await until(2000)
            assert (await kling.attach(handle.token).result()).status is TaskStatus.SUCCEED

    here = world(tamper=tamper)
    virtual_time.run(main())


def test_get_task_by_either_id(world):
    """By task_id and by external_task_id; an unknown one is NotFoundError."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            multi = await kling.submit(MultiImageToVideo(image_list=PICTURES, prompt="multi"))
            for name in (handle.task_id, handle.external_task_id):
                assert (await kling.get_task(name)).task_id == handle.task_id
            assert (await kling.get_task(multi.task_id, MultiImageToVideo)).task_id == multi.task_id
            for kind in (ImageToVideo, MultiImageToVideo):
                with pytest.raises(NotFoundError):
                    await kling.get_task("none", kind)

    here = world()
    virtual_time.run(main())


def test_get_task_is_tried_again(world):
    """A passing fault of the server is not the caller's business."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            here.simulator.refuse("query", 5000, times=2)
            assert (await kling.get_task(handle.task_id)).task_id == handle.task_id
            here.simulator.refuse("query", 5000, times=9)
            with pytest.raises(ServerError) as caught:
                await kling.get_task(handle.task_id)
            assert caught.value.outcome is Outcome.NOT_CREATED

    here = world()
    virtual_time.run(main())


def test_list_tasks_reads_every_page_once(world):
    """Seven tasks in pages of three: all, each once, newest first."""

    async def main():
        async with here.client(provider=KLING) as kling:
            handles = [await kling.submit(request) for request in here.requests(7)]
            await kling.submit(MultiImageToVideo(image_list=PICTURES, prompt="multi"))
            seen = [task.task_id async for task in kling.list_tasks(page_size=3)]
            assert seen == [handle.task_id for handle in reversed(handles)]
            assert len([task async for task in kling.list_tasks(MultiImageToVideo)]) == 1
            for wrong in (0, 501):
                with pytest.raises(RequestError, match="page_size"):
                    await anext(kling.list_tasks(page_size=wrong))

    here = world()
    virtual_time.run(main())
    assert here.ledger.requests["list"] == 4


def test_list_survives_a_task_made_meanwhile(world):
    """A new task shifts the others onto the next page; none comes twice."""

    async def main():
        async with here.client(provider=KLING) as kling:
            for request in here.requests(4):
                await kling.submit(request)
            seen = []
            async for task in kling.list_tasks(page_size=2):
                if not seen:
                    await kling.submit(here.request("meanwhile"))
                seen.append(task.task_id)
            assert len(seen) == len(set(seen)) == 4

    here = world()
    virtual_time.run(main())


def test_gateway_without_a_list_says_so(world):
    """CometAPI has no list: UnsupportedError, no call."""

    async def main():
        async with here.client(provider=COMETAPI) as kling:
            with pytest.raises(UnsupportedError):
                await anext(kling.list_tasks())

    here = world(face="cometapi")
    virtual_time.run(main())
    assert here.calls == []


@pytest.mark.parametrize("face", ["cometapi", "new-api-2025", "new-api-2026"])
def test_the_whole_way_through_a_gateway(world, face):
    """Behind each gateway a task is made, polled at the gateway's pace, and found."""
    from kling_async import EZMODEL

    async def main():
        async with here.client(provider=COMETAPI if face == "cometapi" else EZMODEL) as kling:
            assert (await kling.run(here.request())).video.url
            return here.time()

    here = world(face=face)
    ended = virtual_time.run(main())
    assert ended == (100 if face == "cometapi" else 105)


def test_refresh_asks_now(world):
    """Between two polls `refresh` sees the new state; of a finished task it asks nothing."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            await until(45)
            assert handle.status is TaskStatus.PROCESSING
            await until(101)
            here.simulator.seconds = 1
            task = await handle.refresh()
            calls = len(here.calls)
            assert (await handle.refresh()) is task
            assert len(here.calls) == calls

    here = world(seconds=101)
    virtual_time.run(main())
    assert here.times("GET")[-1] == 101


def test_refresh_in_line_makes_no_call(world):
    """Before its POST there is nothing to ask for."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            kling.submit_soon(here.request())
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(5)
            calls = len(here.calls)
            assert (await handle.refresh()).status is TaskStatus.INTENDED
            assert len(here.calls) == calls

    here = world()
    virtual_time.run(main())


def test_events_tell_each_change_and_end(world):
    """The states come in order, each once, and the last is terminal."""

    async def main():
        async with here.client() as kling:
            handle = kling.submit_soon(here.request())
            return [(task.status, here.time()) async for task in handle.events()]

    here = world(latency=2.0, seconds=95)
    assert virtual_time.run(main()) == [
        (TaskStatus.INTENDED, 0),
        (TaskStatus.SUBMITTED, 2),
        (TaskStatus.PROCESSING, 14),
        (TaskStatus.SUCCEED, 104),
    ]


def test_events_give_a_slow_reader_the_latest(world):
    """Who looks late sees what is, not all that was; at the end they stop at once."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            seen = []
            async for task in handle.events():
                seen.append(task.status)
                await asyncio.sleep(500)
            assert [task.status async for task in handle.events()] == [TaskStatus.SUCCEED]
            return seen

    here = world()
    assert virtual_time.run(main()) == [TaskStatus.SUBMITTED, TaskStatus.SUCCEED]


def test_statistics_count(world):
    """Waiting, in flight, the limit, ends and polls."""

    async def main():
        kling = here.client(max_in_flight=2)
        assert kling.statistics().in_flight == 0
        async with kling:
            handles = [kling.submit_soon(request) for request in (*here.requests(3), here.request("[fail]"))]
            await asyncio.sleep(5)
            now = kling.statistics()
            assert (now.waiting, now.in_flight, now.limit, now.succeeded, now.polls) == (2, 2, 2, 0, 0)
            await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
            now = kling.statistics()
            assert (now.waiting, now.in_flight, now.succeeded, now.failed, now.polls) == (0, 0, 3, 1, 40)

    here = world()
    virtual_time.run(main())


# Lifecycle


def test_closing_returns_what_still_runs(world):
    """Running tasks come back as handles with tokens; requests in line are withdrawn and told so."""

    async def main():
        kling = here.client(max_in_flight=2)
        handles = [kling.submit_soon(request) for request in here.requests(4)]
        waits = [asyncio.ensure_future(handle.result()) for handle in handles]
        await asyncio.sleep(5)
        left = await kling.aclose()
        assert [handle.task_id for handle in left] == [made.task_id for made in here.ledger.made]
        errors: list[Any] = await asyncio.gather(*waits, return_exceptions=True)
        assert [error.outcome for error in errors] == [Outcome.CREATED] * 2 + [Outcome.NOT_CREATED] * 2
        assert all(isinstance(error, WaitTimeoutError) for error in errors[:2])
        assert await kling.aclose() == []

    here = world()
    virtual_time.run(main())
    assert here.closed == 0, "a transport given from outside stays open"


def test_closing_waits_for_a_post_that_is_out(world):
    """The answer of a POST is worth a task: it is waited for, and the task is returned."""

    async def main():
        kling = here.client()
        handle = kling.submit_soon(here.request())
        await asyncio.sleep(1)
        (left,) = await kling.aclose()
        assert here.time() == 30
        assert left.task_id == handle.task_id == here.ledger.made[0].task_id

    here = world(latency=30.0)
    virtual_time.run(main())


def test_request_refused_for_want_of_a_slot_while_closing_is_never_made(world):
    """A 1303 that arrives while the client closes ends that request: not told as running, not sent again."""

    async def main():
        async with here.client() as other:
            await other.submit(here.request())
            kling = here.client()
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(1)
            assert await kling.aclose() == []
            with pytest.raises(KlingError) as caught:
                await handle.result()
            assert caught.value.outcome is Outcome.NOT_CREATED

    here = world(parallel=1, latency=10.0)
    virtual_time.run(main())
    assert len(here.times("POST")) == 2


def test_closing_does_not_retry(world):
    """No connection, and the client closes: the wait for the next attempt is given up at once."""
    from kling_async import ConnectError, Retries

    async def tamper(request, send):
        await asyncio.sleep(3)
        raise ConnectError("refused")

    async def main():
        for moment in (1, 4):
            kling = here.client(retries=Retries(attempts=9, factor=1000, max_value=1000))
            handle = kling.submit_soon(here.request())
            began = here.time()
            await asyncio.sleep(moment)
            assert await kling.aclose() == []
            assert here.time() - began == max(moment, 3)
            with pytest.raises(KlingError) as caught:
                await handle.result()
            assert caught.value.outcome is Outcome.NOT_CREATED

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.times("POST")) == 2


def test_drain_waits_for_running_tasks(world):
    """With `drain` the tasks come to their end, or the time does."""

    async def main():
        kling = here.client()
        handle = await kling.submit(here.request())
        assert await kling.aclose(drain=500) == []
        assert (here.time(), handle.status) == (100, TaskStatus.SUCCEED)
        kling = here.client()
        await kling.submit(here.request())
        assert len(await kling.aclose(drain=50)) == 1
        assert here.time() == 150

    here = world()
    virtual_time.run(main())


def test_client_serves_one_loop_after_another(world):
    """Two runs of a loop with one client, entered in each."""

    async def main(key):
        async with kling:
            return (await kling.run(here.request(), key=key)).task_id

    here = world()
    kling = here.client()
    first = virtual_time.run(main("a"))
    here.inner.clock = lambda: here.now() + 1000  # the second loop begins at 0 again
    assert virtual_time.run(main("b")) != first


def test_second_loop_meanwhile_is_an_error_that_says_so(world):
    """While one loop works with the client, another is refused and the first is not disturbed."""

    async def use():
        await kling.submit(here.request())

    here = world()
    kling = here.client()
    with asyncio.Runner(loop_factory=virtual_time.VirtualTimeLoop) as first:
        first.run(use())
        with pytest.raises(ConfigurationError, match="another event loop"):
            virtual_time.run(use())
        assert len(first.run(kling.aclose())) == 1


def test_client_in_notebook_cells(world):
    """Never entered, used in several runs of one loop, closed in the last."""

    async def submit():
        return await kling.submit(here.request())

    here = world()
    kling = here.client()
    with asyncio.Runner(loop_factory=virtual_time.VirtualTimeLoop) as cells:
        handle = cells.run(submit())
        assert cells.run(handle.result()).status is TaskStatus.SUCCEED
        assert cells.run(kling.get_task(handle.task_id)).task_id == handle.task_id
        assert cells.run(kling.aclose()) == []
        assert asyncio.all_tasks(cells.get_loop()) == set()


def test_client_left_open_at_the_end_of_its_loop(world):
    """Forgotten, it is cleaned up with the loop: nothing is left pending, and a later loop can use it."""

    async def main(key):
        await kling.submit(here.request(), key=key)

    here = world()
    kling = here.client()
    for key in ("a", "b"):
        with asyncio.Runner(loop_factory=virtual_time.VirtualTimeLoop) as runner:
            runner.run(main(key))
    gc.collect()
    assert len(here.ledger.made) == 2


@pytest.mark.parametrize("pauses", range(6))
def test_loop_that_ends_at_once(world, pauses):
    """The loop is over before or while the engine begins: nothing is left unawaited."""

    async def main():
        kling.submit_soon(here.request())
        for _ in range(pauses):
            await asyncio.sleep(0)

    here = world()
    kling = here.client()
    with asyncio.Runner(loop_factory=virtual_time.VirtualTimeLoop) as runner:
        runner.run(main())
    gc.collect()


def test_exception_of_the_body_leaves_as_itself(world):
    """Neither wrapped in a group nor replaced, though tasks and lines are full."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            for request in here.requests(3):
                kling.submit_soon(request)
            raise ZeroDivisionError("mine")

    here = world()
    with pytest.raises(ZeroDivisionError, match="mine"):
        virtual_time.run(main())


def test_cancelled_body_closes_cleanly(world):
    """Cancellation of the body is one CancelledError; the POST that is out is still waited for."""

    async def body():
        async with here.client() as kling:
            await kling.run(here.request())

    async def main():
        task = asyncio.ensure_future(body())
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert here.time() == 20

    here = world(latency=20.0)
    virtual_time.run(main())


def test_cancelled_close_ends_at_once_and_tells_of_the_post(world):
    """Who cannot wait for the answer gets its names: the request is told as lost."""

    async def main():
        kling = here.client()
        handle = kling.submit_soon(here.request())
        await asyncio.sleep(5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await kling.aclose()
        assert here.time() == 6
        with pytest.raises(KlingError) as caught:
            await handle.result()
        assert (caught.value.outcome, bool(caught.value.token)) == (Outcome.MAY_EXIST, True)

    here = world(latency=20.0)
    virtual_time.run(main())


@pytest.mark.parametrize("call", ["get_task", "list_tasks", "refresh", "submit"])
def test_calls_under_way_end_when_the_client_is_closed(world, call):
    """A call whose client is closed under it ends with a KlingError, not with a cancellation."""

    async def main():
        kling = here.client(provider=KLING)
        handle = await kling.submit(here.request())
        here.simulator.refuse("query", 5000, times=99)
        here.simulator.refuse("list", 5000, times=99)
        calls = {
            "get_task": lambda: kling.get_task("7"),
            "list_tasks": lambda: anext(kling.list_tasks()),
            "refresh": handle.refresh,
            "submit": lambda: asyncio.gather(*(kling.submit(request) for request in here.requests(30))),
        }
        task = asyncio.ensure_future(calls[call]())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await kling.aclose()
        with pytest.raises(KlingError, match="closed"):
            await task
        with pytest.raises(KlingError, match="closed"):
            await handle.refresh()

    here = world()
    virtual_time.run(main())


def test_result_after_close_says_that_the_task_goes_on(world):
    """A handle outlives its client and still has the token."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
        with pytest.raises(WaitTimeoutError, match="goes on") as caught:
            await handle.result()
        assert caught.value.token == handle.token
        assert not handle.withdraw()
        async with here.client() as kling:
            await kling.attach(handle.token).result()

    here = world()
    virtual_time.run(main())


def test_wrong_base_url_is_told_for_a_read_too(world):
    """The first answer is a web page: one try, and the error says to check the base URL."""

    async def tamper(request, send):
        return Response(404, {"content-type": "text/html"}, b"<html></html>")

    async def main():
        async with here.client() as kling:
            with pytest.raises(GatewayError, match="base URL"):
                await kling.get_task("7")

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.calls) == 1


def test_a_wrong_file_of_certificates_is_told(tmp_path):
    """SSL_CERT_FILE that names no certificates is a wrong setting, told with what to do."""
    rubbish = tmp_path / "ca.pem"
    rubbish.write_text("no certificate")
    for file in (rubbish, tmp_path / "nowhere.pem"):
        with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE cannot be read: .*PEM file"):
            KlingClient.from_env(env={"KLING_API_KEY": "k", "SSL_CERT_FILE": str(file)})
