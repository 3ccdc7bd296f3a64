"""Finished video -> file: streamed beside its place, checked, made durable, and only then given its name.

A video is paid for, so a failed download is tried again and never generates anything. The video host is not
the API: it gets a session of its own, and no header, cookie or token of the API reaches it.
"""

import asyncio
import contextlib
import glob
import hashlib
import ipaddress
import os
import random
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from kling_async.instrumentation import Hooks, Saved
from kling_async.protocol.errors import DownloadError
from kling_async.protocol.models import Task, Video
from kling_async.retries import Retries, retrying

__all__ = ["Downloads", "file_name", "is_file"]

BLOCK = 1024 * 1024
"""Bytes written at once, in a thread: a slow disk never holds up the loop."""
REDIRECTS = 5
SILENCE = 60.0
"""Seconds without a byte after which a download is broken."""
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
        places: downloads at once.
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
    ) -> None:
        self._open_session = open_session
        self._session: aiohttp.ClientSession | None = None
        self._fresh = fresh
        self._in_thread = in_thread
        self._hooks = hooks
        self._proxy = proxy
        self._places = asyncio.Semaphore(places)
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
        """
        now = asyncio.get_running_loop().time
        started = now()
        folder = to.parent if is_file(to) else to
        async with self._places:
            part: _Part = await self._in_thread(_Part, folder, task.task_id or "video")
            try:
                await self._in_thread(_make_folder, folder)
                size = await self._whole(task, part)
                wanted = to if is_file(to) else folder / file_name(name or task.task_id or "video")
                path: Path = await self._in_thread(_publish, part.path, wanted, is_file(to))
            except OSError as error:
                part.drop()
                what = f"cannot write to {folder}: {error.strerror or error}"
                raise DownloadError(what, path=to, advice=_ADVICE) from error
        self._hooks.tell(
            Saved(
                key=name,
                task_id=task.task_id,
                external_task_id=task.external_task_id,
                path=path,
                size=size,
                elapsed=now() - started,
            )
        )
        return path

    async def aclose(self) -> None:
        """Close the session, if one was opened."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _whole(self, task: Task, part: "_Part") -> int:
        """Bring *part* to its end, over broken connections and a dead URL; returns its size in bytes."""
        try:
            return await self._fetch(task.video, part)
        except DownloadError as error:
            if not error.url_expired:
                raise
        return await self._fetch((await self._fresh(task)).video, part)

    async def _fetch_once(self, video: Video, part: "_Part") -> int:
        """One attempt at the bytes that *part* lacks."""
        if self._session is None:
            self._session = self._open_session()
        url = video.url
        try:
            for _ in range(REDIRECTS):
                _require_safe(url)
                async with self._session.get(
                    url,
                    allow_redirects=False,
                    proxy=self._proxy,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE),
                    headers={"Accept-Encoding": "identity", **part.range()},
                ) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        url = urljoin(url, response.headers.get("Location", ""))
                        continue
                    if response.status == 416:
                        part.drop()  # what was begun is of another file
                        raise DownloadError("the file at the video host changed meanwhile")
                    _require_video(response)
                    return await self._receive(response, part)
        except (aiohttp.ClientError, TimeoutError) as error:
            what = f"the download broke: {type(error).__name__}: {error}"
            raise DownloadError(what) from error
        raise DownloadError(f"the video host redirects more than {REDIRECTS} times", http_status=310)

    async def _receive(self, response: aiohttp.ClientResponse, part: "_Part") -> int:
        size, whole = _extent(response)
        if not part.fits(_version(response, whole), size):
            raise DownloadError("the file at the video host changed meanwhile")
        opening = asyncio.ensure_future(self._in_thread(part.path.open, "ab" if size else "wb"))
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                (await opening).close()  # opened although nobody waits for it
            raise
        try:
            buffer = bytearray()
            async for piece in response.content.iter_any():
                buffer += piece
                size += len(piece)
                if len(buffer) >= BLOCK:
                    await self._in_thread(file.write, buffer)
                    buffer = bytearray()
            await self._in_thread(file.write, buffer)
            if whole is not None and size != whole:
                raise DownloadError(f"the video host sent {size} of {whole} bytes")
            if size == 0:
                raise DownloadError("the video host sent an empty file")
            await self._in_thread(_make_durable, file)
        finally:
            await self._in_thread(file.close)
        return size


class _Part:
    """The temporary file of one video: beside its place, hidden, named by its task and its version.

    The version is what tells one file from another (ETag or time, and size), so that a later attempt, in a
    later process too, goes on only with bytes of the same file.
    """

    def __init__(self, folder: Path, task_id: str) -> None:
        self._stem = folder / f".{_safe(task_id)}"
        found = sorted(folder.glob(f"{glob.escape(self._stem.name)}.*.part")) if folder.is_dir() else []
        self.path = found[0] if found else self._stem.with_name(f"{self._stem.name}.new.part")

    def range(self) -> dict[str, str]:
        """The header that asks for the bytes not yet there."""
        try:
            size = self.path.stat().st_size
        except OSError:
            size = 0
        return {"Range": f"bytes={size}-"} if size else {}

    def fits(self, version: str, start: int) -> bool:
        """Whether bytes of that *version* from *start* go on where this ends; what does not is dropped."""
        path = self._stem.with_name(f"{self._stem.name}.{version}.part")
        fits = start == 0 or (path == self.path and path.stat().st_size == start)
        if start == 0 or not fits:
            self.drop()
        self.path = path
        return fits

    def drop(self) -> None:
        """Delete it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


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
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _is_loopback(parts.hostname):
        return
    raise DownloadError(f"the video's URL is not https: {parts.scheme}://{parts.hostname}", http_status=310)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_video(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status not in (200, 206):
        raise DownloadError(
            f"the video host answered HTTP {status}", http_status=status, url_expired=status in _EXPIRED
        )
    if response.content_type in ("text/html", "application/json", "application/xml", "text/xml"):
        raise DownloadError(f"the video host sent {response.content_type}, no video", http_status=status)


def _extent(response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the whole file is, as far as is told."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status != 206 or told is None:
        return 0, response.content_length
    return int(told[1]), None if told[2] == "*" else int(told[2])


def _version(response: aiohttp.ClientResponse, whole: int | None) -> str:
    """What tells this version of the file from another, short enough for a file name."""
    mark = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return hashlib.sha256(f"{mark} {whole}".encode()).hexdigest()[:12]


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _make_durable(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(part: Path, wanted: Path, exact: bool) -> Path:
    """Give the whole file its name; never one that is taken, also if only upper and lower case differ."""
    taken = {each.name.casefold() for each in wanted.parent.iterdir()}
    for count in range(1, 100_000):
        path = wanted if count == 1 else wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}")
        if path.name.casefold() not in taken and _rename_to_free(part, path):
            _sync_folder(path.parent)
            return path
        if exact:
            raise DownloadError(f"{wanted} exists and is not overwritten", path=wanted, http_status=200)
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
