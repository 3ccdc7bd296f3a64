"""A folder of journals: each process has one of its own, and knows what all of them know."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys

import attrs
import pytest
import virtual_time
from items import completed, keyed, made

from kling_async import KLING, APIKey, JournalError, Outcome, Retries, TaskStatus
from kling_async.journal import FILE_NAME, MIGRATIONS
from kling_async.journal.reading import APPLICATION_ID
from kling_async.simulator.faults import Faults

BLIND = attrs.evolve(KLING, lookup="no", lists=False)
"""A provider that cannot look tasks up: what is paid twice there is paid twice."""

PROMPT = Retries(attempts=3, factor=1e-9, max_value=1e-9)


def files(folder):
    """How many journals there are."""
    return len(list(folder.glob("*.sqlite")))


def rows(path):
    """Label and state of each row of one journal."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT label, state FROM tasks ORDER BY 1, 2").fetchall()


@contextlib.asynccontextmanager
async def workers(here, folder, count, **options):
    """So many clients, each on a journal of its own."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(here.client(journal=folder, **options)) for _ in range(count)]


# How many files


def test_restarts_add_no_journal(world, tmp_path):
    """Four workers restarted together, ten times, with all tasks done each time: four files."""

    async def main():
        for restart in range(10):
            async with workers(here, tmp_path, 4) as clients:
                for number, kling in enumerate(clients):
                    assert (await completed(kling, keyed(here, f"{restart}-{number}"))).popitem()[1].ok
            assert files(tmp_path) == 4

    here = world()
    virtual_time.run(main())
    assert set(made(here).values()) == {1}


def test_restarts_amid_tasks_are_bounded(world, tmp_path):
    """Restarted every 30 s while each task takes 100 s: one file a worker and journal with such tasks."""

    async def main():
        for restart in range(12):
            async with workers(here, tmp_path, 3, max_in_flight=100) as clients:
                for number, kling in enumerate(clients):
                    await kling.submit(here.request(f"{restart}-{number}"), key=f"{restart}-{number}")
                await asyncio.sleep(30)
        async with workers(here, tmp_path, 1) as (alone,):
            await asyncio.sleep(110)
            assert alone.statistics().succeeded == 9, "those of the last three restarts, whoever began them"
            assert alone.tasks() == []
        return files(tmp_path)

    here = world()
    assert virtual_time.run(main()) <= 3 + 3 * 3
    assert set(made(here).values()) == {1}


def test_journal_that_was_deleted_and_made_anew(world, tmp_path):
    """A sibling is read by its name: what the new file there knows counts, not what the old one knew."""

    async def main():
        async with here.client(provider=BLIND, journal=tmp_path) as kling:
            for name in ("cat", "dog"):
                async with here.client(provider=BLIND, journal=tmp_path) as sibling:
                    await sibling.submit(here.request(name), key=name)
                    again = await kling.submit(here.request(name), key=name)
                    assert again.status is TaskStatus.SUBMITTED
                for path in tmp_path.glob("*-2.sqlite*"):
                    path.unlink()

    here = world()
    virtual_time.run(main())
    assert made(here) == {"cat": 1, "dog": 1}


def test_workers_side_by_side(world, tmp_path):
    """Two clients share a folder: each takes a journal of its own, whichever is free, and keys are keys."""

    async def both():
        async with workers(here, tmp_path, 2) as (one, other):
            first, second = await asyncio.gather(
                completed(one, keyed(here, *"ab")), completed(other, keyed(here, *"cd"))
            )
            return [done.task.task_id for done in (*first.values(), *second.values()) if done.ok]

    async def main():
        assert len(await both()) == 4
        assert sorted(await both()) == sorted(each.task_id for each in here.ledger.made)

    here = world()
    virtual_time.run(main())
    assert made(here) == dict.fromkeys("abcd", 1)
    assert files(tmp_path) == 2


def test_restart_with_fewer(world, tmp_path):
    """What two clients recorded, one knows: what had ended, with a key or without, and what had not."""

    async def main():
        async with workers(here, tmp_path, 2) as (one, other):
            assert (await completed(one, keyed(here, "a")))["a"].ok
            assert [done.ok async for done in other.completions([here.request("y")])] == [True]
            running = await other.submit(here.request("z"), key="z")
            assert not running.done()
        async with here.client(journal=tmp_path) as alone:
            assert [handle.key for handle in alone.tasks()] == ["z"]
            assert (await completed(alone, keyed(here, "a")))["a"].resumed
            assert [done.resumed async for done in alone.completions([here.request("y")])] == [True]
            assert (await completed(alone, keyed(here, "z")))["z"].ok

    here = world()
    virtual_time.run(main())
    assert made(here) == {"a": 1, "y": 1, "z": 1}


def test_journals_with_nothing_to_do_stay_free(world, tmp_path):
    """The first of two takes over the journal with a running task alone; the other takes the idle one."""

    async def main():
        async with workers(here, tmp_path, 3) as (_, idle, busy):
            await idle.run(here.request("idle"), key="idle")
            await busy.submit(here.request("busy"), key="busy")
        async with workers(here, tmp_path, 2) as (one, other):
            assert [handle.key for handle in one.tasks()] == ["busy"]
            assert other.tasks() == []
            for kling in (one, other):
                assert (await completed(kling, keyed(here, "idle")))["idle"].resumed
        assert files(tmp_path) == 3

    here = world()
    virtual_time.run(main())
    assert made(here) == {"idle": 1, "busy": 1}


def test_journal_of_another_account_is_left_to_it(world, tmp_path):
    """Two accounts in one folder: neither takes over the running tasks of the other."""

    async def main():
        async with workers(here, tmp_path, 1) as (mine,), workers(here, tmp_path, 1, **theirs) as (other,):
            await mine.submit(here.request("mine"), key="mine")
            await other.submit(here.request("theirs"), key="theirs")
        async with workers(here, tmp_path, 1) as (mine,), workers(here, tmp_path, 1, **theirs) as (other,):
            assert [handle.key for handle in mine.tasks()] == ["mine"]
            assert [handle.key for handle in other.tasks()] == ["theirs"]

    theirs = {"credentials": APIKey("other-key")}
    here = world(api_keys={"sim-key", "other-key"})
    virtual_time.run(main())


# What a running sibling knows


@pytest.mark.parametrize("provider", [None, BLIND], ids=["lookup", "blind"])
def test_item_that_a_running_sibling_finished(world, tmp_path, provider):
    """It is resumed, with a key or by its content, also where the sibling's journal is younger than we."""

    async def main():
        async with workers(here, tmp_path, 1, provider=provider) as (one,):
            async with workers(here, tmp_path, 1, provider=provider) as (other,):
                await completed(other, keyed(here, "a"))
                assert [done.ok async for done in other.completions([here.request("y")])] == [True]
                calls = len(here.calls)
                assert (await completed(one, keyed(here, "a")))["a"].resumed
                assert [done.resumed async for done in one.completions([here.request("y")])] == [True]
            assert (await completed(one, keyed(here, "a")))["a"].resumed, "and when it has ended"
            assert len(here.calls) == calls

    here = world()
    virtual_time.run(main())
    assert made(here) == {"a": 1, "y": 1}


@pytest.mark.parametrize("provider", [None, BLIND], ids=["lookup", "blind"])
def test_task_that_a_running_sibling_waits_for(world, tmp_path, provider):
    """Its id is known: it is polled here too, and delivered by both; nothing is submitted."""

    async def main():
        async with workers(here, tmp_path, 2, provider=provider) as (one, other):
            handle = await one.submit(here.request("cat"), key="cat")
            both = await asyncio.gather(*(completed(kling, keyed(here, "cat")) for kling in (one, other)))
            assert [done["cat"].task.task_id for done in both] == [handle.task_id] * 2
            assert [done["cat"].ok for done in both] == [True, True]
        assert [rows(path) for path in sorted(tmp_path.glob("*.sqlite"))] == [[("cat", "succeed")]] * 2

    here = world()
    virtual_time.run(main())
    assert here.times("POST") == [0]


def test_item_that_a_running_sibling_submits(world, tmp_path):
    """Where nothing can be looked up it is refused, by whose work it is; answered, it is known."""

    async def main():
        async with workers(here, tmp_path, 2, provider=BLIND) as (one, other):
            first = one.submit_soon(here.request("cat"), key="cat")
            await asyncio.sleep(1)
            with pytest.raises(
                JournalError, match=r"being submitted in .* by process \d+ on .*\.sqlite"
            ) as told:
                await other.submit(here.request("cat"), key="cat")
            assert told.value.outcome is Outcome.MAY_EXIST
            assert told.value.key == "cat"
            await asyncio.sleep(10)
            again = await other.submit(here.request("cat"), key="cat")
            assert again.task_id == first.task_id
            assert (await again.result()).status is TaskStatus.SUCCEED

    here = world(latency=10.0)
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


def test_item_that_a_sibling_submits_is_looked_up(world, tmp_path):
    """Where it can be looked up it is, and both deliver the one task, duplicates accepted or not."""

    async def main():
        async with workers(here, tmp_path, 2, retries=PROMPT) as (one, other):
            first = one.submit_soon(here.request("cat"), key="cat")
            await asyncio.sleep(1)
            second = await other.submit(here.request("cat"), key="cat")
            assert second.task_id == first.task_id
            await asyncio.gather(first.result(), second.result())

    here = world(latency=3.0, faults=Faults.parse("create:duplicates"))
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


@pytest.mark.parametrize("provider", [None, BLIND], ids=["lookup", "blind"])
def test_two_at_the_same_moment(world, tmp_path, provider):
    """Both want the same at once: it is made at most once, and who is refused hears how to go on."""

    async def main():
        async with workers(here, tmp_path, 2, provider=provider) as both:
            done = await asyncio.gather(
                *(kling.submit(here.request("cat"), key="cat") for kling in both), return_exceptions=True
            )
            errors = [each for each in done if isinstance(each, BaseException)]
            assert {type(error) for error in errors} <= ({JournalError} if provider else set())
            if errors:
                assert made(here).total() <= 1
                await asyncio.sleep(1)
            handles = [await kling.submit(here.request("cat"), key="cat") for kling in both]
            assert len({handle.task_id for handle in handles}) == 1
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world(latency=0.2)
    virtual_time.run(main())
    assert made(here) == {"cat": 1}


def test_two_with_room_one_after_the_other(world, tmp_path):
    """Both have it in line when neither has begun it: who comes second sees that it is made, and does not."""

    async def main():
        async with workers(here, tmp_path, 2, provider=BLIND, max_in_flight=1) as (one, other):
            await one.submit(here.request("a"), key="a")
            await asyncio.sleep(30)
            await other.submit(here.request("b"), key="b")
            first, second = (kling.submit_soon(here.request("cat"), key="cat") for kling in (one, other))
            with pytest.raises(JournalError, match=r"is submitted in another journal .* by process") as told:
                await second.result()
            assert told.value.outcome is Outcome.CREATED
            assert second.status is TaskStatus.REFUSED
            again = await other.submit(here.request("cat"), key="cat")
            assert again.task_id == first.task_id
            await asyncio.gather(first.result(), again.result())

    here = world()
    virtual_time.run(main())
    assert made(here) == {"a": 1, "b": 1, "cat": 1}


def test_failure_of_a_sibling_is_made_again_once(world, tmp_path):
    """Failed there and wanted anew here: the next generation, which the sibling then knows."""

    async def main():
        async with workers(here, tmp_path, 2, provider=BLIND) as (one, other):
            request = [("bad", here.request("[fail]"))]
            assert not (await completed(one, request))["bad"].ok
            here.simulator.fail_marker = "[never]"
            again = await completed(other, request, again=lambda _key, _status: True)
            assert (again["bad"].ok, again["bad"].resumed) == (True, False)
            known = await completed(one, request, again=lambda _key, _status: True)
            assert (known["bad"].ok, known["bad"].resumed) == (True, True)

    here = world()
    virtual_time.run(main())
    assert len(here.ledger.made) == 2


def is_free(path):
    """Whether another process could have the whole file for itself, as one that closes it last does."""
    script = (
        f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('PRAGMA journal_mode = DELETE')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert done.returncode == 0 or "database is locked" in done.stderr
    return done.returncode == 0


def test_two_clients_of_a_process_keep_their_locks(world, tmp_path):
    """One reads a journal that another one opens, closes, opens again: never is it without its lock."""

    async def main():
        second = tmp_path / "kling-journal-2.sqlite"
        async with workers(here, tmp_path, 2) as (one, other):
            await other.run(here.request("a"), key="a")
            assert (await completed(one, keyed(here, "a")))["a"].resumed
            await other.aclose()
            async with here.client(journal=tmp_path) as third:
                assert (await completed(third, keyed(here, "a")))["a"].resumed
                assert not is_free(second)
            assert (await completed(one, keyed(here, "a")))["a"].resumed
        assert is_free(second)

    here = world()
    virtual_time.run(main())


# Files that are not as they should be


def test_journal_that_is_only_being_made(world, tmp_path):
    """Empty, or with SQLite's own journal beside it: it holds nothing yet, and nobody minds."""

    async def main():
        async with here.client(journal=tmp_path) as kling:
            assert (await completed(kling, keyed(here, "a")))["a"].ok

    (tmp_path / "kling-journal-2.sqlite").touch()
    (tmp_path / "kling-journal-3.sqlite").write_bytes(b"half a page")
    (tmp_path / "kling-journal-3.sqlite-journal").touch()
    here = world()
    virtual_time.run(main())


@pytest.mark.parametrize("content", [None, b""], ids=["no file yet", "empty"])
def test_journal_that_another_process_makes(world, tmp_path, content):
    """Its lock is held, and nobody has signed it yet: in use by another process; of a folder, the next."""
    path = tmp_path / FILE_NAME
    if content is not None:
        path.write_bytes(content)

    async def main():
        with pytest.raises(JournalError, match="is in use by another process"):
            async with here.client(journal=path):
                pytest.fail("it was entered")
        async with here.client(journal=tmp_path) as kling:
            assert (await completed(kling, keyed(here, "a")))["a"].ok

    here = world()
    with contextlib.closing(sqlite3.connect(f"{path}.lock", isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        virtual_time.run(main())
    assert rows(tmp_path / "kling-journal-2.sqlite") == [("a", "succeed")]


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"SQLite format 3\0" + b"x" * 5000, "kling-journal-2.sqlite is"), (None, "no journal of ours")],
)
def test_journal_that_cannot_be_read(world, tmp_path, content, what):
    """Nobody knows what it knows: a JournalError on entering, before anything can be paid twice."""
    path = tmp_path / "kling-journal-2.sqlite"
    if content is None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE tasks (anything)")
            database.commit()
    else:
        path.write_bytes(content)

    async def main():
        with pytest.raises(JournalError, match=what):
            async with here.client(journal=tmp_path):
                pytest.fail("it was entered")

    here = world()
    virtual_time.run(main())


def older(path):
    """Make the journal at *path* one of an older version, which lacks a column."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE tasks DROP COLUMN units")


def newer(path):
    """Make the journal at *path* one of a newer version, with a column more."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE tasks ADD COLUMN later TEXT DEFAULT 'x'")
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


@pytest.mark.parametrize("change", [older, newer])
def test_journal_of_another_version(world, tmp_path, change):
    """In a rolling deploy another version has it: what it knows is known here too."""

    async def main():
        async with workers(here, tmp_path, 2) as (_, other):
            await completed(other, keyed(here, "a"))
        change(tmp_path / "kling-journal-2.sqlite")
        async with here.client(journal=tmp_path) as one:
            assert (await completed(one, keyed(here, "a")))["a"].resumed

    here = world()
    virtual_time.run(main())
    assert made(here) == {"a": 1}


def test_unfinished_tasks_in_a_newer_journal_are_told(world, tmp_path):
    """They can be resumed by the newer version only: a JournalError on entering."""

    async def main():
        async with workers(here, tmp_path, 2) as (_, other):
            await other.submit(here.request("a"), key="a")
        newer(tmp_path / "kling-journal-2.sqlite")
        with pytest.raises(JournalError, match="newer than this package"):
            async with here.client(journal=tmp_path):
                pytest.fail("it was entered")
        with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
            assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)

    here = world()
    virtual_time.run(main())


def test_state_of_a_sibling_that_nobody_knows(world, tmp_path):
    """A newer sibling writes a state of its own: a JournalError for that item, which may exist."""

    async def main():
        async with workers(here, tmp_path, 2) as (one, other):
            await completed(other, keyed(here, "a"))
            with contextlib.closing(sqlite3.connect(tmp_path / "kling-journal-2.sqlite")) as database:
                database.execute("UPDATE tasks SET state = 'archived'")
                database.commit()
            error = (await completed(one, keyed(here, "a")))["a"].error
            assert isinstance(error, JournalError)
            assert error.outcome is Outcome.MAY_EXIST
            assert (await completed(one, keyed(here, "b")))["b"].ok

    here = world()
    virtual_time.run(main())
    assert made(here) == {"a": 1, "b": 1}
