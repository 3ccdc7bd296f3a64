"""For the tests of those who use the package: the simulator in memory, and a clock that jumps.

Needs no pytest; `kling_async.pytest_plugin` makes fixtures of it.
"""

import asyncio
import math
import selectors
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

import aiohttp
import attrs
from multidict import CIMultiDict

from kling_async.protocol.errors import ConnectError, ResponseLostError
from kling_async.protocol.schedule import Polling
from kling_async.protocol.wire import Request, Response
from kling_async.retries import Retries
from kling_async.typing import Body, WallClock

if TYPE_CHECKING:
    from kling_async.simulator import Made, Reply, Simulator

__all__ = [
    "QUICK_POLLING",
    "QUICK_RETRIES",
    "DeadlockError",
    "SimulatorTransport",
    "VirtualTimeLoop",
    "assert_made_once",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

QUICK_POLLING: Final = Polling(aim=None, factor=0.001, floor=0.001, jitter=0)
"""For a client of the simulator where time is real: it asks within milliseconds."""
QUICK_RETRIES: Final = Retries(factor=0.001, max_value=0.1, quarantine=0.1)
"""The same for what is tried again.

So short a quarantine is for the simulator, which lags only where a fault says so; at Kling it can pay twice.
"""


@attrs.define(eq=False)
class SimulatorTransport:
    """A transport that ends in a `Simulator`: ``KlingClient(..., transport=SimulatorTransport(simulator))``.

    Bodies are read, replies are whole, videos are downloaded and faults strike, as over a socket. Give the
    client ``clock=transport.now`` too where time is virtual: what it waits for by the wall clock would never
    come.

    Attributes:
        simulator: answers.
        clock: Unix seconds for the simulator; left out, the wall clock at the first call, which from then on
            follows the event loop's clock, so that a loop with virtual time moves the simulator too.
        latency: seconds of a call, half of them before the simulator is asked and half after.
        on_callback: called on the event loop with the headers and the body of each callback that is due,
            whatever its URL; left out, none is delivered.
    """

    simulator: "Simulator"
    clock: WallClock | None = attrs.field(default=None, kw_only=True)
    latency: float = attrs.field(default=0.0, kw_only=True)
    on_callback: Callable[[Mapping[str, str], bytes], None] | None = attrs.field(default=None, kw_only=True)
    _loop: asyncio.AbstractEventLoop | None = attrs.field(default=None, init=False, repr=False)
    _epoch: float = attrs.field(default=0.0, init=False)
    _latest: float = attrs.field(default=0.0, init=False)
    _timer: asyncio.TimerHandle | None = attrs.field(default=None, init=False, repr=False)

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """Send *request*; see `kling_async.typing.Transport.send`."""
        headers = {"Authorization": authorization, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        reply = await self._ask(request.method, request.url, headers, body)
        if not reply.arrives:
            raise ResponseLostError("the connection ended without a whole reply")
        lowered = {name.lower(): value for name, value in reply.headers.items()}
        return Response(reply.status, lowered, await _received(reply))

    def open_session(self) -> Any:
        """What downloads use of an `aiohttp.ClientSession`: its ``get`` and ``close``."""
        return _VideoHost(self._ask)

    def now(self) -> float:
        """Unix seconds, as the simulator knows them; to be asked in the event loop."""
        if self.clock is not None:
            return self.clock()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._epoch = loop, max(time.time(), self._latest) - loop.time()
        self._latest = self._epoch + loop.time()
        return self._latest

    async def aclose(self) -> None:
        """Deliver no more callbacks; nothing else was opened."""
        self._stop_timer()

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> "Reply":
        """The simulator's reply, when its first byte comes."""
        path = "/" + url.split("/", 3)[3]
        await asyncio.sleep(self.latency / 2)
        reply = self.simulator.handle_headers(method, path, headers, self.now())
        if reply is not None and reply.status != 100:
            if reply.wire.abort is not None and body is not None and body.size > reply.wire.read:
                raise ConnectError("the connection ended within the body")
        else:
            content = b"" if body is None else b"".join([piece async for piece in body])
            if reply is not None:
                await asyncio.sleep(reply.wire.delay)
            reply = self.simulator.handle(method, path, headers, content, self.now())
            self._start_timer()
            await asyncio.sleep(reply.wire.delay)
        await asyncio.sleep(self.latency / 2)
        return reply

    def _start_timer(self) -> None:
        """Wake up for the next callback."""
        self._stop_timer()
        due = None if self.on_callback is None else self.simulator.next_callback()
        if due is not None:
            wait = max(due - self.now(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(wait, self._deliver, due)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self, due: float) -> None:
        assert self.on_callback is not None
        # not before *due*, however the clock was rounded
        for delivery in self.simulator.due_callbacks(max(due, self.now())):
            asyncio.get_running_loop().call_soon(self.on_callback, delivery.headers, delivery.body)
        self._start_timer()


@attrs.frozen(eq=False)
class _VideoHost:
    """What downloads use of an aiohttp session."""

    _ask: Callable[..., Any]

    @asynccontextmanager
    async def get(self, url: str, *, headers: Mapping[str, str], **_: Any) -> AsyncGenerator["_Video"]:
        """The response to a GET; redirects are not followed."""
        reply = await self._ask("GET", url, headers, None)
        if reply.wire.abort is not None or reply.wire.raw is not None:
            raise aiohttp.ServerDisconnectedError
        yield _Video(reply)

    async def close(self) -> None:
        """Nothing was opened."""


class _Video:
    """What downloads use of an aiohttp response and its content."""

    def __init__(self, reply: "Reply") -> None:
        self._reply = reply
        self.status = reply.status
        self.headers = CIMultiDict(reply.headers)
        self.content_type = self.headers["Content-Type"].partition(";")[0]
        self.content_length = int(self.headers["Content-Length"])
        self.content = self

    async def iter_chunks(self) -> AsyncGenerator[tuple[bytes, bool]]:
        """The bytes, as far as they come and are announced."""
        received = (await _received(self._reply))[: self.content_length]
        yield received, True
        if len(received) < self.content_length:
            raise aiohttp.ClientPayloadError("the connection ended within the body")


async def _received(reply: "Reply") -> bytes:
    """The body, when it has come."""
    await asyncio.sleep(len(reply.received) / (reply.wire.bytes_per_second or float("inf")))
    return reply.received


class DeadlockError(AssertionError):
    """Everything waits, and nothing that could end a wait is on its way; or it waits longer than it may."""


class _JumpingSelector(selectors.DefaultSelector):
    """Polls; where nothing is ready it moves the loop's clock in place of waiting."""

    loop: "VirtualTimeLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            self.loop.advance(0.0)
            return ready
        if self.loop.threads_out:
            return super().select(None)  # a finished thread writes to the loop's own socket
        if timeout is None:
            raise DeadlockError(f"nothing will ever happen; these wait:\n{self._waiting()}")
        limit = self.loop.limit
        if self.loop.time() + timeout > limit:
            self.loop.limit = 2 * limit  # so that what cleans up may wait too
            what = f"{limit:g} s of virtual time are over (the loop's `limit`); these wait"
            raise DeadlockError(f"{what}:\n{self._waiting()}")
        self.loop.advance(timeout)
        return []

    def _waiting(self) -> str:
        return "\n".join(sorted(map(repr, asyncio.all_tasks(self.loop))))


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock begins at 0 and jumps: an hour of waiting takes no time.

    It is asyncio's loop in all else: ``asyncio.Runner(loop_factory=VirtualTimeLoop)``. Where everything waits
    for ever it raises `DeadlockError` at once. Threads are real: while one is at work for the loop, its clock
    stands still. Sockets and processes do not belong here: what they will bring is not on its clock.

    Attributes:
        limit: the virtual second past which the clock does not go: it raises `DeadlockError`. An endless
            ticker (``while True: await asyncio.sleep(1)``) would hide a deadlock for ever. May be changed
            while the loop runs.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        selector = _JumpingSelector()
        selector.loop = self
        self.threads_out = 0
        self._now = 0.0
        self._threads: ThreadPoolExecutor | None = None
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock.

        After three months a float of seconds has no nanosecond left, by which asyncio tells what is due: from
        then on it moves a little further, never nowhere.
        """
        self._now += seconds
        if math.ulp(self._now) > 1e-9:
            self._now = math.nextafter(self._now, math.inf)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """Run *func* in a thread; the clock stands still until it has ended, whoever still waits for it."""
        if executor is None:
            executor = self._threads = self._threads or ThreadPoolExecutor(thread_name_prefix="asyncio")
        job = executor.submit(func, *args)
        self.threads_out += 1
        future = asyncio.wrap_future(job, loop=self)
        job.add_done_callback(self._back)  # after the future's own, so that its news comes first
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads; asyncio's own way waits by the clock, which would jump over them."""
        if self._threads is not None:
            self._threads.shutdown()

    def _back(self, _: "Future[Any]") -> None:
        if not self.is_closed():
            self.call_soon_threadsafe(self._count_back)

    def _count_back(self) -> None:
        self.threads_out -= 1


_OF_THE_TASK = frozenset({"external_task_id", "callback_url"})
"""What may differ between requests of the same video."""


def assert_made_once(simulator: "Simulator", count: int | None = None, *, copies: int = 1) -> None:
    """Assert that nothing was paid twice.

    Two tasks are one too many if they have the same external_task_id, or if both succeed and their requests
    are equal in all else. A task that fails costs nothing and may be made again.

    Args:
        simulator: its ledger is the judge.
        count: how many tasks were made in all, failed ones too; left out, any number.
        copies: how often an equal request may be made: the same photo twice on purpose is ``copies=2``.

    Raises:
        AssertionError: with the prompt of each task that is too many, how often it was made, and when.
    """
    __tracebackhide__ = True
    made = simulator.ledger.made
    named: dict[str, list[Made]] = {}
    equal: dict[str, list[Made]] = {}
    for task in made:
        if task.external_task_id is not None:
            named.setdefault(task.external_task_id, []).append(task)
        if task.succeeds:
            content = sorted(item for item in task.body.items() if item[0] not in _OF_THE_TASK)
            equal.setdefault(repr((task.kind, content)), []).append(task)
    too_often = [tasks for tasks in named.values() if len(tasks) > 1]
    too_often += [tasks for tasks in equal.values() if len(tasks) > copies and tasks not in too_often]
    lines = [_told(tasks, made[0].created) for tasks in too_often]
    if count is not None and len(made) != count:
        lines.append(f"{len(made)} tasks were made, not {count}: {', '.join(map(_prompt, made)) or 'none'}")
    if lines:
        raise AssertionError("\n".join(lines))


def _told(tasks: "list[Made]", start: float) -> str:
    times = ", ".join(f"{task.created - start:.3g} s" for task in tasks)
    names = {task.external_task_id for task in tasks}
    how = "under one external_task_id" if len(names) == 1 else "by equal requests"
    return f"{_prompt(tasks[0])} was made {len(tasks)} times {how}, after {times}"


def _prompt(task: "Made") -> str:
    return repr(task.body.get("prompt", task.kind))
