"""From the beginning of a client to its end: what is waited for, what is left, and who finds it again."""

import asyncio
import contextlib
import gc
import logging
import signal
import sqlite3

import pytest
import virtual_time
from items import made

from kling_async import ConcurrencyLimitError, JournalError, KlingError, Outcome, TaskStatus, WaitTimeoutError


def rows(journal):
    """Label and state of each row."""
    with contextlib.closing(sqlite3.connect(journal)) as database:
        return database.execute("SELECT label, state FROM tasks ORDER BY 1").fetchall()


@pytest.fixture
def journal(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal.sqlite"


# Draining


def test_drain_of_nothing(world):
    """Never used, used and done, or with nothing but refusals: closing with a drain takes no time."""

    async def main():
        kling = here.client()
        assert await kling.aclose(drain=1000) == []
        async with here.client() as kling:
            assert await kling.aclose(drain=1000) == []
        kling = here.client()
        await kling.run(here.request("cat"))
        here.simulator.refuse("create", 1301)
        with pytest.raises(KlingError):
            await kling.submit(here.request("dog"))
        ended = here.time()
        assert await kling.aclose(drain=1000) == []
        assert here.time() == ended

    here = world()
    virtual_time.run(main())


@pytest.mark.parametrize("way", ["submit", "submit_soon", "run", "completions"])
@pytest.mark.parametrize("prompt", ["cat", "[fail]"])
def test_drain_of_what_an_earlier_run_ended(world, journal, way, prompt):
    """A request that the journal knows as ended is not waited for."""

    async def again(kling, request):
        match way:
            case "submit":
                await kling.submit(request, key="cat")
            case "submit_soon":
                handle = kling.submit_soon(request, key="cat")
                with contextlib.suppress(KlingError):
                    await handle.result()
                assert handle.done()
            case "run":
                with contextlib.suppress(KlingError):
                    await kling.run(request, key="cat")
            case _:
                assert [done.resumed async for done in kling.completions([("cat", request)])] == [True]

    async def main():
        for _ in range(2):
            async with here.client(journal=journal) as kling:
                with contextlib.suppress(KlingError):
                    await kling.run(here.request(prompt), key="cat")
                begun = here.time()
                await again(kling, here.request(prompt))
                assert kling.tasks() == []
                assert await kling.aclose(drain=1000) == []
                assert here.time() == begun

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 1


def test_drain_of_a_mirror(world):
    """The same key and request twice is one task, and one handle is left of it."""

    async def main():
        kling = here.client()
        first = await kling.submit(here.request("cat"), key="cat")
        second = await kling.submit(here.request("cat"), key="cat")
        (left,) = await kling.aclose(drain=10)
        assert here.time() == 10
        assert left.token == first.token == second.token

    here = world()
    virtual_time.run(main())


def test_drain_waits_for_the_last_task_and_no_longer(world):
    """Tasks that end at 100 s, and one that is withdrawn from the line: closed at 100 s."""

    async def main():
        kling = here.client(max_in_flight=2)
        handles = [await kling.submit(request) for request in here.requests(2)]
        waiting = kling.submit_soon(here.request("late"))
        await asyncio.sleep(5)
        assert await kling.aclose(drain=1000) == []
        assert here.time() == 100
        assert [handle.status for handle in handles] == [TaskStatus.SUCCEED] * 2
        with pytest.raises(KlingError) as told:
            await waiting.result()
        assert told.value.outcome is Outcome.NOT_CREATED

    here = world()
    virtual_time.run(main())
    assert "late" not in made(here)


def test_drain_that_is_too_short(world):
    """What still runs is returned with its token, the earliest first; who waits hears that it goes on."""

    async def main():
        kling = here.client()
        handles = [await kling.submit(request, key=request.prompt) for request in here.requests(3)]
        waiting = asyncio.ensure_future(handles[0].result())
        left = await kling.aclose(drain=30)
        assert here.time() == 30
        assert [handle.key for handle in left] == ["0", "1", "2"]
        assert [handle.token for handle in left] == [handle.token for handle in handles]
        with pytest.raises(WaitTimeoutError, match="goes on") as told:
            await waiting
        assert told.value.token == handles[0].token
        async with here.client() as later:
            for handle in left:
                task = await later.attach(handle.token).result()
                assert task.task_id == handle.task_id

    here = world()
    virtual_time.run(main())
    assert made(here) == {"0": 1, "1": 1, "2": 1}


# Tokens and the journal


@pytest.mark.parametrize("entered", [True, False], ids=["after it is open", "before it is open"])
def test_token_of_a_task_in_the_journal(world, journal, entered):
    """Attached before or after the journal is open, it is one task, and its row is brought to its end."""

    async def main():
        kling = here.client(journal=journal)
        first = await kling.submit(here.request("cat"), key="cat")
        (left,) = await kling.aclose()
        kling = here.client(journal=journal)
        if entered:
            await kling.__aenter__()
        handle = kling.attach(left.token)
        other = await kling.submit(here.request("dog"), key="dog")
        assert [each.key for each in kling.tasks()] == ["cat", "dog"]
        assert (await handle.result()).task_id == first.task_id
        assert (await other.result()).status is TaskStatus.SUCCEED
        await kling.aclose()

    here = world()
    virtual_time.run(main())
    assert rows(journal) == [("cat", "succeed"), ("dog", "succeed")]
    assert made(here) == {"cat": 1, "dog": 1}


def test_token_of_a_task_that_is_over(world, journal):
    """Attached, it is asked for once, and drain does not wait for it."""

    async def main():
        async with here.client(journal=journal) as kling:
            handle = await kling.submit(here.request("cat"), key="cat")
            await handle.result()
        async with here.client(journal=journal) as kling:
            begun, polls = here.time(), len(here.times("GET"))
            assert (await kling.attach(handle.token).result()).status is TaskStatus.SUCCEED
            assert await kling.aclose(drain=100) == []
            assert here.time() == begun
            assert len(here.times("GET")) == polls + 1

    here = world()
    virtual_time.run(main())
    assert rows(journal) == [("cat", "succeed")]


# Closing


def test_aclose_cancelled(world, journal):
    """Cancelled while it drains, it closes at once and completely; the next one returns what runs."""

    async def main():
        kling = here.client(journal=journal)
        await kling.submit(here.request("cat"), key="cat")
        closing = asyncio.ensure_future(kling.aclose(drain=90))
        await asyncio.sleep(5)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert here.time() == 5
        async with here.client(journal=journal) as later:
            assert [handle.key for handle in later.tasks()] == ["cat"]
        assert [handle.key for handle in await kling.aclose()] == ["cat"]
        assert await kling.aclose() == []

    here = world()
    virtual_time.run(main())


def test_aclose_cancelled_at_each_of_its_waits(world, journal):
    """Wherever it is cancelled, the journal is free and complete when it has ended."""

    async def closing(count, *, resumed):
        kling = here.client(journal=journal)
        await kling.submit(here.request("cat"), key="cat")
        task = asyncio.ensure_future(virtual_time.cancelled_at(kling.aclose(drain=3), count, resumed=resumed))
        await asyncio.wait([task])
        await kling.aclose()
        return task.cancelled()

    async def main(*, resumed):
        for count in range(1, 50):
            if not await closing(count, resumed=resumed):
                return
        pytest.fail("it has too many waits")

    for resumed in (False, True):
        here = world(seconds=10_000)
        virtual_time.run(main(resumed=resumed))
        assert rows(journal) == [("cat", "submitted")]
        assert made(here) == {"cat": 1}
        journal.unlink()


def test_aclose_twice(world):
    """One after the other, and both at once: both end when it is closed."""

    async def main():
        kling = here.client()
        await kling.submit(here.request())
        both = await asyncio.gather(kling.aclose(drain=20), kling.aclose(drain=10))
        assert here.time() in (10, 20)
        assert await kling.aclose() == []
        assert {len(left) for left in both} <= {0, 1}
        with pytest.raises(KlingError, match="closed"):
            await both[0][0].result(timeout=1) if both[0] else await both[1][0].result(timeout=1)

    here = world()
    virtual_time.run(main())


def test_shorter_drain_of_a_second_aclose(world):
    """Whoever is in more of a hurry decides: the second one ends the first one's drain."""

    async def main():
        kling = here.client()
        handle = await kling.submit(here.request())
        slow = asyncio.ensure_future(kling.aclose(drain=90))
        await asyncio.sleep(1)
        (left,) = await kling.aclose()
        assert here.time() == 1
        assert left.token == handle.token
        await slow

    here = world()
    virtual_time.run(main())


def test_entered_again_in_a_later_loop(world, journal):
    """The same client, in a loop that begins when the first has ended, goes on with what it left."""
    here = world()
    kling = here.client(journal=journal)

    async def first():
        async with kling:
            handle = await kling.submit(here.request("cat"), key="cat")
            return handle.token

    async def second(token):
        async with kling:
            assert [handle.token for handle in kling.tasks()] == [token]
            assert kling.attach(token).task_id is not None
            assert (await kling.run(here.request("cat"), key="cat")).status is TaskStatus.SUCCEED

    token = virtual_time.run(first())
    virtual_time.run(second(token))
    assert made(here) == {"cat": 1}
    assert rows(journal) == [("cat", "succeed")]


# For web handlers


def test_no_wait_while_slots_are_unknown(world):
    """Five leave at once; the sixth is refused without a call, and may be submitted again."""

    async def main():
        async with here.client() as kling:
            first = [kling.submit_soon(each) for each in here.requests(5)]
            await asyncio.sleep(0.5)
            with pytest.raises(ConcurrencyLimitError) as told:
                await kling.submit(here.request("sixth"), wait=False)
            assert told.value.outcome is Outcome.NOT_CREATED
            assert here.time() == 0.5
            await asyncio.sleep(1)
            assert all(handle.task_id for handle in first)
            await kling.submit(here.request("seventh"), wait=False)

    here = world(latency=1.0)
    virtual_time.run(main())
    assert here.times("POST") == [0] * 5 + [1.5]


@pytest.mark.parametrize("limit", [1, 3])
def test_no_wait_while_slots_are_full(world, limit):
    """All slots held: refused at once, nothing is sent; one is free again: it leaves at once."""

    async def main():
        async with here.client(max_in_flight=limit) as kling:
            handles = [await kling.submit(each, wait=False) for each in here.requests(limit)]
            with pytest.raises(ConcurrencyLimitError, match="no slot is free"):
                await kling.submit(here.request("late"), wait=False)
            assert here.time() == 0
            await handles[0].result()
            await kling.submit(here.request("late"), wait=False)

    here = world()
    virtual_time.run(main())
    assert here.times("POST")[limit:] == [100]


def test_no_wait_where_kling_has_no_slot(world):
    """Others use the account: Kling's own refusal is told at once, and for a second nobody asks again."""

    async def main():
        async with here.client() as kling:
            here.simulator.refuse("create", 1303)
            with pytest.raises(ConcurrencyLimitError) as told:
                await kling.submit(here.request(), wait=False)
            assert (here.time(), told.value.code) == (0, 1303)
            assert kling.tasks() == []
            with pytest.raises(ConcurrencyLimitError, match="no slot is free"):
                await kling.submit(here.request(), wait=False)
            await asyncio.sleep(2)
            await kling.submit(here.request(), wait=False)

    here = world()
    virtual_time.run(main())
    assert here.times("POST") == [0, 2]


def test_withdraw(world):
    """Before its check and in line: withdrawn, nothing is sent. Once its POST has begun: too late."""

    async def main():
        async with here.client(max_in_flight=1) as kling:
            unchecked = kling.submit_soon(here.request("unchecked"))
            assert (unchecked.withdraw(), unchecked.withdraw()) == (True, False)
            running = kling.submit_soon(here.request("running"))
            waiting = kling.submit_soon(here.request("waiting"), key="waiting")
            await asyncio.sleep(1)
            assert (running.withdraw(), waiting.withdraw()) == (False, True)
            for handle in (unchecked, waiting):
                assert handle.status is TaskStatus.REFUSED
                with pytest.raises(KlingError, match="withdrawn") as told:
                    await handle.result()
                assert told.value.outcome is Outcome.NOT_CREATED
            assert [each.token for each in kling.tasks()] == [running.token]
            await running.result()
            assert not running.withdraw()
            await kling.run(here.request("waiting"), key="waiting")

    here = world(latency=5.0)
    virtual_time.run(main())
    assert made(here) == {"running": 1, "waiting": 1}


# Ends that nobody planned


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), asyncio.CancelledError()])
def test_error_of_the_body(world, journal, error):
    """What the body raises comes out as it is, while tasks run, wait and are being submitted."""

    async def body():
        async with here.client(journal=journal, max_in_flight=2) as kling:
            await kling.submit(here.request("a"), key="a")
            for name in "bc":
                kling.submit_soon(here.request(name), key=name)
            await asyncio.sleep(0.5)
            raise error

    async def main():
        with pytest.raises(type(error)) as raised:
            await body()
        assert raised.value is error
        async with here.client(journal=journal) as later:
            assert [handle.key for handle in later.tasks()] == ["a", "b"]

    here = world(latency=1.0)
    virtual_time.run(main())
    assert made(here) == {"a": 1, "b": 1}, "the answer of a POST that is out is waited for"


def test_keyboard_interrupt(world, journal):
    """Ctrl-C ends the loop as it always does; the journal knows the task, and a later run goes on."""

    async def first():
        async with here.client(journal=journal) as kling:
            await kling.submit(here.request("cat"), key="cat")
            asyncio.get_running_loop().call_later(5, signal.raise_signal, signal.SIGINT)
            await asyncio.sleep(50)

    async def second():
        async with here.client(journal=journal) as kling:
            assert [handle.key for handle in kling.tasks()] == ["cat"]

    here = world()
    with pytest.raises(KeyboardInterrupt):
        virtual_time.run(first())
    virtual_time.run(second())


def test_not_closed_at_the_end_of_asyncio_run(world, journal, caplog):
    """Used without `async with` and forgotten: the loop's end closes it, and no row is lost."""

    async def first():
        await here.client(journal=journal).submit(here.request("cat"), key="cat")

    async def second():
        async with here.client(journal=journal) as kling:
            assert [handle.key for handle in kling.tasks()] == ["cat"]

    here = world()
    with asyncio.Runner(loop_factory=virtual_time.VirtualTimeLoop) as runner:
        runner.run(first())
    virtual_time.run(second())
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


# asyncio's own complaints: of tasks that are destroyed with their loop
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loop_closed_under_a_client(world, journal, caplog):
    """A loop that is closed by hand with a client at work: asyncio complains, we do not, and nothing hangs.

    The client works again in a later loop; a journal stays in use until the process ends, which is told.
    """

    async def first(kling):
        await kling.submit(here.request("cat"), key="cat")

    async def second(kling):
        handle = await kling.submit(here.request("dog"))
        assert handle.task_id is not None
        await kling.aclose()

    async def third(kling):
        with pytest.raises(JournalError, match="in use by process"):
            await kling.submit(here.request("dog"))
        await kling.aclose()

    here = world()
    loop = virtual_time.VirtualTimeLoop()
    kling, recorded = here.client(), here.client(journal=journal)
    loop.run_until_complete(first(kling))
    loop.run_until_complete(first(recorded))
    loop.close()
    virtual_time.run(second(kling))
    virtual_time.run(third(recorded))
    assert rows(journal) == [("cat", "submitted")]
    gc.collect()
    complaints = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert {each.name for each in complaints} == {"asyncio"}
    assert {each.getMessage().splitlines()[0] for each in complaints} == {
        "Task was destroyed but it is pending!"
    }
