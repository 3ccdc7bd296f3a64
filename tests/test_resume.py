"""A journal on a real disk, in virtual time: a run is killed, and a later one goes on where it ended."""

import asyncio
import json
import shutil
import sqlite3
import time
from collections import Counter
from pathlib import Path

import attrs
import pytest
import virtual_time
from items import completed, keyed, made

from kling_async import (
    KLING,
    KLING_CN,
    APIKey,
    ConnectError,
    DownloadError,
    JournalError,
    KlingClient,
    KlingError,
    Outcome,
    PolicyError,
    Polling,
    ResponseLostError,
    Retries,
    TaskFailedError,
    TaskStatus,
    WaitTimeoutError,
)
from kling_async.instrumentation import Saved
from kling_async.journal import FILE_NAME
from kling_async.simulator import Simulator, serve
from kling_async.simulator.faults import Faults
from kling_async.testing import SimulatorTransport

PROMPT = Retries(attempts=3, factor=1e-9, max_value=1e-9)
"""Retries whose waits are nothing, so that times can be told exactly."""


@pytest.fixture
def journal(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal.sqlite"


async def killed(kling, journal: Path) -> Path:
    """End *kling* like `kill -9`: its journal keeps what is on the disk now; returns a copy of it."""
    copy = journal.with_name(f"after-{journal.name}")
    for tail in ("", "-wal"):
        if (kept := Path(f"{journal}{tail}")).exists():
            shutil.copy(kept, f"{copy}{tail}")
    main = kling._work.engine.crew._main
    main.cancel()
    await asyncio.wait([main])
    return copy


def rows(journal):
    """State, task_id and generation of each row by its label and generation."""
    with sqlite3.connect(journal) as database:
        found = database.execute("SELECT label, state, task_id, generation FROM tasks ORDER BY 1, 4")
        result = found.fetchall()
    database.close()
    return result


# Killed


@pytest.mark.parametrize(
    "script", ["", "create:lost_reply_after p=0.3; create:lost_reply_before p=0.3; query:lookup_lag"]
)
def test_batch_killed_at_any_moment_is_paid_once(world, journal, script):
    """Six items, killed at each half second of the way and run again: each made once, each with a video."""

    async def main():
        items = keyed(here, *"abcdef")
        first = here.client(journal=journal, max_in_flight=2, retries=PROMPT)
        reading = asyncio.ensure_future(completed(first, items))
        await asyncio.sleep(moment)
        copy = await killed(first, journal)
        await asyncio.wait([reading])
        reading.exception()
        async with here.client(journal=copy, max_in_flight=2, retries=PROMPT) as second:
            done = await completed(second, items)
            assert [each.key for each in done.values() if not each.ok] == []
            assert set(done) == set("abcdef")
        shutil.rmtree(journal.parent)
        journal.parent.mkdir()

    for half_seconds in (*range(1, 16), *range(16, 60, 3), 120, 170, 200):
        moment = half_seconds / 2
        here = world(
            latency=1.0, seconds=12, faults=Faults.parse(f"{script}; create:duplicates", seed=half_seconds)
        )
        virtual_time.run(main())
        assert made(here) == dict.fromkeys("abcdef", 1), moment


@pytest.mark.parametrize(("moment", "posts"), [(0.2, [0, 90.2]), (0.7, [0])])
def test_intent_is_looked_up_and_waited_out(world, journal, moment, posts):
    """Killed with a POST out: made, the first look finds it; not made, it goes again after the quarantine."""

    async def main():
        first = here.client(journal=journal)
        first.submit_soon(here.request("cat"), key="cat")
        await asyncio.sleep(moment)
        copy = await killed(first, journal)
        assert rows(copy) == [("cat", "intended", None, 0)]
        here.inner.latency = 0
        async with here.client(journal=copy, retries=PROMPT) as second:
            done = await completed(second, keyed(here, "cat"))
            assert done["cat"].ok
            assert not done["cat"].resumed

    here = world(latency=1.0)
    virtual_time.run(main())
    assert here.times("POST") == posts
    assert made(here) == {"cat": 1}


def test_quarantine_goes_on_where_it_was(world, journal):
    """Killed 30 s into a quarantine, run again 30 s later: sent again 90 s after the answer was lost."""

    async def main():
        first = here.client(journal=journal)
        first.submit_soon(here.request("cat"), key="cat")
        await asyncio.sleep(30)
        copy = await killed(first, journal)
        await asyncio.sleep(30)
        async with here.client(journal=copy) as second:
            assert (await completed(second, keyed(here, "cat")))["cat"].ok

    here = world(faults=Faults.parse("create:lost_reply_before times=1"))
    virtual_time.run(main())
    assert here.times("POST") == [0, 90]
    assert here.times("GET")[:8] == [0, 5, 15, 60, 65, 75, 90, 100]


def test_intent_that_nobody_wants_again_is_let_go(world, journal):
    """Not made by look-ups, and its item is not in this run: refused, its slot is free, nothing is sent."""

    async def main():
        first = here.client(journal=journal)
        first.submit_soon(here.request("cat"), key="cat")
        await asyncio.sleep(0.2)
        copy = await killed(first, journal)
        async with here.client(journal=copy, max_in_flight=1) as second:
            await second.submit(here.request("dog"), key="dog")
            assert here.time() == pytest.approx(0.2 + 90 + 2, abs=3)
            assert [handle.key for handle in second.tasks()] == ["dog"]
        assert [row[:2] for row in rows(copy)] == [("cat", "refused"), ("dog", "submitted")]

    here = world(latency=1.0)
    virtual_time.run(main())
    assert made(here) == {"dog": 1}


def test_intent_without_lookup_may_exist(world, journal):
    """A provider that cannot look up: a POST out at the kill is told as MAY_EXIST, also the next time."""
    provider = attrs.evolve(KLING, lookup="no")

    async def main():
        first = here.client(journal=journal, provider=provider)
        first.submit_soon(here.request("cat"), key="cat")
        await asyncio.sleep(0.7)
        copy = await killed(first, journal)
        for _ in range(2):
            async with here.client(journal=copy, provider=provider) as second:
                error = (await completed(second, keyed(here, "cat")))["cat"].error
                assert isinstance(error, ResponseLostError)
                assert error.outcome is Outcome.MAY_EXIST
        async with here.client(journal=copy, provider=provider) as third:
            error = (await completed(third, keyed(here, "cat")))["cat"].error
            assert error is not None
            handle = await third.resubmit(error)
            await handle.result()
            assert rows(copy)[0][:2] == ("cat", "may_exist")
        async with here.client(journal=copy, provider=provider) as fourth:
            assert (await completed(fourth, keyed(here, "cat")))["cat"].resumed

    here = world(latency=1.0)
    virtual_time.run(main())
    assert made(here) == {"cat": 2}
    assert len(here.ledger.made_by_external_id()) == 2


def test_may_exist_is_looked_up_once_more(world, journal):
    """The network was away for hours after the answer was lost; the next run finds the task by its id."""

    async def tamper(request, send):
        if request.method == "GET" and here.time() < 20_000:
            raise ConnectError("the network is away")
        return await send()

    async def main():
        async with here.client(journal=journal) as kling:
            await completed(kling, keyed(here, "cat"))
            await asyncio.sleep(20_000)
        assert [row[1] for row in rows(journal)] == ["may_exist"]
        async with here.client(journal=journal) as kling:
            assert (await completed(kling, keyed(here, "cat")))["cat"].ok

    here = world(tamper=tamper, faults=Faults.parse("create:lost_reply_after times=1"))
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


def test_state_of_another_version_is_told_and_left(world, journal):
    """A row whose state nobody knows: a JournalError for its item, which is not made again."""

    async def main():
        async with here.client(journal=journal) as kling:
            await completed(kling, keyed(here, "cat"))
        with sqlite3.connect(journal) as database:
            database.execute("UPDATE tasks SET state = 'archived'")
        database.close()
        async with here.client(journal=journal) as kling:
            done = (await completed(kling, keyed(here, "cat")))["cat"]
            assert isinstance(done.error, JournalError)
            assert "archived" in str(done.error)

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1}
    assert [row[1] for row in rows(journal)] == ["archived"]


@pytest.mark.parametrize("state", ["submitted", "succeed"])
def test_row_that_cannot_be_read_is_told(world, journal, state):
    """Somebody wrote nonsense into the row of a task: a JournalError, on entering if the task had not ended.

    So it is without entering, where the journal is opened by the first submit. Nothing is made.
    """

    async def main():
        async with here.client(journal=journal) as kling:
            await kling.submit(here.request("cat"), key="cat")
        with sqlite3.connect(journal) as database:
            database.execute("UPDATE tasks SET videos = '{nope', state = ?", (state,))
        database.close()
        if state == "submitted":
            with pytest.raises(JournalError, match="of cat cannot be read"):
                async with here.client(journal=journal):
                    pass
        kling = here.client(journal=journal)
        for _ in range(2):
            with pytest.raises(JournalError, match="of cat cannot be read"):
                await kling.submit(here.request("cat"), key="cat")
        await kling.aclose()

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


def test_submit_refused_before_the_crash_is_no_open_question(world, journal):
    """Killed while it waits in line after a 1303: the next run sends it at once, without a quarantine."""

    async def main():
        first = here.client(journal=journal)
        await first.submit(here.request("cat"), key="cat")
        first.submit_soon(here.request("dog"), key="dog")
        await asyncio.sleep(5)
        copy = await killed(first, journal)
        async with here.client(journal=copy) as second:
            await completed(second, keyed(here, "cat", "dog"))

    here = world(parallel=1, seconds=20)
    virtual_time.run(main())
    assert made(here) == {"cat": 1, "dog": 1}
    assert here.ledger.made[1].created - here.ledger.made[0].created < 40


def test_running_task_is_polled_on(world, journal):
    """Killed while it is generated: no POST, polled under the same id, and it is no resumed one."""

    async def main():
        first = here.client(journal=journal)
        handle = await first.submit(here.request("cat"), key="cat")
        copy = await killed(first, journal)
        async with here.client(journal=copy) as second:
            again = await second.submit(here.request("cat"), key="cat")
            assert again.task_id == handle.task_id
            assert again.token == handle.token
            done = await completed(second, keyed(here, "cat"))
            assert (done["cat"].ok, done["cat"].resumed) == (True, False)

    here = world()
    virtual_time.run(main())
    assert here.times("POST") == [0]
    assert here.times("GET") == [float(each) for each in range(0, 101, 10)], "the first at once"


def test_resumed_tasks_take_their_slots_first(world, journal):
    """Two slots, both held by tasks of an earlier run: new items leave as those end, learned limit or not."""

    async def main():
        first = here.client(journal=journal, max_in_flight=2)
        for name in "ab":
            await first.submit(here.request(name), key=name)
        await asyncio.sleep(40)
        copy = await killed(first, journal)
        async with here.client(journal=copy, max_in_flight=2) as second:
            done = await completed(second, keyed(here, *"cdab"))
            assert all(each.ok for each in done.values())

    here = world()
    virtual_time.run(main())
    assert here.times("POST") == [0, 0, 100, 100]
    assert here.ledger.most_in_flight == 2


# Run again to the end


def test_finished_items_are_yielded_without_a_call(world, journal):
    """The whole batch again: every item resumed with its video, no request of any kind."""

    async def main():
        async with here.client(journal=journal) as kling:
            first = await completed(kling, keyed(here, *"abc"))
        calls = len(here.calls)
        async with here.client(journal=journal) as kling:
            second = await completed(kling, keyed(here, *"cab"), ordered=True)
            task = await kling.run(here.request("a"), key="a")
            handle = await kling.submit(here.request("b"), key="b")
            assert handle.done()
        assert len(here.calls) == calls
        assert list(second) == list("cab")
        for key, done in second.items():
            assert done.resumed
            assert done.task.video.url == first[key].task.video.url
            assert done.task.task_id == first[key].task.task_id
        assert task.task_id == first["a"].task.task_id

    here = world()
    virtual_time.run(main())
    assert made(here) == dict.fromkeys("abc", 1)


def test_failed_item_is_told_again_until_it_is_wanted_again(world, journal):
    """The reason is told without a call; `again` makes it anew as the next generation, which then counts."""
    asked = []

    def again(key, status):
        asked.append((key, status))
        return True

    async def main():
        requests = [("bad", here.request("[fail]"))]
        for resumed in (False, True):
            async with here.client(journal=journal) as kling:
                done = (await completed(kling, requests))["bad"]
                assert isinstance(done.error, TaskFailedError)
                assert done.error.status_message == "content risk control"
                assert done.resumed == resumed
        assert len(here.ledger.made) == 1
        here.simulator.fail_marker = "[never]"
        for resumed in (False, True):
            async with here.client(journal=journal) as kling:
                done = (await completed(kling, requests, again=again))["bad"]
                assert (done.ok, done.resumed) == (True, resumed)

    here = world()
    virtual_time.run(main())
    assert asked == [("bad", TaskStatus.FAILED)]
    assert [row[3] for row in rows(journal)] == [0, 1]
    assert len(here.ledger.made_by_external_id()) == len(here.ledger.made) == 2


def test_refused_item_is_submitted_again(world, journal):
    """A refusal is no end for ever: the next run submits it again, under the same id."""

    async def main():
        here.simulator.refuse("create", 1301)
        async with here.client(journal=journal) as kling:
            error = (await completed(kling, keyed(here, "cat")))["cat"].error
            assert isinstance(error, PolicyError)
        assert rows(journal) == [("cat", "refused", None, 0)]
        async with here.client(journal=journal) as kling:
            done = (await completed(kling, keyed(here, "cat")))["cat"]
            assert (done.ok, done.resumed) == (True, False)
            assert error.external_task_id == done.task.external_task_id

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


@pytest.mark.parametrize("seconds", [150, 10_000])
def test_given_up_item_is_asked_for_once_more(world, journal, seconds):
    """Given up after 100 s. The next run asks once: ended meanwhile, the video; if not, given up again."""
    polling = Polling(aim=None, factor=10, base=1, max_interval=10, jitter=0, give_up=100)

    async def main():
        async with here.client(journal=journal, polling=polling) as kling:
            error = (await completed(kling, keyed(here, "cat")))["cat"].error
            assert isinstance(error, WaitTimeoutError)
        await asyncio.sleep(100)
        polls = len(here.times("GET"))
        for _ in range(2):
            async with here.client(journal=journal, polling=polling) as kling:
                done = (await completed(kling, keyed(here, "cat")))["cat"]
                assert done.ok == (seconds == 150)
                assert kling.statistics().in_flight == 0
        assert len(here.times("GET")) - polls == (1 if seconds == 150 else 2)

    here = world(seconds=seconds)
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


def test_edited_request_is_another_task(world, journal):
    """The same key with another prompt is made; the first one back again is known."""

    async def main():
        for prompt, resumed in (("sits", False), ("runs", False), ("sits", True)):
            async with here.client(journal=journal) as kling:
                done = await completed(kling, [("cat", here.request(prompt))])
                assert (done["cat"].ok, done["cat"].resumed) == (True, resumed)

    here = world()
    virtual_time.run(main())
    assert made(here) == {"sits": 1, "runs": 1}


def test_items_added_and_removed(world, journal):
    """A longer batch makes what is new; a shorter one yields its own items only."""

    async def main():
        for names, new in (("abc", "abc"), ("xaby", "xy"), ("by", "")):
            async with here.client(journal=journal) as kling:
                done = await completed(kling, keyed(here, *names))
                assert set(done) == set(names)
                assert {key for key, each in done.items() if not each.resumed} == set(new)

    here = world()
    virtual_time.run(main())
    assert made(here) == dict.fromkeys("abcxy", 1)


def test_without_keys_content_and_ordinal_are_the_name(world, journal):
    """The same photo twice is two videos, in whatever order they come again; a third time is one more."""

    async def main():
        for prompts in ("aab", "baa", "aaab"):
            async with here.client(journal=journal) as kling:
                requests = [here.request(prompt) for prompt in prompts]
                done = [each async for each in kling.completions(requests)]
                assert [each.ok for each in done] == [True] * len(prompts)
        async with here.client(journal=journal) as kling:
            assert not (await completed(kling, [("a", here.request("a"))]))["a"].resumed
            await kling.run(here.request("b"))

    here = world()
    virtual_time.run(main())
    assert made(here) == {"a": 4, "b": 2}, (
        "a key is another name, and a single `run` without one another video"
    )


@pytest.mark.parametrize("elsewhere", [{"credentials": APIKey("other-key")}, {"provider": KLING_CN}])
@pytest.mark.parametrize("ended", [False, True])
def test_tasks_of_another_account_are_held(world, journal, ended, elsewhere, caplog):
    """With another key, or at another base URL, a running task can be neither seen nor made again."""

    async def main():
        first = here.client(journal=journal)
        handle = await first.submit(here.request("cat"), key="cat")
        if ended:
            await handle.result()
        copy = await killed(first, journal)
        async with here.client(**elsewhere, journal=copy) as second:
            done = (await completed(second, keyed(here, "cat")))["cat"]
            assert done.resumed
            assert done.ok == ended
            if done.error is not None:
                assert done.error.outcome is Outcome.MAY_EXIST
                assert "another account" in str(done.error)
            assert second.tasks() == []
        async with here.client(journal=copy) as third:
            assert (await completed(third, keyed(here, "cat")))["cat"].ok

    here = world(api_keys={"sim-key", "other-key"})
    virtual_time.run(main())
    assert made(here) == {"cat": 1}
    warned = [record for record in caplog.records if "belong to another account" in record.message]
    assert len(warned) == (0 if ended else 1)


def test_journal_in_use_is_told_and_nothing_is_sent(world, journal):
    """A second client on the file: JournalError on entering, else out of everything that would submit."""

    async def main():
        async with here.client(journal=journal) as one:
            await one.submit(here.request("cat"), key="cat")
            with pytest.raises(JournalError, match=r"in use by process \d+"):
                async with here.client(journal=journal):
                    pytest.fail("it was entered")
            other = here.client(journal=journal)
            with pytest.raises(JournalError, match="in use"):
                await other.submit(here.request("dog"))
            with pytest.raises(JournalError, match="in use"):
                await completed(other, keyed(here, "dog"))
            handle = other.submit_soon(here.request("dog"))
            with pytest.raises(JournalError, match="in use"):
                await handle.result()
            await one.aclose()
            await other.submit(here.request("dog"))
            await other.aclose()

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1, "dog": 1}


# A full disk


async def limit_pages(kling, pages=None):
    """Let the journal of *kling* grow no more, or again."""
    (opening,) = kling._work.engine.books._journals.values()
    store = opening.result()[0]._store

    def tell():
        (count,) = store._database.execute("PRAGMA page_count").fetchone()
        store._database.execute(f"PRAGMA max_page_count = {pages or count}")

    await opening.result()[0]._in_thread(tell)


def test_intent_that_does_not_fit_is_not_submitted(world, journal):
    """The disk is full before the POST: JournalError, nothing was paid, and with room again it goes."""

    async def main():
        async with here.client(journal=journal) as kling:
            await kling.submit(here.request("cat"), key="cat")
            await limit_pages(kling)
            large = here.request("dog", negative_prompt="n" * 2400, callback_url=f"https://a.b/{'c' * 9000}")
            with pytest.raises(JournalError, match="disk is full") as caught:
                await kling.submit(large, key="dog")
            assert caught.value.outcome is Outcome.NOT_CREATED
            assert made(here) == {"cat": 1}
            await limit_pages(kling, 100_000)
            await kling.submit(large, key="dog")

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1, "dog": 1}
    assert [row[:2] for row in rows(journal)] == [("cat", "submitted"), ("dog", "submitted")]


def test_acknowledgement_that_does_not_fit_is_written_later(world, journal, caplog):
    """The disk fills up while the POST is out: the task goes on, and its row is written when it can be."""

    async def main():
        async with here.client(journal=journal) as kling:
            handle = kling.submit_soon(here.request("cat"), key="cat")
            await asyncio.sleep(3)
            (opening,) = kling._work.engine.books._journals.values()
            store = opening.result()[0]._store
            await opening.result()[0]._in_thread(lambda: store._database.execute("PRAGMA query_only = ON"))
            task = await handle.result()
            assert task.status is TaskStatus.SUCCEED
            assert rows(journal) == [("cat", "intended", None, 0)]
            await opening.result()[0]._in_thread(lambda: store._database.execute("PRAGMA query_only = OFF"))
            await kling.submit(here.request("dog"), key="dog")
            assert [row[:2] for row in rows(journal)] == [("cat", "succeed"), ("dog", "submitted")]

    here = world(latency=10.0)
    virtual_time.run(main())
    told = [record.message for record in caplog.records if "is not in the journal yet" in record.message]
    assert told
    assert not any("nothing was paid" in line for line in told)


# Files


def test_success_without_a_video_ends_its_item_only(world, tmp_path):
    """Kling says it succeeded and names no video: an error of that item, told again by the next run."""

    async def tamper(request, send):
        reply = await send()
        if request.method == "GET":
            document = json.loads(reply.body)
            document["data"].pop("task_result", None)
            reply = attrs.evolve(reply, body=json.dumps(document).encode())
        return reply

    async def main():
        for _ in range(2):
            async with here.client() as kling:
                done = await completed(kling, keyed(here, "cat", "dog"), save_to=tmp_path)
                assert {type(each.error) for each in done.values()} == {DownloadError}

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert made(here) == {"cat": 1, "dog": 1}


def test_file_taken_away_at_once(tmp_path, world):
    """A hook moves each video away as soon as it has its name: the batch goes on."""

    def taken(event):
        if isinstance(event, Saved):
            event.path.rename(tmp_path / f"{event.key}.taken")

    async def main():
        simulator = Simulator(seconds=0.0, parallel=None, validates_schema=False)
        polling = Polling(aim=None, factor=0.01, base=1, max_interval=0.01, floor=0.01, jitter=0)
        transport = SimulatorTransport(simulator, clock=time.time)
        async with (
            serve(simulator),
            KlingClient(APIKey("sim-key"), transport=transport, polling=polling, hooks=[taken]) as kling,
        ):
            done = await completed(kling, keyed(world, "cat", "dog"), save_to=tmp_path / "out")
        assert all(each.ok for each in done.values())

    asyncio.run(main())
    assert {path.name for path in tmp_path.glob("*.taken")} == {"cat.taken", "dog.taken"}


def test_file_of_an_earlier_run(tmp_path, world):
    """`run(save_to=)` again returns the same file without a call; deleted, it is downloaded, never made."""

    async def main():
        simulator = Simulator(seconds=0.0, parallel=None, validates_schema=False)
        polling = Polling(aim=None, factor=0.01, base=1, max_interval=0.01, floor=0.01, jitter=0)

        def client():
            transport = SimulatorTransport(simulator, clock=time.time)
            return KlingClient(APIKey("sim-key"), transport=transport, polling=polling)

        async def saved(kling):
            async for done in kling.completions([world.request(), world.request()], save_to=tmp_path):
                yield done.key, done.result() and done.path, done.resumed

        async with serve(simulator):
            async with client() as kling:
                await kling.run(world.request(), save_to=tmp_path / "cat.mp4")
                first = [each async for each in saved(kling)]
            requests = Counter(simulator.ledger.requests)
            async with client() as kling:
                await kling.run(world.request(), save_to=tmp_path / "cat.mp4")
                second = [each async for each in saved(kling)]
            assert simulator.ledger.requests == requests
            assert [each[:2] for each in second] == [each[:2] for each in sorted(first)]
            assert [each[2] for each in second] == [True, True]
            for path in tmp_path.glob("*.mp4"):
                path.unlink()
            async with client() as kling:
                third = [each async for each in saved(kling)]
            assert all(path.stat().st_size > 0 for _, path, _ in third)
            assert [each[2] for each in third] == [False, False]
            assert simulator.ledger.requests["create"] == requests["create"] == 2
            assert simulator.ledger.requests["download"] == requests["download"] + 2

    asyncio.run(main())


def test_client_whose_engine_was_killed_works_again(world, journal):
    """A client that was killed gives its journal free, and works again with a new engine."""

    async def main():
        kling = here.client(journal=journal)
        handle = kling.submit_soon(here.request("cat"), key="cat")
        await asyncio.sleep(1)
        await killed(kling, journal)
        with pytest.raises(KlingError):
            await handle.result()
        again = await kling.submit(here.request("cat"), key="cat")
        await again.result()
        await kling.aclose()

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


@pytest.mark.parametrize("ended", [False, True])
def test_task_begun_without_a_journal_is_recorded_by_who_has_one(world, tmp_path, ended):
    """Wanted again with `save_to`, a task that this client began without a journal gets its row there."""

    async def main():
        async with here.client() as kling:
            handle = await kling.submit(here.request("cat"), key="cat")
            if ended:
                await handle.result()
            async with kling.completions(keyed(here, "cat"), save_to=tmp_path) as stream:
                done = await anext(stream)
                assert done.task.task_id == handle.task_id
        async with here.client(journal=tmp_path / FILE_NAME) as later:
            assert later.tasks() == []
            assert (await completed(later, keyed(here, "cat")))["cat"].resumed

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1}
    assert here.ledger.requests["create"] == 1


def test_a_folder_of_journals_is_made(world, tmp_path):
    """A journal's name that ends in a slash is a folder, also where there is none yet: the first of many."""

    async def main():
        async with here.client(journal=f"{folder}/") as first, here.client(journal=f"{folder}/") as second:
            await first.run(here.request("cat"), key="cat")
            await second.run(here.request("dog"), key="dog")

    here, folder = world(), tmp_path / "deep" / "state"
    virtual_time.run(main())
    assert len(list(folder.glob("*.sqlite"))) == 2


def test_a_folder_of_journals_that_cannot_be_made(world, tmp_path):
    """Where a file has the folder's name, the journal says so."""

    async def main():
        async with here.client(journal=f"{tmp_path / 'state' / 'deep'}/"):
            pass

    here = world()
    (tmp_path / "state").write_text("a file")
    with pytest.raises(JournalError):
        virtual_time.run(main())
