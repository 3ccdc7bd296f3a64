"""A FastAPI app that makes its own client, and its tests: `pytest fastapi_app.py`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from kling_async import ImageToVideo, KlingClient
from kling_async.simulator import Simulator, serve
from kling_async.testing import assert_made_once


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, KlingClient]]:
    """The client works as long as the app runs."""
    async with KlingClient.from_env() as kling:
        yield {"kling": kling}


app = FastAPI(lifespan=lifespan)


@app.post("/videos")
async def create(request: Request) -> dict[str, str | None]:
    """Submit a video."""
    mug = ImageToVideo(image="https://shop.example.com/mug.jpg", prompt="the mug turns")
    kling: KlingClient = request.state.kling
    return {"task_id": (await kling.submit(mug)).task_id}


def order() -> None:
    """What a customer does."""
    with TestClient(app) as browser:  # as a block: only then the lifespan runs
        assert browser.post("/videos").status_code == 200


def test_with_the_fixture(
    kling_client: KlingClient, kling_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`from_env` gives the app our client, which is quick; whatever arguments the app has for it."""
    monkeypatch.setattr(KlingClient, "from_env", lambda *_, **__: kling_client)
    order()
    assert_made_once(kling_simulator, 1)


def test_over_a_socket(kling_simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app makes its client as in production, with its journal, callbacks and schedule."""

    async def main() -> None:
        async with serve(kling_simulator) as url:
            monkeypatch.setenv("KLING_API_KEY", "sim-key")
            monkeypatch.setenv("KLING_BASE_URL", url)
            await asyncio.to_thread(order)  # it blocks, and the simulator has to answer

    asyncio.run(main())
    assert_made_once(kling_simulator, 1)
