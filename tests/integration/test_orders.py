"""The ground of the example services, in virtual time: what becomes of an order when something is wrong."""

import asyncio
import base64
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from integration.services import EXAMPLES, PICTURE
from integration.sockets import png

from kling_async import (
    KLING,
    APIKey,
    ConfigurationError,
    KlingClient,
    PolicyError,
    RequestError,
    new_api,
)
from kling_async.simulator import Faults, Simulator
from kling_async.testing import SimulatorTransport, VirtualTimeLoop, assert_made_once


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that both services stand on."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("orders")


@pytest.fixture
def fastapi_service(orders: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The service with FastAPI, imported anew with settings of its own."""
    monkeypatch.setenv("KLING_API_KEY", "sim-key")
    monkeypatch.setenv("STATE", str(tmp_path))
    monkeypatch.setenv("KLING_WEBHOOK_SECRETS", "whsec_!!!")
    monkeypatch.delitem(sys.modules, "fastapi_service", raising=False)
    return importlib.import_module("fastapi_service")


class Lives:
    """A service's orders, from life to life, and Kling or a gateway beyond them.

    Args:
        orders: the module.
        state: the folder.
        faults: a script of them.
        **settings: of the simulator.
    """

    def __init__(self, orders: Any, state: Path, faults: str = "", **settings: Any) -> None:
        self.orders = orders
        self.state = state
        self.simulator = Simulator(seconds=20, faults=Faults.parse(faults), **settings)
        self.provider = KLING if self.simulator.face == "kling" else new_api("https://gateway.example.com")

    def life(self) -> AbstractAsyncContextManager[Any]:
        """One life."""
        transport = SimulatorTransport(self.simulator)
        kling = KlingClient(
            APIKey("sim-key"),
            self.provider,
            journal=self.state / "journal.sqlite",
            transport=transport,
            clock=transport.now,
        )
        opened: AbstractAsyncContextManager[Any] = self.orders.open_orders(kling, self.state)
        return opened

    def order(self, name: str, image: str = PICTURE, prompt: str = "a cat") -> Any:
        """An order."""
        return self.orders.Order(name, image, prompt)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """*main* in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


async def ended(orders: Any, name: str) -> dict[str, Any]:
    """The last event of an order."""
    lines = [line async for line in orders.events(name) if line.startswith("data: ")]
    view: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))
    return view


def test_text_that_nothing_can_write_down_is_no_order(orders: Any) -> None:
    """A lone surrogate, and pictures of another format or too large, are refused before anything is kept."""
    large = base64.b64encode(png(0) + bytes(10 * 1024 * 1024)).decode()
    for image, prompt in ((PICTURE, "\ud800"), ("https://\ud800", "x"), (large, "x"), ("R0lGODlh", "x")):
        with pytest.raises(RequestError):
            orders.Order.read(json.dumps({"id": "a", "image": image, "prompt": prompt}).encode())


def test_an_order_that_was_not_written_down_is_not_accepted(orders: Any, tmp_path: Path) -> None:
    """Its customer gets the error, and the same order is accepted once the database works again."""

    async def main() -> None:
        async with lives.life() as here:
            await here._store("ALTER TABLE orders RENAME TO gone")
            for each in await asyncio.gather(
                *(here.accept(lives.order("cat"), in_line=True) for _ in "12"), return_exceptions=True
            ):
                assert "no such table" in str(each)
            await asyncio.sleep(0)
            assert "cat" not in here
            assert here.view("cat") == {"id": "cat", "status": "refused"}
            await here._store("ALTER TABLE gone RENAME TO orders")
            await here.accept(lives.order("cat"), in_line=True)
            assert (await ended(here, "cat"))["url"] == "/videos/cat.mp4"

    lives = Lives(orders, tmp_path)
    run(main)


@pytest.mark.parametrize("in_line", [True, False])
def test_who_leaves_while_posting_changes_nothing(orders: Any, tmp_path: Path, in_line: bool) -> None:
    """The POST is cancelled at its first wait; the order is delivered all the same, once."""

    async def main() -> None:
        async with lives.life() as here:
            posting = asyncio.create_task(here.accept(lives.order("cat"), in_line=in_line))
            await asyncio.sleep(0)
            posting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await posting
            assert (await ended(here, "cat"))["url"] == "/videos/cat.mp4"

    lives = Lives(orders, tmp_path)
    run(main)
    assert_made_once(lives.simulator, 1)


def test_two_who_post_the_same_hear_the_same(orders: Any, tmp_path: Path) -> None:
    """The second comes before Kling refuses the first: both are told, and nothing is kept."""

    async def main() -> None:
        async with lives.life() as here:
            posts = [here.accept(lives.order("cat", prompt="[policy]"), in_line=False) for _ in "12"]
            answers = await asyncio.gather(*posts, return_exceptions=True)
            assert [type(each) for each in answers] == [PolicyError, PolicyError]
            assert await here._store("SELECT * FROM orders") == []
            assert "cat" not in here
            assert [line async for line in here.events("cat")] == [
                'data: {"id": "cat", "status": "refused"}\n\n'
            ]

    lives = Lives(orders, tmp_path)
    run(main)


def test_what_is_nobodys_fault_goes_again_in_the_same_life(orders: Any, tmp_path: Path) -> None:
    """The key is refused for 40 minutes, then the disk takes no video for an hour: delivered, paid once."""

    async def main() -> None:
        async with lives.life() as here:
            await here.accept(lives.order("cat"), in_line=True)
            await asyncio.sleep(2400)
            assert here.view("cat") == {"id": "cat", "status": "intended", "error": "not delivered yet"}
            asked = lives.simulator.ledger.requests["create"]
            lives.simulator.faults = Faults()
            (tmp_path / "videos").write_text("no folder")
            await asyncio.sleep(3600)
            assert here.view("cat") == {"id": "cat", "status": "succeed", "error": "not delivered yet"}
            assert 5 < asked < 60
            (tmp_path / "videos").unlink()
            assert (await ended(here, "cat"))["url"] == "/videos/cat.mp4"

    lives = Lives(orders, tmp_path, "create:refuse code=1000")
    run(main)
    assert_made_once(lives.simulator, 1)


@pytest.mark.parametrize("in_line", [True, False])
def test_what_may_be_paid_stays_until_someone_decides(orders: Any, tmp_path: Path, in_line: bool) -> None:
    """A gateway without look-up lost the answer: said so, in this life and the next, and never paid twice."""

    async def main() -> None:
        async with lives.life() as here:
            await here.accept(lives.order("cat"), in_line=in_line)
            await asyncio.sleep(3600)
            assert here.view("cat") == {"id": "cat", "status": "may_exist", "error": "ask us"}
        async with lives.life() as here:
            await asyncio.sleep(3600)
            assert here.view("cat")["error"] == "ask us"
            assert lives.simulator.ledger.requests["create"] == 1

    lives = Lives(orders, tmp_path, "create:lost_reply_after times=1", face="new-api-2026")
    run(main)


def test_a_verdict_outlives_the_process_and_the_picture_does_not(orders: Any, tmp_path: Path) -> None:
    """A task that failed, and an old row of which no request is made: the next life starts, and tells."""

    async def main() -> None:
        async with lives.life() as here:
            await here._store("INSERT INTO orders VALUES ('old', '/etc/passwd', 'x')")
            await here.accept(lives.order("bad", prompt="[fail]"), in_line=True)
            verdict = await ended(here, "bad")
            assert (verdict["status"], "content risk control" in verdict["error"]) == ("failed", True)
            assert await here._store("SELECT id FROM orders") == [("old",)]
        async with lives.life() as here:
            assert await ended(here, "bad") == verdict
            assert (await ended(here, "old"))["error"].startswith("image: must be an https URL")
            assert await here._store("SELECT * FROM orders") == []
            assert here.has_room

    lives = Lives(orders, tmp_path)
    run(main)


def test_a_stream_without_news_says_that_it_is_there(orders: Any, tmp_path: Path) -> None:
    """A comment every 15 s, by which a browser that has left is noticed; the stream ends with the service."""

    async def main() -> None:
        async with lives.life() as here:
            await here.accept(lives.order("cat"), in_line=True)
            loop, beats = asyncio.get_running_loop(), list[float]()
            async for line in here.events("cat"):
                if line.startswith(":"):
                    beats.append(loop.time())
                if len(beats) == 4:
                    break
            assert [later - sooner for sooner, later in itertools.pairwise(beats[1:])] == [15, 15]
            last = asyncio.create_task(ended(here, "cat"))
            await asyncio.sleep(1)
            began = loop.time()
            await here.stop()
            assert loop.time() - began <= 3
            assert (await last)["status"] in ("submitted", "processing")  # the next life goes on with it
            assert not here.has_room

    lives = Lives(orders, tmp_path)
    lives.simulator.seconds = 600
    run(main)


def test_the_pictures_of_few_orders_are_in_memory(orders: Any, tmp_path: Path) -> None:
    """A life begins with 50 orders and one slot: 20 stand in the client's line, and all come home."""

    async def main() -> None:
        async with lives.life() as here:
            for number in range(50):
                await here._store("INSERT INTO orders VALUES (?1, ?2, ?1)", f"cat-{number}", PICTURE)
        async with lives.life() as here:
            await asyncio.sleep(1)
            assert here.kling.statistics().waiting <= 20
            assert not here.has_room
            for number in range(50):
                assert "url" in await ended(here, f"cat-{number}")

    lives = Lives(orders, tmp_path, parallel=1)
    run(main)
    assert_made_once(lives.simulator, 50)


def test_a_secret_that_is_none_ends_the_start(fastapi_service: Any) -> None:
    """It is told when the service starts, not when the first callback comes."""

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="secret"):
            async with fastapi_service.app.router.lifespan_context(fastapi_service.app):
                pass

    asyncio.run(main())
