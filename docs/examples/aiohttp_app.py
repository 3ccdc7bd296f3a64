"""An aiohttp app that makes its own client, and its tests: `pytest aiohttp_app.py`."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kling_async import ImageToVideo, KlingClient
from kling_async.simulator import Simulator, serve
from kling_async.testing import assert_made_once

KLING = web.AppKey("kling", KlingClient)


async def client(app: web.Application) -> AsyncGenerator[None]:
    """The client works as long as the app runs."""
    async with KlingClient.from_env() as app[KLING]:
        yield


async def create(request: web.Request) -> web.Response:
    """Submit a video."""
    mug = ImageToVideo(image="https://shop.example.com/mug.jpg", prompt="the mug turns")
    handle = await request.app[KLING].submit(mug)
    return web.json_response({"task_id": handle.task_id})


def make_app() -> web.Application:
    """The app."""
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_post("/videos", create)
    return app


async def order() -> None:
    """What a customer does."""
    async with TestClient(TestServer(make_app())) as browser, browser.post("/videos") as reply:
        assert reply.status == 200


def test_with_the_fixture(
    kling_client: KlingClient, kling_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`from_env` gives the app our client, which is quick; whatever arguments the app has for it."""
    monkeypatch.setattr(KlingClient, "from_env", lambda *_, **__: kling_client)
    asyncio.run(order())  # not in virtual time: the test client opens sockets
    assert_made_once(kling_simulator, 1)


def test_over_a_socket(kling_simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app makes its client as in production, with its journal, callbacks and schedule."""

    async def main() -> None:
        async with serve(kling_simulator) as url:
            monkeypatch.setenv("KLING_API_KEY", "sim-key")
            monkeypatch.setenv("KLING_BASE_URL", url)
            await order()

    asyncio.run(main())
    assert_made_once(kling_simulator, 1)
