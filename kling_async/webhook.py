"""Receives callbacks: `read` for any framework, `route` for aiohttp.

You do not need callbacks: polling finds every video. They tell of it within milliseconds, and spare nearly
all status requests, where Kling can reach you.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from kling_async.client import KlingClient
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
    `read`); and 503 where passing it on failed.

    Args:
        path: of the URL.
        client: whose tasks.
        secrets: see `read`. Of a gateway's client they are not used: its callbacks are never signed with
            yours.
        pass_on: called with callbacks of tasks that *client* does not know: replicas behind one address
            give them to each other.
        clock: Unix seconds.
    """
    from aiohttp import web  # whoever uses another framework reads without it

    if not client.provider.signs_callbacks:
        secrets = ()

    async def receive(request: web.Request) -> web.Response:
        body = bytearray()
        async for piece in request.content.iter_chunked(LARGEST):
            body += piece
            if len(body) > LARGEST:
                break
        try:
            callback = read(request.headers, bytes(body), secrets, clock())
        except CallbackError as error:
            logger.warning("a callback was refused: %s", error.what)
            return web.Response(status=error.http_status, text=error.what)
        is_known = client.observe(callback)
        if not is_known and pass_on is not None and PASSED_ON not in request.headers:
            headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
            try:
                await pass_on({**headers, PASSED_ON: "1"}, bytes(body))
            except Exception:
                logger.exception("a callback could not be passed on; polling will find its task")
                return web.Response(status=503)
        return web.Response()

    return web.post(path, receive)
