"""Runs the example services as processes of their own, and orders from them as their customers do."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import attrs

import kling_async

ROOT: Final = Path(kling_async.__file__).parents[1]
EXAMPLES: Final = ROOT / "docs" / "examples"
SECRET: Final = "whsec_c2VjcmV0IG9mIHRoZSBjb25zb2xl"
PICTURE: Final = "https://example.com/cat.png"

COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "aiohttp": [str(EXAMPLES / "aiohttp_service.py")],
    "fastapi": [
        *("-m", "uvicorn", "fastapi_service:app", "--app-dir", str(EXAMPLES)),
        *("--timeout-graceful-shutdown", "1"),
    ],
}


def environment(base_url: str, **more: str) -> dict[str, str]:
    """The variables of someone who has a key of the simulator at *base_url*, and no other."""
    foreign = ("KLING", "COMETAPI", "EZMODEL", "HTTPS_PROXY", "https_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    ours = {"KLING_API_KEY": "sim-key", "KLING_BASE_URL": base_url, "PYTHONPATH": str(ROOT)}
    return {**kept, **ours, "PYTHONUNBUFFERED": "1", **more}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Service:
    """One of the services, from life to life at the same address and with the same folder.

    Attributes:
        url: where it is reached.
        said: the lines it wrote, of all its lives.
    """

    def __init__(self, name: str, base_url: str, state: Path, **more: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.said: list[str] = []
        self._command = list(COMMANDS[name])
        if name == "fastapi":
            self._command += ["--port", str(port)]
        self._env = environment(base_url, STATE=str(state), PORT=str(port), **more)
        self._env |= {"CALLBACK_URL": f"{self.url}/kling", "KLING_WEBHOOK_SECRETS": SECRET}
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncGenerator["Service"]:
        """One life, from when it answers; what still lives after the block is killed."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._command,
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(self._process, ready))
        try:
            await ready.wait()
            assert self._process.returncode is None, "\n".join(self.said)
            yield self
        finally:
            self.kill()
            await self.ended()

    async def _listen(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.said.append(line.decode().rstrip())
            if "unning on http" in self.said[-1]:
                ready.set()
        await process.wait()
        ready.set()

    def kill(self) -> None:
        """End it as ``kill -9`` does, now."""
        self._send(signal.SIGKILL)

    async def stop(self) -> int:
        """End it as a supervisor does; returns its exit code."""
        self._send(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        assert self._listening is not None
        await self._listening
        return await self._process.wait()

    def _send(self, number: int) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just died
                os.kill(
                    self._process.pid, number
                )  # the process's own method would reap it, unseen by the loop


@attrs.frozen
class Customer:
    """Orders videos from *service* and looks at them."""

    session: aiohttp.ClientSession
    service: Service

    async def order(
        self, name: Any, image: Any = "https://example.com/cat.png", **more: Any
    ) -> tuple[int, Any]:
        """Post an order; returns the status and the answer."""
        return await self.post("/videos", json={"id": name, "image": image, "prompt": name} | more)

    async def post(self, path: str, **more: Any) -> tuple[int, Any]:
        """Post anything; returns the status and the answer, parsed if it is JSON."""
        async with self.session.post(self.service.url + path, **more) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text

    async def get(self, path: str) -> tuple[int, bytes]:
        """Get anything; returns the status and the bytes."""
        async with self.session.get(self.service.url + path) as answer:
            return answer.status, await answer.read()

    async def events(self, name: str) -> AsyncGenerator[dict[str, Any]]:
        """The server-sent events of an order."""
        async with self.session.get(f"{self.service.url}/videos/{name}/events") as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    async def ended(self, name: str) -> dict[str, Any]:
        """The last event of an order."""
        return [event async for event in self.events(name)][-1]

    async def insist(self, names: Sequence[str]) -> None:
        """Order all of *names*; where no slot is free come again when one of them is delivered."""
        accepted: list[str] = []
        for name in names:
            while (status := (await self.order(name))[0]) == 503:
                if accepted:
                    await self.ended(accepted.pop(0))
                else:  # others have the slots
                    await asyncio.sleep(0.1)
            assert status == 202
            accepted.append(name)
