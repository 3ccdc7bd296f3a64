"""Sends a reply over a real connection, as its `Wire` says."""

import asyncio
import struct
import sys
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import Final

from aiohttp import web

from kling_async.simulator.messages import Abort, Reply

_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""`struct linger`: on, zero seconds, so that closing drops what is unsent and resets the connection."""
_PIECES_PER_SECOND: Final = 20


async def send_early(request: web.Request, reply: Reply, tell: Callable[[str], None]) -> web.StreamResponse:
    """Send *reply* to a request whose body is not wanted; the connection does not outlive it."""
    unread = reply.wire.read
    try:
        while unread > 0 and (piece := await request.content.readany()):
            unread -= len(piece)
    except ConnectionError:
        return lose(request, tell)
    response = await send(request, reply, tell)
    response.force_close()
    return response


async def send(request: web.Request, reply: Reply, tell: Callable[[str], None]) -> web.StreamResponse:
    """Send *reply* and return what was sent.

    Args:
        request: What it answers.
        reply: What to send, and how.
        tell: Told of the points `started`, and `replied` or `lost`.
    """
    wire = reply.wire
    await asyncio.sleep(wire.delay)
    if wire.abort is not None:
        tell("lost")
        return end(request, wire.abort)
    tell("started")
    if wire.raw is not None:
        tell("lost")
        return end(request, "close", wire.raw)
    try:
        response = await _respond(request, reply)
    except ConnectionError:
        return lose(request, tell)
    tell("replied" if reply.arrives else "lost")
    return response if wire.cut_at is None else end(request, "close")


def lose(request: web.Request, tell: Callable[[str], None]) -> web.StreamResponse:
    """Be done with *request*, whose client has left: that is no error of the server's."""
    tell("lost")
    return end(request, "close")


def end(request: web.Request, how: Abort, last: bytes = b"") -> web.StreamResponse:
    """End the connection of *request*, after *last*; the response returned goes nowhere."""
    transport = request.transport
    if transport is None:  # the client was faster
        return web.Response()
    if how == "reset":
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)
        transport.abort()
    else:
        transport.write(last)
        transport.close()
    return web.Response()


async def _respond(request: web.Request, reply: Reply) -> web.StreamResponse:
    wire = reply.wire
    if wire.cut_at is None and wire.bytes_per_second is None:
        whole = web.Response(status=reply.status, headers=reply.headers, body=reply.body)
        await whole.prepare(request)
        await whole.write_eof()
        return whole
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    await response.prepare(request)
    body = reply.received
    rate = wire.bytes_per_second
    size = len(body) if rate is None else max(int(rate / _PIECES_PER_SECOND), 1)
    for start in range(0, len(body), max(size, 1)):
        piece = body[start : start + size]
        if rate is not None:
            await asyncio.sleep(len(piece) / rate)
        await response.write(piece)
    if wire.cut_at is None:
        await response.write_eof()
    return response
