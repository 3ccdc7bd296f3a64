"""Real sockets and files on a loop whose clock stands still while the machine does, and may run fast.

Limits of fractions of a second then strike what is silent, and never what is merely slow.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["SteadyLoop", "now", "run"]

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Counts the seconds that it waited, and of each wait no more than was asked for."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.waited = 0.0
        self._speed = speed

    def select(self, timeout: float | None = None) -> Any:
        began = time.monotonic()
        ready = super().select(timeout and timeout / self._speed)
        took = (time.monotonic() - began) * self._speed
        self.waited += took if timeout is None else min(took, max(timeout, 0.0))
        return ready


class SteadyLoop(asyncio.SelectorEventLoop):
    """The loop.

    Args:
        speed: how much faster its time passes than the machine's.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._waits = _Selector(speed)
        self.epoch = time.time()  # certificates and dates in headers are real
        super().__init__(self._waits)

    def time(self) -> float:
        """Seconds that it has waited."""
        return self._waits.waited


def now() -> float:
    """Unix seconds by the running loop, for the clocks of both sides; by the machine on any other loop."""
    loop = asyncio.get_running_loop()
    return loop.epoch + loop.time() if isinstance(loop, SteadyLoop) else time.time()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` by the clock that stands still."""
    with asyncio.Runner(loop_factory=SteadyLoop) as runner:
        return runner.run(coroutine)
