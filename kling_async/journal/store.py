"""The SQLite side of a journal: reading, writing, the lock, the proof that a file is ours, in one thread."""

import contextlib
import functools
import os
import re
import secrets
import socket
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from kling_async.journal.schema import FILE_NAME, InUseError, Record, UnfitError, name_of
from kling_async.protocol.errors import JournalError

__all__ = ["Store", "open_store"]

APPLICATION_ID = 0x4B4C4E47
""""KLNG": tells our file from any other SQLite file (the header's application_id)."""

CHECKPOINT_PAGES = 500
"""Pages of the write-ahead log before it is folded into the file, 2 MB.

Then it is written over. To sync a file that grows takes twice the CPU, and twice the time.
"""

BUSY = 2.0
"""Seconds to wait for another program that writes to the file, before it is an error."""

_COLUMNS = tuple(field.name for field in attrs.fields(Record))
_UPSERT = (
    f"INSERT INTO tasks ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - our own column names
    f"ON CONFLICT (external_task_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:])}"
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM tasks "  # noqa: S608 - our own column names


class Store:
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
                self.names = self._named()
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
                return [UnfitError(f"the journal {self.path} cannot hold {records[0].label!r}: {error}")]
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
                raise InUseError(f"the journal {self.path} is in use {self._holder()}") from error
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

    def _named(self) -> set[int]:
        """Every item's `name_of`."""
        rows = self._database.execute("SELECT key, request_hash FROM tasks")
        return {name_of(_unbound(key), request_hash) for key, request_hash in rows}


def open_store(path: Path, *, namespace: str | None, now: float, migrations: Sequence[str]) -> Store:
    """The journal at *path*; of a folder, the first in it that nobody uses, or a new one."""
    opened = functools.partial(Store, namespace=namespace, now=now, migrations=migrations)
    if not path.is_dir():
        return opened(path)
    for count in range(1, 10_000):
        name = FILE_NAME if count == 1 else FILE_NAME.replace(".", f"-{count}.", 1)
        with contextlib.suppress(InUseError):
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
