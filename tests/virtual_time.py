"""An event loop whose clock jumps: an hour of waiting takes no time, and a deadlock fails at once.

Threads are real. While a call of `run_in_executor` is out, the loop really waits for it and its clock
stands still. Sockets do not belong on such a loop: what they will bring is not on its clock.
"""

import asyncio
import selectors
import types
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlockError(AssertionError):
    """Everything waits, and nothing that could end a wait is on its way."""


class _JumpingSelector(selectors.DefaultSelector):
    """Polls; where nothing is ready it moves the loop's clock in place of waiting."""

    loop: "VirtualTimeLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.loop.threads_out:
            return super().select(None)  # a finished thread writes to the loop's own socket
        if timeout is None:
            waiting = "\n".join(map(repr, asyncio.all_tasks(self.loop)))
            raise DeadlockError(f"nothing will ever happen; these wait:\n{waiting}")
        self.loop.advance(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which begins at 0."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.threads_out = 0
        self._now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self._now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """Run *func* in a thread; the clock stands still until it has ended, whoever still waits for it."""
        if executor is None:
            raise RuntimeError("threads run on executors that somebody owns and shuts down")
        job = executor.submit(func, *args)
        self.threads_out += 1
        future = asyncio.wrap_future(job, loop=self)
        job.add_done_callback(self._back)  # after the future's own, so that its news comes first
        return future

    def _back(self, _: "Future[Any]") -> None:
        if not self.is_closed():
            self.call_soon_threadsafe(self._count_back)

    def _count_back(self) -> None:
        self.threads_out -= 1


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time; tasks that *coroutine* leaves behind are a failure."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_alone(coroutine))


async def _alone(coroutine: Coroutine[Any, Any, T]) -> T:
    result = await coroutine
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"left behind: {left}"
    return result


@types.coroutine
def cancelled_at(
    coroutine: Coroutine[Any, Any, T], count: int, *, resumed: bool = False
) -> Generator[Any, Any, T]:
    """Run *coroutine* and cancel the task it runs in at its wait number *count*, from 1.

    Args:
        coroutine: what to run.
        count: which wait; beyond the last one nothing is cancelled.
        resumed: False cancels when the wait begins; True when it is over and what was waited for has come.
    """
    waits = 0
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waited = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value
        waits += 1
        value = error = None
        if waits == count and not resumed:
            _cancel()
        try:
            value = yield waited
            if waits == count and resumed:
                _cancel()
                yield
        except BaseException as raised:  # noqa: BLE001 - whatever it is belongs to the coroutine
            value, error = None, raised


def _cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
