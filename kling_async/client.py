"""The client: what a caller submits to, waits with and downloads by."""

import asyncio
import logging
import os
import random
import ssl as tls
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import aiohttp

from kling_async.handles import TaskHandle
from kling_async.instrumentation import Hook, Hooks, Statistics
from kling_async.parts import is_file
from kling_async.paths import at_home
from kling_async.protocol import auth, environment
from kling_async.protocol.account import ResourcePack
from kling_async.protocol.auth import Credentials
from kling_async.protocol.budget import Budget
from kling_async.protocol.callbacks import Callback
from kling_async.protocol.checks import is_http_url
from kling_async.protocol.errors import (
    ConfigurationError,
    KlingError,
    RequestError,
)
from kling_async.protocol.models import ImageToVideo, Task, VideoRequest
from kling_async.protocol.providers import KLING, Provider
from kling_async.protocol.schedule import Polling
from kling_async.retries import Retries
from kling_async.streams import Completions, Requests
from kling_async.typing import Again, CallbackURL, Transport, WallClock, never

if TYPE_CHECKING:
    from kling_async.feeding import Stream
    from kling_async.running import Running

logger = logging.getLogger("kling_async")

__all__ = ["KlingClient", "animate"]


class KlingClient:
    """Submits requests to Kling or a gateway, waits for their tasks, downloads their videos.

    Use it as ``async with``; where that is awkward (a notebook), use it at once and call `aclose` at the
    end. It works in one event loop at a time, and again in a later one.

    Args:
        credentials: `APIKey` or `AccessKey`.
        provider: whose API: `KLING`, `KLING_CN`, `COMETAPI`, `EZMODEL`, ``new_api(url)``, or any
            ``.at(base_url)``.
        max_in_flight: tasks in flight at once for each model at most, at least 1; None sets no bound. How
            many the account allows is learned from Kling's refusals, which cost nothing, beginning at 5.
            Creates leave 32 at a time.
        max_uploads: bodies over 64 KiB on their way at once, at least 1.
        polling: when tasks are asked for.
        retries: how often a call that paid nothing is tried.
        journal: a file that records every task, so that a later run goes on where this one ended; or a
            folder, in which each process takes a free one; written with a slash at its end, it is made if
            need be. Without it, ``save_to`` keeps one beside its files.
        callback_url: where Kling posts the status changes of every task whose request does not say so, or
            what gives that URL for an external_task_id; give what arrives there to `observe`.
        check: what is done about doubts of a request, by the map of Kling's models or about its pictures:
            ``warn`` logs them, equal ones once, ``error`` refuses them as it refuses what is sure to
            fail. What is refused takes no slot and no row of the journal. ``extra_body`` is not checked.
        session: an aiohttp session for reads, closed by you. Creates take fresh connections of the client's
            own.
        transport: takes the place of aiohttp altogether.
        proxy: URL of an HTTP proxy for the API and the video host.
        ssl: the TLS context; None: the system's certificate store.
        hooks: receive every event, on the event loop.
        clock: Unix seconds, for tokens.
        rng: where jitter and random ids come from.

    Raises:
        ConfigurationError: an option is out of range, or the provider takes no such credential.
    """

    def __init__(
        self,
        credentials: Credentials,
        provider: Provider = KLING,
        *,
        max_in_flight: int | None = None,
        max_uploads: int = 4,
        polling: Polling | None = None,
        retries: Retries | None = None,
        session: aiohttp.ClientSession | None = None,
        journal: str | Path | None = None,
        callback_url: CallbackURL | None = None,
        check: Literal["warn", "error"] = "warn",
        transport: Transport | None = None,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
        hooks: Sequence[Hook] = (),
        clock: WallClock = time.time,
        rng: random.Random | None = None,
    ) -> None:
        _require_options(max_in_flight, max_uploads, check, callback_url)
        if isinstance(credentials, auth.AccessKey) and not provider.takes_access_key:
            raise ConfigurationError(f"{provider.name} takes an API key, not an access key and secret")
        # Here and not above: the engine, its journal and its downloads are most of what there is to import,
        # and nobody waits for them who has made no client yet.
        from kling_async.engine import Options
        from kling_async.running import Setup

        self.provider = provider
        self._setup = Setup(
            credentials=credentials,
            provider=provider,
            options=Options(
                account=auth.account(credentials),
                secret=auth.secret(credentials),
                max_in_flight=max_in_flight,
                max_uploads=max_uploads,
                polling=polling or Polling(),
                retries=retries or Retries(),
                callback_url=callback_url,
                hooks=Hooks(hooks),
                rng=rng or random.SystemRandom(),
                check=check,
            ),
            journal=None if journal is None else _path(journal),
            journal_is_folder=isinstance(journal, str) and journal.endswith(("/", os.sep)),
            session=session,
            transport=transport,
            proxy=proxy,
            ssl=ssl,
            clock=clock,
        )
        self._work: Running | None = None
        self._figures = Statistics()

    @classmethod
    def from_env(
        cls, provider: str | None = None, env: Mapping[str, str] | None = None, **options: Any
    ) -> Self:
        """A client from environment variables.

        Keys: ``KLING_API_KEY``, or ``KLING_ACCESS_KEY`` with ``KLING_SECRET_KEY`` (also ``KLINGAI_...``),
        ``COMETAPI_KEY``, ``EZMODEL_API_KEY``. ``KLING_PROVIDER`` and ``KLING_BASE_URL`` choose.
        ``HTTPS_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE`` are obeyed.

        Args:
            provider: ``kling``, ``kling-cn``, ``cometapi``, ``ezmodel`` or ``new-api``; wins over
                ``KLING_PROVIDER``.
            env: the variables; left out, those of the process.
            **options: as for the constructor.

        Raises:
            ConfigurationError: no key, or keys of several providers and no choice; or ``SSL_CERT_FILE`` is
                no file of certificates.
        """
        env = os.environ if env is None else env
        credentials, chosen = environment.choose(env, provider)
        options.setdefault("proxy", environment.proxy_for(chosen.base_url, env))
        if "ssl" not in options and env.get("SSL_CERT_FILE"):
            from kling_async.transport import default_ssl  # comes with the engine: see the constructor

            try:
                options["ssl"] = default_ssl(env["SSL_CERT_FILE"])
            except OSError as error:  # an SSLError is one too
                what = f"SSL_CERT_FILE cannot be read: {error.strerror or error}"
                raise ConfigurationError(what, advice="name a PEM file of certificates") from error
        return cls(credentials, chosen, **options)

    def __repr__(self) -> str:
        """The client by its provider; never its key."""
        return f"<KlingClient {self.provider.name} at {self.provider.base_url}>"

    async def __aenter__(self) -> Self:
        """Begin to work; with ``journal=``, go on at once with what an earlier run left unfinished.

        Raises:
            JournalError: the journal cannot be used.
        """
        try:
            await self._running().recording()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self, *, drain: float = 0) -> list[TaskHandle]:
        """Stop, and return the tasks that still run at Kling.

        Requests in line are withdrawn. A submit on its way is waited for: its answer is worth a task.

        Args:
            drain: seconds to wait for running tasks first.
        """
        work = self._work
        if work is None:
            return []
        left = await work.engine.stop(drain)
        if self._work is work:
            self._work, self._figures = None, work.statistics()
        return [TaskHandle(work.engine, flight) for flight in left]

    async def submit(self, request: VideoRequest, *, key: str | None = None, wait: bool = True) -> TaskHandle:
        """Submit *request*; returns when Kling has acknowledged the task.

        Cancelling this before the POST begins withdraws the request. Afterwards the POST goes on, and the
        task is in `tasks`.

        Args:
            request: what to make.
            key: your name for this one paid video; the same key and request is the same task.
            wait: False raises instead of waiting for a slot.

        Raises:
            RequestError: refused here, with every problem; nothing was sent.
            ConcurrencyLimitError: no slot was free, with ``wait=False``.
            ResponseLostError: the answer was lost and no look-up can tell whether a task was made.
            KlingError: Kling or the gateway refused; ``outcome`` says whether to submit again.
        """
        return await self._running().submit(request, key, wait=wait)

    def submit_soon(self, request: VideoRequest, *, key: str | None = None) -> TaskHandle:
        """Put *request* in line and return at once; the handle can be withdrawn while it waits.

        What goes wrong, also with its pictures, is raised by the handle's ``result()``.
        """
        return self._running().submit_soon(request, key)

    async def run(
        self,
        request: VideoRequest,
        *,
        key: str | None = None,
        timeout: float | None = 3600,
        save_to: str | Path | None = None,
    ) -> Task:
        """Submit *request* and wait for its video.

        Args:
            request: what to make.
            key: your name for this one paid video.
            timeout: seconds from this call, for everything but the download; None waits until
                ``Polling.give_up``.
            save_to: where to download the video: a folder, or a path that ends in ``.mp4``.

        Raises:
            WaitTimeoutError: the time is over; the task goes on, and the error has its token.
            KlingError: as `submit`, `TaskHandle.result` and `download`.
        """
        target = None if save_to is None else _path(save_to)
        task, _ = await self._running().make(request, key, timeout, target)
        return task

    def completions(
        self,
        requests: Requests,
        *,
        timeout: float | None = 3600,
        ordered: bool = False,
        save_to: str | Path | None = None,
        again: Again = never,
        namespace: str | None = None,
        budget: Budget | Decimal | float | None = None,
    ) -> Completions:
        """Submit many requests and iterate over their completions as they come.

        Args:
            requests: any iterable or async iterable of requests or ``(key, request)``, taken one by one as
                slots are free.
            timeout: seconds per task from its acknowledgement; a late one is a completion with
                `WaitTimeoutError`.
            ordered: hand them out in the order of the requests.
            save_to: the folder for the videos, with a journal in it: run again, the same requests are
                recognised (by key, or by content and ordinal), and nothing is paid or downloaded twice.
            again: asked about each request that an earlier run ended without a video, by its key and
                status; True makes it anew, and pays anew.
            namespace: what ids of requests without a key are derived from in a new journal; left out, random.
            budget: units of money that these requests may cost; a `Budget` where they have prices of your
                own, or where several streams share it. One that does not fit, or has no known price, is a
                completion with `BudgetError`; what fits behind it goes on.

        Raises:
            ConfigurationError: *budget* is no number from 0.
            RequestError: *save_to* is a file.
        """
        folder = None if save_to is None else _path(save_to)
        if folder is not None and is_file(folder):
            raise RequestError(f"save_to must be a folder for many videos, not {folder}")
        purse = budget if isinstance(budget, Budget | None) else Budget(budget)

        def start() -> "Stream":
            return self._running().stream(
                requests,
                timeout=timeout,
                ordered=ordered,
                save_to=folder,
                again=again,
                namespace=namespace,
                budget=purse,
            )

        return Completions(start)

    def attach(self, token: str) -> TaskHandle:
        """The handle of a task by its token; it is polled from now on.

        Raises:
            RequestError: the token is malformed, or of another provider or account.
        """
        parsed = self._setup.token(token)
        return self._running().attach(parsed)

    def observe(self, callback: Callback) -> bool:
        """Take news that Kling sent by itself; see `kling_async.webhook.read`.

        One that Kling signed is believed. Any other is a hint: its task is polled now, once more after
        `Polling.floor` if that finds no end, and no sooner whatever else is said. Where callbacks come in
        time, tasks are polled only when theirs is overdue. Call it in the client's event loop.

        Returns:
            False: it is of no task of this client; pass it on to where it may be known. A signed one is kept
            for a minute all the same, since it may be faster than the reply to its submit.
        """
        work = self._work
        return work is not None and not work.engine.crew.ended and work.engine.callbacks.receive(callback)

    def tasks(self) -> list[TaskHandle]:
        """Handles of all tasks not yet terminal, the earliest first."""
        if self._work is None:
            return []
        engine = self._work.engine
        return [TaskHandle(engine, flight) for flight in engine.register.live.values()]

    async def resubmit(self, lost: str | KlingError) -> TaskHandle:
        """Submit anew what may exist and nothing can look up: this may pay a second time.

        Args:
            lost: the error that told of it (outcome MAY_EXIST), or its token.

        Raises:
            RequestError: this client did not submit it, or it did not end like that.
            KlingError: as `submit`.
        """
        token = self._setup.token(lost if isinstance(lost, str) else lost.token or "")
        return await self._running().resubmit(token)

    async def get_task(self, task_id: str, kind: type[VideoRequest] = ImageToVideo) -> Task:
        """Read one task.

        Args:
            task_id: Kling's task_id or, where the provider looks those up, the external_task_id.
            kind: the class of its request.

        Raises:
            NotFoundError: there is no such task in this account.
            KlingError: the provider could not be asked, after the client's retries.
        """
        return await self._running().engine.read(kind.endpoint, task_id)

    async def list_tasks(
        self, kind: type[VideoRequest] = ImageToVideo, *, page_size: int = 30
    ) -> AsyncIterator[Task]:
        """Yield the account's tasks of one *kind*, page by page.

        The order is the provider's and undocumented; a task made meanwhile can shift others onto the next
        page, so each is yielded once by its task_id.

        Args:
            kind: the class of their requests.
            page_size: tasks a call, 1 to 500.

        Raises:
            UnsupportedError: the provider has no list.
            RequestError: *page_size* is out of range.
        """
        if not 1 <= page_size <= 500:
            raise RequestError(f"page_size must be from 1 to 500, not {page_size!r}")
        async for task in self._running().list_tasks(kind.endpoint, page_size):
            yield task

    async def account(self) -> list[ResourcePack]:
        """Read the account's resource packs: what is left of them, until when, and for how many slots.

        What is left lags behind by up to 12 hours (API reference, account and billing endpoints).

        Raises:
            UnsupportedError: the provider does not tell.
            KlingError: the provider could not be asked, after the client's retries.
        """
        return list(await self._running().engine.packs())

    async def download(self, task: Task | TaskHandle, to: str | Path) -> Path:
        """Download the video of a task that succeeded; returns the file.

        Args:
            task: the task, or its handle.
            to: a path that ends in ``.mp4`` is the file; anything else a folder, made if need be. In a
                folder the file is called by the handle's key, else the task_id. Nothing is overwritten.

        Raises:
            DownloadError: the file was not written. The task is paid; downloading again costs nothing.
            LookupError: the task has no video.
        """
        if isinstance(task, TaskHandle):
            return await self._serving().download(task.task, _path(to), task.key)
        return await self._serving().download(task, _path(to), None)

    def statistics(self) -> Statistics:
        """What the client is doing now, and what it did so far."""
        return self._figures if self._work is None else self._work.statistics()

    def _running(self) -> "Running":
        """The client at work in this event loop, begun on first use."""
        loop = _running_loop()
        crew = None if self._work is None else self._work.engine.crew
        if crew is not None and crew.loop is not loop and crew.running and not crew.loop.is_closed():
            raise ConfigurationError("the client is at work in another event loop: give each loop its own")
        if self._work is None or crew is None or crew.loop is not loop or not crew.running:
            if crew is not None and crew.loop is loop and not crew.ended:
                raise ConfigurationError("the client is being closed")
            self._work = self._setup.begin()
        return self._work

    def _serving(self) -> "Running":
        """The client for tasks there are: also one that is being closed finishes their downloads."""
        work = self._work
        if work is None or work.engine.crew.ended or work.engine.crew.loop is not _running_loop():
            return self._running()
        return work


async def animate(image: str | Path | bytes, prompt: str, *, to: str | Path = ".", **fields: Any) -> Path:
    """Turn one picture into one video file: the whole way in one call.

    Args:
        image: the picture; see `Image`.
        prompt: what happens.
        to: a folder, or a path that ends in ``.mp4``.
        **fields: further fields of `ImageToVideo`.

    Returns:
        The file.

    Raises:
        ConfigurationError: no key in the environment; see `KlingClient.from_env`.
        KlingError: whatever went wrong, and what it means for your money.
    """
    request = ImageToVideo(image=image, prompt=prompt, **fields)
    async with KlingClient.from_env() as kling:
        _, path = await kling._running().make(request, None, 3600, _path(to))  # noqa: SLF001 - `run`, with the path
    assert path is not None  # a place was given
    return path


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "no event loop of asyncio is running: a client works in asyncio, and not in trio"
        ) from None


def _path(to: str | Path) -> Path:
    return at_home(to)


def _require_options(
    max_in_flight: int | None, max_uploads: int, check: str, callback_url: CallbackURL | None
) -> None:
    for name, value in (("max_in_flight", max_in_flight), ("max_uploads", max_uploads)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
    if check not in ("warn", "error"):
        raise ConfigurationError(f"check must be warn or error, not {check!r}")
    if callback_url is not None and not callable(callback_url) and not is_http_url(callback_url):
        raise ConfigurationError("callback_url must be text that is an http(s) URL, or a function")
