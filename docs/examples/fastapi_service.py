"""A video service with FastAPI: `uvicorn fastapi_service:app --timeout-graceful-shutdown 5`.

An order is answered when Kling has acknowledged it; while no slot is free, customers are asked to come again.
Settings are environment variables: Kling's key, see `KlingClient.from_env`; STATE, a folder. If Kling can
reach this service: CALLBACK_URL, https://.../kling, and KLING_WEBHOOK_SECRETS, with spaces between.
"""

import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from orders import LARGEST, Order, Orders, open_orders

from kling_async import (
    CallbackError,
    ConcurrencyLimitError,
    InvalidRequestError,
    KlingClient,
    KlingError,
    PolicyError,
    RequestError,
    webhook,
)

SECRETS = os.environ.get("KLING_WEBHOOK_SECRETS", "").split()
STATE = Path(os.environ.get("STATE", "state"))

logger = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    """The client works as long as the application runs, in its event loop."""
    kling = KlingClient.from_env(
        journal=STATE / "journal.sqlite", callback_url=os.environ.get("CALLBACK_URL")
    )
    secrets = SECRETS if kling.provider.signs_callbacks else []
    with suppress(CallbackError):  # this is no callback; a secret that is none ends the start
        webhook.read({}, b"", secrets, 0)
    async with open_orders(kling, STATE) as orders:
        yield {"orders": orders, "secrets": secrets}


app = FastAPI(lifespan=lifespan)


async def _orders(request: Request) -> Orders:
    orders: Orders = request.state.orders
    return orders


AllOrders = Annotated[Orders, Depends(_orders)]


async def _known(name: str, orders: AllOrders) -> str:
    if name not in orders:
        raise HTTPException(404)
    return name


Known = Annotated[str, Depends(_known)]


async def _body(request: Request, largest: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > largest:
            raise HTTPException(413)
    return bytes(body)


@app.post("/videos", status_code=202)
async def create(request: Request, orders: AllOrders) -> dict[str, Any]:
    """Answers when Kling has acknowledged the task, or has refused it."""
    return await orders.accept(Order.read(await _body(request, LARGEST)), in_line=False)


@app.get("/videos/{name}.mp4")
async def video(name: Known, orders: AllOrders) -> FileResponse:
    """The file."""
    if not orders.video(name).exists():
        raise HTTPException(404)
    return FileResponse(orders.video(name), media_type="video/mp4")


@app.get("/videos/{name}")
async def status(name: Known, orders: AllOrders) -> dict[str, Any]:
    """How it stands, and where its file is."""
    return orders.view(name)


@app.get("/videos/{name}/events")
async def events(name: Known, orders: AllOrders) -> StreamingResponse:
    """How it stands, and each change: server-sent events for `EventSource`."""
    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(orders.events(name), media_type="text/event-stream", headers=headers)


@app.post("/kling")
async def callback(request: Request, orders: AllOrders) -> Response:
    """Whoever calls learns nothing of which tasks there are."""
    body = await _body(request, 64 * 1024)  # Kling's is a kilobyte
    orders.kling.observe(webhook.read(request.headers, body, request.state.secrets, time.time()))
    return Response()


@app.exception_handler(KlingError)
async def tell(_: Request, error: KlingError) -> JSONResponse:
    """What went wrong, as a customer reads it."""
    match error:
        case RequestError():
            return JSONResponse({"problems": [str(each) for each in error.problems]}, 422)
        case ConcurrencyLimitError():
            return JSONResponse({"error": "busy"}, 503, {"Retry-After": "30"})
        case CallbackError():
            return JSONResponse({"error": error.what}, error.http_status)
        case InvalidRequestError() | PolicyError():
            return JSONResponse({"problems": [error.what]}, 422)
        case _:
            logger.error("%s", error)  # of the account or of this machine: nothing for customers
            return JSONResponse({"error": "not accepted, try again later"}, 502)
