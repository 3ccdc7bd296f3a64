"""Submits whose answer was lost, second by second: looked up, waited out, and only then sent again.

The look-ups of a lost answer come 0, 5, 15, 35, 75 and 90 s after it; at 90 s it is sent again.
"""

import asyncio
from collections import Counter

import attrs
import pytest
import virtual_time

from kling_async import (
    COMETAPI,
    KLING,
    AuthenticationError,
    KlingError,
    Outcome,
    PolicyError,
    Polling,
    RequestError,
    ResponseLostError,
    Retries,
    TaskStatus,
    WaitTimeoutError,
    new_api,
)
from kling_async.protocol.models import Task
from kling_async.protocol.wire import Response
from kling_async.simulator.faults import Fault, Faults

LOOKS = [0, 5, 15, 35, 75, 90]
"""Seconds after a lost answer at which a task that is not found is looked for."""
PROMPT = Retries(attempts=3, factor=1e-9, max_value=1e-9)
"""Retries whose waits are nothing, so that times can be told exactly."""
NO_LOOKUP = attrs.evolve(KLING, lookup="no")
UNPROVEN = attrs.evolve(KLING, lookup="unproven")


def scripted(world, script, **settings):
    """A world in which *script* strikes."""
    return world(faults=Faults.parse(script), **settings)


def counts(here):
    """How many tasks were made under each name."""
    return Counter(made.external_task_id for made in here.ledger.made)


# What is found out


@pytest.mark.parametrize(
    "fault",
    [
        "lost_reply_after",
        "lost_reply_after reset=1",
        "refuse code=5000 made=1",
        "html status=502 made=1",
        "empty status=504 made=1",
        "empty status=408 made=1",
        "not_http made=1",
        "truncated_json",
        "cut_reply",
    ],
    ids=lambda fault: fault.replace(" ", "-"),
)
def test_task_that_was_made_is_found_and_adopted(world, fault):
    """Whatever hid the answer: the first look finds the task, it is polled on, and nothing is sent again."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            handle = await kling.submit(here.request(), key="cat")
            assert here.time() == 0
            assert handle.task_id == here.ledger.made[0].task_id
            assert (await handle.result()).status is TaskStatus.SUCCEED

    here = scripted(world, f"create:{fault} times=1")
    virtual_time.run(main())
    assert here.times("POST") == [0]
    assert here.times("GET") == [0, *range(10, 101, 10)]


@pytest.mark.parametrize(
    "fault",
    [
        "lost_reply_before",
        "refuse code=5001",
        "html status=502",
        "html status=503 retry_after=1",
        "empty status=500",
        "not_http",
    ],
    ids=lambda fault: fault.replace(" ", "-"),
)
def test_task_that_was_not_made_is_sent_again_after_the_quarantine(world, fault):
    """Six looks find nothing in 90 s; then the same request goes again under the same id."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            await kling.run(here.request(), key="cat")
            assert here.time() == 190

    here = scripted(world, f"create:{fault} times=1")
    virtual_time.run(main())
    assert here.times("POST") == [0, 90]
    assert here.times("GET") == [*LOOKS, *range(100, 191, 10)]
    assert list(counts(here).values()) == [1]


def test_connection_that_ended_within_the_body_is_no_lost_answer(world):
    """The last byte was never handed over, so nothing was made by proof: sent again at once, no look-up."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            await kling.submit(here.request())

    here = scripted(world, "create:reset_in_body at=10 times=1; create:closed_after_headers times=1")
    virtual_time.run(main())
    assert (here.times("POST"), here.times("GET")) == ([0, 0, 0], [])
    assert len(here.ledger.made) == 1


def test_answer_lost_each_time_is_looked_for_each_time(world):
    """Three answers lost in a row before anything was made: each has a quarantine of its own, one task."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            await kling.submit(here.request())

    here = scripted(world, "create:lost_reply_before times=3")
    virtual_time.run(main())
    assert here.times("POST") == [0, 90, 180, 270]
    assert len(here.ledger.made) == 1


def test_lookup_that_lags_finds_it_later(world):
    """Look-ups lag 2 s behind: the second look, at 5 s, finds the task."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            handle = await kling.submit(here.request())
            assert here.time() == 5
            await handle.result()

    here = scripted(world, "create:lost_reply_after times=1; create:duplicates; query:lookup_lag seconds=2")
    virtual_time.run(main())
    assert here.times("POST") == [0]
    assert here.times("GET") == [0, 5, *range(15, 106, 10)]


def test_duplicate_is_refused_and_adopted(world):
    """Look-ups lag longer than the quarantine: Kling refuses the second one, and the first is polled."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            handle = await kling.submit(here.request())
            assert (here.time(), handle.task_id) == (90, None)
            task = await handle.result()
            assert task.task_id == here.ledger.made[0].task_id
            assert here.time() == 300

    here = scripted(world, "create:lost_reply_after times=1; query:lookup_lag seconds=300")
    virtual_time.run(main())
    assert here.times("POST") == [0, 90]
    assert list(counts(here).values()) == [1]


def test_duplicate_refused_in_unknown_words_is_looked_for(world):
    """A second attempt refused as invalid, in words nobody knows, while the task is there: it is taken."""

    async def tamper(request, send):
        if request.method == "POST" and here.time() == 90:
            return Response(400, {}, b'{"code": 1201, "message": "that id is taken"}')
        return await send()

    async def main():
        async with here.client(retries=PROMPT) as kling:
            handle = await kling.submit(here.request())
            assert handle.task_id == here.ledger.made[0].task_id

    here = scripted(world, "create:lost_reply_after times=1; query:lookup_lag seconds=90.5", tamper=tamper)
    here.inner.latency = 1.0
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


@pytest.mark.parametrize(("lag", "made"), [(60, 1), (200, 2)])
def test_what_the_quarantine_protects_from(world, lag, made):
    """Where duplicates are accepted, only a quarantine longer than the lag keeps from paying twice."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            await kling.run(here.request(), key="cat")

    script = f"create:lost_reply_after times=1; create:duplicates; query:lookup_lag seconds={lag}"
    here = scripted(world, script)
    virtual_time.run(main())
    assert list(counts(here).values()) == [made]
    assert here.ledger.requests["create"] == made


def test_quarantine_is_the_callers_choice(world):
    """`Retries(quarantine=18)`: looks after 0, 1, 3, 7, 15 and 18 s, and the second attempt."""

    async def main():
        async with here.client(retries=attrs.evolve(PROMPT, quarantine=18)) as kling:
            await kling.submit(here.request())

    here = scripted(world, "create:lost_reply_before times=1")
    virtual_time.run(main())
    assert here.times("GET") == [0, 1, 3, 7, 15, 18]
    assert here.times("POST") == [0, 18]


def test_refusal_of_the_second_attempt_is_definite(world):
    """Sent again after the quarantine and refused for its content: nothing was made, and it says so."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            with pytest.raises(PolicyError) as caught:
                await kling.submit(here.request())
            assert (here.time(), caught.value.outcome) == (90, Outcome.NOT_CREATED)

    here = scripted(world, "create:lost_reply_before times=1; create:refuse code=1301 times=1")
    virtual_time.run(main())
    assert here.ledger.made == []


def test_many_lost_answers_are_paid_once_each(world):
    """A third of all answers lost, half of them before anything was made, look-ups lagging: one each."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            seen = [done.ok async for done in kling.completions(here.requests(60))]
            assert seen == [True] * 60

    here = scripted(
        world,
        "create:lost_reply_after p=0.2; create:lost_reply_before p=0.2; create:duplicates; query:lookup_lag",
        parallel=5,
    )
    virtual_time.run(main())
    assert list(counts(here).values()) == [1] * 60


# Whether look-ups can be trusted


@pytest.mark.parametrize("fault", ["lost_reply_after", "lost_reply_before"])
def test_provider_without_lookup_ends_as_may_exist(world, fault):
    """Nothing can tell: one POST, no look-up, MAY_EXIST at once with the names; its slot is free."""

    async def main():
        async with here.client(provider=NO_LOOKUP, max_in_flight=1) as kling:
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request(), key="cat")
            assert caught.value.outcome is Outcome.MAY_EXIST
            assert caught.value.key == "cat"
            assert caught.value.external_task_id
            assert str(caught.value.token).startswith("kling1.")
            assert kling.tasks() == []
            await kling.submit(here.request())
            assert here.time() == 0

    here = scripted(world, f"create:{fault} times=1")
    virtual_time.run(main())
    assert (here.times("POST"), here.times("GET")) == ([0, 0], [])


def test_unproven_lookup_is_not_trusted(world):
    """A client that has seen no task of its own cannot prove look-ups: MAY_EXIST, and no call."""

    async def main():
        async with here.client(provider=UNPROVEN) as kling:
            with pytest.raises(ResponseLostError):
                await kling.submit(here.request())

    here = scripted(world, "create:lost_reply_after times=1")
    virtual_time.run(main())
    assert (here.times("POST"), here.times("GET")) == ([0], [])
    assert COMETAPI.lookup == "unproven"


@pytest.mark.parametrize("fault", ["", "query:refuse code=5000 times=2"], ids=["at-once", "third-try"])
def test_unproven_lookup_is_proven_by_an_own_task(world, fault):
    """A task of ours is found by its external id, if need be at the third try: now look-ups are trusted."""

    async def main():
        async with here.client(provider=UNPROVEN, retries=PROMPT) as kling:
            await kling.submit(here.request("first"))
            here.simulator.faults = Faults.parse(f"create:lost_reply_after times=2; {fault}")
            for name in ("second", "third"):
                await kling.submit(here.request(name))
            assert here.time() < 0.001

    here = world()
    virtual_time.run(main())
    assert list(counts(here).values()) == [1] * 3
    looks = 3 + (2 if fault else 0)
    assert len(here.times("GET")) == looks, "one to prove, and one for each lost answer"


def test_lookup_that_finds_no_task_of_ours_is_not_trusted(world):
    """The provider does not know our own acknowledged task by its external id: it proves nothing."""

    async def main():
        async with here.client(provider=UNPROVEN, retries=PROMPT) as kling:
            await kling.submit(here.request("first"))
            here.simulator.faults = Faults.parse("create:lost_reply_after times=1")
            with pytest.raises(ResponseLostError):
                await kling.submit(here.request("second"))

    here = world(lookup=False)
    virtual_time.run(main())
    assert len(here.times("POST")) == 2


# Look-ups that fail


@pytest.mark.parametrize("made", ["after", "before"])
@pytest.mark.parametrize(
    "fault",
    ["refuse code=5000", "refuse code=1302", "html status=502", "lost_reply_before", "truncated_json"],
)
def test_failing_lookups_never_lead_to_a_second_attempt(world, fault, made):
    """A thousand seconds of failing look-ups: only one that is answered decides, found or sent again."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            await kling.submit(here.request())
            assert 1000 <= here.time() <= 1072

    here = scripted(world, f"create:lost_reply_{made} times=1; query:{fault} until=1000")
    virtual_time.run(main())
    assert len(here.times("POST")) == (1 if made == "after" else 2)
    assert here.times("POST")[-1] == 0 or here.times("POST")[-1] >= 1000
    assert list(counts(here).values()) == [1]


def test_lookups_that_never_succeed_end_with_give_up(world):
    """Nothing was learned in `Polling.give_up`: MAY_EXIST, one POST."""

    async def main():
        async with here.client(retries=PROMPT, polling=Polling(give_up=500)) as kling:
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request())
            assert (here.time(), caught.value.outcome) == (500, Outcome.MAY_EXIST)

    here = scripted(world, "create:lost_reply_after times=1; query:refuse code=5000")
    virtual_time.run(main())
    assert here.times("POST") == [0]


def test_account_error_in_a_lookup_is_told_and_looked_on(world):
    """A key refused meanwhile: the wait ends, a task may exist; when the key works again it is found."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            with pytest.raises(AuthenticationError) as caught:
                await kling.submit(here.request(), key="cat")
            assert (here.time(), caught.value.outcome) == (0, Outcome.MAY_EXIST)
            (handle,) = kling.tasks()
            assert (handle.status, handle.token) == (TaskStatus.AMBIGUOUS, caught.value.token)
            await asyncio.sleep(150)
            assert handle.task_id == here.ledger.made[0].task_id
            await handle.result()

    here = scripted(world, "create:lost_reply_after times=1; query:refuse code=1002 until=100")
    virtual_time.run(main())
    assert here.times("POST") == [0]


@pytest.mark.parametrize("jumps", [(30, 3600.0), (30, -3600.0), (6, -50.0)])
def test_clock_that_is_set_during_the_quarantine_changes_nothing(world, jumps):
    """The wall clock an hour forward or back: the second attempt comes 90 s after the lost answer."""
    moment, shift = jumps

    def clock():
        return here.now() + (shift if here.time() >= moment else 0.0)

    async def main():
        async with here.client(retries=PROMPT, clock=clock) as kling:
            await kling.submit(here.request())

    here = scripted(world, "create:lost_reply_before times=1")
    virtual_time.run(main())
    assert here.times("POST") == [0, 90]
    assert here.times("GET") == LOOKS


# Who waits meanwhile


def test_waits_while_ambiguous_end_without_touching_it(world):
    """A run that times out says MAY_EXIST with a token, a cancelled submit leaves the task; both go on."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            with pytest.raises(WaitTimeoutError) as caught:
                await kling.run(here.request("run"), key="run", timeout=30)
            assert (here.time(), caught.value.outcome) == (30, Outcome.MAY_EXIST)
            assert caught.value.token
            submit = asyncio.ensure_future(kling.submit(here.request("submit"), key="submit"))
            await asyncio.sleep(10)
            submit.cancel()
            await asyncio.wait([submit])
            assert [handle.status for handle in kling.tasks()] == [TaskStatus.AMBIGUOUS] * 2
            again = await kling.submit(here.request("run"), key="run")
            assert here.time() == 90
            tasks = await asyncio.gather(*(handle.result() for handle in kling.tasks()))
            assert {task.task_id for task in tasks} == {made.task_id for made in here.ledger.made}
            assert again.done()

    here = scripted(world, "create:lost_reply_before times=2")
    virtual_time.run(main())
    assert here.times("POST") == [0, 30, 90, 120]
    assert list(counts(here).values()) == [1, 1]


def test_closing_while_ambiguous_returns_it_as_running(world):
    """Closing does not wait out the quarantine: the handle comes back, its error says MAY_EXIST."""

    async def main():
        kling = here.client(retries=PROMPT)
        handle = kling.submit_soon(here.request(), key="cat")
        await asyncio.sleep(20)
        (left,) = await kling.aclose()
        assert here.time() == 20
        assert (left.key, left.status) == ("cat", TaskStatus.AMBIGUOUS)
        with pytest.raises(WaitTimeoutError) as caught:
            await handle.result()
        assert caught.value.outcome is Outcome.MAY_EXIST
        assert caught.value.token == left.token != ""

    here = scripted(world, "create:lost_reply_before times=1")
    virtual_time.run(main())
    assert here.times("POST") == [0]


def test_completions_wait_out_the_quarantine(world):
    """The stream's timeout counts from the acknowledgement: a task made at 90 s may take its 100 s."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            done = [each async for each in kling.completions(here.requests(3), timeout=105)]
            assert [each.ok for each in done] == [True] * 3
            assert [each.key for each in done] == ["a-2", "a-3", "a"]
            assert here.time() == 190

    here = scripted(world, "create:lost_reply_before times=1")
    virtual_time.run(main())


def test_slot_is_held_while_ambiguous_and_the_order_kept(world):
    """One slot: what waits behind a lost answer leaves when that one has been made and has ended."""

    async def main():
        async with here.client(max_in_flight=1, retries=PROMPT) as kling:
            handles = [kling.submit_soon(request) for request in here.requests(2)]
            await asyncio.gather(*(handle.result() for handle in handles))

    here = scripted(world, "create:lost_reply_before times=1")
    virtual_time.run(main())
    assert here.times("POST") == [0, 90, 190]
    assert [made.body["prompt"] for made in here.ledger.made] == ["0", "1"]


def test_second_attempt_can_be_withdrawn_only_while_it_waits(world):
    """Ambiguous it cannot be withdrawn; by look-ups not made, and in line behind a 1303, it can."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(50)
            assert not handle.withdraw()
            await asyncio.sleep(40.5)
            assert handle.withdraw()
            with pytest.raises(KlingError) as caught:
                await handle.result()
            assert caught.value.outcome is Outcome.NOT_CREATED

    here = scripted(world, "create:lost_reply_before times=1; create:refuse code=1303 times=1")
    virtual_time.run(main())
    assert here.ledger.made == []


# Submitting anew on purpose


@pytest.mark.parametrize("by", ["error", "token"])
@pytest.mark.parametrize("key", ["cat", None])
def test_resubmit_makes_it_anew_under_another_id(world, by, key):
    """What nothing can look up is made a second time only by `resubmit`, and under a new name."""

    async def main():
        async with here.client(provider=NO_LOOKUP) as kling:
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request(), key=key)
            handle = await kling.resubmit(caught.value if by == "error" else caught.value.token or "")
            assert handle.key == key
            assert handle.external_task_id != caught.value.external_task_id
            assert (await handle.result()).status is TaskStatus.SUCCEED

    here = scripted(world, "create:lost_reply_after times=1")
    virtual_time.run(main())
    assert list(counts(here).values()) == [1, 1]


def test_resubmit_of_what_has_an_id_of_its_own(world):
    """The caller's external_task_id stays; the same request again is the task that was made, as ever."""

    async def main():
        async with here.client(provider=NO_LOOKUP) as kling:
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request(external_task_id="order-1"), key="one")
            handle = await kling.resubmit(caught.value)
            assert handle.external_task_id == "order-1"
            again = await kling.submit(here.request(external_task_id="order-1"), key="one")
            assert await again.result() == await handle.result()

    here = scripted(world, "create:lost_reply_before times=1")
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_resubmit_twice_pays_once(world):
    """The same lost one again: refused. What the provider refused can be resubmitted once more."""

    async def main():
        async with here.client(provider=NO_LOOKUP) as kling:
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request())
            here.simulator.refuse("create", 1301)
            with pytest.raises(PolicyError):
                await kling.resubmit(caught.value)
            await kling.resubmit(caught.value)
            with pytest.raises(RequestError):
                await kling.resubmit(caught.value)

    here = scripted(world, "create:lost_reply_after times=1")
    virtual_time.run(main())
    assert len(here.ledger.made) == 2


def test_resubmit_of_what_ended_otherwise_is_refused(world):
    """A task that runs, a token of nobody, no token at all: nothing is submitted."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            for wrong in (handle.token, "kling1.nonsense", KlingError("no token")):
                with pytest.raises(RequestError):
                    await kling.resubmit(wrong)

    here = world()
    virtual_time.run(main())
    assert len(here.times("POST")) == 1


# Two clients


@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_two_clients_submit_the_same_keys_at_once(world, latency):
    """Without a journal, the same fifty keys from two clients at once: fifty tasks, and both have all."""

    async def all_of(kling):
        items = [(f"key-{number}", request) for number, request in enumerate(here.requests(50))]
        return {done.key: done.result().task_id async for done in kling.completions(items)}

    async def main():
        async with here.client(max_in_flight=5) as one, here.client(max_in_flight=5) as other:
            first, second = await asyncio.gather(all_of(one), all_of(other))
            assert first == second
            assert len(first) == 50

    here = world(latency=latency)
    virtual_time.run(main())
    assert list(counts(here).values()) == [1] * 50


# News from elsewhere


def told(kling, here, status=TaskStatus.PROCESSING):
    """Bring the engine news of the only task, as a callback would."""
    (handle,) = kling.tasks()
    made = here.ledger.made[0]
    handle._engine.observe(handle._flight, Task(made.task_id, made.external_task_id, status))
    return handle


@pytest.mark.parametrize("status", [TaskStatus.PROCESSING, TaskStatus.SUCCEED])
def test_news_ends_the_doubt(world, status):
    """Somebody has seen the task while it is looked for: it is ours, and never sent again."""

    async def main():
        async with here.client(max_in_flight=1, retries=PROMPT) as kling:
            kling.submit_soon(here.request("seen"))
            await asyncio.sleep(40)
            handle = told(kling, here, status)
            assert handle.task_id == here.ledger.made[0].task_id
            await handle.result()
            await kling.submit(here.request("next"))
            assert here.time() == (40 if status is TaskStatus.SUCCEED else 400)

    here = scripted(
        world, "create:lost_reply_after times=1; create:duplicates; query:lookup_lag seconds=400 by_task_id=1"
    )
    virtual_time.run(main())
    assert len(here.times("POST")) == 2
    assert sorted(made.body["prompt"] for made in here.ledger.made) == ["next", "seen"]


def test_news_reaches_a_second_attempt_that_waits_for_its_slot(world):
    """Not found, and in line again behind a 1303, when somebody has seen it after all: it leaves the line."""

    async def main():
        async with here.client(retries=PROMPT) as kling:
            kling.submit_soon(here.request())
            await asyncio.sleep(90.5)
            assert kling.statistics().waiting == 1
            await told(kling, here).result()
            assert kling.statistics().waiting == 0

    here = scripted(
        world,
        "create:lost_reply_after times=1; create:refuse code=1303 times=1 after=80; create:duplicates;"
        "query:lookup_lag seconds=200",
    )
    virtual_time.run(main())
    assert here.times("POST") == [0, 90]


@pytest.mark.parametrize("answer", [1301, 1303, None])
@pytest.mark.parametrize("provider", [KLING, NO_LOOKUP])
def test_news_outweighs_the_answer(world, answer, provider):
    """The task was seen while its POST was out: no refusal and no lost answer makes it unmade."""

    async def tamper(request, send):
        reply = await send()
        if request.method == "POST":
            told(kling, here)
            if answer is None:
                raise ResponseLostError("the answer is lost")
            return Response(400, {}, b'{"code": %d, "message": "no"}' % answer)
        return reply

    async def main():
        nonlocal kling
        async with here.client(provider=provider, max_in_flight=1) as kling:
            handle = await kling.submit(here.request())
            assert kling.statistics().in_flight == 1
            assert (await handle.result()).status is TaskStatus.SUCCEED

    kling = None
    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.times("POST")) == 1


def test_lookup_that_tells_of_another_task_is_no_answer(world):
    """The provider answers every look-up with an older task: it is not taken for the lost one."""

    async def tamper(request, send):
        if "/ka-" in request.url:
            older = request.url.rpartition("/")[0] + "/" + here.ledger.made[0].task_id
            return await here.inner.send(attrs.evolve(request, url=older), authorization="Bearer sim-key")
        return await send()

    async def main():
        async with here.client() as kling:
            await kling.submit(here.request("older"))
            here.simulator.faults.add(Fault.parse("create:lost_reply_after times=1"))
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request("lost"))
            assert caught.value.outcome is Outcome.MAY_EXIST

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.times("POST")) == 2


def test_short_give_up_leaves_the_quarantine_its_time(world):
    """`Polling.give_up` is shorter than the quarantine: what did not arrive is sent again all the same."""

    async def main():
        async with here.client(polling=Polling(give_up=60)) as kling:
            assert (await kling.submit(here.request())).task_id

    here = scripted(world, "create:lost_reply_before times=1")
    virtual_time.run(main())
    assert here.times("POST") == [0, 90]


@pytest.mark.parametrize("fault", ["lost_reply_after", "delay seconds=1 made=1"])
@pytest.mark.parametrize("status", [TaskStatus.PROCESSING, TaskStatus.SUCCEED])
def test_news_before_the_answer(world, fault, status):
    """A callback is faster than the reply to the create, which comes or is lost: one task, one slot."""

    async def main():
        async with here.client(max_in_flight=1, retries=PROMPT) as kling:
            handle = kling.submit_soon(here.request("first"))
            await asyncio.sleep(3.2)
            assert told(kling, here, status).task_id == handle.task_id
            await asyncio.sleep(5)
            await kling.submit(here.request("second"))
            assert (await handle.result()).status is TaskStatus.SUCCEED

    here = scripted(world, f"create:{fault} times=1", latency=6.0)
    virtual_time.run(main())
    assert Counter(made.body["prompt"] for made in here.ledger.made) == {"first": 1, "second": 1}


def test_web_site_that_answers_5xx_ends_the_stream(world):
    """A web site as base URL, which refuses a POST with a 501 page: told at once, once, and nothing waits."""

    async def tamper(request, send):
        status = 501 if request.method == "POST" else 404
        return Response(status, {"content-type": "text/html"}, b"<!DOCTYPE html><title>no</title>")

    async def main():
        ended = []

        async def read(kling):
            async for done in kling.completions(here.requests(50)):
                ended.append(done)  # noqa: PERF401 - what came before the error is wanted

        async with here.client() as kling:
            with pytest.raises(ResponseLostError) as caught:
                await read(kling)
            assert kling.tasks() == []
            assert here.time() < 60
            return ended, caught.value

    here = world(tamper=tamper)
    ended, error = virtual_time.run(main())
    assert 1 <= len(ended) <= 5
    statuses = {done.task.status for done in ended}
    assert TaskStatus.MAY_EXIST in statuses
    assert statuses <= {TaskStatus.MAY_EXIST, TaskStatus.REFUSED}, "what was not sent is refused"
    assert "check the base URL" in str(error)
    assert error.outcome is Outcome.MAY_EXIST


@pytest.mark.parametrize("look_up", [True, False])
def test_what_was_given_up_is_waited_for_again_under_its_key(world, look_up):
    """Wanted again under its key, without a journal too, a task that took too long is polled, not made."""

    async def main():
        options = {} if look_up else {"provider": new_api("http://127.0.0.1:1")}
        polling = Polling(aim=None, factor=10, base=1, max_interval=10, jitter=0, give_up=100)
        async with here.client(polling=polling, **options) as kling:
            ends = []
            for _ in range(2):
                requests = [("cat", here.request())]
                ends += [done.error async for done in kling.completions(requests)]
            return ends

    here = world(seconds=150.0, face="kling" if look_up else "new-api-2026")
    first, second = virtual_time.run(main())
    assert isinstance(first, WaitTimeoutError)
    assert second is None
    assert len(here.times("POST")) == 1
