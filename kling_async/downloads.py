"""Finished video -> file: streamed beside its place, checked, made durable, and only then given its name.

A video is paid for, so a failed download is tried again and never generates anything. The video host is not
the API: it gets a session of its own, and no header, cookie or token of the API reaches it.
"""

import asyncio
import contextlib
import hashlib
import io
import ipaddress
import itertools
import os
import random
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from kling_async.instrumentation import Hooks, Saved
from kling_async.protocol.errors import DownloadError, KlingError
from kling_async.protocol.models import Task, Video
from kling_async.protocol.refusals import retry_after
from kling_async.retries import Retries, retrying
from kling_async.transport import through

__all__ = ["Downloads", "file_name", "is_file"]

BLOCK = 1024 * 1024
"""Bytes written at once, in a thread: a slow disk never holds up the loop."""
REDIRECTS = 5
TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30.0, sock_read=60.0)
"""Seconds for the connection, and without a byte; a download that goes on may take as long as it takes."""
_EXPIRED = frozenset({401, 403, 404, 410})
"""How hosts of signed URLs say that the signature ran out or the asset was purged."""

Threads = Callable[..., Awaitable[Any]]


class Downloads:
    """Downloads in a pool of their own.

    Args:
        open_session: opens the session for the video host.
        fresh: asks for a task again, for the URL of today.
        in_thread: calls a blocking function elsewhere.
        retries: for broken downloads.
        rng: jitter.
        hooks: told of each saved file.
        proxy: URL of an HTTP proxy.
        places: attempts at once; a download that waits for its next one holds none.
        timeout: of each attempt.
    """

    def __init__(
        self,
        open_session: Callable[[], aiohttp.ClientSession],
        *,
        fresh: Callable[[Task], Awaitable[Task]],
        in_thread: Threads,
        retries: Retries,
        rng: random.Random,
        hooks: Hooks,
        proxy: str | None = None,
        places: int = 4,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> None:
        self._open_session = open_session
        self._session: aiohttp.ClientSession | None = None
        self._fresh = fresh
        self._in_thread = in_thread
        self._hooks = hooks
        self._proxy = proxy
        self._places = asyncio.Semaphore(places)
        self._timeout = timeout
        self._fetch = retrying(self._fetch_once, retries, creating=False, rng=rng)

    async def save(self, task: Task, to: Path, *, name: str | None = None) -> Path:
        """Download the video of *task*; returns the file.

        Args:
            task: a task that succeeded.
            to: a path ending in ``.mp4`` is the file; anything else a folder, made if need be.
            name: what to call the file in a folder, the caller's key; left out, its task_id.

        Raises:
            DownloadError: the file was not written. What arrived waits, hidden, for the next attempt; after a
                full disk or a refused write nothing is left.
            LookupError: the task has no video.
        """
        now = asyncio.get_running_loop().time
        started, video = now(), task.video
        wanted = to if is_file(to) else to / file_name(name or task.task_id or "video")
        part = _Part(wanted.parent, task.task_id or "video")
        try:
            await self._step(part.open, to if is_file(to) else None)
            await self._whole(task, video, part)
            path: Path = await self._step(part.publish, wanted, is_file(to))
        except OSError as error:
            await self._step(part.drop)
            what = f"cannot write to {wanted.parent}: {error.strerror or error}"
            raise _about(DownloadError(what, path=to, advice=_ADVICE), task, name) from error
        except DownloadError as error:
            error.path = error.path or to
            _about(error, task, name)
            raise
        finally:
            await self._step(part.close)
        self._hooks.tell(
            Saved(
                key=name,
                task_id=task.task_id,
                external_task_id=task.external_task_id,
                path=path,
                size=part.size,
                elapsed=now() - started,
            )
        )
        return path

    async def aclose(self) -> None:
        """Close the session, if one was opened."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _step(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what touches the file in a thread; who is cancelled meanwhile leaves when it has ended."""
        step = asyncio.ensure_future(self._in_thread(function, *arguments))
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.wait([step])
            if not step.cancelled():
                step.exception()  # seen: nobody waits for it any more
            raise

    async def _whole(self, task: Task, video: Video, part: "_Part") -> None:
        """Bring *part* to its end, over broken connections and a dead URL."""
        try:
            await self._fetch(video, part)
            return
        except DownloadError as error:
            if not error.url_expired:
                raise
            dead = error
        try:
            video = (await self._fresh(task)).video
        except (KlingError, LookupError) as error:
            reason = error.what if isinstance(error, KlingError) else str(error)
            dead.args = (f"{dead.what}, and there is no fresh URL: {reason}",)
            raise dead from error
        await self._fetch(video, part)

    async def _fetch_once(self, video: Video, part: "_Part") -> None:
        """One attempt at the bytes that *part* lacks."""
        async with self._places:
            if self._session is None:
                self._session = self._open_session()
            url = video.url
            try:
                for _ in range(REDIRECTS):
                    _require_safe(url)
                    async with self._session.get(
                        url,
                        allow_redirects=False,
                        **through(self._proxy),
                        timeout=self._timeout,
                        headers={"Accept-Encoding": "identity", **part.range()},
                    ) as response:
                        if response.status not in (301, 302, 303, 307, 308):
                            await self._receive(response, part)
                            return
                        url = _redirected(url, response)
            except (aiohttp.ClientError, TimeoutError) as error:
                what = f"the download broke: {type(error).__name__}: {error}"
                raise DownloadError(what) from error
            raise DownloadError(f"the video host redirects more than {REDIRECTS} times", http_status=310)

    async def _receive(self, response: aiohttp.ClientResponse, part: "_Part") -> None:
        start, whole = _extent(response)
        version = _version(response, whole)
        if response.status == 416 and part.is_whole(version, whole):
            await self._step(part.make_durable)  # an earlier attempt came this far
            return
        if response.status != 416:
            _require_video(response)
        # bytes are read while others are written: what is not yet read when the connection breaks is lost
        step = asyncio.ensure_future(self._step(part.accept, version, start))
        buffer = bytearray()
        try:
            async for piece in response.content.iter_any():
                buffer += piece
                if len(buffer) >= BLOCK:
                    await step
                    step = asyncio.ensure_future(self._step(part.append, buffer))
                    buffer = bytearray()
        finally:
            await step
            await self._step(part.append, buffer)  # what came before a break need not come again
        if whole is not None and part.size != whole:
            raise DownloadError(f"the video host sent {part.size} of {whole} bytes")
        if part.size == 0:
            raise DownloadError("the video host sent an empty file")
        await self._step(part.make_durable)


class _Part:
    """The temporary file of one video: beside its place, hidden, named by its task and its version.

    The version is what tells one file from another (ETag or time, and size), so that a later attempt, in a
    later process too, goes on only with bytes of the same file. Whoever writes to a part has it locked, which
    ends with the process: another download of the same task takes a part of its own.

    Its methods block. One follows the other: they are never called at the same time.
    """

    def __init__(self, folder: Path, task_id: str) -> None:
        self._folder = folder
        self._stem = f".{_safe(task_id)}"
        self._file: io.FileIO | None = None
        self._path = folder
        self._version = ""
        self.size = 0

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

    def append(self, data: bytearray) -> None:
        """Write *data*; of what the disk has no room for, as much as goes."""
        assert self._file is not None  # accepted
        left = memoryview(data)
        while left:
            written = self._file.write(left)
            self.size += written
            left = left[written:]

    def make_durable(self) -> None:
        """Return when every byte is on the disk."""
        assert self._file is not None  # accepted, or taken
        os.fsync(self._file.fileno())

    def publish(self, wanted: Path, exact: bool) -> Path:
        """Give the whole file its name; see `_publish`."""
        assert self._file is not None  # it has every byte
        if os.name == "nt":
            self._file.close()  # Windows moves no open file; elsewhere it stays locked until it has moved
        return _publish(self._path, wanted, exact)

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


_ADVICE = "make room or choose another folder, then download it again; it costs nothing"


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


def _require_safe(url: str) -> None:
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname
    except ValueError as error:
        raise DownloadError(f"the video's URL is none: {error}", http_status=310) from error
    if host and (scheme == "https" or (scheme == "http" and _is_loopback(host))):
        return
    raise DownloadError(f"the video's URL is not https: {scheme}://{host}", http_status=310)


def _redirected(url: str, response: aiohttp.ClientResponse) -> str:
    try:
        return urljoin(url, response.headers.get("Location", ""))
    except ValueError as error:
        raise DownloadError(f"the video host redirects to no URL: {error}", http_status=310) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_video(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status not in (200, 206):
        raise DownloadError(
            f"the video host answered HTTP {status}",
            http_status=status,
            url_expired=status in _EXPIRED,
            retry_after=_wait_asked(response),
        )
    if response.content_type in ("text/html", "application/json", "application/xml", "text/xml"):
        raise DownloadError(f"the video host sent {response.content_type}, no video", http_status=status)


def _wait_asked(response: aiohttp.ClientResponse) -> float | None:
    """Seconds the host asks to wait; a date is held against its own clock."""
    try:
        now = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
    except ValueError:
        now = None
    return retry_after(response.headers.get("Retry-After", ""), now)


def _extent(response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Where the body begins in the file, -1 for nowhere, and how long the whole file is, if that is told.

    That of a part that does not say so is nowhere too.
    """
    if response.status not in (206, 416):
        return 0, response.content_length
    pattern = r"bytes (\d+)-\d+/(\d+|\*)" if response.status == 206 else r"bytes (\*)/(\d+)"
    told = re.fullmatch(pattern, response.headers.get("Content-Range", ""))
    if told is None:
        return -1, None
    return -1 if told[1] == "*" else int(told[1]), None if told[2] == "*" else int(told[2])


def _version(response: aiohttp.ClientResponse, whole: int | None) -> str:
    """What tells this version of the file from another, short enough for a file name."""
    mark = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return hashlib.sha256(f"{mark} {whole}".encode()).hexdigest()[:12]


def _about(error: DownloadError, task: Task, name: str | None) -> DownloadError:
    return error.about(key=name, task_id=task.task_id, external_task_id=task.external_task_id)


def _exists(path: Path) -> DownloadError:
    advice = "choose another name, then download it again; it costs nothing"
    return DownloadError(f"{path} exists and is not overwritten", path=path, http_status=200, advice=advice)


def _publish(part: Path, wanted: Path, exact: bool) -> Path:
    """Give the whole file its name; never one that is taken, also if only upper and lower case differ."""
    taken = {each.name.casefold() for each in wanted.parent.iterdir()}
    for count in range(1, 100_000):
        path = wanted if count == 1 else wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}")
        if path.name.casefold() not in taken and _rename_to_free(part, path):
            _sync_folder(path.parent)
            return path
        if exact:
            raise _exists(wanted)
    raise DownloadError(f"no free name for {wanted}", path=wanted)


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
