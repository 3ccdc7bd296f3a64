"""What the killed worker works on: items in a folder, their videos, and what is in the folder afterwards."""

import contextlib
import shutil
import sqlite3
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

from kling_async.journal import FILE_NAME
from kling_async.simulator import VideoJob


def video(job: VideoJob) -> bytes:
    """The bytes of one video, most of them small, every sixth of more than one write of the client's."""
    number = int(job.video_id)
    size = 1_500_000 if number % 6 == 0 else 50_000 + number % 50_000
    line = f"video {job.video_id}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def difference(path: Path, content: bytes) -> int | None:
    """How many bytes *path* has, if it is not there with this content; None if it is."""
    if not path.is_file():
        return 0
    return None if path.read_bytes() == content else path.stat().st_size


def _picture() -> bytes:
    """A PNG of which the header is true, large enough to take an upload place."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 400, 300, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum
    return start + bytes(60_000) + b"\0\0\0\0IEND\xaeB`\x82"


class Batch:
    """Items in a folder of their own, run until each has its video or is known to be in doubt."""

    def __init__(self, name: str, folder: Path, count: int) -> None:
        self.folder = folder
        folder.mkdir()
        self.picture = folder.with_name(f"{name} photo.png")
        self.picture.write_bytes(_picture())
        # two thirds have a key; the others are known by content, and some are wanted twice
        self.items = [
            (f"{name}-{number:02}", f"{name} item {number}")
            if number % 3
            else (None, f"{name} twin {number // 6}")
            for number in range(count)
        ]
        self.completions: list[dict[str, Any]] = []

    @property
    def journal(self) -> Path:
        """Where the worker's journal is."""
        return self.folder / FILE_NAME

    def intents(self) -> int:
        """Rows whose submit has no answer yet; read from a copy: the journal stays as the kill left it."""
        with tempfile.TemporaryDirectory() as copies:
            for name in (FILE_NAME, f"{FILE_NAME}-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(self.folder / name, copies)
            with contextlib.closing(sqlite3.connect(Path(copies) / FILE_NAME)) as database:
                return int(
                    database.execute("SELECT count(*) FROM tasks WHERE state = 'intended'").fetchone()[0]
                )

    def strays(self) -> list[str]:
        """Files that are neither a delivered video nor the journal's."""
        known = {Path(done["path"]).name for done in self.completions if done["path"]}
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(FILE_NAME)}
        return sorted(names - known)
