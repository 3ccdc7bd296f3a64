"""Finished video -> file: streamed beside its place, checked, made durable, and only then given its name.

A video is paid for, so a failed download is tried again and never generates anything. The video host is not
the API: it gets a session of its own, and no header, cookie or token of the API reaches it.
"""

import asyncio
import hashlib
import ipaddress
import logging
import random
import re
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from kling_async.instrumentation import Hooks, Saved
from kling_async.parts import Part, file_name, free_name, is_file
from kling_async.protocol.errors import DownloadError, KlingError
from kling_async.protocol.models import Task, Video
from kling_async.protocol.refusals import retry_after
from kling_async.retries import Retries, retrying
from kling_async.transport import through

__all__ = ["Downloads"]

logger = logging.getLogger("kling_async")

BLOCK = 1024 * 1024
"""Bytes written at once, in a thread: a slow disk never holds up the loop."""
REDIRECTS = 5
TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30.0, sock_read=60.0)
"""Seconds for the connection, and without a byte; a download that goes on may take as long as it takes."""
_EXPIRED = frozenset({401, 403, 404, 410})
"""How hosts of signed URLs say that the signature ran out or the asset was purged."""

Claim = Callable[[Path, int], Awaitable[None]]
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

    Attributes:
        saved: files written.
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
        self._retries = retries
        self._rng = rng
        self.saved = 0

    async def save(
        self, task: Task, to: Path, *, name: str | None = None, claim: Claim | None = None
    ) -> Path:
        """Download the video of *task*; returns the file.

        Args:
            task: a task that succeeded.
            to: a path ending in ``.mp4`` is the file; anything else a folder, made if need be.
            name: what to call the file in a folder, the caller's key; left out, its task_id.
            claim: writes down the file and its size just before the file gets its name, so that a process
                that dies in between knows it for its own.

        Raises:
            DownloadError: the file was not written. What arrived waits, hidden, for the next attempt; after a
                full disk or a refused write nothing is left.
            LookupError: the task has no video.
        """
        now = asyncio.get_running_loop().time
        started, video = now(), task.video
        wanted = to if is_file(to) else to / file_name(name or task.task_id or "video")
        part = Part(wanted.parent, task.task_id or "video")
        try:
            await self._step(part.open, to if is_file(to) else None)
            await self._whole(task, video, part, name or task.task_id or "a video")
            path = await self._publish(part, wanted, exact=is_file(to), claim=claim)
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
        self.saved += 1
        self._hooks.tell(
            Saved(
                key=name,
                task_id=task.task_id,
                external_task_id=task.external_task_id,
                path=path,
                size=part.size,
                elapsed=now() - started,
                retries=part.attempts - 1,
            )
        )
        return path

    async def _publish(self, part: Part, wanted: Path, *, exact: bool, claim: Claim | None) -> Path:
        """Give the whole file the first free name, or the exact one."""
        while True:
            path: Path = await self._step(free_name, wanted, exact)
            if claim is not None:
                await claim(path, part.size)
            if await self._step(part.publish, path):
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

    async def _whole(self, task: Task, video: Video, part: Part, name: str) -> None:
        """Bring *part* to its end, over broken connections and a dead URL."""

        def told(error: KlingError, wait: float) -> None:
            logger.info("%s: downloading it again in %.1f s: %s", name, wait, error.what)

        fetch = retrying(self._fetch_once, self._retries, creating=False, rng=self._rng, on_retry=told)
        try:
            await fetch(video, part)
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
        logger.info("%s: downloading it again from a fresh URL: %s", name, dead.what)
        await fetch(video, part)

    async def _fetch_once(self, video: Video, part: Part) -> None:
        """One attempt at the bytes that *part* lacks."""
        part.attempts += 1
        async with self._places:
            if self._session is None:
                self._session = self._open_session()
            url = video.url
            try:
                for _ in range(REDIRECTS + 1):
                    _require_safe(url)
                    host, told = urlsplit(url).hostname, "not answered"
                    try:
                        async with self._session.get(
                            url,
                            allow_redirects=False,
                            **through(self._proxy),
                            timeout=self._timeout,
                            headers={"Accept-Encoding": "identity", **part.range()},
                        ) as response:
                            told = str(response.status)
                            if response.status not in (301, 302, 303, 307, 308):
                                await self._receive(response, part)
                                return
                            url = _redirected(url, response)
                    finally:
                        logger.debug("GET from the video host %s: %s", host, told)  # its paths are signed
            except (aiohttp.ClientError, TimeoutError) as error:
                raise DownloadError(f"the download broke: {_reason(error)}") from error
            raise DownloadError(f"the video host redirects more than {REDIRECTS} times", http_status=310)

    async def _receive(self, response: aiohttp.ClientResponse, part: Part) -> None:
        start, whole = _extent(response)
        version = _version(response, whole)
        if response.status == 416 and part.is_whole(version, whole):
            await self._step(part.make_durable)  # an earlier attempt came this far
            return
        if response.status != 416:
            _require_video(response)
        # bytes are read while others are written: what is not yet read when the connection breaks is lost
        step = asyncio.ensure_future(self._step(part.accept, version, start))
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece, _ in response.content.iter_chunks():
                pieces.append(piece)
                size += len(piece)
                if size >= BLOCK:
                    await step
                    step = asyncio.ensure_future(self._step(part.append, pieces))
                    pieces, size = [], 0
        finally:
            await step
            await self._step(part.append, pieces)  # what came before a break need not come again
        if whole is not None and part.size != whole:
            raise DownloadError(f"the video host sent {part.size} of {whole} bytes")
        if part.size == 0:
            raise DownloadError("the video host sent an empty file")
        await self._step(part.make_durable)


_ADVICE = "make room or choose another folder, then download it again; it costs nothing"


def _reason(error: Exception) -> str:
    """What broke, without the URL: whoever has that has the video."""
    says_url = isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL)
    text = "" if says_url else " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
