"""Slots, polls, retries and failures of one client, second by second on a loop in virtual time."""

import asyncio
import gc
import itertools
import logging
from typing import Any

import pytest
import virtual_time

from kling_async import (
    AccessKey,
    AccountError,
    AuthenticationError,
    Checked,
    Completed,
    ConnectError,
    EngineError,
    GatewayError,
    InvalidRequestError,
    KlingError,
    MultiImageToVideo,
    Outcome,
    Polled,
    Polling,
    RequestError,
    ResponseLostError,
    Retried,
    Retries,
    Submitted,
    TaskFailedError,
    TaskLostError,
    TaskStatus,
    Waiting,
    WaitTimeoutError,
)
from kling_async.protocol.wire import Response

NO_JITTER = Retries(attempts=3, factor=1e-9, max_value=1e-9)
"""Retries whose waits are nothing, so that times can be told exactly."""


def refusing(code, *, after=0, times=1, message="no", headers=None, status=429):
    """A tamper that answers *times* creates with *code*, once *after* of them went through."""
    seen = 0

    async def tamper(request, send):
        nonlocal seen
        if request.method != "POST":
            return await send()
        seen += 1
        if after < seen <= after + times:
            body = f'{{"code": {code}, "message": "{message}"}}'.encode()
            return Response(status, {"content-type": "application/json", **(headers or {})}, body)
        return await send()

    return tamper


def queries(answer):
    """A tamper that answers each query with *answer(seconds)*, or lets it through where that is None."""

    async def tamper(request, send):
        seen = answer(asyncio.get_running_loop().time()) if request.method == "GET" else None
        return await send() if seen is None else seen

    return tamper


def error_reply(status, code, message):
    """A refusal of Kling's."""
    body = f'{{"code": {code}, "message": "{message}"}}'.encode()
    return Response(status, {"content-type": "application/json"}, body)


NOT_FOUND = error_reply(400, 1201, "Task not found by id/external id: 7")


# Slots and order


@pytest.mark.parametrize("code", [1302, 1303])
def test_a_night_without_a_slot(world, code):
    """Refused 1,100 times running, every half minute in the end: it waits on, and is made in the morning."""

    async def main():
        async with here.client() as kling:
            assert (await kling.run(here.request(), timeout=None)).status is TaskStatus.SUCCEED

    here = world(tamper=refusing(code, times=1100))
    virtual_time.run(main())
    assert here.times("POST")[-1] > 8 * 3600


def test_requests_leave_in_order_as_slots_are_freed(world):
    """Two slots and tasks of 100 s: six requests go two at a time, in order, at 0, 100 and 200 s."""

    async def main():
        async with here.client(max_in_flight=2) as kling:
            handles = [kling.submit_soon(request) for request in here.requests(6)]
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world()
    virtual_time.run(main())
    assert here.times("POST") == [0, 0, 100, 100, 200, 200]
    assert [made.body["prompt"] for made in here.ledger.made] == list("012345")
    assert here.ledger.most_in_flight == 2


def test_models_do_not_block_each_other(world):
    """A full line of one model leaves another model's requests alone, and multi-image ones too."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            handles = [kling.submit_soon(request) for request in here.requests(2)]
            handles.append(kling.submit_soon(here.request("v3", model_name="kling-v3")))
            pictures = ("https://cdn.example.org/a.png", "https://cdn.example.org/b.png")
            handles.append(kling.submit_soon(MultiImageToVideo(image_list=pictures, prompt="multi")))
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world()
    virtual_time.run(main())
    assert {made.body["prompt"]: made.created - here.ledger.made[0].created for made in here.ledger.made} == {
        "0": 0,
        "v3": 0,
        "multi": 0,
        "1": 100,
    }


def test_limit_is_learned_and_nothing_is_lost(world):
    """An account of 3 that nobody told of: 20 tasks come through, few creates are refused."""

    async def main():
        async with here.client() as kling:
            handles = [kling.submit_soon(request) for request in here.requests(20)]
            await asyncio.gather(*(handle.result() for handle in handles))
            return kling.statistics()

    here = world(parallel=3)
    statistics = virtual_time.run(main())
    assert sorted(int(made.body["prompt"]) for made in here.ledger.made) == list(range(20))
    assert here.ledger.most_in_flight == 3
    assert here.ledger.refused_creates <= 10
    assert (statistics.succeeded, statistics.failed, statistics.in_flight) == (20, 0, 0)


def test_refused_request_goes_by_timer_when_others_hold_every_slot(world):
    """Another process holds the account's only slot: the create is tried 1, 2, 4 ... s apart."""

    async def main():
        async with here.client() as other, here.client() as kling:
            await other.submit(here.request("other"))
            await kling.run(here.request("ours"))

    here = world(parallel=1)
    virtual_time.run(main())
    times = here.times("POST")[1:]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    waits = (1, 2, 4, 8, 16, 30, 30, 30)[: len(gaps)]
    assert all(0.8 * wait <= gap <= 1.2 * wait for gap, wait in zip(gaps, waits, strict=True))
    assert 100 <= times[-1] < 136
    assert len(here.ledger.made) == 2


def test_refused_requests_keep_their_order(world):
    """What a 1303 sends back goes before what came later."""

    async def main():
        async with here.client() as kling:
            handles = [kling.submit_soon(request) for request in here.requests(6)]
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world(parallel=1)
    virtual_time.run(main())
    assert [made.body["prompt"] for made in here.ledger.made] == list("012345")


def test_rate_limit_pauses_every_model(world):
    """1302 with `Retry-After: 7`: nothing of the account leaves for 7 s, then all of it does."""

    async def main():
        async with here.client() as kling:
            first = kling.submit_soon(here.request("a"))
            await asyncio.sleep(1)
            second = kling.submit_soon(here.request("b", model_name="kling-v3"))
            await asyncio.gather(first.result(), second.result())

    here = world(tamper=refusing(1302, headers={"retry-after": "7"}))
    virtual_time.run(main())
    assert here.times("POST") == [0, 7, 7]


def test_rate_limit_without_a_hint_backs_off(world):
    """Without `Retry-After`, or with one of 0, the pauses double from about one second."""

    async def main():
        async with here.client() as kling:
            await kling.run(here.request())

    for headers in ({}, {"retry-after": "0"}):
        here = world(tamper=refusing(1302, times=4, headers=headers))
        virtual_time.run(main())
        times = here.times("POST")
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert [round(gap / wait, 6) for gap, wait in zip(gaps, (1, 2, 4, 8), strict=True)] == pytest.approx(
            [1] * 4, abs=0.2
        )


def test_closing_waits_for_a_post_begun_as_another_is_answered(world):
    """One POST is answered at the very moment at which another begins: that other is waited for too."""

    async def tamper(request, send):
        if request.method == "GET" or (request.document and request.document["prompt"] == "answered"):
            await gates[request.method].wait()
        elif request.document["prompt"] == "begun":
            gates["begun"].set()
            await asyncio.sleep(5)
        return await send()

    async def main():
        gates.update({name: asyncio.Event() for name in ("GET", "POST", "begun")})
        kling = here.client(max_in_flight=1)
        await kling.submit(here.request("running", model_name="kling-v3"))
        kling.submit_soon(here.request("begun", model_name="kling-v3"))
        kling.submit_soon(here.request("answered"))
        await asyncio.sleep(20)
        gates["GET"].set()
        gates["POST"].set()
        await gates["begun"].wait()
        left = await kling.aclose()
        assert {handle.task_id for handle in left} == {made.task_id for made in here.ledger.made[1:]}
        assert len(left) == 2

    gates = {}
    here = world(seconds=15, tamper=tamper)
    virtual_time.run(main())


# Polling


def test_one_task_is_polled_at_its_intervals_until_it_is_done(world):
    """A task of 95 s is asked for every 10 s and found at 100."""

    async def main():
        async with here.client() as kling:
            task = await kling.run(here.request())
            assert asyncio.get_running_loop().time() == 100
            return task

    here = world(seconds=95)
    task = virtual_time.run(main())
    assert task.status is TaskStatus.SUCCEED
    assert task.video.url.startswith("http://127.0.0.1/videos/")
    assert here.times("GET") == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]


def test_many_waiters_share_one_poll(world):
    """A hundred waits for one task cost no request more than one."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            results = await asyncio.gather(*(handle.result() for _ in range(100)))
            assert {result.task_id for result in results} == {handle.task_id}

    here = world()
    virtual_time.run(main())
    assert len(here.times("GET")) == 10


def test_poll_hint_is_obeyed(world):
    """A query refused with `Retry-After: 45` is made again 45 s later, not sooner."""

    def answer(seconds):
        return Response(503, {"retry-after": "45"}, b"busy") if seconds == 10 else None

    async def main():
        async with here.client() as kling:
            await kling.run(here.request())

    here = world(tamper=queries(answer))
    virtual_time.run(main())
    assert here.times("GET") == [10, 55, 65, 75, 85, 95, 105]


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(500, 5000, "Internal error"),
        error_reply(429, 1302, "The requests are too many"),
        Response(502, {"content-type": "text/html"}, b"<html>bad gateway</html>"),
        Response(200, {}, b"{"),
        ResponseLostError("gone"),
        ConnectError("no route"),
    ],
    ids=["5000", "1302", "html", "half", "lost", "unconnected"],
)
def test_transient_poll_errors_never_end_a_wait(world, reply):
    """An hour of failing polls, and the video that was ready is found by the first that succeeds."""

    def answer(seconds):
        if seconds > 3600:
            return None
        if isinstance(reply, KlingError):
            raise type(reply)(reply.what)
        return reply

    async def main():
        async with here.client() as kling:
            await kling.run(here.request(), timeout=None)
            assert asyncio.get_running_loop().time() == 3610

    here = world(tamper=queries(answer))
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_unknown_status_keeps_polling_with_one_warning(world, caplog):
    """A word nobody documents is logged once and is not an end."""

    def answer(seconds):
        body = b'{"code":0,"data":{"task_id":"%s","task_status":"daydreaming"}}'
        return Response(200, {}, body % here.ledger.made[0].task_id.encode()) if seconds < 50 else None

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            await asyncio.sleep(15)
            assert handle.status is TaskStatus.UNKNOWN
            return await handle.result()

    here = world(tamper=queries(answer))
    assert virtual_time.run(main()).status is TaskStatus.SUCCEED
    assert len([each for each in caplog.records if "nobody documents" in each.message]) == 1


def test_not_found_just_after_create_is_patience(world):
    """A reader that lags 60 s behind the writer ends nothing."""

    async def main():
        async with here.client() as kling:
            await kling.run(here.request())

    here = world(tamper=queries(lambda seconds: NOT_FOUND if seconds <= 60 else None))
    virtual_time.run(main())
    assert here.times("GET")[-1] == 100


def test_task_the_server_does_not_know_for_ten_minutes_is_lost(world):
    """Ten minutes of "no such task", begun a minute after the create, are the end; its slot is free."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            handle = await kling.submit(here.request())
            with pytest.raises(TaskLostError) as caught:
                await handle.result()
            assert asyncio.get_running_loop().time() == 70 + 600
            assert caught.value.task_id == here.ledger.made[0].task_id
            assert caught.value.outcome is Outcome.CREATED
            assert caught.value.token == handle.token
            assert handle.status is TaskStatus.LOST
            await kling.submit(here.request())
            assert asyncio.get_running_loop().time() == 670

    here = world(tamper=queries(lambda _: NOT_FOUND))
    virtual_time.run(main())


def test_found_again_is_not_lost(world):
    """Nine minutes of "no such task" and one sight of it: the ten minutes begin anew."""

    async def main():
        async with here.client() as kling:
            await kling.run(here.request())
            assert asyncio.get_running_loop().time() == 1200

    here = world(
        seconds=1200, tamper=queries(lambda seconds: NOT_FOUND if seconds not in (600, 1190, 1200) else None)
    )
    virtual_time.run(main())


@pytest.mark.parametrize("begin", [0.0, 0.1, 0.7, 1.1, 1e5 / 3])
def test_given_up_frees_its_slot(world, begin):
    """After `give_up` the wait ends as GIVEN_UP, at that moment whatever it is, and the next request goes."""

    async def main():
        await asyncio.sleep(begin)
        polling = Polling(aim=None, factor=7, base=1, max_interval=7, jitter=0, give_up=100)
        async with here.client(max_in_flight=1, polling=polling) as kling:
            first = kling.submit_soon(here.request("never done"))
            second = kling.submit_soon(here.request("next"))
            with pytest.raises(WaitTimeoutError, match="given up") as caught:
                await first.result()
            assert asyncio.get_running_loop().time() == pytest.approx(begin + 100)
            assert (first.status, caught.value.token) == (TaskStatus.GIVEN_UP, first.token)
            await asyncio.sleep(1)
            assert second.task_id is not None
            assert kling.statistics().polls == 15

    here = world(seconds=1e6)
    virtual_time.run(main())


def test_failed_task_is_an_error_that_gives_its_reason(world):
    """Kling's reason is in the error, with the task; nothing is billed and nothing is tried again."""

    async def main():
        async with here.client() as kling:
            with pytest.raises(TaskFailedError, match="content risk control") as caught:
                await kling.run(here.request("[fail]"))
            return caught.value

    here = world()
    error = virtual_time.run(main())
    assert error.task is not None
    assert error.task.status is TaskStatus.FAILED
    assert error.task_id == here.ledger.made[0].task_id
    assert here.ledger.requests["create"] == 1


# Refusals and lost answers


def test_lost_answer_is_one_post_and_an_error_that_may_exist(world):
    """The reply to a create is lost: exactly one POST, MAY_EXIST, and the names to look for it by."""

    async def tamper(request, send):
        await send()
        raise ResponseLostError("connection reset")

    async def main():
        async with here.client(retries=NO_JITTER) as kling:
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request(), key="cat")
            assert kling.tasks() == []
            return caught.value

    here = world(tamper=tamper)
    error = virtual_time.run(main())
    assert here.times("POST") == [0]
    assert error.outcome is Outcome.MAY_EXIST
    assert error.key == "cat"
    assert error.external_task_id == here.ledger.made[0].external_task_id
    assert str(error.token).startswith("kling1.")


@pytest.mark.parametrize(
    "reply", [error_reply(500, 5000, "oops"), Response(200, {}, b"{"), Response(504, {}, b"")]
)
def test_untrustworthy_answer_is_a_lost_one(world, reply):
    """A 5xx or an unreadable 200 may hide a task: never sent again, MAY_EXIST, the answer as the cause."""

    async def tamper(request, send):
        await send()
        return reply

    async def main():
        async with here.client(retries=NO_JITTER) as kling:
            with pytest.raises(ResponseLostError) as caught:
                await kling.submit(here.request())
            assert isinstance(caught.value.__cause__, KlingError)
            return caught.value

    here = world(tamper=tamper)
    assert virtual_time.run(main()).outcome is Outcome.MAY_EXIST
    assert len(here.ledger.made) == 1


def test_create_without_a_connection_is_tried_again(world):
    """By proof nothing was sent: the same request goes again, and hooks hear of it."""
    left = [ConnectError("refused"), ConnectError("refused")]
    events = []

    async def tamper(request, send):
        if left:
            raise left.pop()
        return await send()

    async def main():
        async with here.client(retries=NO_JITTER, hooks=[events.append]) as kling:
            await kling.submit(here.request())

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.times("POST")) == 3
    assert len(here.ledger.made) == 1
    assert len([each for each in events if isinstance(each, Retried)]) == 2


def test_known_task_is_adopted(world):
    """The same key in a second client: it exists, nothing is paid again, the handle is that task."""

    async def main():
        async with here.client() as kling:
            first = await kling.submit(here.request(), key="cat")
        async with here.client() as kling:
            second = await kling.submit(here.request(), key="cat")
            assert second.task_id == first.task_id
            return await second.result()

    here = world()
    assert virtual_time.run(main()).status is TaskStatus.SUCCEED
    assert len(here.ledger.made) == 1


def test_adopting_under_the_callers_own_id_is_warned_of(world, caplog):
    """An `external_task_id` of the caller's may name another video than is wanted now: the log says so."""

    async def main():
        for prompt in ("one", "another"):
            async with here.client() as kling:
                await kling.submit(here.request(prompt, external_task_id="mine"))

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 1
    assert [record.message for record in caplog.records if "mine exists" in record.message]


def test_adoption_is_waited_for_when_the_client_closes(world):
    """Closing while the name of a task that exists is being read: it is returned, not told as never made."""

    async def main():
        async with here.client() as kling:
            first = await kling.submit(here.request(), key="cat")
        here.inner.latency = 4.0
        kling = here.client()
        second = kling.submit_soon(here.request(), key="cat")
        await asyncio.sleep(6)
        assert [handle.task_id for handle in await kling.aclose()] == [first.task_id]
        assert second.task_id == first.task_id

    here = world()
    virtual_time.run(main())


def test_adopted_task_that_cannot_be_read_is_polled_by_its_name(world):
    """The create says it exists and queries fail: it is acknowledged, polled by its name and found."""

    async def main():
        async with here.client() as kling:
            first = await kling.submit(here.request(), key="cat")
        here.tamper = queries(lambda at: error_reply(500, 5000, "oops") if at < 35 else None)
        async with here.client(retries=NO_JITTER) as kling:
            second = await kling.submit(here.request(), key="cat")
            assert (second.task_id, second.status) == (None, TaskStatus.SUBMITTED)
            task = await second.result()
            assert task.task_id == second.task_id == first.task_id

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_account_error_refuses_the_whole_line_once_each(world):
    """1102: who is in line is refused with the same reason and own names, without a call."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            handles = [kling.submit_soon(request, key=request.prompt) for request in here.requests(3)]
            handles.append(kling.submit_soon(here.request("v3", model_name="kling-v3"), key="v3"))
            errors: list[Any] = await asyncio.gather(
                *(handle.result() for handle in handles), return_exceptions=True
            )
            assert [error.key for error in errors] == ["0", "1", "2", "v3"]
            assert {error.code for error in errors} == {1102}
            assert all(isinstance(error, AccountError) for error in errors)

    here = world(latency=1.0, account_code=1102)
    virtual_time.run(main())
    assert len(here.times("POST")) == 2, "one of each model was already out"


def test_model_error_refuses_only_its_model(world):
    """1103 for one model leaves the other alone."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            refused = [kling.submit_soon(request) for request in here.requests(3)]
            other = kling.submit_soon(here.request("other", model_name="kling-v3"))
            errors: list[Any] = await asyncio.gather(
                *(handle.result() for handle in refused), return_exceptions=True
            )
            assert {error.code for error in errors} == {1103}
            assert (await other.result()).status is TaskStatus.SUCCEED

    async def tamper(request, send):
        if request.document and request.document["model_name"] != "kling-v3":
            await asyncio.sleep(1)
            return error_reply(403, 1103, "No permission")
        return await send()

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.times("POST")) == 2


@pytest.mark.parametrize("status", [200, 302, 404])
def test_first_html_answer_refuses_the_line(world, status):
    """A web page in place of the first answer means a wrong base URL: one POST, and nobody else is tried."""

    async def tamper(request, send):
        return Response(status, {"content-type": "text/html"}, b"<html></html>")

    async def main():
        async with here.client(max_in_flight=1) as kling:
            handles = [kling.submit_soon(request) for request in here.requests(3)]
            errors: list[Any] = await asyncio.gather(
                *(handle.result() for handle in handles), return_exceptions=True
            )
            assert [isinstance(error, GatewayError) for error in errors[1:]] == [True, True]
            assert [error.outcome for error in errors[1:]] == [Outcome.NOT_CREATED] * 2

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert len(here.times("POST")) == 1


def test_html_after_a_good_answer_is_a_passing_fault(world):
    """Later the same page costs its own request only."""

    async def tamper(request, send):
        if request.method == "POST" and len(here.times("POST")) == 2:
            return Response(404, {"content-type": "text/html"}, b"<html></html>")
        return await send()

    async def main():
        async with here.client() as kling:
            await kling.submit(here.request("0"))
            with pytest.raises(GatewayError):
                await kling.submit(here.request("1"))
            await kling.submit(here.request("2"))

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert [made.body["prompt"] for made in here.ledger.made] == ["0", "2"]


# Credentials


def test_token_is_renewed_before_it_ends(world):
    """An access key over an hour: every call is authorised, none is refused for its age."""

    async def main():
        async with here.client(AccessKey("sim-access", "sim-secret")) as kling:
            await kling.run(here.request(), timeout=None)

    here = world(seconds=3600)
    virtual_time.run(main())
    assert {code for (_, code) in here.ledger.outcomes} == {0}


@pytest.mark.parametrize("code", [1003, 1004])
@pytest.mark.parametrize("operation", ["create", "query"])
def test_refused_token_is_signed_again_once(world, code, operation):
    """1003 or 1004: one more try with a new token, for a create as for a query."""

    async def main():
        here.simulator.refuse(operation, code)
        async with here.client(AccessKey("sim-access", "sim-secret")) as kling:
            await kling.run(here.request())

    here = world()
    virtual_time.run(main())
    assert here.ledger.outcomes[operation, code] == 1
    assert len(here.ledger.made) == 1


def test_token_refused_twice_is_an_error(world):
    """The clock is really wrong: two calls, then the error; nothing was created."""

    async def main():
        here.simulator.refuse("create", 1004, times=5)
        async with here.client(AccessKey("sim-access", "sim-secret")) as kling:
            with pytest.raises(AuthenticationError) as caught:
                await kling.submit(here.request())
            assert caught.value.outcome is Outcome.NOT_CREATED

    here = world()
    virtual_time.run(main())
    assert len(here.times("POST")) == 2


def test_api_key_is_not_tried_twice(world):
    """Nothing can be signed again with an API key."""

    async def main():
        here.simulator.refuse("create", 1004)
        async with here.client() as kling:
            with pytest.raises(AuthenticationError):
                await kling.submit(here.request())

    here = world()
    virtual_time.run(main())
    assert len(here.times("POST")) == 1


def test_credential_refused_while_polling_tells_the_waiter_and_polls_on(world):
    """The key is withdrawn for a while: the wait ends with the reason, and the task is found later."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request())
            with pytest.raises(AuthenticationError) as caught:
                await handle.result()
            assert caught.value.token == handle.token
            assert asyncio.get_running_loop().time() == 20
            await asyncio.sleep(200)
            assert (await handle.result()).status is TaskStatus.SUCCEED

    here = world(tamper=queries(lambda at: error_reply(401, 1002, "invalid") if 20 <= at < 90 else None))
    virtual_time.run(main())
    assert here.times("GET") == [10, 20, 80, 140]


# Checks before anything is sent


def test_request_refused_here_does_not_hold_up_the_line(world, tmp_path):
    """A missing file and a key too long for a token end their own request; the one behind them goes."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            with pytest.raises(RequestError, match="does not exist"):
                await kling.submit(here.request(image=str(tmp_path / "none.png")))
            with pytest.raises(RequestError, match="key"):
                await kling.submit(here.request(), key="k" * 5000)
            lost = kling.submit_soon(here.request(image=tmp_path / "none.png"))
            wrong = kling.submit_soon(here.request(), key="k" * 5000)
            for handle in (lost, wrong):
                with pytest.raises(RequestError):
                    await handle.result()
                assert handle.status is TaskStatus.REFUSED
            await kling.submit(here.request())

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_key_that_is_no_text_is_refused(world):
    """A number as a key is a mistake of the caller's and no failure of the engine."""

    async def main():
        async with here.client() as kling:
            with pytest.raises(RequestError, match="key"):
                kling.submit_soon(here.request(), key=7)
            with pytest.raises(RequestError, match="key"):
                await kling.submit(here.request(), key=7)
            await kling.submit(here.request())

    here = world()
    virtual_time.run(main())


# Hooks, statistics, failures of our own


def test_hooks_hear_everything_and_harm_nobody(world, caplog):
    """Events come in order; a hook that fails is logged once and the task goes on."""
    events = []

    def broken(event):
        raise ZeroDivisionError

    async def main():
        async with here.client(max_in_flight=1, hooks=[broken, events.append]) as kling:
            first = kling.submit_soon(here.request("0"), key="first")
            second = kling.submit_soon(here.request("1"), key="second")
            await asyncio.gather(first.result(), second.result())

    here = world(latency=1.0)
    virtual_time.run(main())
    told = [(type(event), event.key) for event in events if not isinstance(event, Polled)]
    assert told == [
        (Checked, "first"),
        (Checked, "second"),
        (Waiting, "second"),
        (Submitted, "first"),
        (Completed, "first"),
        (Submitted, "second"),
        (Completed, "second"),
    ]
    submitted = [event for event in events if isinstance(event, Submitted)]
    assert [event.slot_wait for event in submitted] == [0, 102]
    completed = [event for event in events if isinstance(event, Completed)]
    assert [(event.polls, event.generation) for event in completed] == [(10, 100)] * 2
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_ten_thousand_tasks_in_flight(world):
    """Ten thousand tasks at once are made once each and all found."""

    async def main():
        async with here.client(max_in_flight=10_000) as kling:
            count = 0
            async for done in kling.completions(here.request(str(number)) for number in range(10_000)):
                count += done.ok
            return count

    here = world(seconds=9.0)
    assert virtual_time.run(main()) == 10_000
    assert len(here.ledger.made_by_external_id()) == 10_000
    assert len(here.times("GET")) == 10_000


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_bug_ends_every_wait_with_an_engine_error(world, method, caplog):
    """A transport that fails in a way no transport may: every waiter gets one EngineError, nobody hangs."""

    async def tamper(request, send):
        if request.method == method and (method == "GET" or len(here.times("POST")) > 2):
            raise RuntimeError("a bug")
        return await send()

    async def main():
        kling = here.client(max_in_flight=4)
        handles = [kling.submit_soon(request) for request in here.requests(8)]
        waits = [asyncio.ensure_future(handle.result()) for handle in handles for _ in range(2)]
        await asyncio.wait(waits, return_when=asyncio.ALL_COMPLETED)
        for wait in waits:
            error = wait.exception()
            assert isinstance(error, EngineError | ResponseLostError)
            if isinstance(error, EngineError):
                assert isinstance(error.__cause__, RuntimeError)
        assert any(isinstance(wait.exception(), EngineError) for wait in waits)
        assert {handle.status for handle in handles[4:]} == {TaskStatus.REFUSED}
        assert {waits[-1].exception().outcome} == {Outcome.NOT_CREATED}
        await kling.aclose()

    here = world(tamper=tamper)
    with caplog.at_level(logging.ERROR):
        virtual_time.run(main())
    posts = len(here.times("POST"))
    assert posts <= 4, "a failing engine sends nothing new"
    assert [record.message for record in caplog.records] == ["the engine failed"]
    gc.collect()


def test_line_that_waits_by_timer_is_silent_after_a_bug(world):
    """The engine failed while a refused request waited for its timer: the timer sends nothing."""

    async def tamper(request, send):
        if request.method == "GET":
            raise RuntimeError("a bug")
        return await send()

    async def main():
        async with here.client() as other:
            await other.submit(here.request("other", model_name="kling-v3"))
            kling = here.client(polling=Polling(aim=None, factor=2, base=1, max_interval=2, jitter=0))
            first = await kling.submit(here.request("first"))
            waiting = kling.submit_soon(here.request("waiting"))
            for handle in (first, waiting):
                with pytest.raises(EngineError):
                    await handle.result()
            posts = len(here.times("POST"))
            await asyncio.sleep(1)
            assert len(here.times("POST")) == posts
            await kling.aclose()

    here = world(parallel=2, tamper=tamper)
    virtual_time.run(main())


def test_invalid_request_is_told_by_kling(world):
    """What only Kling can refuse comes as its error, and its slot is free at once."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            with pytest.raises(InvalidRequestError) as caught:
                await kling.submit(here.request(model_name="kling-v99"))
            assert caught.value.code == 1203
            await kling.submit(here.request())

    here = world()
    virtual_time.run(main())


def test_same_key_after_its_end_is_the_same_task(world):
    """A key that this client has brought to its end is answered from memory, without a POST."""

    async def main():
        async with here.client() as kling:
            first = await kling.run(here.request("cat"), key="cat")
            again = await kling.run(here.request("cat"), key="cat")
            assert again.task_id == first.task_id
            with pytest.raises(TaskFailedError):
                await kling.run(here.request("[fail]"), key="dog")
            with pytest.raises(TaskFailedError):
                await kling.run(here.request("[fail]"), key="dog")

    here = world()
    virtual_time.run(main())
    assert here.ledger.requests["create"] == 2


def test_task_of_unknown_age_is_not_left_alone(world):
    """What is learned of tasks says when to ask for one by its age: one from elsewhere may be old already."""

    async def main():
        async with here.client(polling=Polling(jitter=0)) as kling:
            for _ in range(2):
                await asyncio.gather(*(kling.run(request) for request in here.requests(20)))
            async with here.client() as elsewhere:
                token = (await elsewhere.submit(here.request("elsewhere"))).token
            await asyncio.sleep(40)
            began = here.time()
            await kling.attach(token).result()
            return here.time() - began

    here = world(seconds=(95.0, 105.0))
    assert virtual_time.run(main()) <= 65 + 15


def test_creates_leave_a_few_at_a_time(world):
    """A hundred free slots and creates of a second: 32 at once, the next as these are answered."""

    async def main():
        async with here.client(max_in_flight=100) as kling:
            handles = [kling.submit_soon(request) for request in here.requests(100)]
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world(latency=1.0)
    virtual_time.run(main())
    assert here.times("POST") == [*[0] * 32, *[1] * 32, *[2] * 32, *[3] * 4]
