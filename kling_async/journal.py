"""The crash-safe record of every task: one SQLite file, readable by any SQLite tool.

A row is durable before the POST it speaks of leaves, and before anyone is told what it says. Records that
come while one commit is under way share the next: with the disk asked to be sure each time (WAL,
synchronous=FULL) that is what makes certainty cheap. One thread of the journal's own does all SQLite work.

The file belongs to one process at a time. `BEGIN EXCLUSIVE` on a second file, ``<journal>.lock``, is held
for as long as the journal is open; every system frees it when the process dies.
"""

import asyncio
import contextlib
import functools
import os
import re
import secrets
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import attrs

from kling_async.protocol.errors import JournalError
from kling_async.protocol.lifecycle import is_terminal
from kling_async.protocol.models import TaskStatus

__all__ = ["FILE_NAME", "Journal", "Record"]

T = TypeVar("T")

FILE_NAME = "kling-journal.sqlite"
"""What a journal beside its output is called."""

APPLICATION_ID = 0x4B4C4E47
""""KLNG": tells our file from any other SQLite file (the header's application_id)."""

BATCH = 512
"""Records a commit: beyond it the longest wait grows and the throughput does not."""

CHECKPOINT_PAGES = 4000
"""Pages of the write-ahead log before it is folded into the file, 16 MB."""

BUSY = 2.0
"""Seconds to wait for another program that writes to the file, before it is an error."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE tasks (
        external_task_id TEXT PRIMARY KEY,
        key              TEXT NOT NULL,
        named            INTEGER NOT NULL,
        label            TEXT NOT NULL,
        account          TEXT NOT NULL,
        provider         TEXT NOT NULL,
        host             TEXT NOT NULL,
        endpoint         TEXT NOT NULL,
        model_name       TEXT NOT NULL,
        request_hash     TEXT NOT NULL,
        request          TEXT NOT NULL,
        generation       INTEGER NOT NULL,
        state            TEXT NOT NULL,
        task_id          TEXT,
        intended_at      REAL NOT NULL,
        body_sent_at     REAL,
        acknowledged_at  REAL,
        message          TEXT NOT NULL,
        videos           TEXT NOT NULL,
        units            TEXT,
        created_at       REAL,
        ended_at         REAL,
        download         TEXT NOT NULL,
        path             TEXT,
        size             INTEGER,
        updated_at       REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX tasks_by_key ON tasks (key, request_hash, generation);
    CREATE INDEX tasks_by_state ON tasks (state);
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
)
"""Each brings the schema to the next version; what was released is never edited."""


@attrs.frozen(kw_only=True)
class Record:
    """One row: all that must outlive the process about one task. No secret and no picture is in it.

    Attributes:
        external_task_id: the idempotency key, unique.
        key: the caller's name for the video, or what stands for it: the content's hash and an ordinal.
        named: whether the caller gave the key.
        label: what the item is called in reports.
        account: the account's fingerprint.
        provider: the provider's name.
        host: of its base URL.
        endpoint: the kind of task.
        model_name: the model.
        request_hash: what was asked for, see `identity.request_hash`.
        request: the request as JSON, pictures as path, size and SHA-256.
        generation: 0, and one more each time the same video was wanted again on purpose.
        state: one of the words of `lifecycle.STATES`.
        task_id: Kling's id.
        intended_at: when it was to be submitted, Unix seconds like all times here.
        body_sent_at: when its answer was missed.
        acknowledged_at: when Kling acknowledged it.
        message: why it ended without a video.
        videos: the result as JSON.
        units: what was charged, a decimal.
        created_at: when Kling made it, by Kling's clock.
        ended_at: when Kling last changed it, by Kling's clock.
        download: ``none``, ``part`` or ``stored``.
        path: the file, relative to the journal's folder where it is below it.
        size: of the file in bytes.
        updated_at: when this row was written.
    """

    external_task_id: str
    key: str
    named: bool
    label: str
    account: str
    provider: str
    host: str
    endpoint: str
    model_name: str
    request_hash: str
    request: str = "{}"
    generation: int = 0
    state: str = TaskStatus.INTENDED.value
    task_id: str | None = None
    intended_at: float = 0.0
    body_sent_at: float | None = None
    acknowledged_at: float | None = None
    message: str = ""
    videos: str = "[]"
    units: str | None = None
    created_at: float | None = None
    ended_at: float | None = None
    download: str = "none"
    path: str | None = None
    size: int | None = None
    updated_at: float = 0.0


_COLUMNS = tuple(field.name for field in attrs.fields(Record))
_UPSERT = (
    f"INSERT INTO tasks ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - our own column names
    f"ON CONFLICT (external_task_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:])}"
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM tasks "  # noqa: S608 - our own column names
_LIVE = tuple(status.value for status in TaskStatus if not is_terminal(status))


class _InUseError(JournalError):
    """Another process has the journal open, or this one has it open already."""


class _UnfitError(JournalError):
    """SQLite cannot store this record, however often it is tried."""


class Journal:
    """An open journal. Made by `open`; every method is called on the event loop that opened it."""

    def __init__(self, threads: ThreadPoolExecutor, store: "_Store") -> None:
        self.path = store.path
        self.namespace = store.namespace
        self._threads = threads
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._pending: list[tuple[Record, asyncio.Future[None]]] = []
        self._unwritten: dict[str, Record] = {}
        self._puts = self._settled = 0
        self._job: asyncio.Future[Sequence[JournalError | None]] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        namespace: str | None = None,
        now: float,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> Self:
        """Open the journal at *path*, or make it; of a folder, the first free one in it, or one more.

        Args:
            path: the file or folder.
            namespace: what a new journal derives ids of items without a key from; left out, a random one.
            now: Unix seconds, to tell others since when it is in use.
            migrations: the steps from an empty file to this version's schema.

        Raises:
            JournalError: in use (the message says by whom), newer, damaged, no journal, or not writable.
                The file is left as it was.
        """
        threads = ThreadPoolExecutor(1, thread_name_prefix="kling-async journal")
        opened: list[_Store] = []

        def opening() -> _Store:
            opened.append(_open(path, namespace=namespace, now=now, migrations=migrations))
            return opened[0]

        def abandon() -> None:
            for store in opened:
                store.close()

        try:
            store = await asyncio.get_running_loop().run_in_executor(threads, opening)
        except BaseException:
            threads.submit(abandon)  # after `opening`, which goes on where the waiter was cancelled
            threads.shutdown(wait=False)
            raise
        return cls(threads, store)

    def put(self, record: Record) -> "asyncio.Future[None]":
        """Write *record* over the row of its external_task_id; the future is done when it is durable.

        The future's exception is a JournalError: the row is not on disk. Unless it is the record that SQLite
        cannot store, it is kept and written with the next one.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        refusal = self._refusal()
        if refusal is not None:
            future.set_exception(refusal)
            return future
        self._puts += 1
        self._pending.append((record, future))
        self._write()
        return future

    async def find(self, key: str, request_hash: str) -> Record | None:
        """The row of *key* for this request, of the latest generation; of several accounts, the latest."""
        where = "WHERE key = ? AND request_hash = ? ORDER BY generation DESC, updated_at DESC LIMIT 1"
        rows = await self._read(where, key, request_hash)
        return rows[0] if rows else None

    async def by_id(self, external_task_id: str) -> Record | None:
        """The row of *external_task_id*."""
        rows = await self._read("WHERE external_task_id = ?", external_task_id)
        return rows[0] if rows else None

    async def of_key(self, key: str) -> Sequence[Record]:
        """Every row of *key*, whatever was asked for under it."""
        return await self._read("WHERE key = ? ORDER BY updated_at", key)

    async def live(self) -> Sequence[Record]:
        """The rows of tasks that had not ended, the earliest first; a state of a later version is none."""
        marks = ", ".join("?" * len(_LIVE))
        return await self._read(f"WHERE state IN ({marks}) ORDER BY intended_at", *_LIVE)

    async def all(self) -> Sequence[Record]:
        """Every row, the earliest first."""
        return await self._read("ORDER BY intended_at")

    async def flush(self) -> None:
        """Wait until everything put so far is durable, or known not to be."""
        last = self._puts
        while self._job is not None and self._settled < last:
            await asyncio.wait([self._job])

    async def aclose(self) -> None:
        """Write what is left, fold the log into the file and free the lock.

        Cancelled, it goes on; called again, it waits for the same end. In a forked child it does nothing.
        """
        if os.getpid() != self._pid:
            return
        if self._closing is None:
            last = [self.put(record) for record in list(self._unwritten.values())]
            self._closing = self._loop.create_task(self._close(last), name="kling-async journal closing")
        await asyncio.shield(self._closing)

    async def _close(self, last: Iterable["asyncio.Future[None]"]) -> None:
        await asyncio.gather(*last, return_exceptions=True)
        await self.flush()
        await self._in_thread(self._store.close)
        self._threads.shutdown()  # idle by now

    async def _read(self, where: str, *values: Any) -> Sequence[Record]:
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        await self.flush()
        return await self._in_thread(functools.partial(self._store.select, where, values))

    def _refusal(self) -> JournalError | None:
        """Why it cannot be used any more: in a forked child its thread is missing, and its lock not held."""
        if os.getpid() == self._pid and self._closing is None:
            return None
        why = "is closed" if os.getpid() == self._pid else "belongs to the parent process"
        return JournalError(f"the journal {self.path} {why}", advice="open a journal of this process's own")

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._threads, function)

    def _write(self) -> None:
        """Start the next commit, if none is under way."""
        if self._job is not None or not self._pending:
            return
        batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
        for record, _ in batch:
            self._unwritten.pop(record.external_task_id, None)
        left = list(self._unwritten.values())
        records = [*left, *(record for record, _ in batch)]
        self._job = self._loop.run_in_executor(self._threads, self._store.write, records)
        self._job.add_done_callback(functools.partial(self._written, records, batch))

    def _written(
        self,
        records: Sequence[Record],
        batch: Sequence[tuple[Record, "asyncio.Future[None]"]],
        job: "asyncio.Future[Sequence[JournalError | None]]",
    ) -> None:
        self._job = None
        self._settled += len(batch)
        errors = job.result()
        for record, error in zip(records, errors, strict=True):
            if error is None or isinstance(error, _UnfitError):
                self._unwritten.pop(record.external_task_id, None)
            else:
                self._unwritten[record.external_task_id] = record
        for (_, future), error in zip(batch, errors[len(records) - len(batch) :], strict=True):
            if future.cancelled():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._write()


class _Store:
    """The SQLite side of a journal: everything here runs in the journal's thread."""

    def __init__(self, path: Path, *, namespace: str | None, now: float, migrations: Sequence[str]) -> None:
        self.path = path
        self._migrations = migrations
        try:
            with contextlib.ExitStack() as stack:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(contextlib.closing(self._locked()))
                self._prove()
                self._database = stack.enter_context(
                    contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY))
                )
                self._prepare()
                self.namespace = self._entered(namespace, now)
                self._opened = stack.pop_all()
        except (OSError, ValueError, sqlite3.Error) as error:
            raise _explained(path, error) from error

    def write(self, records: Sequence[Record]) -> Sequence[JournalError | None]:
        """Commit *records* together; returns each one's own error, or None.

        Where one of them is the reason that nothing could be committed, each half is tried again by itself,
        so that a bad record harms no other.
        """
        try:
            self._commit(records)
        except _UNFIT as error:
            if len(records) == 1:
                return [_UnfitError(f"the journal {self.path} cannot hold {records[0].label!r}: {error}")]
            middle = len(records) // 2
            return [*self.write(records[:middle]), *self.write(records[middle:])]
        except Exception as error:  # noqa: BLE001 - whatever it is, everyone who waits must hear of it
            return [_explained(self.path, error) for _ in records]
        return [None] * len(records)

    def select(self, where: str, values: Iterable[Any]) -> Sequence[Record]:
        """The rows that *where* names."""
        try:
            rows = self._database.execute(_SELECT + where, tuple(map(_bound, values))).fetchall()
            return [_record(row) for row in rows]
        except (sqlite3.Error, ValueError) as error:
            raise _explained(self.path, error) from error

    def close(self) -> None:
        """Fold the log into the file, free the lock."""
        with self._opened, contextlib.suppress(sqlite3.Error):
            self._database.execute("DELETE FROM meta WHERE name = 'holder'")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _commit(self, records: Sequence[Record]) -> None:
        rows = [tuple(_bound(getattr(record, column)) for column in _COLUMNS) for record in records]
        with self._database:  # commits, or rolls back
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(_UPSERT, rows)

    def _locked(self) -> sqlite3.Connection:
        if self.path.suffix == ".lock":
            raise _error(self.path, "is the lock of a journal, not a journal")
        lock = sqlite3.connect(f"{self.path}.lock", isolation_level=None, timeout=0)
        try:
            lock.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written to it
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            lock.close()
            if _code(error) == sqlite3.SQLITE_BUSY:
                raise _InUseError(f"the journal {self.path} is in use {self._holder()}") from error
            raise _error(self.path, f"cannot be locked: {self.path.name}.lock {_reason(error)}") from error
        return lock

    def _reader(self) -> sqlite3.Connection:
        """A connection that can change nothing, not even by folding the log into the file."""
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)

    def _holder(self) -> str:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._reader()) as reader:
            row = reader.execute("SELECT value FROM meta WHERE name = 'holder'").fetchone()
            return f"by {_unbound(row[0])}" if row else "by another process"
        return "by another process"

    def _prove(self) -> None:
        """Make sure that the file is a sound journal, or not there yet, before anything can write to it.

        Only with our lock held: to close a file drops every lock that this process has on it (POSIX).
        """
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise _error(self.path, "is no file")
        with self.path.open("rb") as file:
            header = file.read(100)
        if not header:
            return
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise _error(self.path, "is no SQLite file")
        # Offsets 68 and 60 of the header are application_id and user_version (SQLite's file format, 1.3).
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise _error(self.path, "is a SQLite file, but no journal of ours")
        self._refuse_newer(int.from_bytes(header[60:64], "big"))
        if Path(f"{self.path}-journal").exists():
            return  # it was being made when the process died: SQLite rolls that back, which a reader cannot
        log = Path(f"{self.path}-wal")
        size, logged = self.path.stat().st_size, log.exists() and log.stat().st_size > 0
        with contextlib.closing(self._reader()) as reader:
            (version,) = reader.execute("PRAGMA user_version").fetchone()
            self._refuse_newer(version)
            (page,) = reader.execute("PRAGMA page_size").fetchone()
            (verdict,) = reader.execute("PRAGMA quick_check(1)").fetchone()
        if size % page and not logged:  # SQLite takes what is missing of the last page for zeros
            raise _error(self.path, "is damaged: its end is cut off")
        if verdict != "ok":
            raise _error(self.path, f"is damaged: {verdict}")

    def _refuse_newer(self, version: int) -> None:
        newest = len(self._migrations)
        if version > newest:
            raise _error(self.path, f"is of version {version}, newer than this package's {newest}")

    def _prepare(self) -> None:
        """Set the database up for certainty, and bring it to this version."""
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
        self._migrate()  # before WAL, so that the header of a new file says at once whose it is
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def _migrate(self) -> None:
        """Bring an older schema to this version: in one transaction, after a copy."""
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == len(self._migrations):
            return
        if version:
            backup = self.path.with_name(f"{self.path.name}.v{version}")
            backup.unlink(missing_ok=True)
            self._database.execute("VACUUM INTO ?", (str(backup),))
        steps = ";".join(self._migrations[version:])
        self._database.executescript(
            f"BEGIN IMMEDIATE; {steps}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {len(self._migrations)}; COMMIT;"
        )

    def _entered(self, namespace: str | None, now: float) -> str:
        """Sign the file as in use; returns its namespace."""
        since = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        holder = f"process {os.getpid()} on {socket.gethostname()} ({Path(sys.argv[0]).name}) since {since}"
        self._database.execute("INSERT OR REPLACE INTO meta VALUES ('holder', ?)", (_bound(holder),))
        new = _bound(namespace or secrets.token_hex(16))
        self._database.execute("INSERT OR IGNORE INTO meta VALUES ('namespace', ?)", (new,))
        row = self._database.execute("SELECT value FROM meta WHERE name = 'namespace'").fetchone()
        return str(_unbound(row[0]))


def _open(path: Path, *, namespace: str | None, now: float, migrations: Sequence[str]) -> _Store:
    """The journal at *path*; of a folder, the first in it that nobody uses, or a new one."""
    opened = functools.partial(_Store, namespace=namespace, now=now, migrations=migrations)
    if not path.is_dir():
        return opened(path)
    for count in range(1, 10_000):
        name = FILE_NAME if count == 1 else FILE_NAME.replace(".", f"-{count}.", 1)
        with contextlib.suppress(_InUseError):
            return opened(path / name)
    raise _error(path, "holds ten thousand journals in use")


_HALF = re.compile("[\ud800-\udfff]")


def _bound(value: Any) -> Any:
    """*value* as SQLite takes it: text that is no Unicode, as a file name may be, becomes a BLOB."""
    if isinstance(value, str) and not value.isascii() and _HALF.search(value):
        return value.encode("utf-8", "surrogatepass")
    return value


def _unbound(value: Any) -> Any:
    """What `_bound` was given."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _record(row: Sequence[Any]) -> Record:
    fields: dict[str, Any] = dict(zip(_COLUMNS, map(_unbound, row), strict=True))
    fields["named"] = bool(fields["named"])
    return Record(**fields)


_UNFIT = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
)
"""What SQLite's driver raises because of a value, not because of the file or the disk."""

_REASONS = {
    sqlite3.SQLITE_BUSY: "is in use by another program",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened or made: check the folder and its permissions",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is failing, or full",
    sqlite3.SQLITE_NOTADB: "is no SQLite file",
    sqlite3.SQLITE_PERM: "cannot be opened: check its permissions",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only",
}


def _code(error: BaseException) -> int:
    """SQLite's primary result code; 0 for an error of Python's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _reason(error: BaseException) -> str:
    """What *error* says of the file, a clause without a subject."""
    if isinstance(error, OSError):
        return f"cannot be used: {error.strerror or error}"
    if "decode" in str(error):  # text that is no UTF-8 in a column, from the driver or from `_unbound`
        return "is damaged: it holds text that is none"
    return _REASONS.get(_code(error), f"cannot be used: {error}")


def _error(path: Path, what: str) -> JournalError:
    return JournalError(f"the journal {path} {what}")


def _explained(path: Path, error: Exception) -> JournalError:
    explained = _error(path, _reason(error))
    explained.__cause__ = error
    return explained
