"""For the tests of those who use the package: the simulator in memory, without a socket."""

import asyncio
import time
from typing import TYPE_CHECKING

import attrs

from kling_async.protocol.errors import ConnectError, ResponseLostError
from kling_async.protocol.wire import Request, Response
from kling_async.typing import Body, WallClock

if TYPE_CHECKING:
    from kling_async.simulator import Simulator

__all__ = ["SimulatorTransport"]


@attrs.define(eq=False)
class SimulatorTransport:
    """A transport that ends in a `Simulator`: ``KlingClient(..., transport=SimulatorTransport(simulator))``.

    Bodies are read, replies are whole and faults strike, as over a socket. Videos are no part of it: they
    are downloaded from ``simulator.public_url``, which needs `kling_async.simulator.serve`.

    Attributes:
        simulator: answers.
        clock: Unix seconds for the simulator; left out, the wall clock at the first call, which from then on
            follows the event loop's clock, so that a loop with virtual time moves the simulator too.
        latency: seconds of a call, half of them before the simulator is asked and half after.
    """

    simulator: "Simulator"
    clock: WallClock | None = attrs.field(default=None, kw_only=True)
    latency: float = attrs.field(default=0.0, kw_only=True)
    _loop: asyncio.AbstractEventLoop | None = attrs.field(default=None, init=False, repr=False)
    _epoch: float = attrs.field(default=0.0, init=False)
    _latest: float = attrs.field(default=0.0, init=False)

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """Send *request*; see `kling_async.typing.Transport.send`."""
        headers = {"Authorization": authorization, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        path = "/" + request.url.split("/", 3)[3]
        await asyncio.sleep(self.latency / 2)
        reply = self.simulator.handle_headers(request.method, path, headers, self._now())
        if reply is not None and reply.status != 100:
            if reply.wire.abort is not None and body is not None and body.size > reply.wire.read:
                raise ConnectError("the connection ended within the body")
        else:
            content = b"" if body is None else b"".join([piece async for piece in body])
            if reply is not None:
                await asyncio.sleep(reply.wire.delay)
            reply = self.simulator.handle(request.method, path, headers, content, self._now())
            await asyncio.sleep(reply.wire.delay)
        await asyncio.sleep(self.latency / 2)
        if not reply.arrives:
            raise ResponseLostError("the connection ended without a whole reply")
        await asyncio.sleep(len(reply.received) / (reply.wire.bytes_per_second or float("inf")))
        lowered = {name.lower(): value for name, value in reply.headers.items()}
        return Response(reply.status, lowered, reply.received)

    async def aclose(self) -> None:
        """Nothing was opened."""

    def _now(self) -> float:
        if self.clock is not None:
            return self.clock()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._epoch = loop, max(time.time(), self._latest) - loop.time()
        self._latest = self._epoch + loop.time()
        return self._latest
