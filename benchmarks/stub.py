"""A server that costs next to nothing: fixed bytes for every request, in a process of its own.

It is no simulator: it answers any GET with one task that is being generated, in a body of 1 KiB, and any POST
with an acknowledgement. So what is measured beside it is the client.
"""

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Generator

BODY_SIZE = 1024
"""Bytes of a poll's reply: Kling's own are about that long with a signed URL in them."""


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


def _reply(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """Answers each whole request at once; nothing here waits."""

    ids = itertools.count(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end])
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(self._received) < end + 4 + length:
                return
            del self._received[: end + 4 + length]
            if head.startswith(b"POST"):
                body = task_body(str(next(self.ids)), "submitted")
            else:
                task_id = head.split(b" ", 2)[1].rsplit(b"/", 1)[1].decode()
                body = task_body(task_id, "processing")
            self._transport.write(_reply(body))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it closes the pipe
    server.close()


@contextlib.contextmanager
def running() -> Generator[str]:
    """The base URL of a stub in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_main())
