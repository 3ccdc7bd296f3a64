"""Runs the work of one client in one event loop: a task group, threads, callers' visits, and their end."""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kling_async.protocol.errors import EngineError, KlingError

__all__ = ["Crew"]

T = TypeVar("T")
logger = logging.getLogger("kling_async")


class _Stopped(Exception):  # noqa: N818 - no error: it ends the task group
    """Raised inside the task group to end it."""


class Crew:
    """Everything of ours runs in one task group inside one task, which no caller's cancellation reaches.

    No exception group leaves it, and a bug of ours ends every waiter with one `EngineError`, never a hang.

    Args:
        ending: called when no new work begins any more; may be called again.
        ended: called when no work runs any more, before threads and visits are ended.
        close: awaited at the very end.

    Attributes:
        loop: the event loop.
        closing: no new requests are taken.
        unvisited: set while no caller is inside `visit`.
    """

    def __init__(
        self,
        ending: Callable[[], None],
        ended: Callable[[], None],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.closing = False
        self.unvisited = asyncio.Event()
        self.unvisited.set()
        self._ending = ending
        self._ended = ended
        self._close = close
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="kling-async")
        self._jobs: set[asyncio.Future[Any]] = set()
        self._visits: set[asyncio.Timeout] = set()
        self._backlog: list[tuple[Coroutine[Any, Any, None], contextvars.Context]] = []
        self._group: asyncio.TaskGroup | None = None
        self._inside: set[asyncio.Task[None]] = set()
        self._halt = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._bug: BaseException | None = None

    def start(self) -> None:
        """Begin to work, in a task of our own."""
        self._main = self.loop.create_task(self._run(), name="kling-async engine")
        self._main.add_done_callback(self._drop_backlog)  # cancelled before it began, it has run nothing

    @property
    def running(self) -> bool:
        """Whether new work can be taken."""
        return not self.closing and not self.ended

    @property
    def halted(self) -> bool:
        """Whether nothing begins any more."""
        return self._halt.is_set()

    @property
    def ended(self) -> bool:
        """Whether everything is closed, or never began."""
        return self._main is None or self._main.done()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Run *coroutine* in the task group, in the context of the caller.

        An exception it lets out is a bug and ends the engine.

        Returns:
            False: the engine has ended, nothing is run.
        """
        if self._halt.is_set():
            coroutine.close()
            return False
        if self._group is None:
            self._backlog.append((coroutine, contextvars.copy_context()))
        else:
            task = self._group.create_task(self._guarded(coroutine))
            self._inside.add(task)
            task.add_done_callback(self._inside.discard)
            task.add_done_callback(lambda _: coroutine.close())  # where it was cancelled before it began
        return True

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Keep a bug from aborting the group by itself: what that cancels would begin new work in it."""
        try:
            await coroutine
        except Exception as bug:
            if self.loop.is_closed():
                return  # destroyed with its loop, which asyncio complains of
            if self._bug is None:
                self._bug = bug
                logger.exception("the engine failed")
            self.end()

    @contextlib.asynccontextmanager
    async def visit(self, closed: type[KlingError] = KlingError) -> AsyncGenerator[None]:
        """What a caller's own task does here with transport or threads: it ends when the client is closed.

        Raises:
            KlingError: of the class *closed*: the client was closed, before or meanwhile.
        """
        if self._halt.is_set():
            raise closed("the client was closed")
        visit = asyncio.timeout(None)
        try:
            async with visit:
                self._visits.add(visit)
                self.unvisited.clear()
                try:
                    yield
                finally:
                    self._visits.discard(visit)
                    if not self._visits:
                        self.unvisited.set()
        except TimeoutError as error:
            if not visit.expired():
                raise
            raise closed("the client was closed") from error

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a blocking *function* in a thread of the engine's own; once begun it comes to its end."""
        job = self.loop.run_in_executor(self._threads, function, *arguments)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await asyncio.shield(job)

    def end(self) -> None:
        """Begin nothing more; what is under way is stopped."""
        self.closing = True
        self._halt.set()
        self._ending()

    async def finish(self) -> None:
        """End, and wait for it although the waiter is being cancelled: it is prompt."""
        self.end()
        main = self._main
        if main is None or asyncio.current_task() in self._inside:  # else our own task would await itself
            return
        cancelled = False
        while not main.done():
            try:
                await asyncio.shield(asyncio.wait([main]))
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    def bug_or(self, error: KlingError) -> KlingError:
        """Why nothing goes on: the bug that ended the engine, else *error*."""
        if self._bug is None:
            return error
        error = EngineError(f"the engine failed: {type(self._bug).__name__}: {self._bug}")
        error.__cause__ = self._bug
        return error

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                backlog, self._backlog = self._backlog, []
                for coroutine, context in backlog:
                    context.run(self.spawn, coroutine)
                try:
                    await self._halt.wait()
                finally:
                    self.end()
                raise _Stopped
        except* _Stopped:
            pass
        finally:
            await self._wind_up()

    async def _wind_up(self) -> None:
        """Nothing in the group runs any more: end every wait, then close what was opened."""
        self._ended()
        try:
            for visit in self._visits:
                visit.reschedule(self.loop.time())
            await self.unvisited.wait()
            if self._jobs:
                await asyncio.wait(self._jobs)
        finally:
            self._threads.shutdown()
            await self._close()

    def _drop_backlog(self, _: "asyncio.Task[None]") -> None:
        for coroutine, _context in self._backlog:
            coroutine.close()
