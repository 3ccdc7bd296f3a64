"""A journal's file as it is read: also while another process writes to it, and without ever changing it."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import attrs

from kling_async.journal.schema import LIVE, Record
from kling_async.protocol.errors import JournalError

__all__ = [
    "APPLICATION_ID",
    "BUSY",
    "COLUMNS",
    "Reader",
    "bound",
    "code_of",
    "explained",
    "fault",
    "reason",
    "select",
    "unbound",
]

APPLICATION_ID = 0x4B4C4E47
""""KLNG": tells our file from any other SQLite file (the header's application_id)."""

BUSY = 2.0
"""Seconds to wait for another program that writes to the file, before it is an error."""

COLUMNS = tuple(field.name for field in attrs.fields(Record))


class Reader:
    """A connection that can change nothing, not even by folding the log into the file.

    Attributes:
        path: the file.
        file: which file that was when it was opened, where that is to be known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: Sequence[str] = ()
        self.file: os.stat_result | None = None
        uri = f"{path.absolute().as_uri()}?mode=ro"
        self._database = sqlite3.connect(uri, uri=True, timeout=BUSY)

    @classmethod
    def of_journal(cls, path: Path) -> Self | None:
        """A reader of the journal at *path*; None while there is none, or one that is only being made.

        Raises:
            JournalError: it cannot be read, or is none of ours.
        """
        with contextlib.ExitStack() as stack:
            try:
                # While SQLite's own journal is there the first transaction is not over, or never came to its
                # end; later ones are in the log.
                if not path.exists() or Path(f"{path}-journal").exists():
                    return None
                reader = stack.enter_context(contextlib.closing(cls(path)))
                if not reader.pragma("page_count"):
                    return None
                if reader.pragma("application_id") != APPLICATION_ID:
                    raise fault(path, "is a SQLite file, but no journal of ours")
                reader.learn_columns()
                reader.file = path.stat()
            except (OSError, sqlite3.Error) as error:
                raise explained(path, error) from error
            stack.pop_all()
        return reader

    def is_current(self) -> bool:
        """Whether the file of that name is still the one that is read."""
        try:
            return self.file is not None and os.path.samestat(self.file, self.path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Let the file go."""
        self._database.close()

    def pragma(self, name: str) -> Any:
        """The value of a pragma that changes nothing."""
        return self._database.execute(f"PRAGMA {name}").fetchone()[0]

    def learn_columns(self) -> None:
        """See which columns of ours there are: one of another version lacks some, or has more."""
        present = {row[1] for row in self._database.execute("PRAGMA table_info(tasks)")}
        self._columns = [column for column in COLUMNS if column in present]

    def select(self, where: str, *values: Any) -> Sequence[Record]:
        """The rows that *where* names.

        Raises:
            JournalError: they cannot be read.
        """
        return select(self._database, self.path, self._columns, where, values)

    def has_unfinished(self, account: str, host: str) -> bool:
        """Whether tasks of that account and host have not ended.

        Raises:
            JournalError: it cannot be read.
        """
        marks = ", ".join("?" * len(LIVE))
        where = f"WHERE state IN ({marks}) AND account = ? AND host = ? LIMIT 1"
        return bool(self.select(where, *LIVE, account, host))

    def holder(self) -> str | None:
        """Who has the journal open, or had it when it was killed; None: nobody, or it does not say yet."""
        try:
            row = self._database.execute("SELECT value FROM meta WHERE name = 'holder'").fetchone()
        except sqlite3.Error:
            return None
        return str(unbound(row[0])) if row else None


def select(
    database: sqlite3.Connection, path: Path, columns: Sequence[str], where: str, values: Iterable[Any]
) -> Sequence[Record]:
    """The rows that *where* names, through any connection.

    Raises:
        JournalError: they cannot be read.
    """
    query = f"SELECT {', '.join(columns)} FROM tasks {where}"  # noqa: S608 - our own column names
    try:
        # an error would keep a cursor that is not closed, and SQLite keeps the file open for it
        with contextlib.closing(database.execute(query, tuple(map(bound, values)))) as rows:
            return [_record(columns, row) for row in rows]
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise explained(path, error) from error


_HALF = re.compile("[\ud800-\udfff]")


def bound(value: Any) -> Any:
    """*value* as SQLite takes it: text that is no Unicode, as a file name may be, becomes a BLOB."""
    if isinstance(value, str) and not value.isascii() and _HALF.search(value):
        return value.encode("utf-8", "surrogatepass")
    return value


def unbound(value: Any) -> Any:
    """What `bound` was given."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _record(columns: Sequence[str], row: Sequence[Any]) -> Record:
    fields: dict[str, Any] = dict(zip(columns, map(unbound, row), strict=True))
    fields["named"] = bool(fields["named"])
    return Record(**fields)


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


def code_of(error: BaseException) -> int:
    """SQLite's primary result code; 0 for an error of Python's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def reason(error: BaseException) -> str:
    """What *error* says of the file, a clause without a subject."""
    if isinstance(error, OSError):
        return f"cannot be used: {error.strerror or error}"
    if "decode" in str(error):  # text that is no UTF-8 in a column, from the driver or from `unbound`
        return "is damaged: it holds text that is none"
    return _REASONS.get(code_of(error), f"cannot be used: {error}")


def fault(path: Path, what: str) -> JournalError:
    """What is wrong with the journal at *path*."""
    return JournalError(f"the journal {path} {what}")


def explained(path: Path, error: Exception) -> JournalError:
    """*error*, which SQLite or the system raised, as one of ours."""
    told = fault(path, reason(error))
    told.__cause__ = error
    return told
