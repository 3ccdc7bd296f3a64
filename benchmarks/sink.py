"""A server that takes uploads and gives downloads for next to nothing, in a process and on a core of its own.

Like `stub` it is no simulator: bodies are counted and thrown away, files are one block of memory sent over
and over. So what is measured beside it is the client.

- ``POST`` anything: the body is discarded, the answer acknowledges a task.
- ``GET /videos/<name>?size=<bytes>``: that many bytes.
- ``GET /received``: how many bytes of bodies came since the start.
- ``GET`` anything else: a task that is being generated.
"""

import asyncio
import contextlib
import itertools
import re
import sys

from benchmarks.processes import SERVER, pin, served
from benchmarks.stub import task_body

READ = 1024 * 1024
"""Bytes taken from a socket at once, into memory that every connection shares: nobody looks at them."""
BLOCK = bytes(range(256)) * 1024
"""What files are made of."""


def _reply(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(asyncio.BufferedProtocol):
    """One connection: heads are collected, bodies only counted."""

    buffer = memoryview(bytearray(READ))
    ids = itertools.count(1)
    received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._head = bytearray()
        self._left = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._sending: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._left:
            body = min(nbytes, self._left)
            self._discard(body)
            if body < nbytes:
                self._begin(bytes(self.buffer[body:nbytes]))
        else:
            self._begin(bytes(self.buffer[:nbytes]))

    def _begin(self, data: bytes) -> None:
        """Take bytes that begin with a head, or a part of one."""
        self._head += data
        while (end := self._head.find(b"\r\n\r\n")) >= 0:
            head, rest = bytes(self._head[:end]), self._head[end + 4 :]
            self._head.clear()
            if head.startswith(b"GET"):
                self._get(head)
                self._head += rest
                continue
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            self._left = int(length[1]) if length else 0
            body = min(len(rest), self._left)
            self._discard(body)
            self._head += rest[body:]

    def _discard(self, size: int) -> None:
        type(self).received += size
        self._left -= size
        if not self._left:
            self._transport.write(_reply(task_body(str(next(self.ids)), "submitted")))

    def _get(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1].decode()
        if target == "/received":
            self._transport.write(_reply(b"%d" % self.received))
        elif target.startswith("/videos/"):
            self._sending = asyncio.ensure_future(self._send(int(target.rpartition("=")[2])))
        else:
            self._transport.write(_reply(task_body(target.rpartition("/")[2], "processing")))

    async def _send(self, size: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {size}\r\n\r\n"
        self._transport.write(head.encode())
        for start in range(0, size, len(BLOCK)):
            await self._writable.wait()
            self._transport.write(memoryview(BLOCK)[: size - start])

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


async def _main() -> None:
    pin(SERVER)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it closes the pipe
    server.close()


def running() -> contextlib.AbstractContextManager[str]:
    """The base URL of a sink in a process of its own, which ends with the block."""
    return served("benchmarks.sink")


if __name__ == "__main__":
    asyncio.run(_main())
