"""A server that costs next to nothing, in a process of its own: what is measured beside it is the client.

It is no simulator. Started as it is, it answers any GET with one task that is being generated, in a body of
1 KiB, and any POST with an acknowledgement. Given `Ends`, it keeps real tasks, each of which ends after a
time drawn for it: Kling's create, query and list, and what four other clients' public APIs ask when pointed
here (``/fal``, ``/replicate``, ``/openai``, ``/runway``). ``/control/report`` tells what it was asked for.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable

import attrs

from benchmarks.keeper import Ends, Keeper, reply
from benchmarks.processes import SERVER, pin, served

BODY_SIZE = 1024
"""Bytes of a poll's reply: Kling's own are about that long with a signed URL in them."""
LIFETIME = 900.0
"""Seconds after which it ends by itself, whoever forgot it."""
BACKLOG = 4096
"""Connections that may wait to be accepted: every create of our client comes over one of its own."""


def task_body(task_id: str, status: str) -> bytes:
    """A reply about one task (API reference, query), padded to `BODY_SIZE`."""
    document = {
        "code": 0,
        "message": "SUCCEED",
        "request_id": "0a4f3f5c-6b0e-4a7b-9a92-7a1d3c1b2e55",
        "data": {
            "task_id": task_id,
            "task_status": status,
            "task_status_msg": "",
            "task_info": {"external_task_id": f"bench-{task_id}"},
            "created_at": 1773366840306,
            "updated_at": 1773366840306,
            "padding": "",
        },
    }
    bare = json.dumps(document)
    return bare.replace('"padding": ""', f'"padding": "{"x" * (BODY_SIZE - len(bare))}"').encode()


class Fixed:
    """Answers without keeping anything."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    def answer(self, method: bytes, target: bytes, body: bytes) -> bytes:
        """The whole reply."""
        if method == b"POST":
            return reply(task_body(str(next(self._ids)), "submitted"))
        return reply(task_body(target.rpartition(b"/")[2].decode(), "processing"))


class _Connection(asyncio.Protocol):
    """Answers each whole request at once; nothing here waits."""

    def __init__(self, answer: Callable[[bytes, bytes, bytes], bytes]) -> None:
        self._answer = answer
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end])
            method, target, _ = head.split(b" ", 2)
            length = 0 if method == b"GET" else _length(head)
            if len(self._received) < end + 4 + length:
                return
            body = bytes(self._received[end + 4 : end + 4 + length])
            del self._received[: end + 4 + length]
            self._transport.write(self._answer(method, target, body))


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def open_many_files() -> None:
    """Let this process have as many connections as the system grants it."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _main(ends: Ends | None) -> None:
    pin(SERVER)
    open_many_files()
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    answer = (Fixed() if ends is None else Keeper(ends, f"http://127.0.0.1:{port}")).answer
    server = await loop.create_server(lambda: _Connection(answer), sock=listener, backlog=BACKLOG)
    print(port, flush=True)
    closed = asyncio.Event()

    def read() -> None:
        while os.read(0, 4096):  # until whoever started it closes the pipe
            pass
        loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIFETIME):
            await closed.wait()
    server.close()


def running(ends: Ends | None = None) -> contextlib.AbstractContextManager[str]:
    """The base URL of a stub in a process of its own, which ends with the block.

    Args:
        ends: when its tasks end; None: it keeps none, and each is being generated for ever.
    """
    return served("benchmarks.stub", *([] if ends is None else [json.dumps(attrs.asdict(ends))]))


if __name__ == "__main__":
    asyncio.run(_main(Ends(**json.loads(sys.argv[1])) if len(sys.argv) > 1 else None))
