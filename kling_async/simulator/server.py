"""The simulator on a port: the one place where it meets a clock, a socket and threads."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakSet

from aiohttp import web

from kling_async.simulator import sending
from kling_async.simulator.core import Simulator
from kling_async.simulator.media import VideoJob
from kling_async.simulator.posting import CallbackSender

_LARGEST_BODY = 128 * 1024 * 1024  # four pictures of 10 MB in base64 are 54 MB


def make_app(
    simulator: Simulator,
    *,
    clock: Callable[[], float] = time.time,
    on_event: Callable[[str], None] | None = None,
) -> web.Application:
    """An application that answers every request through *simulator*, faults included.

    While it runs it posts the callbacks that are due, at most 64 at once, 5 seconds each, without a retry,
    and to addresses of this machine alone: `ledger.withheld` counts the others. A *clock* that jumps is
    noticed at the next request.

    The results' URLs begin with `simulator.public_url`: set it to where the application is reached, as
    `serve` does.

    Args:
        simulator: Answers.
        clock: Gives Unix seconds.
        on_event: Called with a named point, `<operation>-<point>`, the moment it is reached; nothing goes on
            until it returns, so that a test can kill a client between two of them. The points of a request
            in their order: `headers` (its headers are read), `received` (its body too), `made` (its task
            exists; creates alone), `started` (the first byte of the reply is about to leave), and `replied`
            (the last one was handed to the system) or `lost` (no whole response was).
    """
    renderer = _Renderer(simulator)
    sender = CallbackSender(simulator, clock)
    answer = _Answerer(simulator, renderer, sender, clock, on_event or (lambda _: None))

    async def post_callbacks(_: web.Application) -> AsyncGenerator[None]:
        posting = asyncio.create_task(sender.run())
        yield
        posting.cancel()
        await asyncio.wait([posting])
        if not posting.cancelled():
            posting.result()

    async def close_renderer(_: web.Application) -> None:
        await renderer.aclose()

    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_route("*", "/{path:.*}", answer.answer)
    app.cleanup_ctx.append(post_callbacks)
    app.on_cleanup.append(close_renderer)
    return app


@asynccontextmanager
async def serve(
    simulator: Simulator,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] = time.time,
    on_event: Callable[[str], None] | None = None,
) -> AsyncGenerator[str]:
    """Serve *simulator* while the block runs; yields the base URL and makes it the simulator's `public_url`.

    Callbacks are posted as by `make_app`.

    Args:
        simulator: Answers.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        clock: Gives Unix seconds.
        on_event: Told of each named point, as in `make_app`.

    Raises:
        OSError: The port is taken.
    """
    app = make_app(simulator, clock=clock, on_event=on_event)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        name = f"[{host}]" if ":" in host else host
        simulator.public_url = f"http://{name}:{runner.addresses[0][1]}"
        yield simulator.public_url
    finally:
        await runner.cleanup()


class _Answerer:
    """Takes each request from its headers to the last byte of its reply."""

    def __init__(
        self,
        simulator: Simulator,
        renderer: "_Renderer",
        sender: CallbackSender,
        clock: Callable[[], float],
        on_event: Callable[[str], None],
    ) -> None:
        self._simulator = simulator
        self._renderer = renderer
        self._sender = sender
        self._clock = clock
        self._on_event = on_event
        self._stale = WeakSet[asyncio.Transport]()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if request.transport in self._stale:
            return sending.end(request, "close")
        simulator, method, path = self._simulator, request.method, request.raw_path
        tell = partial(self._tell, simulator.operation(method, path))
        tell("headers")
        reply = simulator.handle_headers(method, path, request.headers, self._clock())
        if reply is not None and reply.status != 100:
            return await sending.send_early(request, reply, tell)
        try:
            body = await request.read()
        except ConnectionError:
            return sending.lose(request, tell)
        tell("received")
        if reply is not None:
            await asyncio.sleep(reply.wire.delay)
        await self._renderer.make_ready(path, self._clock())
        made = len(simulator.ledger.made)
        reply = simulator.handle(method, path, request.headers, body, self._clock())
        self._sender.wake()
        if len(simulator.ledger.made) > made:
            tell("made")
        if reply.wire.stale and request.transport is not None:
            self._stale.add(request.transport)
        return await sending.send(request, reply, tell)

    def _tell(self, operation: str, point: str) -> None:
        self._on_event(f"{operation}-{point}")


class _Renderer:
    """Renders each video once, beside the event loop, however many ask for it at the same time."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="render")
        self._running: dict[str, asyncio.Future[bytes]] = {}

    async def make_ready(self, path: str, now: float) -> None:
        """Return once a GET of *path* needs no rendering."""
        job = self._simulator.pending_render(path, now)
        if job is None or self._simulator.render is None:
            return
        running = self._running.get(job.video_id)
        if running is None:
            running = self._start(job, self._simulator.render)
        # one who leaves does not take the video from the others
        await asyncio.shield(running)

    async def aclose(self) -> None:
        """Wait for the threads; what has not begun is dropped."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _start(self, job: VideoJob, render: Callable[[VideoJob], bytes]) -> "asyncio.Future[bytes]":
        running = asyncio.get_running_loop().run_in_executor(self._executor, render, job)
        self._running[job.video_id] = running

        def keep(done: "asyncio.Future[bytes]") -> None:
            del self._running[job.video_id]
            if not done.cancelled() and done.exception() is None:
                self._simulator.store_video(job.video_id, done.result())

        running.add_done_callback(keep)
        return running

    def _close(self) -> None:
        self._executor.shutdown(cancel_futures=True)
