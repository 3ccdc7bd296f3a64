"""A client while it works in one event loop: its engine, its downloads, and where it records."""

import asyncio
import contextlib
import functools
import logging
import ssl as tls
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import attrs

from kling_async.api import Api
from kling_async.downloads import Downloads
from kling_async.engine import Engine, Options
from kling_async.feeding import Stream
from kling_async.flight import Flight
from kling_async.handles import TaskHandle
from kling_async.instrumentation import Statistics
from kling_async.journal import FILE_NAME
from kling_async.parts import is_file
from kling_async.protocol import identity
from kling_async.protocol.auth import Credentials, Signer
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import (
    ConcurrencyLimitError,
    DownloadError,
    KlingError,
    NotFoundError,
    RequestError,
    WaitTimeoutError,
)
from kling_async.protocol.models import Task, TaskStatus, VideoRequest
from kling_async.protocol.providers import Provider
from kling_async.recording import Recording
from kling_async.streams import Requests
from kling_async.transport import AiohttpTransport, default_ssl
from kling_async.typing import Again, Transport, WallClock, never

__all__ = ["Running", "Setup"]

logger = logging.getLogger("kling_async")


@attrs.frozen(kw_only=True)
class Setup:
    """What a client was made with; see `kling_async.KlingClient`."""

    credentials: Credentials = attrs.field(repr=False)
    provider: Provider
    options: Options
    journal: Path | None
    journal_is_folder: bool
    session: aiohttp.ClientSession | None
    transport: Transport | None
    proxy: str | None = attrs.field(repr=False)
    ssl: tls.SSLContext | None
    clock: WallClock

    def begin(self) -> "Running":
        """The client at work in this event loop, from now on."""
        return Running(self)

    def token(self, text: str) -> identity.Token:
        """What the token *text* says.

        Raises:
            RequestError: it is malformed, or of another provider or account.
        """
        token = identity.Token.parse(text)
        host = urlsplit(self.provider.base_url).netloc
        if token.host != host or token.account != self.options.account:
            raise RequestError(
                f"the token is of another account or provider: {token.provider} at {token.host}"
            )
        return token


class Running:
    """One client at work, from its first use in an event loop until it is closed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        closers: list[Callable[[], Awaitable[None]]] = []
        transport = setup.transport
        if transport is None:
            transport = AiohttpTransport(setup.session, setup.proxy, setup.ssl)
            closers.append(transport.aclose)
        api = Api(transport, Signer(setup.credentials), setup.provider, setup.clock)
        self.engine = Engine(api, setup.options, closers)
        self.downloads = Downloads(
            self._open_session,
            fresh=self._fresh,
            in_thread=self.engine.crew.in_thread,
            retries=setup.options.retries,
            rng=setup.options.rng,
            hooks=setup.options.hooks,
            proxy=setup.proxy,
        )
        closers.append(self.downloads.aclose)
        closers.append(self._end_streams)
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._saves: weakref.WeakKeyDictionary[Flight, asyncio.Lock] = weakref.WeakKeyDictionary()
        self.engine.start()

    async def recording(
        self,
        save_to: Path | None = None,
        *,
        again: Again = never,
        by_content: bool = False,
        namespace: str | None = None,
    ) -> Recording | None:
        """Where what is submitted now is recorded: the client's journal, else one beside the output.

        What has no key is recognised by its content in a stream, and where a file was asked for.

        Raises:
            JournalError: it cannot be used.
        """
        folder = save_to.parent if save_to is not None and is_file(save_to) else save_to
        path = self._setup.journal or (folder / FILE_NAME if folder is not None else None)
        if path is None:
            return None
        if self._setup.journal_is_folder:
            await self.engine.crew.in_thread(_make, path)
        by_content = by_content or save_to is not None
        return await self.engine.intake.recording(
            path, again=again, by_content=by_content, namespace=namespace
        )

    async def submit(self, request: VideoRequest, key: str | None, *, wait: bool) -> TaskHandle:
        """See `KlingClient.submit`."""
        flight = self.engine.intake.join(request, key)
        flight.waits = wait
        await self._check(flight)
        if not wait:
            self.engine.intake.withdraw(flight, ConcurrencyLimitError("no slot is free now"))
        await self.engine.intake.acknowledged(flight)
        return TaskHandle(self.engine, flight)

    def submit_soon(self, request: VideoRequest, key: str | None) -> TaskHandle:
        """See `KlingClient.submit_soon`."""
        flight = self.engine.intake.join(request, key)

        async def check() -> None:
            with contextlib.suppress(KlingError):  # told by the flight's own end
                await self._check(flight)

        self.engine.crew.spawn(check())
        return TaskHandle(self.engine, flight)

    def stream(
        self,
        requests: Requests,
        *,
        timeout: float | None,
        ordered: bool,
        save_to: Path | None,
        again: Again,
        namespace: str | None,
        budget: Budget | None,
    ) -> Stream:
        """The stream of *requests*, begun; see `KlingClient.completions`."""
        stream = Stream(
            self,
            requests,
            timeout=timeout,
            ordered=ordered,
            save_to=save_to,
            again=again,
            namespace=namespace,
            budget=budget,
        )
        self._streams.add(stream)
        self.engine.crew.spawn(stream.feed())
        return stream

    async def _end_streams(self) -> None:
        """A stream whose feeder never began, because the client was closed at once, ends too."""
        for stream in list(self._streams):
            stream.cut_off()
            stream.settle()

    def attach(self, token: identity.Token) -> TaskHandle:
        """See `KlingClient.attach`."""
        return TaskHandle(self.engine, self.engine.intake.attach(token))

    async def resubmit(self, token: identity.Token) -> TaskHandle:
        """See `KlingClient.resubmit`."""
        name = token.external_task_id or ""
        lost = self.engine.register.unresolved.get(name)
        if lost is None or lost.request is None:
            what = "this client has no such request"
            raise RequestError(what, advice="submit the request itself, under a new key")
        if lost.judged.status is not TaskStatus.MAY_EXIST:
            raise RequestError("it was made, as a callback told since", advice="its handle has the video")
        recording = None
        if lost.journal is not None and lost.record is not None:
            recording = Recording(lost.journal, again=lambda _key, _status: True, row=lost.record.key)
        flight = self.engine.intake.join(lost.request, lost.key)
        flight.generation = lost.generation + 1
        del self.engine.register.unresolved[name]  # decided: a second call must not pay once more
        try:
            await self.engine.intake.check(flight, recording)
            await self.engine.intake.acknowledged(flight)
        finally:
            if flight.judged.status is TaskStatus.REFUSED:
                self.engine.register.unresolved[name] = lost
            else:
                self.engine.register.succeed(name, flight.judged.external_task_id or "")
        return TaskHandle(self.engine, flight)

    async def make(
        self, request: VideoRequest, key: str | None, timeout: float | None, to: Path | None
    ) -> tuple[Task, Path | None]:
        """*request* submitted and waited for, and its video saved; see `KlingClient.run`."""
        taken = _taken(to)
        flight = self.engine.intake.join(request, key)
        try:
            async with asyncio.timeout(timeout):
                await self._check(flight, to, taken)
                await self.engine.intake.acknowledged(flight)
                await TaskHandle(self.engine, flight).result(timeout=None)
        except TimeoutError as error:
            if isinstance(error, WaitTimeoutError):
                raise
            raise flight.waited(f"no video within {timeout:g} s") from error
        return flight.task, None if to is None else await self.saved(flight, to, flight.name)

    async def saved(self, flight: Flight, to: Path, name: str | None) -> Path:
        """The file of a flight that succeeded: the one that is there, or downloaded now.

        Raises:
            DownloadError: it could not be written.
        """
        flight = flight.same or flight  # equal requests are one task, and its file is fetched once
        async with self._saves.setdefault(flight, asyncio.Lock()):
            if flight.path is not None and _is_wanted(flight.path, to):
                logger.info("%s: already there: %s", name, flight.path)
                return _as_given(flight.path, to)
            return await self._fetched(flight, to, name)

    async def _fetched(self, flight: Flight, to: Path, name: str | None) -> Path:
        if not flight.task.videos:
            raise flight.about(DownloadError("the task succeeded, and the provider names no video of it"))
        async with self.engine.crew.visit(DownloadError):  # its row belongs to it: closing can wait for both
            claim = functools.partial(self.engine.books.claimed, flight)
            path = await self.downloads.save(flight.task, to, name=name, claim=claim)
            await self.engine.books.stored(flight, path)
        return path

    async def download(self, task: Task, to: Path, name: str | None) -> Path:
        """See `KlingClient.download`."""
        async with self.engine.crew.visit(DownloadError):
            return await self.downloads.save(task, to, name=name)

    async def list_tasks(self, endpoint: str, page_size: int) -> AsyncIterator[Task]:
        """See `KlingClient.list_tasks`."""
        seen: set[str | None] = set()
        for page in range(1, 1001):  # the API's last page number
            tasks = await self.engine.page(endpoint, page, page_size)
            for task in tasks:
                if task.task_id not in seen:
                    seen.add(task.task_id)
                    yield task
            if len(tasks) < page_size:
                return

    def statistics(self) -> Statistics:
        """See `KlingClient.statistics`."""
        engine, lines = self.engine, self.engine.submission.lines
        return Statistics(
            waiting=lines.waiting,
            in_flight=len(engine.register.live) - lines.waiting,
            limit=lines.limit,
            succeeded=engine.register.succeeded,
            failed=engine.register.failed,
            polls=engine.pollers.requests,
            retries=engine.submission.retries,
            saved=self.downloads.saved,
            callbacks=engine.callbacks.told_first,
        )

    async def _check(
        self, flight: Flight, to: Path | None = None, refusal: RequestError | None = None
    ) -> None:
        """Find where *flight* is recorded, and check it."""
        try:
            recording = await self.recording(to)
        except BaseException as error:
            self.engine.intake.withdraw(flight, error if isinstance(error, KlingError) else None)
            raise
        await self.engine.intake.check(flight, recording, refusal=refusal)

    async def _fresh(self, task: Task) -> Task:
        """*task* as the provider shows it today; its kind is not written on it, so each is asked for."""
        *others, last = sorted(self._setup.provider.endpoints, reverse=True)
        for endpoint in others:
            with contextlib.suppress(NotFoundError):
                return await self.engine.read(endpoint, task.task_id or "")
        return await self.engine.read(last, task.task_id or "")

    def _open_session(self) -> aiohttp.ClientSession:
        """The session for the video host: nothing of the API's in it."""
        of_transport = getattr(self._setup.transport, "open_session", None)
        if of_transport is not None:
            session: aiohttp.ClientSession = of_transport()
            return session
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._setup.ssl or default_ssl()),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )


def _is_wanted(path: Path, to: Path) -> bool:
    """Whether a file that is there is what *to* asks for."""
    return path == to.resolve() if is_file(to) else path.parent == to.resolve()


def _as_given(path: Path, to: Path) -> Path:
    """*path* in the caller's terms: below *to* as that was given, relative or not."""
    folder = to.parent if is_file(to) else to
    return folder / path.name if path.parent == folder.resolve() else path


def _make(folder: Path) -> None:
    """Make *folder*; a journal that cannot be opened says what is wrong with it."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)


def _taken(to: Path | None) -> RequestError | None:
    """Why nothing new may be made for *to*: a file is there. Told before anything is paid."""
    if to is not None and is_file(to) and to.exists():
        return RequestError(f"{to} exists and is not overwritten", advice="choose another name")
    return None
