"""What the simulator's tests share: calls as a client would make them, and pictures that pass."""

import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import frozen

from kling_async.simulator import Reply, Simulator

NOW = 1_800_000_000.0


@frozen
class Caller:
    """Calls a simulator in memory."""

    simulator: Simulator
    base: str
    now: float = NOW

    def call(
        self, method: str, path: str, body: Any = None, now: float = NOW, headers: Mapping[str, str] = {}
    ) -> Reply:
        """One authorised call."""
        sent = {"Authorization": "Bearer sim-key", "Content-Type": "application/json", **headers}
        return self.simulator.handle(
            method, path, sent, b"" if body is None else json.dumps(body).encode(), now
        )

    def create(self, now: float = NOW, **changes: Any) -> Reply:
        """A create of a good request with *changes*; None takes a field away."""
        body = {"model_name": "kling-v2-6", "image": "https://cdn.example.org/a.png", "prompt": "a cat"}
        kept = {name: value for name, value in (body | changes).items() if value is not None}
        return self.call("POST", self.base, kept, now)

    def query(self, name: str, now: float = NOW) -> Reply:
        """A query of one task."""
        return self.call("GET", f"{self.base}/{name}", now=now)

    def made(self, now: float = NOW, **changes: Any) -> str:
        """The id of a task just made."""
        return str(self.read(self.create(now, **changes))["data"]["task_id"])

    def seen(self, name: str, now: float) -> Any:
        """The task object of a query."""
        return self.read(self.query(name, now))["data"]

    @staticmethod
    def read(reply: Reply) -> Any:
        """The JSON of *reply*."""
        assert reply.headers["Content-Type"] == "application/json"
        return json.loads(reply.body)

    def outcome(self, reply: Reply) -> tuple[int, int]:
        """HTTP status and Kling's code."""
        return reply.status, self.read(reply)["code"]


@pytest.fixture(scope="session")
def on() -> Callable[..., Caller]:
    """Makes a caller of a simulator so set; generations take 100 s, 10 of them in `submitted`."""

    def build(**settings: Any) -> Caller:
        settings = {"seconds": 100, "parallel": None, **settings}
        prefix = "" if settings.get("face", "kling") == "kling" else "/kling"
        return Caller(Simulator(**settings), f"{prefix}/v1/videos/image2video")

    return build


@pytest.fixture
def kling(on: Callable[..., Caller]) -> Caller:
    """A caller of Kling itself."""
    return on()


@pytest.fixture(scope="session")
def png() -> Callable[..., str]:
    """Makes a PNG in base64 of which only the header is true."""

    def build(width: int, height: int, padding: int = 0) -> str:
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        checksum = struct.pack(">I", zlib.crc32(header))
        file = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + bytes(padding)
        return b64encode(file).decode()

    return build
