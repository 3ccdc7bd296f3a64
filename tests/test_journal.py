"""The journal keeps what it was told, whatever becomes of the process, the disk and the file."""

import asyncio
import base64
import contextlib
import json
import os
import random
import selectors
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from kling_async.bookkeeping import Books
from kling_async.flight import Flight
from kling_async.journal import FILE_NAME, MIGRATIONS, Journal, Record
from kling_async.protocol.errors import JournalError
from kling_async.protocol.identity import Issuer
from kling_async.protocol.images import ImageFile, ImageText, ImageUrl, ResolvedImage
from kling_async.protocol.lifecycle import is_terminal
from kling_async.protocol.models import DynamicMask, ImageToVideo, Point, Task, TaskStatus
from kling_async.protocol.providers import KLING
from kling_async.recording import Recording

T = TypeVar("T")

NOW = 1_760_000_000.0
ISSUER = Issuer("kling", "api.kling.example", "0123456789ab")
POSIX = pytest.mark.skipif(os.name == "nt", reason="permissions, limits and forks as POSIX has them")
SECOND = (*MIGRATIONS, "ALTER TABLE tasks ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'")
"""What a later version of the package might bring."""


def left_open(folder: Path) -> list[str]:
    """The files of *folder* that this process has open, where the system can tell."""
    descriptors = Path("/proc/self/fd")
    names = []
    if descriptors.is_dir():
        for each in list(descriptors.iterdir()):
            with contextlib.suppress(OSError):
                names.append(str(each.readlink()))
    return [name for name in names if name.startswith(str(folder))]


@pytest.fixture(autouse=True)
def nothing_left_open(tmp_path: Path) -> Iterator[None]:
    """After each test no file of its folder is open in this process, where the system can tell."""
    yield
    assert left_open(tmp_path) == []


def record(number: int = 0, **fields: Any) -> Record:
    """A record that differs from those of other numbers."""
    values: dict[str, Any] = {
        "external_task_id": f"ka-{number:06}",
        "key": f"key {number}",
        "named": True,
        "label": f"photo {number}.png",
        "account": "0123456789ab",
        "provider": "kling",
        "host": "api.kling.example",
        "endpoint": "image2video",
        "model_name": "kling-v2-6",
        "request_hash": f"{number:064x}",
        "intended_at": NOW + number,
        "updated_at": NOW + number,
    }
    return Record(**{**values, **fields})


def opened(path: Path, **more: Any) -> Coroutine[Any, Any, Journal]:
    """Open the journal at *path* at the usual time."""
    return Journal.open(path, now=NOW, **more)


def used(path: Path, use: Callable[[Journal], Awaitable[T]], **more: Any) -> T:
    """Open the journal at *path*, *use* it, close it; returns what *use* returned."""

    async def main() -> T:
        journal = await opened(path, **more)
        try:
            return await use(journal)
        finally:
            await journal.aclose()

    return asyncio.run(main())


def filled(path: Path, records: Sequence[Record], **more: Any) -> Path:
    """A closed journal of *records* at *path*."""

    async def fill(journal: Journal) -> None:
        await asyncio.gather(*map(journal.put, records))

    used(path, fill, **more)
    return path


def content(path: Path, **more: Any) -> list[Record]:
    """Every record of the journal at *path*."""
    return list(used(path, Journal.all, **more))


def refusal(path: Path, **more: Any) -> str:
    """The message with which the journal at *path* is refused, proven to be one line that names it."""
    with pytest.raises(JournalError) as caught:
        asyncio.run(opened(path, **more))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"the journal {path} ")
    return message


def refused_untouched(path: Path, **more: Any) -> str:
    """As `refusal`, and the file and its log are byte for byte what they were."""
    files = [each for each in (path, Path(f"{path}-wal")) if each.exists()]
    before = [each.read_bytes() for each in files]
    message = refusal(path, **more)
    assert [each.read_bytes() for each in files] == before
    return message


def asked(path: Path, *statements: str) -> list[Any]:
    """What a SQLite tool answers to *statements*, the first column of each first row."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        return [(database.execute(statement).fetchone() or (None,))[0] for statement in statements]


def sound(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with the whole file."""
    return asked(path, "PRAGMA integrity_check") == ["ok"]


async def tell_sqlite(journal: Journal, statement: str) -> Any:
    """Run *statement* in the journal's own connection and thread; returns the first value."""
    database = journal._store._database
    row = await journal._in_thread(lambda: database.execute(statement).fetchone())
    return None if row is None else row[0]


PRELUDE = """
import asyncio, os, sys
from pathlib import Path
from kling_async.journal import MIGRATIONS, Journal, Record
from kling_async.protocol.errors import JournalError

def record(number, **fields):
    values = dict(external_task_id=f"ka-{number:06}", key=f"key {number}", named=True, label="", account="",
        provider="", host="", endpoint="", model_name="", request_hash="", intended_at=number)
    return Record(**{**values, **fields})

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

path = Path(sys.argv[1])
"""


@contextlib.contextmanager
def process(script: str, *arguments: Any, name: Path | None = None) -> Generator["subprocess.Popen[str]"]:
    """Another process that runs *script* after `PRELUDE`; it does not outlive the test."""
    run = ["-c", PRELUDE + script]
    if name is not None:
        name.write_text(PRELUDE + script, "utf-8")
        run = [str(name)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", *run, *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def said(script: str, *arguments: Any) -> list[str]:
    """The lines another process says that runs *script* to its end and complains of nothing."""
    with process(script, *arguments) as child:
        out, complaints = child.communicate(timeout=60)
        assert complaints == ""
        return out.splitlines()


# What was put is found

TEXTS = st.text(st.characters(), max_size=12)  # with NUL, and halves of surrogate pairs
TIMES = st.floats(0, 4e9)
RECORDS = st.builds(
    Record,
    external_task_id=st.sampled_from([f"ka-{letter}" for letter in "abcdefgh"]),
    key=st.sampled_from(["cat", "dog", "caf\u00e9", "\udcff.png", ""]),
    request_hash=st.sampled_from(["00", "01"]),
    named=st.booleans(),
    label=TEXTS,
    account=TEXTS,
    provider=TEXTS,
    host=TEXTS,
    endpoint=TEXTS,
    model_name=TEXTS,
    request=TEXTS,
    generation=st.integers(0, 3),
    state=st.sampled_from([status.value for status in TaskStatus]),
    task_id=st.none() | TEXTS | st.just("0123"),
    intended_at=TIMES,
    body_sent_at=st.none() | TIMES,
    acknowledged_at=st.none() | TIMES,
    message=TEXTS,
    videos=TEXTS,
    units=st.none() | st.decimals(0, 100, places=2).map(str),
    created_at=st.none() | TIMES,
    ended_at=st.none() | TIMES,
    download=st.sampled_from(["none", "part", "stored"]),
    path=st.none() | TEXTS,
    size=st.none() | st.integers(0, 2**63 - 1),
    updated_at=TIMES,
)


@settings(max_examples=40)
@given(st.lists(RECORDS, max_size=12))
def test_what_was_put_last_is_found(records: list[Record]):
    """Every query tells exactly the last record of each id, at once and after the journal was reopened."""
    expected = {each.external_task_id: each for each in records}

    async def check(journal: Journal) -> None:
        everything = await journal.all()
        assert {each.external_task_id: each for each in everything} == expected
        assert len(everything) == len(expected)
        assert [each.intended_at for each in everything] == sorted(each.intended_at for each in everything)
        live = await journal.live()
        assert set(live) == {each for each in expected.values() if not is_terminal(TaskStatus(each.state))}
        assert [each.intended_at for each in live] == sorted(each.intended_at for each in live)
        for each in records:
            asked = (each.key, each.request_hash)
            same = [other for other in expected.values() if (other.key, other.request_hash) == asked]
            found = await journal.find(*asked)
            if same:
                latest = max((other.generation, other.updated_at) for other in same)
                assert found in same
                assert (found.generation, found.updated_at) == latest
            else:
                assert found is None

    async def put_and_check(journal: Journal) -> None:
        puts = [journal.put(each) for each in records]
        await check(journal)  # a read waits for what was put before it
        assert all(put.done() and put.exception() is None for put in puts)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        used(path, put_and_check)
        used(path, check)
        assert sound(path)


def test_find_prefers_the_latest_generation_then_the_latest_news(tmp_path: Path):
    """A later generation wins whenever it was written; between accounts' rows of one, the later news."""
    same = {"key": "cat", "request_hash": "00"}
    rows = [
        record(1, **same, generation=1, updated_at=NOW),
        record(4, **same, generation=0, updated_at=NOW + 9),
        record(2, **same, generation=1, updated_at=NOW + 1, account="other"),
        record(3, **same, generation=1, updated_at=NOW - 1, account="third"),
    ]
    path = filled(tmp_path / "journal.sqlite", rows)
    assert used(path, lambda journal: journal.find("cat", "00")) == rows[2]
    assert used(path, lambda journal: journal.find("cat", "01")) is None


def test_a_state_of_a_later_version_is_left_alone(tmp_path: Path):
    """A row whose state word this version does not know is kept and told, but is not taken up as live."""
    rows = [record(1, state="paused"), record(2, state="submitted")]
    path = filled(tmp_path / "journal.sqlite", rows)
    assert used(path, Journal.live) == [rows[1]]
    assert content(path) == rows


def test_a_new_journal_keeps_its_namespace(tmp_path: Path):
    """The namespace is random, or the one given at first, and never changes afterwards."""

    async def namespace(journal: Journal) -> str:
        return journal.namespace

    paths = [tmp_path / "a.sqlite", tmp_path / "b.sqlite", tmp_path / "c.sqlite"]
    names = [used(path, namespace) for path in paths[:2]]
    assert len(set(names)) == 2
    assert all(len(name) == 32 for name in names)
    assert [used(path, namespace, namespace="later") for path in paths[:2]] == names
    assert used(paths[2], namespace, namespace="caf\u00e9 \udcff") == "caf\u00e9 \udcff"
    assert used(paths[2], namespace) == "caf\u00e9 \udcff"


# Commits


def test_many_puts_share_few_commits_in_their_order(tmp_path: Path):
    """2,000 puts at once take four commits, their futures are done in order, and the last of an id wins."""
    statements: list[str] = []
    done: list[int] = []

    async def use(journal: Journal) -> None:
        database = journal._store._database
        await journal._in_thread(lambda: database.set_trace_callback(statements.append))
        puts = [journal.put(record(number % 1500, message=str(number))) for number in range(2000)]
        for number, put in enumerate(puts):
            put.add_done_callback(lambda _, number=number: done.append(number))
        await asyncio.gather(*puts)
        await journal._in_thread(lambda: database.set_trace_callback(None))

    path = tmp_path / "journal.sqlite"
    used(path, use)
    assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") == 4
    assert done == list(range(2000))
    messages = [each.message for each in content(path)]
    assert messages == [str(number) for number in (*range(1500, 2000), *range(500, 1500))]


def test_what_is_new_is_not_looked_for_in_the_file(tmp_path: Path):
    """An item that no row tells of costs no query; one from now or an earlier run is found in the file."""
    path = tmp_path / "journal.sqlite"
    earlier, later = record(1), record(2)
    filled(path, [earlier])
    statements: list[str] = []

    async def use(journal: Journal) -> None:
        database = journal._store._database
        await journal._in_thread(lambda: database.set_trace_callback(statements.append))
        assert await journal.find(later.key, later.request_hash) is None
        assert await journal.find(earlier.key, "another") is None
        assert statements == []
        journal.put(later)
        assert await journal.find(later.key, later.request_hash) == later
        assert await journal.find(earlier.key, earlier.request_hash) == earlier
        assert len([each for each in statements if each.startswith("SELECT")]) == 2

    used(path, use)


def test_a_put_is_durable_when_its_future_is_done(tmp_path: Path):
    """Another reader of the file sees the row as soon as the future is done, and not before it was put."""
    path = tmp_path / "journal.sqlite"
    count = "SELECT count(*) FROM tasks"

    async def use(journal: Journal) -> None:
        assert asked(path, count) == [0]
        for number in range(1, 4):
            await journal.put(record(number))
            assert asked(path, count) == [number]

    used(path, use)


UNFIT = {
    "of a type SQLite has none for": {"request": object()},
    "a number over 64 bits": {"size": 2**64},
    "nothing where something must be": {"message": None},
    "no number": {"updated_at": float("nan")},
}


@pytest.mark.parametrize("fields", UNFIT.values(), ids=UNFIT)
def test_a_bad_record_harms_no_other(tmp_path: Path, fields: dict[str, Any]):
    """A record that SQLite cannot store is told by its own future alone, and is not tried again."""
    statements: list[str] = []

    async def use(journal: Journal) -> None:
        puts = [journal.put(record(number, **(fields if number in (7, 40) else {}))) for number in range(100)]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        errors = {number: each for number, each in enumerate(outcomes) if each is not None}
        assert sorted(errors) == [7, 40]
        for number, error in errors.items():
            assert isinstance(error, JournalError)
            assert f"cannot hold 'photo {number}.png'" in str(error)
        database = journal._store._database
        await journal._in_thread(lambda: database.set_trace_callback(statements.append))
        await journal.put(record(100))
        await journal._in_thread(lambda: database.set_trace_callback(None))
        assert statements.count("BEGIN IMMEDIATE") == 1

    path = tmp_path / "journal.sqlite"
    used(path, use)
    assert content(path) == [record(number) for number in range(101) if number not in (7, 40)]


def test_a_cancelled_wait_does_not_take_the_record_back(tmp_path: Path):
    """What was put is written, whether or not someone still waits for it."""

    async def use(journal: Journal) -> None:
        puts = [journal.put(record(number)) for number in range(3)]
        for put in puts:
            put.cancel()
        await journal.flush()
        assert len(await journal.all()) == 3

    used(tmp_path / "journal.sqlite", use)


def test_flush_sleeps_until_the_commit_is_over(tmp_path: Path):
    """While a commit takes its time, a flush does not turn the loop, also where a waiter was cancelled."""

    class Counting(selectors.DefaultSelector):
        turns = 0

        def select(self, timeout: float | None = None) -> Any:
            self.turns += 1
            return super().select(timeout)

    selector = Counting()

    async def main() -> None:
        journal = await opened(tmp_path / "journal.sqlite")
        gate = threading.Event()
        journal._threads.submit(gate.wait)
        journal.put(record(1))
        journal.put(record(2)).cancel()
        asyncio.get_running_loop().call_later(0.1, gate.set)
        before = selector.turns
        await journal.flush()
        assert gate.is_set()
        assert selector.turns - before < 20
        await journal.aclose()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main())


def test_a_read_waits_for_what_was_put_before_it_only(tmp_path: Path):
    """A reader gets its rows although others never stop putting."""

    async def use(journal: Journal) -> None:
        stopped = False

        def again(future: "asyncio.Future[None]") -> None:
            assert future.exception() is None
            if not stopped:
                journal.put(record(1)).add_done_callback(again)
                journal.put(record(2))

        journal.put(record(1)).add_done_callback(again)
        async with asyncio.timeout(20):
            assert record(1) in await journal.all()
            await journal.flush()
        stopped = True

    used(tmp_path / "journal.sqlite", use)


# The end


def test_after_aclose_everything_is_refused(tmp_path: Path):
    """What was put before is on disk; puts and reads afterwards say that the journal is closed."""
    path = tmp_path / "journal.sqlite"

    async def main() -> None:
        journal = await opened(path)
        puts = [journal.put(record(number)) for number in range(700)]
        closing = asyncio.gather(journal.aclose(), journal.aclose())
        await asyncio.sleep(0)
        late = journal.put(record(700))
        await closing
        await journal.aclose()
        assert all(put.done() and put.exception() is None for put in puts)
        for error in (late.exception(), journal.put(record(701)).exception()):
            assert isinstance(error, JournalError)
            assert "is closed" in str(error)
        for read in (journal.all(), journal.find("a", "b"), journal.live()):
            with pytest.raises(JournalError, match="is closed"):
                await read
        await journal.flush()

    asyncio.run(main())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["journal.sqlite", "journal.sqlite.lock"]
    assert len(content(path)) == 700


def test_a_cancelled_aclose_goes_on(tmp_path: Path):
    """Cancelling who closes neither loses a record nor leaves the lock held."""
    path = tmp_path / "journal.sqlite"

    async def main() -> None:
        journal = await opened(path)
        gate = threading.Event()
        journal._threads.submit(gate.wait)
        put = journal.put(record(1))
        closing = asyncio.ensure_future(journal.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        gate.set()
        await journal.aclose()
        assert put.exception() is None

    asyncio.run(main())
    assert content(path) == [record(1)]


def test_a_cancelled_open_holds_nothing(tmp_path: Path):
    """Cancelling who opens frees lock and file once the thread is through."""
    path = tmp_path / "journal.sqlite"

    async def main() -> None:
        opening = asyncio.ensure_future(opened(path))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        for thread in threading.enumerate():
            if thread.name.startswith("kling-async journal"):
                await asyncio.to_thread(thread.join)
        await (await opened(path)).aclose()

    asyncio.run(main())


@POSIX
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused(tmp_path: Path):
    """In a forked child each use is a JournalError at once, closing does nothing, and the parent goes on."""
    script = """
import warnings
async def main():
    journal = await Journal.open(path, now=0)
    await journal.put(record(1))
    warnings.simplefilter("ignore")  # that a process with threads forks is what this is about
    child = os.fork()
    if child == 0:
        say(journal.put(record(2)).exception())
        try:
            journal.all().send(None)
        except JournalError as error:
            say(error)
        try:
            journal.aclose().send(None)
        except StopIteration:
            say("closed")
        os._exit(0)
    os.waitpid(child, 0)
    await journal.put(record(3))
    try:
        await Journal.open(path, now=0)
    except JournalError as error:
        say("is in use" in str(error))
    await journal.aclose()
asyncio.run(main())
"""
    path = tmp_path / "journal.sqlite"
    put, read, closed, locked = said(script, path)
    assert "belongs to the parent process" in put
    assert put == read
    assert (closed, locked) == ("closed", "True")
    assert [each.external_task_id for each in content(path)] == ["ka-000001", "ka-000003"]


# The lock

HOLD = """
async def main():
    journal = await Journal.open(path, now=1_760_000_000)
    say(journal.path)
    await asyncio.to_thread(sys.stdin.readline)
    await journal.aclose()
asyncio.run(main())
"""


def test_a_second_opener_in_the_same_process_is_told_who_holds_it(tmp_path: Path):
    """The error names this very process; once it is closed, the journal opens."""
    path = tmp_path / "50% of #1? caf\u00e9 is in use" / "journal.sqlite"

    async def main() -> None:
        journal = await opened(path)
        with pytest.raises(JournalError) as caught:
            await opened(path)
        program = Path(sys.argv[0]).name
        holder = f"process {os.getpid()} on {socket.gethostname()} ({program}) since 2025-10-09 08:53:20 UTC"
        assert caught.value.what == f"the journal {path} is in use by {holder}"
        await journal.put(record(1))
        await journal.aclose()
        await (await opened(path)).aclose()

    asyncio.run(main())


def test_a_second_process_is_told_who_holds_it(tmp_path: Path):
    """The error names the holder's process id, host and program; the holder notices nothing."""
    path = tmp_path / "journal.sqlite"
    with process(HOLD, path, name=tmp_path / "worker.py") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == str(path)
        message = refusal(path)
        assert (
            f"is in use by process {holder.pid} on {socket.gethostname()} (worker.py) since 2025" in message
        )
        assert holder.communicate("\n", timeout=60) == ("", "")
    assert content(path) == []


def test_the_lock_is_free_after_the_holder_was_killed(tmp_path: Path):
    """A process that had no chance to clean up leaves a journal that opens at once."""
    path = tmp_path / "journal.sqlite"
    with process(HOLD, path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert "is in use" in refusal(path)
        holder.kill()
        holder.wait()
        assert content(path) == []


def test_the_lock_file_is_no_journal(tmp_path: Path):
    """A lock file given as a journal is refused and stays empty, whether or not it is held."""
    path = tmp_path / "journal.sqlite"
    lock = tmp_path / "journal.sqlite.lock"

    async def main() -> None:
        journal = await opened(path)
        with pytest.raises(JournalError, match="is the lock of a journal"):
            await opened(lock)
        await journal.put(record(1))
        await journal.aclose()

    asyncio.run(main())
    assert "is the lock of a journal" in refused_untouched(lock)
    assert lock.stat().st_size == 0
    assert content(path) == [record(1)]


def test_each_opener_of_a_folder_gets_a_journal_of_its_own(tmp_path: Path):
    """A folder gives its first free journal, or one more; lock files in it are not counted."""
    (tmp_path / f"{FILE_NAME}.lock").touch()
    names = [FILE_NAME, "kling-journal-2.sqlite", "kling-journal-3.sqlite"]

    async def main(path: Path) -> None:
        first, second, third = [await opened(path) for _ in range(3)]
        assert [each.path.name for each in (first, second, third)] == names
        assert len({each.namespace for each in (first, second, third)}) == 3
        await second.put(record(2))
        await second.aclose()
        again = await opened(path)
        assert again.path.name == names[1]
        assert await again.all() == [record(2)]
        for each in (first, third, again):
            await each.aclose()

    asyncio.run(main(tmp_path))
    with process(HOLD, tmp_path) as holder:
        assert holder.stdout is not None
        assert Path(holder.stdout.readline().strip()).name == names[0]
        assert used(tmp_path, journal_name) == names[1]


async def journal_name(journal: Journal) -> str:
    """The name of the journal's file."""
    return journal.path.name


def test_a_folder_with_a_damaged_journal_is_not_skipped(tmp_path: Path):
    """Only a journal in use leads to the next one: of a damaged one the user must hear, whatever the name."""
    folder = tmp_path / "this is in use"
    folder.mkdir()
    (folder / FILE_NAME).write_text("my notes" * 100)
    with pytest.raises(JournalError, match="is no SQLite file"):
        asyncio.run(opened(folder))
    assert not (folder / "kling-journal-2.sqlite").exists()


# Files that are not ours, or no longer sound


def png() -> bytes:
    """A picture."""
    return b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(range(256)) * 40)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"SQLite format 3\0",
        b"SQLite format 3\0" + bytes(83),
        b"a list of my keys\n" * 100,
        png(),
        bytes(9000),
    ],
    ids=["one byte", "magic alone", "99 bytes", "text", "picture", "zeros"],
)
def test_what_is_no_database_is_refused_untouched(tmp_path: Path, data: bytes):
    """Whatever the file holds, it is named as no SQLite file and keeps its bytes."""
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    assert "is no SQLite file" in refused_untouched(path)


def test_an_empty_file_becomes_a_journal(tmp_path: Path):
    """Zero bytes are what a process leaves that died before its first commit."""
    path = tmp_path / "journal.sqlite"
    path.touch()
    assert content(path) == []
    assert asked(path, "PRAGMA application_id") == [0x4B4C4E47]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_applications_database_is_refused_untouched(tmp_path: Path, mode: str):
    """A SQLite file with other tables or another mark is not ours, also with a log still to be folded in."""
    path, copy = tmp_path / "theirs.db", tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE tasks (a)")
        database.execute("INSERT INTO tasks VALUES ('theirs')")
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    assert Path(f"{copy}-wal").exists() == (mode == "wal")
    assert "no journal of ours" in refused_untouched(copy)
    assert asked(copy, "SELECT a FROM tasks") == ["theirs"]
    asked(path, "PRAGMA application_id = 7")
    assert "no journal of ours" in refused_untouched(path)


@pytest.mark.parametrize("taken", ["", ".lock"], ids=["the file", "the lock"])
def test_a_directory_in_the_way_is_an_error(tmp_path: Path, taken: str):
    """Where a folder stands in place of the file or its lock, that is told."""
    (tmp_path / f"{FILE_NAME}{taken}").mkdir()
    with pytest.raises(JournalError) as caught:
        asyncio.run(opened(tmp_path))
    assert str(tmp_path / FILE_NAME) in str(caught.value)


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path):
    """A path below a file cannot be made."""
    (tmp_path / "out").write_text("no folder")
    assert "cannot be used: " in refusal(tmp_path / "out" / "deep" / "journal.sqlite")


@POSIX
def test_a_pipe_is_no_journal(tmp_path: Path):
    """A named pipe is refused, without waiting for somebody to write to it."""
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refusal(tmp_path / "pipe")


def test_a_lock_that_is_no_lock_is_told_by_its_name(tmp_path: Path):
    """A file of someone's own in place of the lock is named and kept."""
    path, lock = tmp_path / "journal.sqlite", tmp_path / "journal.sqlite.lock"
    lock.write_text("my notes" * 200)
    assert "cannot be locked: journal.sqlite.lock is no SQLite file" in refusal(path)
    assert lock.read_text() == "my notes" * 200


def big_journal(path: Path) -> bytes:
    """The bytes of a closed journal of some dozen pages."""
    filled(path, [record(number, request="x" * (number * 37 % 900)) for number in range(120)])
    data = path.read_bytes()
    assert len(data) > 20 * 4096
    return data


def test_a_truncated_journal_is_refused_untouched(tmp_path: Path):
    """Cut at any length, the file is refused, as damaged once its header is whole."""
    path = tmp_path / "journal.sqlite"
    data = big_journal(path)
    rng = random.Random(5)
    lengths = {1, 15, 16, 17, 99, 100, 101, 511, 512, 4095, *(rng.randrange(1, len(data)) for _ in range(40))}
    for boundary in range(4096, len(data), 4096):
        lengths |= {boundary - 1, boundary, boundary + 1}
    for length in sorted(lengths | {len(data) - 1}):
        path.write_bytes(data[:length])
        assert ("is damaged" if length >= 100 else "is no SQLite file") in refused_untouched(path), length


def test_garbage_in_a_journal_is_refused_untouched(tmp_path: Path):
    """With any one page overwritten, the file is refused and left as it is for whoever can mend it."""
    path = tmp_path / "journal.sqlite"
    data = big_journal(path)
    garbage = random.Random(6).randbytes(4096)
    for start in range(0, len(data), 4096):
        path.write_bytes(data[:start] + garbage + data[start + 4096 :])
        message = refused_untouched(path)
        assert ("is damaged" if start else "is no SQLite file") in message, start
    path.write_bytes(data)
    assert len(content(path)) == 120


def test_garbage_anywhere_is_never_more_than_a_journal_error(tmp_path: Path):
    """Some bytes overwritten at random: what is opened can be read, or the error says what is wrong."""
    path = tmp_path / "journal.sqlite"
    data = big_journal(path)
    rng = random.Random(7)
    messages: list[str] = []
    for _ in range(30):
        start = rng.randrange(100, len(data))
        path.write_bytes(data[:start] + rng.randbytes(20) + data[start + 20 :])
        try:
            content(path)
        except JournalError as error:
            messages.append(str(error))
    assert messages
    assert all("is damaged" in message for message in messages)


def test_damage_found_among_the_keys_leaves_nothing_open(tmp_path: Path):
    """A key that is no text is told, and the file is closed by then, not when the error is forgotten."""
    path = filled(tmp_path / "journal.sqlite", [record(1), record(2)])
    asked(path, "UPDATE tasks SET key = CAST(x'ff41fe' AS TEXT) WHERE external_task_id = 'ka-000002'")
    with pytest.raises(JournalError, match="is damaged: it holds text that is none"):
        asyncio.run(opened(path))
    assert left_open(tmp_path) == []


def test_damage_found_while_it_is_used_is_told(tmp_path: Path):
    """Text that is none, deep in a row, makes the read a JournalError and harms no other row."""
    path = filled(tmp_path / "journal.sqlite", [record(1), record(2)])
    asked(path, "UPDATE tasks SET message = CAST(x'ff41fe' AS TEXT) WHERE external_task_id = 'ka-000001'")

    async def use(journal: Journal) -> None:
        with pytest.raises(JournalError, match="is damaged: it holds text that is none"):
            await journal.all()
        assert await journal.find(record(2).key, record(2).request_hash) == record(2)

    used(path, use)


NOBODY = """
def lose_power():
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)

def attempt(given):
    lose_power()
    try:
        asyncio.run(Journal.open(given, now=0))
    except JournalError as error:
        say(error)
asyncio.run(asyncio.sleep(0))  # what it imports is read while it can be
"""


@POSIX
@pytest.mark.parametrize(
    ("file", "folder", "expected"),
    [
        (0o444, 0o777, "cannot be written: it is read-only"),
        (0o000, 0o777, "cannot be used: Permission denied"),
        (0o666, 0o555, "cannot be opened or made: check the folder and its permissions"),
        (None, 0o555, "cannot be opened or made: check the folder and its permissions"),
    ],
    ids=["read-only file", "unreadable file", "read-only folder", "read-only folder without a journal"],
)
def test_what_may_not_be_written_is_told(file: int | None, folder: int, expected: str):
    """A file or folder without permission is one clear error, and the file stays as it is."""
    with tempfile.TemporaryDirectory() as name:  # one that another user can reach
        path = Path(name) / "journal.sqlite"
        before = b""
        if file is not None:
            filled(path, [record(1)])
            Path(f"{path}.lock").unlink()
            before = path.read_bytes()
            path.chmod(file)
        Path(name).chmod(folder)
        (message,) = said(NOBODY + "attempt(path)", path)
        Path(name).chmod(0o700)
        assert message.startswith(f"the journal {path} ")
        assert expected in message
        if file is not None:
            path.chmod(0o600)
            assert path.read_bytes() == before
            assert content(path) == [record(1)]


# The disk is full, or someone else writes


def test_a_full_disk_is_told_and_what_did_not_fit_is_written_later(tmp_path: Path):
    """Each record that did not fit has an error of its own; all are written with the next one that fits."""

    async def use(journal: Journal) -> None:
        await journal.put(record(0))
        pages = await tell_sqlite(journal, "PRAGMA page_count")
        await tell_sqlite(journal, f"PRAGMA max_page_count = {pages}")
        large = [record(number, request="x" * 9000) for number in range(1, 6)]
        errors = await asyncio.gather(*map(journal.put, large), return_exceptions=True)
        for error in errors:
            assert isinstance(error, JournalError)
            assert error.what == f"the journal {journal.path} cannot be written: the disk is full"
        assert len(set(map(id, errors))) == len(errors)
        assert await journal.all() == [record(0)]
        newer = attrs.evolve(large[0], message="newer")
        with pytest.raises(JournalError, match="the disk is full"):
            await journal.put(newer)
        await tell_sqlite(journal, "PRAGMA max_page_count = 100000")
        await journal.put(record(6))
        assert await journal.all() == [record(0), newer, *large[1:], record(6)]

    path = tmp_path / "journal.sqlite"
    used(path, use)
    assert sound(path)


@pytest.mark.parametrize("freed", [False, True])
def test_aclose_tries_once_more_and_ends_on_a_full_disk(tmp_path: Path, freed: bool):
    """What never fitted is written by aclose if there is room now; if not, aclose ends all the same."""
    path = tmp_path / "journal.sqlite"

    async def main() -> None:
        journal = await opened(path)
        await journal.put(record(0))
        pages = await tell_sqlite(journal, "PRAGMA page_count")
        await tell_sqlite(journal, f"PRAGMA max_page_count = {pages}")
        puts = [journal.put(record(number, request="x" * 5000)) for number in range(1, 1200)]
        async with asyncio.timeout(60):
            await asyncio.gather(*puts, return_exceptions=True)
            if freed:
                await tell_sqlite(journal, "PRAGMA max_page_count = 100000")
            await journal.aclose()

    asyncio.run(main())
    assert len(content(path)) == (1200 if freed else 1)
    assert sound(path)


LIMITED = """
import resource
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    journal = await Journal.open(path, now=0)
    await journal.put(record(0))
    limit(os.path.getsize(f"{path}-wal"))
    puts = [journal.put(record(number, request="x" * 9000)) for number in range(1, 4)]
    for error in await asyncio.gather(*puts, return_exceptions=True):
        say(error)
    say(len(await journal.all()))
    if sys.argv[2] == "freed":
        limit(resource.RLIM_INFINITY)
        await journal.put(record(4))
        say(len(await journal.all()))
    await journal.aclose()
    say("closed")

asyncio.run(main())
"""


@POSIX
@pytest.mark.parametrize("freed", [False, True])
def test_a_disk_that_takes_no_more_bytes_is_survived(tmp_path: Path, freed: bool):
    """Where the system itself refuses to write, nothing hangs, nothing is lost that was durable."""
    path = tmp_path / "journal.sqlite"
    lines = said(LIMITED, path, "freed" if freed else "full")
    for line in lines[:3]:
        assert line.startswith(f"the journal {path} cannot be read or written: the disk is failing, or full;")
    assert lines[3:] == (["1", "5", "closed"] if freed else ["1", "closed"])
    assert sound(path)
    assert len(content(path)) == (5 if freed else 1)


@POSIX
@pytest.mark.parametrize("size", [0, 4096, 8192])
def test_a_journal_that_cannot_be_made_is_told(tmp_path: Path, size: int):
    """On a disk that is full at once, opening fails with one line; with room again it succeeds."""
    script = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    asyncio.run(Journal.open(path, now=0))
except JournalError as error:
    say(error)
"""
    path = tmp_path / "journal.sqlite"
    (line,) = said(script, path, size)
    assert "cannot be read or written: the disk is failing, or full" in line
    assert content(path) == []


def test_another_program_that_writes_is_waited_for_then_told(tmp_path: Path):
    """While a SQLite tool holds the write lock, opening and writing say so; nothing is lost."""
    running, closed = tmp_path / "running.sqlite", filled(tmp_path / "closed.sqlite", [record(1)])

    async def main() -> None:
        journal = await opened(running)
        await journal.put(record(0))
        with (
            contextlib.closing(sqlite3.connect(running, isolation_level=None)) as first,
            contextlib.closing(sqlite3.connect(closed, isolation_level=None)) as second,
        ):
            first.execute("BEGIN IMMEDIATE")
            second.execute("BEGIN IMMEDIATE")
            puts = [journal.put(record(number)) for number in range(1, 600)]
            errors = await asyncio.gather(opened(closed), puts[0], return_exceptions=True)
            for error in errors:
                assert isinstance(error, JournalError)
                assert error.what.endswith("is in use by another program")
            second.rollback()
            first.rollback()
        await asyncio.gather(*puts[1:], return_exceptions=True)
        await journal.put(record(600))
        assert len(await journal.all()) == 601
        await journal.aclose()

    asyncio.run(main())
    assert content(closed) == [record(1)]


def test_a_reader_disturbs_nothing(tmp_path: Path):
    """A SQLite tool in the middle of reading keeps the journal neither from writing nor from closing."""
    path = filled(tmp_path / "journal.sqlite", [record(1), record(2)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:

        async def use(journal: Journal) -> None:
            rows = reader.execute("SELECT * FROM tasks")
            rows.fetchone()
            await journal.put(record(3))
            rows.close()

        used(path, use)
    assert len(content(path)) == 3


# Death

WRITE = """
async def main():
    journal = await Journal.open(path, now=0)
    number = int(sys.argv[2])
    def done(number):
        def tell(future):
            future.result()
            say(number)
        return tell
    waiting = set()
    while True:
        put = journal.put(record(number, request="x" * (number % 3000)))
        put.add_done_callback(done(number))
        waiting.add(put)
        put.add_done_callback(waiting.discard)
        number += 1
        if len(waiting) > 40:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
asyncio.run(main())
"""


def test_what_was_durable_survives_a_kill_at_any_time(tmp_path: Path):
    """Killed ten times in the midst of writing: each record that was told to be durable is whole there."""
    path = tmp_path / "journal.sqlite"
    rng = random.Random(9)
    durable: set[int] = set()
    for turn in range(10):
        with process(WRITE, path, turn * 100_000) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(rng.choice([1, 5, rng.randrange(2000)]) + 1)]
            writer.kill()
            lines += writer.stdout.readlines()
        durable |= {int(line) for line in lines if line.endswith("\n")}
        assert sound(path)
        if turn % 5 == 4:
            found = {int(each.intended_at): each for each in content(path)}
            assert durable <= set(found)
            assert all(each.request == "x" * (number % 3000) for number, each in found.items())
    assert len(durable) > 500


ONE_BY_ONE = """
async def main():
    journal = await Journal.open(path, now=0)
    for number in range(1, 9):
        first = journal.put(record(0, message=str(number)))
        await journal.put(record(number, request="x" * (number * 1700 % 5000)))
    os._exit(0)
asyncio.run(main())
"""


def test_a_log_cut_at_any_byte_gives_what_some_commit_left(tmp_path: Path):
    """However much of the log is lost, the journal opens with what was true after one of its commits."""
    path, cut = tmp_path / "died.sqlite", tmp_path / "cut.sqlite"
    said(ONE_BY_ONE, path)
    file, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    frame = (
        24 + 4096
    )  # after a header of 32 bytes, a log is frames of one page each (SQLite's file format, 4)
    rng = random.Random(11)
    lengths = {0, 1, 31, len(log), *(rng.randrange(len(log)) for _ in range(20))}
    for boundary in range(32, len(log), frame):
        lengths |= {boundary - 1, boundary, boundary + 24}

    reached: list[int] = []
    for length in sorted(lengths):
        cut.write_bytes(file)
        Path(f"{cut}-wal").write_bytes(log[:length])
        rows = content(cut)
        numbers = [int(each.intended_at) for each in rows]
        assert numbers == list(range(len(numbers)))
        # Record 0 and record n were put together, in one commit or two.
        assert not rows or int(rows[0].message) in {len(rows) - 1, len(rows)}
        reached.append(len(rows))
    assert reached == sorted(reached)
    assert (reached[0], reached[-1]) == (0, 9)
    assert set(range(2, 10)) <= set(reached)


def test_a_process_that_died_while_making_the_journal_did_no_harm(tmp_path: Path):
    """Left in the midst of its first commit, the journal is rolled back and made anew."""
    path = filled(tmp_path / "journal.sqlite", [])
    path.write_bytes(path.read_bytes()[: 2 * 4096])
    # What a rollback journal says of a file that was empty (SQLite's file format, 3): no page to put back.
    header = struct.pack(">8s5I", bytes.fromhex("d9d505f920a163d7"), 0, 1, 0, 512, 4096)
    Path(f"{path}-journal").write_bytes(header.ljust(512, b"\0"))
    assert content(path) == []
    assert sound(path)
    filled(path, [record(1)])
    assert content(path) == [record(1)]


# Versions


def test_an_older_journal_is_copied_then_brought_up_to_date(tmp_path: Path):
    """Every row survives a migration, and beside it stands a copy that the older version opens."""
    rows = [record(number) for number in range(50)]
    path = filled(tmp_path / "journal.sqlite", rows)
    assert content(path, migrations=SECOND) == rows
    assert asked(path, "PRAGMA user_version", "SELECT mood FROM tasks") == [2, "calm"]
    backup = tmp_path / "journal.sqlite.v1"
    assert sound(backup)
    assert content(backup) == rows
    filled(path, [record(50)], migrations=SECOND)
    assert len(content(path, migrations=SECOND)) == 51
    third = (*SECOND, "ALTER TABLE tasks DROP COLUMN mood")
    assert len(content(path, migrations=third)) == 51
    assert asked(tmp_path / "journal.sqlite.v2", "PRAGMA user_version") == [2]


def test_a_newer_journal_is_refused_untouched(tmp_path: Path):
    """A file of a later version is left for that version, and the message names both."""
    path = filled(tmp_path / "journal.sqlite", [record(1)], migrations=SECOND)
    assert "is of version 2, newer than this package's 1" in refused_untouched(path)
    assert content(path, migrations=SECOND) == [record(1)]


def test_a_journal_that_is_newer_by_its_log_is_refused_untouched(tmp_path: Path):
    """Also where the migrated version has not reached the file itself, nothing is written to file or log."""
    script = """
async def main():
    await Journal.open(path, now=0, migrations=(*MIGRATIONS, sys.argv[2]))
    os._exit(0)
asyncio.run(main())
"""
    path = filled(tmp_path / "journal.sqlite", [record(1)])
    said(script, path, SECOND[1])
    assert path.read_bytes()[60:64] == (1).to_bytes(4, "big")
    assert "is of version 2, newer than this package's 1" in refused_untouched(path)
    assert content(path, migrations=SECOND) == [record(1)]


def test_a_migration_that_fails_leaves_the_older_version(tmp_path: Path):
    """Its first step undone with its second, the journal is what it was and the older package goes on."""
    path = filled(tmp_path / "journal.sqlite", [record(1)])
    assert "no such table: nowhere" in refusal(path, migrations=(*SECOND, "DROP TABLE nowhere"))
    assert asked(path, "PRAGMA user_version") == [1]
    assert content(path) == [record(1)]
    assert content(path, migrations=SECOND) == [record(1)]


def test_a_copy_that_cannot_be_made_stops_the_migration(tmp_path: Path):
    """Without its copy a journal is not migrated."""
    path = filled(tmp_path / "journal.sqlite", [record(1)])
    (tmp_path / "journal.sqlite.v1").mkdir()
    refusal(path, migrations=SECOND)
    assert asked(path, "PRAGMA user_version") == [1]
    assert content(path) == [record(1)]


def is_locked(database: sqlite3.Connection) -> bool:
    """Whether another process is in the midst of writing."""
    try:
        database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    database.execute("ROLLBACK")
    return False


SLOW = """
CREATE TABLE slow AS WITH RECURSIVE counted(n) AS
(SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 1000000000) SELECT max(n) AS n FROM counted
"""


def test_a_process_killed_while_migrating_leaves_the_older_version(tmp_path: Path):
    """Killed between begin and commit, the journal opens in its older version, then migrates anew."""
    script = """
asyncio.run(Journal.open(path, now=0, migrations=(*MIGRATIONS, *sys.argv[2:])))
"""
    rows = [record(number) for number in range(50)]
    path = filled(tmp_path / "journal.sqlite", rows)
    with (
        process(script, path, SECOND[1], SLOW) as child,
        contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as watcher,
    ):
        while not is_locked(watcher):
            assert child.poll() is None
        child.kill()
        child.wait()
    assert asked(path, "PRAGMA user_version", "PRAGMA integrity_check") == [1, "ok"]
    assert content(path) == rows
    assert content(path, migrations=SECOND) == rows


# Nothing in it is secret


def on_disk(folder: Path) -> bytes:
    """Everything that the journal wrote, its log too."""
    return b"".join(each.read_bytes() for each in folder.glob("journal.sqlite*"))


def test_neither_secrets_nor_pictures_are_in_the_file(tmp_path: Path):
    """Of a request with everything that signs, what reaches the disk is names, sizes and hashes."""
    picture = random.Random(12).randbytes(6000)
    text = base64.b64encode(picture).decode()
    request = ImageToVideo(
        image=picture,
        prompt="the cat yawns",
        dynamic_masks=[DynamicMask(text, [Point(1, 2), Point(3, 4)])],
        callback_url="https://user:hunter2@hooks.example/kling?token=CALLBACK-TOKEN#CALLBACK-FRAGMENT",
        extra_body={"webhook_secret": "EXTRA-SECRET", "nested": {"api_key": "EXTRA-KEY"}, "image": text},
    )
    images: dict[str, ResolvedImage] = {
        "image": ImageText(text, "5ha" * 20),
        "static_mask": ImageUrl("https://me:PASSWORD@cdn.example/a.png?Signature=SIGNED#FRAGMENT"),
        "dynamic_masks[0].mask": ImageFile(tmp_path / "mask.png", 6000, 1, "f11e" * 16),
    }

    async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)

    async def main() -> bytes:
        journal = await opened(tmp_path / "journal.sqlite")
        books = Books(
            issuer=ISSUER,
            secret=b"SECRET-ACCESS-KEY",
            provider=KLING,
            clock=lambda: NOW,
            in_thread=in_thread,
            random_id=lambda: "random",
        )
        flight = Flight(
            order=0,
            key="cat",
            endpoint=request.endpoint,
            slot_key=(request.endpoint, request.model_name),
            task=Task(None, None, TaskStatus.INTENDED),
            issuer=ISSUER,
            request=request,
        )
        await books.recognise(flight, images, Recording(journal))
        await books.intend(flight)
        written = on_disk(tmp_path)
        await journal.aclose()
        return written + on_disk(tmp_path)

    written = asyncio.run(main())
    for present in (
        b"the cat yawns",
        b"https://hooks.example/kling",
        b"https://cdn.example/a.png",
        b"5ha5ha",
    ):
        assert present in written
    secrets = ["SECRET-ACCESS-KEY", "hunter2", "CALLBACK-TOKEN", "CALLBACK-FRAGMENT", "EXTRA-SECRET"]
    secrets += ["EXTRA-KEY", "PASSWORD", "SIGNED", "FRAGMENT", "Signature"]
    for secret in secrets:
        assert secret.encode() not in written, secret
    for start in range(0, len(picture) - 12, 500):
        assert picture[start : start + 12] not in written
    for start in range(0, len(text) - 16, 500):
        assert text[start : start + 16].encode() not in written


def test_a_row_is_readable_by_any_sqlite_tool(tmp_path: Path):
    """Columns have their plain types: text is text, and the request is JSON to SQLite's own functions."""
    path = filled(
        tmp_path / "journal.sqlite", [record(1, request=json.dumps({"prompt": "caf\u00e9"}), key="caf\u00e9")]
    )
    assert asked(
        path,
        "SELECT typeof(key) FROM tasks",
        "SELECT json_extract(request, '$.prompt') FROM tasks WHERE key = 'caf\u00e9'",
        "SELECT typeof(intended_at) FROM tasks",
        "PRAGMA journal_mode",
    ) == ["text", "caf\u00e9", "real", "wal"]
