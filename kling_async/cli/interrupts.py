"""Ctrl-C and SIGTERM: the first one lets the work end in order, the second ends the process."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Final

__all__ = ["INTERRUPTED", "run"]

INTERRUPTED: Final = 130
"""The exit code of what was interrupted: 128 and SIGINT's number, as shells count."""

_SHOW_CURSOR = "\x1b[?25h"


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run *work* in a new event loop and return its exit code.

    The first SIGINT or SIGTERM cancels *work*, which may tell what is left and return a code of its own.
    Handlers of the signal module are used, not the loop's: they exist on Windows too, and the second signal
    ends the process even where the loop itself hangs.
    """
    is_interrupted = False

    async def interruptible() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # we run in one

        def interrupt(number: int, frame: FrameType | None) -> None:
            nonlocal is_interrupted
            if is_interrupted:
                _end_at_once()
            is_interrupted = True
            loop.call_soon_threadsafe(task.cancel)  # wakes the loop, which a mere signal may not

        former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return await work
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        return INTERRUPTED


def _end_at_once() -> None:
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)
        sys.stderr.flush()
    os._exit(INTERRUPTED)
