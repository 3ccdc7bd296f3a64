"""The ground that tests of engine and client stand on: a simulator in memory, on a loop in virtual time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings

from kling_async import KLING, APIKey, ImageToVideo, KlingClient, Polling
from kling_async.protocol.wire import Request, Response
from kling_async.simulator import Simulator
from kling_async.testing import SimulatorTransport
from kling_async.typing import Body

# no law is about how fast the machine is
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

EPOCH = 1_800_000_000.0
"""Unix seconds at which every loop begins."""

UNLISTED = attrs.evolve(KLING, lists=False)
"""Kling as the gateways are: each task is asked for by itself."""

Send = Callable[[], Awaitable[Response]]


class World:
    """A simulator, the way to it, and clients of it.

    Args:
        latency: seconds a call takes.
        tamper: called with each request and what sends it; answers in the network's place.
        **settings: of the simulator; if nothing else is said, generations take 100 s and are not limited.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        tamper: Callable[[Request, Send], Awaitable[Response]] | None = None,
        **settings: Any,
    ) -> None:
        usual: dict[str, Any] = {"seconds": 100.0, "parallel": None, "validates_schema": False}
        self.simulator = Simulator(**(usual | settings))
        self.inner = SimulatorTransport(self.simulator, clock=self.now, latency=latency)
        self.tamper = tamper
        self.calls: list[tuple[float, str, str]] = []
        self.closed = 0
        self.rng = random.Random(0)

    @property
    def ledger(self):
        """What the simulator made and answered."""
        return self.simulator.ledger

    @staticmethod
    def time() -> float:
        """Seconds of the loop, from 0."""
        return asyncio.get_running_loop().time()

    def now(self) -> float:
        """Unix seconds."""
        return EPOCH + self.time()

    def times(self, method: str) -> list[float]:
        """When each call of *method* was made, seconds of the loop."""
        return [round(when, 6) for when, each, _ in self.calls if each == method]

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """The transport's."""
        self.calls.append((self.time(), request.method, request.url))

        async def send() -> Response:
            return await self.inner.send(request, authorization=authorization, body=body)

        return await send() if self.tamper is None else await self.tamper(request, send)

    async def aclose(self) -> None:
        """The transport's: a client closes only what it opened, so nobody calls it."""
        self.closed += 1

    def client(self, credentials: Any = None, provider: Any = None, **options: Any) -> KlingClient:
        """A client that polls each task by itself, every 10 s exactly, unless it is told otherwise."""
        every = Polling(aim=None, factor=10, base=1, max_interval=10, jitter=0)
        options = {"polling": every, "transport": self, "clock": self.now, "rng": self.rng, **options}
        return KlingClient(credentials or APIKey("sim-key"), provider or UNLISTED, **options)

    @staticmethod
    def request(prompt: str = "a cat", **fields: Any) -> ImageToVideo:
        """A request of a picture behind a URL."""
        usual: dict[str, Any] = {"image": "https://cdn.example.org/a.png", "prompt": prompt}
        return ImageToVideo(**(usual | fields))

    def requests(self, count: int) -> list[ImageToVideo]:
        """Requests with the prompts 0, 1, 2 ..."""
        return [self.request(str(number)) for number in range(count)]


@pytest.fixture(scope="session")
def world() -> type[World]:
    """Makes a world."""
    return World
