"""A video service with aiohttp: `python aiohttp_service.py`. Orders stand in line until a slot is free.

Settings are environment variables: Kling's key, see `KlingClient.from_env`; STATE, a folder; PORT. If Kling
can reach this service: CALLBACK_URL, https://.../kling, and KLING_WEBHOOK_SECRETS, with spaces between.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

from aiohttp import web
from orders import LARGEST, NAME, Order, Orders, open_orders

from kling_async import KlingClient, RequestError, webhook

KLING = web.AppKey("kling", KlingClient)
ORDERS = web.AppKey("orders", Orders)
STATE = Path(os.environ.get("STATE", "state"))
VIDEO = f"/videos/{{id:{NAME.pattern}}}"
routes = web.RouteTableDef()


@routes.post("/videos")
async def create(request: web.Request) -> web.Response:
    """Answers as soon as the order is written down."""
    orders, order = request.app[ORDERS], Order.read(await request.read())
    if order.id not in orders and not orders.has_room:
        return web.json_response({"error": "busy"}, status=503, headers={"Retry-After": "60"})
    return web.json_response(await orders.accept(order, in_line=True), status=202)


@routes.get(VIDEO)
async def status(request: web.Request) -> web.Response:
    """How it stands, and where its file is."""
    return web.json_response(request.app[ORDERS].view(_known(request)))


@routes.get(f"{VIDEO}.mp4")
async def video(request: web.Request) -> web.FileResponse:
    """The file."""
    return web.FileResponse(request.app[ORDERS].video(request.match_info["id"]))


@routes.get(f"{VIDEO}/events")
async def events(request: web.Request) -> web.StreamResponse:
    """How it stands, and each change: server-sent events for `EventSource`."""
    name = _known(request)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    async with aclosing(request.app[ORDERS].events(name)) as lines:
        with suppress(ConnectionResetError):  # the browser has left
            async for line in lines:
                await response.write(line.encode())
    return response


def _known(request: web.Request) -> str:
    name = request.match_info["id"]
    if name not in request.app[ORDERS]:
        raise web.HTTPNotFound
    return name


@web.middleware
async def tell_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What is wrong with an order, as its customer reads it."""
    try:
        return await handler(request)
    except RequestError as error:
        return web.json_response({"problems": [str(each) for each in error.problems]}, status=422)


async def lifespan(app: web.Application) -> AsyncGenerator[None]:
    """The client works as long as the application runs, and no longer than its event loop."""
    async with open_orders(app[KLING], STATE) as app[ORDERS]:
        yield


async def stop(app: web.Application) -> None:
    """Here and not at the very end, so that streams of events end, which the end would wait for."""
    await app[ORDERS].stop()


def make_app() -> web.Application:
    """The application, by the environment."""
    kling = KlingClient.from_env(
        journal=STATE / "journal.sqlite", callback_url=os.environ.get("CALLBACK_URL")
    )
    secrets = os.environ.get("KLING_WEBHOOK_SECRETS", "").split()
    app = web.Application(middlewares=[tell_problems], client_max_size=LARGEST)
    app[KLING] = kling
    app.add_routes([*routes, webhook.route("/kling", kling, secrets=secrets)])
    app.cleanup_ctx.append(lifespan)
    app.on_shutdown.append(stop)
    return app


if __name__ == "__main__":
    # to this machine alone: put a server before it that speaks https and knows your customers
    port = int(os.environ.get("PORT", "8080"))
    web.run_app(make_app(), host="127.0.0.1", port=port, shutdown_timeout=5)
