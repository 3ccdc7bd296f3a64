"""Running coroutines in virtual time, and cancelling them at each of their waits."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from kling_async import testing
from kling_async.testing import DeadlockError

__all__ = ["DeadlockError", "VirtualTimeLoop", "cancelled_at", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualTimeLoop(testing.VirtualTimeLoop):
    """The event loop in virtual time, for code that may leave no thread behind."""

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """Run *func* in a thread."""
        if executor is None:
            raise RuntimeError("threads run on executors that somebody owns and shuts down")
        return super().run_in_executor(executor, func, *args)


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
