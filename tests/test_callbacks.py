"""Callbacks and polls of the same tasks, second by second on a loop in virtual time."""

import asyncio
import logging
import random
from datetime import UTC, datetime

import attrs
import pytest
import virtual_time
import yarl

from kling_async import (
    COMETAPI,
    EZMODEL,
    ConfigurationError,
    ConnectError,
    Polling,
    RequestError,
    Retries,
    Task,
    TaskStatus,
    Video,
)
from kling_async.protocol.wire import Response
from kling_async.webhook import Callback

URL = "https://hook.example.org/kling"
VIDEO = Video(id="1", url="https://media.example.org/v.mp4", duration=5)


def callback(made, status=TaskStatus.SUCCEED, *, verified=True, number="1", **changes):
    """What Kling posts of a task that it *made*."""
    videos = (VIDEO,) if status is TaskStatus.SUCCEED else ()
    created, ended = (datetime.fromtimestamp(each, UTC) for each in (made.created, made.ended))
    task = Task(
        made.task_id, made.external_task_id, status, videos=videos, created_at=created, updated_at=ended
    )
    return Callback(task=attrs.evolve(task, **changes), verified=verified, id=number)


# What a callback does


def test_signed_callback_ends_a_task_at_once(world):
    """The video is there at the second of the callback, without one status request."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            await asyncio.sleep(7)
            assert kling.observe(callback(here.ledger.made[0]))
            task = await handle.result()
            assert (here.time(), task.videos) == (7, (VIDEO,))
            await asyncio.sleep(100)

    here = world()
    virtual_time.run(main())
    assert here.times("GET") == []


def test_signed_callback_of_a_failure(world):
    """A failed generation is told with its reason."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            message = "content risk control"
            kling.observe(callback(here.ledger.made[0], TaskStatus.FAILED, status_message=message))
            assert (handle.status, handle.task.status_message) == (TaskStatus.FAILED, message)

    here = world()
    virtual_time.run(main())


def test_unsigned_callback_is_only_a_hint(world):
    """It says succeed and tells of a video: its task is polled, now and a second later, and that counts."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            await asyncio.sleep(3)
            assert kling.observe(callback(here.ledger.made[0], verified=False))
            await asyncio.sleep(2)
            assert (handle.status, handle.task.videos) == (TaskStatus.SUBMITTED, ())
            task = await handle.result()
            assert task.video.url.startswith("http://127.0.0.1/")

    here = world()
    virtual_time.run(main())
    assert here.times("GET") == [3, 4, *range(14, 105, 10)]


def test_hints_cost_one_poll_a_second_at_most(world):
    """A hundred hints within two seconds, all of them false: one now, then one after each second."""

    async def main():
        async with here.client() as kling:
            await kling.submit(here.request())
            for _ in range(100):
                kling.observe(callback(here.ledger.made[0], verified=False))
                await asyncio.sleep(0.02)
            await asyncio.sleep(2)

    here = world()
    virtual_time.run(main())
    assert here.times("GET") == [0, 1, 2, 3]


def test_hint_of_what_goes_on_costs_nothing(world):
    """That a task is being generated needs no poll."""

    async def main():
        async with here.client() as kling:
            await kling.submit(here.request())
            assert kling.observe(callback(here.ledger.made[0], TaskStatus.PROCESSING, verified=False))
            await asyncio.sleep(5)

    here = world()
    virtual_time.run(main())
    assert here.times("GET") == []


def test_hint_during_a_poll_is_not_lost(world):
    """The poll that is out was asked a moment too early: the task is asked for once more."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            await asyncio.sleep(11.6)  # the poll of 12 s was answered at 13 s, and its reply is on its way
            assert kling.observe(callback(here.ledger.made[0], verified=False))
            await handle.result()
            assert here.time() == 17

    here = world(latency=2, seconds=12.5)
    virtual_time.run(main())
    assert here.times("GET") == [12, 15]


def test_callback_through_a_gateway_is_a_hint(world):
    """Its task_id is Kling's and not the one we know, and its signature is never ours."""

    async def main():
        async with here.client(provider=COMETAPI) as kling:
            handle = await kling.submit(here.request())
            await asyncio.sleep(3)
            assert kling.observe(callback(here.ledger.made[0], task_id="880000000000000001"))
            await asyncio.sleep(1)
            assert handle.status is TaskStatus.SUBMITTED
            assert handle.task_id == here.ledger.made[0].task_id

    here = world(face="cometapi")
    virtual_time.run(main())
    assert here.times("GET") == [3, 4]


def test_hint_of_what_a_gateway_does_not_know_yet(world):
    """A new-api looks at Kling every 15 s: asked at once, it may not know; asked 15 s later it does."""

    async def main():
        async with here.client(
            provider=EZMODEL, polling=Polling(aim=None, factor=100, max_interval=100)
        ) as kling:
            handle = await kling.submit(here.request())
            await asyncio.sleep(32)
            assert kling.observe(callback(here.ledger.made[0], task_id="88", verified=False))
            await handle.result()
            assert here.time() == 47

    here = world(face="new-api-2026", gateway_refresh=15, seconds=31)
    virtual_time.run(main())
    assert here.times("GET") == [32, 47]


def test_signed_callback_with_another_id_is_no_news(world):
    """Our external_task_id with a task_id that is not the one acknowledged: asked for, not believed."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            wrong = callback(here.ledger.made[0], task_id="880000000000000001")
            assert kling.observe(wrong)
            await asyncio.sleep(5)
            assert handle.status is TaskStatus.SUBMITTED
            assert kling.observe(wrong)  # replayed: not even a poll
            await asyncio.sleep(3)

    here = world()
    virtual_time.run(main())
    assert here.times("GET") == [0, 1]


def test_callbacks_in_any_order_and_number_are_one_end(world):
    """The end, then that it goes on, then the end twice more: the first counts, and all are ours."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            made = here.ledger.made[0]
            assert kling.observe(callback(made, number="2"))
            assert kling.observe(callback(made, TaskStatus.PROCESSING, number="1"))
            assert kling.observe(callback(made, number="2"))
            assert kling.observe(callback(made, number="3", verified=False))
            assert handle.status is TaskStatus.SUCCEED
            assert kling.statistics().succeeded == 1

    here = world()
    virtual_time.run(main())


def test_callback_of_somebody_else(world):
    """False says: not mine, pass it on. Also from a client that is not at work."""

    async def main():
        kling = here.client()
        foreign = Callback(task=Task("7", "theirs", TaskStatus.SUCCEED), verified=True)
        assert not kling.observe(foreign)
        async with kling:
            assert not kling.observe(foreign)
            await kling.submit(here.request())
            assert not kling.observe(foreign)

    here = world()
    virtual_time.run(main())


def test_callback_by_task_id_alone(world):
    """Where external_task_id is not told, the task_id finds the task; also one attached to by token."""

    async def main():
        async with here.client() as kling:
            first = await kling.submit(here.request("1"))
            assert kling.observe(callback(here.ledger.made[0], external_task_id=None))
            second = await kling.submit(here.request("2"))  # made after the first question
            assert kling.observe(callback(here.ledger.made[1], external_task_id=None, number="2"))
            assert first.done()
            assert second.done()
            third = await kling.submit(here.request("3"))
        async with here.client() as later:
            again = later.attach(third.token)
            assert later.observe(callback(here.ledger.made[2], external_task_id=None))
            assert again.done()

    here = world()
    virtual_time.run(main())


# A callback that is faster than the create's reply


@pytest.mark.parametrize("verified", [True, False])
def test_callback_before_the_reply_to_its_submit(world, verified):
    """Signed it is the acknowledgement; a hint is kept until there is one. Nothing is made twice."""

    async def main():
        async with here.client() as kling:
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(6)  # made at 5 s, its reply arrives at 10 s
            for status, number in ((TaskStatus.SUCCEED, "2"), (TaskStatus.PROCESSING, "1")):
                made = here.ledger.made[0]
                assert kling.observe(callback(made, status, verified=verified, number=number))
            assert handle.done() is verified
            await asyncio.sleep(3.5)
            here.inner.latency = 0
            task = await handle.result()
            assert task.status is TaskStatus.SUCCEED
            assert here.time() == (9.5 if verified else 10)
            await kling.aclose(drain=60)

    here = world(latency=10, seconds=1)
    virtual_time.run(main())
    assert here.times("POST") == [0]
    assert here.times("GET") == ([] if verified else [10])


@pytest.mark.parametrize(("seconds", "kept"), [(50, True), (70, False)])
def test_unknown_callbacks_are_kept_for_a_minute(world, seconds, kept):
    """The reply to a submit tells the task_id that a callback told of before, if that is not too long ago."""

    async def main():
        async with here.client() as kling:
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(101)
            early = callback(here.ledger.made[0], external_task_id=None)
            assert not kling.observe(early)
            await asyncio.sleep(seconds)
            here.inner.latency = 0
            kling.observe(Callback(task=Task("7", None, TaskStatus.SUCCEED), verified=True))
            await asyncio.sleep(200 - 101 - seconds + 1)
            assert handle.done() is kept

    here = world(latency=200)
    virtual_time.run(main())


def test_a_flood_of_unknown_callbacks_is_bounded(world):
    """Of those that Kling signed a thousand are kept, the latest; of made-up ones none."""

    async def main():
        async with here.client() as kling:
            unknown = kling._work.engine.callbacks._unknown
            for verified, kept in ((False, []), (True, range(1500, 2500))):
                for number in range(2500):
                    task = Task(str(number), f"name-{number}", TaskStatus.SUCCEED)
                    kling.observe(Callback(task=task, verified=verified, id=str(number)))
                assert [*unknown][::2] == [str(number) for number in kept]

    here = world()
    virtual_time.run(main())


# A callback of a submit whose reply was lost


def test_signed_callback_settles_a_lost_reply(world):
    """Look-ups lag for a minute; the callback proves that the task exists, and ends it."""

    async def main():
        async with here.client() as kling:
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(7)
            assert handle.status is TaskStatus.AMBIGUOUS
            assert kling.observe(callback(here.ledger.made[0]))
            assert (await handle.result()).status is TaskStatus.SUCCEED
            assert here.time() == 7

    here = world()
    here.simulator.faults.add(*faults("create:lost_reply_after times=1; query:lookup_lag seconds=60"))
    virtual_time.run(main())
    assert here.times("POST") == [0]


def test_hint_has_a_lost_reply_looked_up_at_once(world):
    """The look-ups of 0 and 5 s found nothing and the next is at 15 s: the hint is a look-up at 7 s."""

    async def main():
        async with here.client() as kling:
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(7)
            assert kling.observe(callback(here.ledger.made[0], TaskStatus.PROCESSING, verified=False))
            await asyncio.sleep(0.5)
            assert handle.status is TaskStatus.SUBMITTED

    here = world()
    here.simulator.faults.add(*faults("create:lost_reply_after times=1; query:lookup_lag seconds=6"))
    virtual_time.run(main())
    assert here.times("GET") == [0, 5, 7]
    assert here.times("POST") == [0]


def test_callback_of_what_may_exist(world, caplog):
    """No look-up can tell; the callback does, in the log, so that nobody pays a second time."""

    async def main():
        async with here.client(provider=COMETAPI) as kling:
            handle = kling.submit_soon(here.request(), key="cat")
            await asyncio.sleep(1)
            assert handle.status is TaskStatus.MAY_EXIST
            with caplog.at_level(logging.WARNING, "kling_async"):
                assert kling.observe(callback(here.ledger.made[0], verified=False))
                assert kling.observe(callback(here.ledger.made[0], verified=False))
        assert caplog.text.count("cat was made: a callback tells of it") == 1

    here = world(face="cometapi", lookup=False)
    here.simulator.faults.add(*faults("create:lost_reply_after times=1"))
    virtual_time.run(main())


def test_hint_before_it_may_exist(world, caplog):
    """The callback comes before the reply is lost, where no look-up can tell: the log does."""

    async def main():
        async with here.client(provider=COMETAPI) as kling:
            handle = kling.submit_soon(here.request(), key="cat")
            await asyncio.sleep(6)  # made at 5 s; at 10 s the connection breaks
            assert kling.observe(callback(here.ledger.made[0], TaskStatus.PROCESSING, verified=False))
            await asyncio.sleep(5)
            assert handle.status is TaskStatus.MAY_EXIST

    here = world(face="cometapi", lookup=False, latency=10)
    here.simulator.faults.add(*faults("create:lost_reply_after times=1"))
    with caplog.at_level(logging.WARNING, "kling_async"):
        virtual_time.run(main())
    assert caplog.text.count("cat was made: a callback tells of it") == 1


def test_signed_callback_revives_what_may_exist(world, tmp_path):
    """Kling answers no look-up for hours; then its callback brings the video, and no second one is paid."""

    async def main():
        polling = Polling(aim=None, give_up=200)
        async with here.client(journal=tmp_path / "journal.sqlite", polling=polling) as kling:
            handle = kling.submit_soon(here.request(), key="cat")
            await asyncio.sleep(300)
            assert handle.status is TaskStatus.MAY_EXIST
            token = handle.token
            assert kling.observe(callback(here.ledger.made[0], videos=(), number="0"))
            assert kling.observe(callback(here.ledger.made[0]))
            await asyncio.sleep(1)  # until it is durable
            assert (await handle.result()).videos == (VIDEO,)
            assert (kling.statistics().succeeded, kling.statistics().failed) == (1, 0)
            with pytest.raises(RequestError, match="it was made"):
                await kling.resubmit(token)
        async with here.client(journal=tmp_path / "journal.sqlite") as later:
            again = await later.submit(here.request(), key="cat")
            assert again.done()

    here = world()
    here.simulator.faults.add(*faults("create:lost_reply_after times=1; query:refuse code=5000"))
    virtual_time.run(main())
    assert here.times("POST") == [0]


def test_signed_callback_of_what_was_given_up(world, caplog, tmp_path):
    """Nobody waits for it any more: the handle, the journal and the log tell that there is a video."""

    async def main():
        journal = tmp_path / "journal.sqlite"
        polling = Polling(aim=None, give_up=50)
        async with here.client(journal=journal, callback_url=URL, polling=polling) as kling:
            handle = await kling.submit(here.request(), key="cat")
            await asyncio.sleep(60)
            assert handle.status is TaskStatus.GIVEN_UP
            assert kling.observe(callback(here.ledger.made[0], verified=False))
            assert kling.observe(callback(here.ledger.made[0], task_id="880000000000000001", number="0"))
            await asyncio.sleep(1)
            assert handle.status is TaskStatus.GIVEN_UP
            assert kling.observe(callback(here.ledger.made[0], number="1"))
            assert kling.observe(callback(here.ledger.made[0], number="2"))
            await asyncio.sleep(1)
            assert (await handle.result()).videos == (VIDEO,)
        async with here.client(journal=journal) as later:
            items = [("cat", here.request())]
            async for done in later.completions(items, again=lambda _key, _status: True):
                assert (done.ok, done.resumed) == (True, True)

    here = world()
    with caplog.at_level(logging.WARNING, "kling_async"):
        virtual_time.run(main())
    assert here.times("POST") == [0]
    assert caplog.text.count("no longer waited for, has ended: succeed") == 1


@pytest.mark.parametrize("status", [TaskStatus.PROCESSING, TaskStatus.SUCCEED])
def test_signed_callback_while_a_submit_waits_to_be_tried_again(world, status):
    """Another process made it under the same key: there is no second POST, and others are not disturbed."""
    tries = 0

    async def tamper(request, send):
        nonlocal tries
        tries += request.method == "POST"
        if request.method == "POST" and tries == 2:
            await send()  # the other process
            raise ConnectError("refused")
        return await send()

    async def main():
        async with here.client(retries=Retries(factor=20)) as kling:
            other = await kling.submit(here.request("other"))
            handle = kling.submit_soon(here.request(), key="cat")
            await asyncio.sleep(0.1)
            assert kling.observe(callback(here.ledger.made[1], status))
            assert (await handle.result()).status is TaskStatus.SUCCEED
            assert (await other.result()).status is TaskStatus.SUCCEED
            assert kling.statistics().in_flight == 0

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert here.times("POST") == [0, 0]


# Polling rests on callbacks


def deliver(here, kling, *, until=float("inf"), verified=True, late=0):
    """Has Kling post the end of every task *late* seconds after it, as long as it is not yet *until*."""
    told: set[str] = set()

    async def post():
        while True:
            await asyncio.sleep(0.5)
            for made in here.ledger.made:
                if made.ended + late <= here.now() and made.task_id not in told:
                    told.add(made.task_id)
                    if here.time() < until:
                        kling.observe(callback(made, verified=verified, number=made.task_id))

    return asyncio.ensure_future(post())


async def many(here, count, *, until=float("inf"), verified=True, **options):
    """Run *count* tasks, 4 at once; how late each end was known, and how many a callback told first."""
    delays: dict[str, float] = {}
    options = {"polling": Polling(jitter=0), "max_in_flight": 4, **options}
    async with here.client(**options) as kling:
        posting = deliver(here, kling, until=until, verified=verified)
        async for done in kling.completions(here.requests(count)):
            made = next(each for each in here.ledger.made if each.task_id == done.task.task_id)
            delays[made.task_id] = round(here.now() - made.ended, 3)
        posting.cancel()
        return delays, kling.statistics().callbacks


def test_callbacks_spare_the_polls(world):
    """A task is asked for when its callback is overdue: one in twenty, a time or two."""

    async def main():
        delays, callbacks = await many(here, 100, callback_url=URL)
        assert max(delays.values()) <= 0.5
        assert callbacks == 100
        await many(there, 100)  # nobody asked for these callbacks, so nothing rests on them

    first, second = random.Random(7), random.Random(7)
    here = world(parallel=4, seconds=lambda _: first.uniform(60, 120))
    there = world(parallel=4, seconds=lambda _: second.uniform(60, 120))
    virtual_time.run(main())
    since = 200
    polls, usual = (len([when for when in each.times("GET") if when > since]) for each in (here, there))
    assert polls <= 15
    assert usual >= 20 * polls


def test_unsigned_callbacks_spare_the_polls_but_one_a_task(world):
    """A hint needs its one poll to be believed."""

    async def main():
        delays, _ = await many(here, 40, callback_url=URL, verified=False)
        assert max(delays.values()) <= 0.5

    here = world(parallel=4)
    virtual_time.run(main())
    begun = here.ledger.made[8].created - here.ledger.made[0].created
    assert len([when for when in here.times("GET") if when > begun]) <= 36


def test_silence_is_noticed_by_the_first_overdue_task(world, caplog):
    """The receiver dies half-way: the tasks then in flight are a second late, later ones as by schedule."""

    async def main():
        with caplog.at_level(logging.WARNING, "kling_async"):
            told, _ = await many(here, 40, callback_url=URL, until=550)
        delays = list(told.values())
        assert set(delays[:20]) <= {0.0, 0.5}
        assert all(0.5 < delay <= 2.5 for delay in delays[20:24])
        told, _ = await many(there, 40, until=0)
        alone = list(told.values())
        assert sum(delays[24:]) <= sum(alone[24:]) + 0.5

    here, there = world(parallel=4), world(parallel=4)
    virtual_time.run(main())
    assert caplog.text.count("did not come") == 1


def test_forged_hints_build_no_trust(world):
    """Each task is said to have ended a second after it began: polls disprove it, and go on as ever."""

    async def main():
        async with here.client(polling=Polling(jitter=0), callback_url=URL) as kling:
            for number in range(30):
                handle = await kling.submit(here.request(str(number)))
                await asyncio.sleep(1)
                kling.observe(callback(here.ledger.made[-1], verified=False))
                await handle.result()
            assert kling.statistics().callbacks == 0
            assert here.now() - here.ledger.made[-1].ended < 4

    here = world(seconds=60)
    virtual_time.run(main())


def test_made_up_ends_keep_no_trust_where_kling_signs(world):
    """Signed ones stopped; somebody posts what he saw ended: the silence is noticed all the same."""

    async def main():
        async with here.client(polling=Polling(jitter=0), callback_url=URL, max_in_flight=1) as kling:
            posting = deliver(here, kling, until=600)
            async for done in kling.completions(here.requests(20)):
                made = next(each for each in here.ledger.made if each.task_id == done.task.task_id)
                delays.append(here.now() - made.ended)
                kling.observe(callback(made, verified=False))
            posting.cancel()

    delays: list[float] = []
    here = world(parallel=1)
    virtual_time.run(main())
    assert len([delay for delay in delays if delay > 3.5]) <= 1
    assert not kling_trusts(delays)


def kling_trusts(delays):
    """Whether the last were found only when a callback was overdue."""
    return min(delays[-5:]) > 2.6


def test_each_model_is_trusted_by_itself(world):
    """One model is told of and the other never is: its tasks are found as without callbacks."""

    async def main():
        async with here.client(polling=Polling(jitter=0), callback_url=URL) as kling:

            async def one(number):
                model = "kling-v3" if number % 5 == 0 else "kling-v2-6"
                handle = await kling.submit(here.request(str(number), model_name=model))
                made = next(each for each in here.ledger.made if each.task_id == handle.task_id)
                await asyncio.sleep(made.ended - here.now())
                if model == "kling-v2-6":
                    kling.observe(callback(made, number=made.task_id))
                await handle.result()
                delays[model].append(here.now() - made.ended)

            for start in range(0, 300, 5):
                await asyncio.gather(*(one(number) for number in range(start, start + 5)))

    draw = random.Random(3)
    delays: dict[str, list[float]] = {"kling-v3": [], "kling-v2-6": []}
    here = world(seconds=lambda _: draw.uniform(60, 120))
    virtual_time.run(main())
    assert max(delays["kling-v2-6"]) == 0
    assert max(delays["kling-v3"][20:]) < 9


def test_requests_told_of_elsewhere_are_apart(world, caplog):
    """Some requests have a callback_url of another system: that nothing comes here of those says nothing."""

    async def main():
        async with here.client(polling=Polling(jitter=0), callback_url=URL) as kling:
            for number in range(120):
                own = {"callback_url": "https://elsewhere.example.org/"} if number % 10 == 9 else {}
                handle = await kling.submit(here.request(str(number), **own))
                made = here.ledger.made[-1]
                await asyncio.sleep(made.ended - here.now())
                if not own:
                    kling.observe(callback(made, number=made.task_id))
                await handle.result()
                delays[bool(own)].append(here.now() - made.ended)

    draw = random.Random(3)
    delays: dict[bool, list[float]] = {True: [], False: []}
    here = world(seconds=lambda _: draw.uniform(60, 120))
    with caplog.at_level(logging.WARNING, "kling_async"):
        virtual_time.run(main())
    assert max(delays[False]) == 0
    assert max(delays[True][2:]) < 9
    assert "did not come" not in caplog.text


def test_callback_that_a_poll_overtook_is_no_lost_one(world, caplog):
    """Callbacks come a second late and polls are often faster: nobody cries wolf, and they are relied on."""

    async def main():
        async with here.client(polling=Polling(jitter=0), callback_url=URL, max_in_flight=4) as kling:
            posting = deliver(here, kling, late=1)
            async for _ in kling.completions(here.requests(100)):
                pass
            posting.cancel()

    draw = random.Random(3)
    here = world(parallel=4, seconds=lambda _: draw.uniform(60, 120))
    with caplog.at_level(logging.WARNING, "kling_async"):
        virtual_time.run(main())
    assert "did not come" not in caplog.text
    assert len([when for when in here.times("GET") if when > 400]) <= 40


def test_hint_whose_poll_failed_is_not_used_up(world):
    """Callbacks are relied on; the two polls of one hint fail: the task is found by schedule, not overdue."""

    async def main():
        async with here.client(polling=Polling(jitter=0), callback_url=URL) as kling:
            for number in range(30):
                handle = await kling.submit(here.request(str(number)))
                await asyncio.sleep(here.ledger.made[-1].ended - here.now())
                if number == 29:
                    here.simulator.faults.add(*faults("query:refuse code=5000 times=2"))
                kling.observe(callback(here.ledger.made[-1], verified=False))
                await handle.result()
            assert here.now() - here.ledger.made[-1].ended < 5

    draw = random.Random(3)
    here = world(seconds=lambda _: 95 if len(here.ledger.made) == 29 else draw.uniform(60, 120))
    virtual_time.run(main())


def test_class_of_which_nothing_is_known_is_polled(world):
    """Callbacks are relied on; the first of another model loses its own: a guess is nothing to rest on."""

    async def main():
        async with here.client(polling=Polling(jitter=0), callback_url=URL) as kling:
            for number in range(10):
                handle = await kling.submit(here.request(str(number)))
                await asyncio.sleep(46)
                kling.observe(callback(here.ledger.made[-1]))
                await handle.result()
            other = await kling.submit(here.request(model_name="kling-v3"))
            await other.result()
            assert here.now() - here.ledger.made[-1].ended < 10

    here = world(seconds=46)
    virtual_time.run(main())


def test_server_that_asks_for_a_pause_gets_it(world):
    """Retry-After of a minute at the poll of 10 s: hints do not shorten it."""
    polls: list[float] = []

    async def tamper(request, send):
        if request.method == "GET":
            polls.append(here.time())
            headers = {"content-type": "application/json", "retry-after": "60"}
            return Response(429, headers, b'{"code": 1302, "message": "slow"}')
        return await send()

    async def main():
        async with here.client() as kling:
            await kling.submit(here.request())
            for _ in range(60):
                await asyncio.sleep(1.1)
                kling.observe(callback(here.ledger.made[0], verified=False))
            await asyncio.sleep(10)

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert [round(when, 3) for when in polls] == [1.1, 61.1]


def test_signed_success_without_a_video_is_a_hint(world):
    """Kling's own test callback has no outputs: the task is asked what it made."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            await asyncio.sleep(100)
            assert kling.observe(callback(here.ledger.made[0], videos=()))
            task = await handle.result()
            assert task.video.url

    here = world(seconds=99)
    virtual_time.run(main())


def test_task_made_elsewhere_is_not_expected_to_be_told_of(world, caplog):
    """A token of a client without callbacks: that a poll finds its end says nothing of ours."""

    async def main():
        async with here.client() as kling:
            token = (await kling.submit(here.request())).token
        async with here.client(callback_url=URL, polling=Polling(jitter=0)) as kling:
            for number in range(6):
                handle = await kling.submit(here.request(str(number)))
                kling.observe(callback(here.ledger.made[-1]))
                await handle.result()
            await kling.attach(token).result()
            await asyncio.sleep(10)

    here = world(seconds=50)
    with caplog.at_level(logging.WARNING, "kling_async"):
        virtual_time.run(main())
    assert "did not come" not in caplog.text


# Where Kling posts


def test_callback_url_of_the_client(world):
    """A text is sent as it is, a function is asked with the external_task_id; a request's own comes first."""

    async def main():
        async with here.client(callback_url=URL) as kling:
            await kling.submit(here.request())
            await kling.submit(here.request(callback_url="https://own.example.org/"))
        async with here.client(callback_url=lambda name: f"{URL}?id={name}") as kling:
            await kling.submit(here.request())

    here = world()
    virtual_time.run(main())
    first, second, third = here.ledger.made
    assert first.body["callback_url"] == URL
    assert second.body["callback_url"] == "https://own.example.org/"
    assert third.body["callback_url"] == f"{URL}?id={third.external_task_id}"


def url_object(_):
    """What `server.make_url` of aiohttp gives."""
    return yarl.URL(URL)


@pytest.mark.parametrize(
    "url", [lambda _: 1 / 0, lambda _: "hook.example.org/secret", lambda _: None, url_object]
)
def test_callback_url_that_cannot_be_made(world, url):
    """It is told before anything is sent, without what the URL holds."""

    async def main():
        async with here.client(callback_url=url) as kling:
            with pytest.raises(RequestError, match="callback_url") as caught:
                await kling.submit(here.request())
            assert "secret" not in str(caught.value)

    here = world()
    virtual_time.run(main())
    assert here.calls == []


def test_callback_url_is_checked_when_the_client_is_made(world):
    """A text that is no URL is refused at once."""
    for url in ("hook.example.org", yarl.URL(URL), f"{URL}\n", f"{URL}/a b"):
        with pytest.raises(ConfigurationError, match="callback_url"):
            world().client(callback_url=url)


def faults(text):
    """The faults written as *text*."""
    from kling_async.simulator import Faults

    return Faults.parse(text)
