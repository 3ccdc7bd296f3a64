"""The SQLite side of an open journal: the lock, the proof that the file is ours, writing; in one thread."""

import contextlib
import functools
import os
import secrets
import socket
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kling_async.journal.reading import (
    APPLICATION_ID,
    BUSY,
    COLUMNS,
    Reader,
    bound,
    code_of,
    explained,
    fault,
    reason,
    select,
    unbound,
)
from kling_async.journal.schema import InUseError, Record, UnfitError, name_of
from kling_async.journal.siblings import Siblings, numbered
from kling_async.protocol.errors import JournalError

__all__ = ["Store", "open_store"]

CHECKPOINT_PAGES = 500
"""Pages of the write-ahead log before it is folded into the file, 2 MB.

Then it is written over. To sync a file that grows takes twice the CPU, and twice the time.
"""

_UPSERT = (
    f"INSERT INTO tasks ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 - our own column names
    f"ON CONFLICT (external_task_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in COLUMNS[1:])}"
)


class Store:
    """The SQLite side of a journal: everything here runs in the journal's thread.

    Attributes:
        path: the file.
        namespace: what ids of items without a key are derived from.
        names: every item's `name_of`.
        siblings: the other journals of the folder that was given.
    """

    def __init__(self, path: Path, *, namespace: str | None, now: float, migrations: Sequence[str]) -> None:
        self.path = path
        self.siblings: Siblings | None = None
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
                self.names = self._named()
                self._opened = stack.pop_all()
        except (OSError, ValueError, sqlite3.Error) as error:
            raise explained(path, error) from error

    def write(self, records: Sequence[Record]) -> Sequence[JournalError | None]:
        """Commit *records* together; returns each one's own error, or None.

        Where one of them is the reason that nothing could be committed, each half is tried again by itself,
        so that a bad record harms no other.
        """
        try:
            self._commit(records)
        except _UNFIT as error:
            if len(records) == 1:
                return [UnfitError(f"the journal {self.path} cannot hold {records[0].label!r}: {error}")]
            middle = len(records) // 2
            return [*self.write(records[:middle]), *self.write(records[middle:])]
        except Exception as error:  # noqa: BLE001 - whatever it is, everyone who waits must hear of it
            return [explained(self.path, error) for _ in records]
        return [None] * len(records)

    def select(self, where: str, values: Iterable[Any]) -> Sequence[Record]:
        """The rows that *where* names."""
        return select(self._database, self.path, COLUMNS, where, values)

    def close(self) -> None:
        """Fold the log into the file, free the lock."""
        if self.siblings is not None:
            self.siblings.close()
        with self._opened, contextlib.suppress(sqlite3.Error):
            self._database.execute("DELETE FROM meta WHERE name = 'holder'")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _commit(self, records: Sequence[Record]) -> None:
        rows = [tuple(bound(getattr(record, column)) for column in COLUMNS) for record in records]
        with self._database:  # commits, or rolls back
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(_UPSERT, rows)

    def _locked(self) -> sqlite3.Connection:
        if self.path.suffix == ".lock":
            raise fault(self.path, "is the lock of a journal, not a journal")
        lock = sqlite3.connect(f"{self.path}.lock", isolation_level=None, timeout=0)
        try:
            lock.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written to it
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            lock.close()
            if code_of(error) == sqlite3.SQLITE_BUSY:
                raise InUseError(f"the journal {self.path} is in use {self._holder()}") from error
            raise fault(self.path, f"cannot be locked: {self.path.name}.lock {reason(error)}") from error
        return lock

    def _holder(self) -> str:
        holder = None
        with contextlib.suppress(sqlite3.Error), contextlib.closing(Reader(self.path)) as reader:
            holder = reader.holder()
        return f"by {holder or 'another process'}"

    def _prove(self) -> None:
        """Make sure that the file is a sound journal, or not there yet, before anything can write to it."""
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise fault(self.path, "is no file")
        size = self.path.stat().st_size
        if not size:
            return
        log, unfinished = Path(f"{self.path}-wal"), Path(f"{self.path}-journal").exists()
        if unfinished or not log.exists():
            self._prove_header()
        if unfinished:
            return  # it was being made when the process died: SQLite rolls that back, which a reader cannot
        logged = log.exists() and log.stat().st_size > 0
        with contextlib.closing(Reader(self.path)) as reader:
            if reader.pragma("application_id") != APPLICATION_ID:
                raise fault(self.path, "is a SQLite file, but no journal of ours")
            self._refuse_newer(reader.pragma("user_version"))
            page, verdict = reader.pragma("page_size"), reader.pragma("quick_check(1)")
        if size % page and not logged:  # SQLite takes what is missing of the last page for zeros
            raise fault(self.path, "is damaged: its end is cut off")
        if verdict != "ok":
            raise fault(self.path, f"is damaged: {verdict}")

    def _prove_header(self) -> None:
        """Look at the file without SQLite, which would leave files of its own beside another's.

        Only where nobody has it open, this process neither: to close it drops every lock that the process
        has on it (POSIX).
        """
        with self.path.open("rb") as file:
            header = file.read(100)
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise fault(self.path, "is no SQLite file")
        # Offsets 68 and 60 of the header are application_id and user_version (SQLite's file format, 1.3).
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise fault(self.path, "is a SQLite file, but no journal of ours")
        self._refuse_newer(int.from_bytes(header[60:64], "big"))

    def _refuse_newer(self, version: int) -> None:
        newest = len(self._migrations)
        if version > newest:
            raise fault(self.path, f"is of version {version}, newer than this package's {newest}")

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
        self._database.execute("INSERT OR REPLACE INTO meta VALUES ('holder', ?)", (bound(holder),))
        new = bound(namespace or secrets.token_hex(16))
        self._database.execute("INSERT OR IGNORE INTO meta VALUES ('namespace', ?)", (new,))
        row = self._database.execute("SELECT value FROM meta WHERE name = 'namespace'").fetchone()
        return str(unbound(row[0]))

    def _named(self) -> set[int]:
        """Every item's `name_of`."""
        query = "SELECT key, request_hash FROM tasks"
        # an error would keep a cursor that is not closed, and SQLite keeps the file open for it
        with contextlib.closing(self._database.execute(query)) as rows:
            return {name_of(unbound(key), request_hash) for key, request_hash in rows}


def open_store(path: Path, *, namespace: str | None, now: float, migrations: Sequence[str]) -> Store:
    """The journal at *path*; of a folder, the first in it that nobody uses, or a new one."""
    opened = functools.partial(Store, namespace=namespace, now=now, migrations=migrations)
    if not path.is_dir():
        return opened(path)
    siblings = Siblings(path)
    for number in range(1, 10_000):
        with contextlib.suppress(InUseError):
            store = opened(numbered(path, number))
            siblings.leave_out([store.path])
            store.siblings = siblings
            return store
    raise fault(path, "holds ten thousand journals in use")


_UNFIT = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
)
"""What SQLite's driver raises because of a value, not because of the file or the disk."""
