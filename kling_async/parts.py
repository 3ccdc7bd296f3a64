"""Files on their way: named and hidden while they grow, locked, durable, then given a name nobody has."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kling_async.protocol.errors import DownloadError

__all__ = ["Part", "file_name", "free_name", "is_file"]


def is_file(to: Path) -> bool:
    """Whether *to* names the file itself, and not a folder."""
    return to.suffix.lower() == ".mp4"


def file_name(name: str) -> str:
    """A file name made of *name* that every system takes: no separator, device name or trailing dot."""
    return f"{_safe(name.removesuffix('.mp4'))}.mp4"


def _safe(name: str) -> str:
    cleaned = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]+', "_", name).strip(" .")
    while len(cleaned.encode()) > 120:
        cleaned = cleaned[:-1]
    cleaned = cleaned.rstrip(" .") or "video"
    reserved = re.fullmatch(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", cleaned, re.IGNORECASE)
    return f"_{cleaned}" if reserved else cleaned


class Part:
    """The temporary file of one video: beside its place, hidden, named by its task and its version.

    The version is what tells one file from another (ETag or time, and size), so that a later attempt, in a
    later process too, goes on only with bytes of the same file. Whoever writes to a part has it locked, which
    ends with the process: another download of the same task takes a part of its own.

    Its methods block. One follows the other: they are never called at the same time.

    Attributes:
        size: bytes that are there.
        attempts: how often its download was tried.
    """

    def __init__(self, folder: Path, task_id: str) -> None:
        self._folder = folder
        self._stem = f".{_safe(task_id)}"
        self._file: io.FileIO | None = None
        self._path = folder
        self._version = ""
        self.size = 0
        self.attempts = 0

    def open(self, wanted: Path | None) -> None:
        """Take what an earlier download left, if nobody else has it.

        Raises:
            DownloadError: *wanted*, the one name it may have in the end, is taken.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if wanted is not None and wanted.exists():
            raise _exists(wanted)
        pattern = re.compile(rf"{re.escape(self._stem)}\.([0-9a-f]{{12}})(-[0-9]+)?\.part")
        for path in sorted(self._folder.iterdir()):
            found = pattern.fullmatch(path.name)
            if found and self._take(path, found[1], "r+b"):
                return

    def range(self) -> Mapping[str, str]:
        """The header that asks for the bytes not yet there."""
        return {"Range": f"bytes={self.size}-"} if self.size else {}

    def is_whole(self, version: str, size: int | None) -> bool:
        """Whether nothing of that *version* of *size* bytes is lacking."""
        return 0 < self.size == size and version == self._version

    def accept(self, version: str, start: int) -> None:
        """Get ready for bytes of that *version* from *start*; -1 for bytes that fit nowhere.

        Raises:
            DownloadError: they do not go on where this ends, which is deleted.
        """
        if start and start == self.size and version == self._version:
            return
        self.drop()
        if start:
            raise DownloadError("the file at the video host changed meanwhile")
        names = (f"{self._stem}.{version}{f'-{n}' if n > 1 else ''}.part" for n in itertools.count(1))
        while not self._take(self._folder / next(names), version, "xb"):
            pass

    def append(self, pieces: Sequence[bytes]) -> None:
        """Write *pieces*, one after the other; of what the disk has no room for, as much as goes."""
        assert self._file is not None  # accepted
        for piece in pieces:
            left = memoryview(piece)
            while left:
                written = self._file.write(left)
                self.size += written
                left = left[written:]

    def make_durable(self) -> None:
        """Return when every byte is on the disk."""
        assert self._file is not None  # accepted, or taken
        os.fsync(self._file.fileno())

    def publish(self, path: Path) -> bool:
        """Give the whole file its name; False: somebody has taken it meanwhile."""
        assert self._file is not None  # it has every byte
        if os.name == "nt":
            self._file.close()  # Windows moves no open file; elsewhere it stays locked until it has moved
        given = _rename_to_free(self._path, path)
        if given:
            _sync_folder(path.parent)
        return given

    def drop(self) -> None:
        """Delete it."""
        file, self._file, self.size = self._file, None, 0
        if file is not None:
            if os.name == "nt":
                file.close()
            with contextlib.suppress(OSError), file:
                self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave it to a later download, unless there is nothing in it."""
        if not self.size:
            self.drop()
        if self._file is not None:
            self._file.close()

    def _take(self, path: Path, version: str, mode: str) -> bool:
        """Open and lock *path*; False: somebody else has it, or has just given it its name."""
        try:
            file = io.FileIO(path, mode)
        except (FileExistsError, FileNotFoundError):
            return False
        try:
            taken = _lock(file) and os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            taken = False
        if not taken:
            file.close()
            return False
        self._file, self._path, self._version = file, path, version
        self.size = file.seek(0, io.SEEK_END)
        return True


if sys.platform == "win32":
    import msvcrt

    def _lock(file: io.FileIO) -> bool:
        """Lock *file* until it is closed; False: someone else has."""
        file.seek(2**40)  # nobody reads or writes there, which the lock would refuse
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: io.FileIO) -> bool:
        """Lock *file* until it is closed; False: someone else has."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks: as good as it gets
        return True


def free_name(wanted: Path, exact: bool) -> Path:
    """A name that nobody has, also if only upper and lower case differ."""
    taken = {each.name.casefold() for each in wanted.parent.iterdir()}
    for count in range(1, 100_000):
        path = wanted if count == 1 else wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}")
        if path.name.casefold() not in taken:
            return path
        if exact:
            raise _exists(wanted)
    raise DownloadError(f"no free name for {wanted}", path=wanted)


def _exists(path: Path) -> DownloadError:
    advice = "choose another name, then download it again; it costs nothing"
    return DownloadError(f"{path} exists and is not overwritten", path=path, http_status=200, advice=advice)


def _rename_to_free(part: Path, path: Path) -> bool:
    """Rename without overwriting: a link fails where the name is taken, which a rename would not."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        part.rename(path)
    else:
        part.unlink()
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, on systems where a folder can be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
