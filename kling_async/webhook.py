"""Receives callbacks: `read` for any framework, `route` for aiohttp.

You do not need callbacks: polling finds every video. They tell of it within milliseconds, and signed ones
spare nearly all status requests, where Kling can reach you.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import aiohttp

from kling_async.client import KlingClient
from kling_async.protocol.auth import check_signature
from kling_async.protocol.callbacks import LARGEST, Callback, read
from kling_async.protocol.errors import CallbackError
from kling_async.typing import WallClock

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["PASSED_ON", "Callback", "PassOn", "read", "route"]

logger = logging.getLogger("kling_async")

PASSED_ON = "kling-async-passed-on"
"""The header of a callback that another replica passed on: it is not passed on again."""

PassOn = Callable[[Mapping[str, str], bytes], Awaitable[None]]
"""Posts a callback, its headers and body as given, to the other replicas of a service."""

_FORWARDED = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature")
_BODY_TIME = 10.0
"""Seconds for a body to arrive; Kling's is a kilobyte."""
_WARNED_EVERY = 60.0
"""Seconds between two warnings of refused callbacks: anyone can send them, and none shall fill a disk."""


def route(
    path: str,
    client: KlingClient,
    *,
    secrets: Sequence[str] = (),
    pass_on: PassOn | None = None,
    clock: WallClock = time.time,
) -> "web.RouteDef":
    """A route for ``app.add_routes([...])`` that gives callbacks to *client*.

    It answers 200 to every callback that can be read, also of a task it does not know, so that nobody tells
    from the answer which tasks there are; 400, 401 or 413 to what is none, is forged or is too large (see
    `read`); 408 to a body that does not arrive within 10 s; and 503 where passing it on failed.

    Args:
        path: of the URL.
        client: whose tasks.
        secrets: see `read`. Of a gateway's client they are not used: its callbacks are never signed with
            yours.
        pass_on: called with callbacks of tasks that *client* does not know: replicas behind one address
            give them to each other. Where there are secrets only signed ones are passed on.
        clock: Unix seconds.

    Raises:
        ConfigurationError: a secret is none.
    """
    from aiohttp import web  # whoever uses another framework reads without it

    if not client.provider.signs_callbacks:
        secrets = ()
    check_signature({}, b"", secrets, 0)  # raises now what is wrong with a secret
    refusals = _Refusals()

    async def receive(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_BODY_TIME):
                body = await _body(request.content)
            callback = read(request.headers, body, secrets, clock())
        except CallbackError as error:
            refusals.tell(error.what)
            return web.Response(status=error.http_status, text=error.what)
        except TimeoutError:
            return web.Response(status=408)
        except (aiohttp.ClientError, web.RequestPayloadError, ValueError):
            return web.Response(status=400)  # cut off, or not as its headers say
        is_worth_it = callback.verified or not secrets
        passing = pass_on if is_worth_it and PASSED_ON not in request.headers else None
        if not client.observe(callback) and passing is not None:
            headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
            try:
                await passing({**headers, PASSED_ON: "1"}, body)
            except Exception:
                logger.exception("a callback could not be passed on; polling will find its task")
                return web.Response(status=503)
        return web.Response()

    return web.post(path, receive)


async def _body(content: aiohttp.StreamReader) -> bytes:
    """What has arrived, or its beginning where that is too large already."""
    body = bytearray()
    async for piece in content.iter_chunked(LARGEST):
        body += piece
        if len(body) > LARGEST:
            break
    return bytes(body)


class _Refusals:
    """Warns of refused callbacks, the first at once, more of them once a minute."""

    def __init__(self) -> None:
        self._count = 0
        self._next = 0.0

    def tell(self, what: str) -> None:
        """Another one was refused."""
        now = asyncio.get_running_loop().time()
        self._count += 1
        if now >= self._next:
            logger.warning("%d callbacks refused, the last: %s", self._count, what)
            self._count, self._next = 0, now + _WARNED_EVERY
