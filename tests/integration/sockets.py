"""What the tests over real sockets share: short times, pictures that pass, a host that does as told."""

import asyncio
import contextlib
import random
import struct
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from kling_async import Polling, Retries

VIDEO = random.Random(0).randbytes(300_000)
POLLING = Polling(factor=0.05, base=1, floor=0.02, max_interval=0.1, jitter=0)
RETRIES = Retries(attempts=3, factor=0.01, max_value=0.02, quarantine=0.25)


def png(padding: int) -> bytes:
    """A PNG of which only the header is true, with so many bytes behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 640, 480, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + bytes(padding)


def reply(status: int, body: bytes = b"", *, length: int | None = None, **headers: str) -> bytes:
    """An HTTP response; *length* is what it says of its body, by default the truth; empty headers go."""
    usual = {"Content_Length": str(len(body) if length is None else length), "Connection": "close"}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**usual, **headers}.items() if value]
    return "\r\n".join([f"HTTP/1.1 {status} x", *lines, "", ""]).encode() + body


Answer = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Host:
    """A server of one request a connection: the n-th gets the n-th answer, further ones get the last.

    Args:
        *answers: bytes to send, or what is called to do it.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.asked: list[dict[str, str]] = []
        """The headers of each request by name in lower case; its first line under an empty name."""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Serve while the block runs; yields the base URL."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            fields = (line.split(": ", 1) for line in lines)
            self.asked.append({"": first} | {name.lower(): value for name, value in fields})
            answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()
