"""A server of the event loop for tests that do not run in one, and for processes."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager

__all__ = ["served"]


@contextmanager
def served(server: AbstractAsyncContextManager[str]) -> Generator[str]:
    """Serve in a thread of its own; yields the base URL."""
    ready = threading.Event()
    running: list[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        async with server as base_url:
            stop = asyncio.Event()
            running.append((base_url, asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(60)
    base_url, loop, stop = running[0]
    try:
        yield base_url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
