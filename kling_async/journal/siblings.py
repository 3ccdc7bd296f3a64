"""The other journals of a folder, and what they know; who has them open goes on writing meanwhile."""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

import attrs

from kling_async.journal.reading import Reader
from kling_async.journal.schema import FILE_NAME, Record

__all__ = ["Sibling", "Siblings", "numbered"]


def numbered(folder: Path, number: int) -> Path:
    """The journal of that number in *folder*, from 1."""
    return folder / (FILE_NAME if number == 1 else FILE_NAME.replace(".", f"-{number}.", 1))


@attrs.frozen
class Sibling:
    """A row of another journal of the folder.

    Attributes:
        record: the row.
        holder: who has that journal open, in words.
    """

    record: Record
    holder: str


class Siblings:
    """The other journals of one folder, only read, all in one thread.

    A connection to each is kept: to ask it for an item takes some ten microseconds, to connect takes half a
    millisecond.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left_out: set[Path] = set()
        self._readers: dict[Path, Reader] = {}
        stem, suffix = FILE_NAME.rsplit(".", 1)
        self._paths = set(folder.glob(f"{stem}*.{suffix}"))
        self._next = 1

    def unfinished(self, account: str, host: str) -> Sequence[Path]:
        """Those that hold tasks of that account and host which have not ended.

        No connection is kept: whoever takes one over proves it first, and opens it anew.

        Raises:
            JournalError: one cannot be read.
        """
        found = []
        for path in self._others():
            reader = Reader.of_journal(path)
            if reader is not None:
                with contextlib.closing(reader):
                    if reader.has_unfinished(account, host):
                        found.append(path)
        return found

    def leave_out(self, paths: Collection[Path]) -> None:
        """Ask those no more: they are open here."""
        self._left_out.update(paths)

    def find(self, key: str, request_hash: str) -> Sequence[Sibling]:
        """What each knows of an item, its latest generation.

        Raises:
            JournalError: one cannot be read, so that nobody can say whether it knows the item.
        """
        where = "WHERE key = ? AND request_hash = ? ORDER BY generation DESC, updated_at DESC LIMIT 1"
        found = []
        for path in self._others():
            reader = self._readers.pop(path, None)
            if reader is not None and not reader.is_current():
                reader.close()
                reader = None
            reader = reader or Reader.of_journal(path)
            if reader is None:
                continue
            self._readers[path] = reader
            for record in reader.select(where, key, request_hash):
                holder = reader.holder() or "a process that has ended"
                found.append(Sibling(record, f"{holder}, in {path}"))
        return found

    def close(self) -> None:
        """Let the files go."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _others(self) -> Sequence[Path]:
        """The others, those too that processes begun later have added: each takes the first free number."""
        while (path := numbered(self._folder, self._next)) in self._paths or path.exists():
            self._paths.add(path)
            self._next += 1
        return sorted(self._paths - self._left_out)
