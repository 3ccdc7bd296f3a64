"""The client on uvloop's event loop, over real sockets: the same ends as on asyncio's own."""

import asyncio
import gc
import hashlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from integration.fault_table import OPERATIONS, ROWS, End, Operation
from integration.sockets import POLLING, RETRIES, VIDEO, Host, png
from integration.test_faults import NETWORKS, struck, unreached

from kling_async import APIKey, ImageToVideo, KlingClient, ResponseLostError, webhook
from kling_async.protocol.providers import KLING
from kling_async.protocol.wire import Request
from kling_async.simulator import Simulator, serve
from kling_async.transport import AiohttpTransport

uvloop: Any = pytest.importorskip("uvloop", reason="uvloop is not made for Windows")

REQUEST = ImageToVideo(image="https://cdn.example.org/a.png", prompt="x")
SECRET = "whsec_c29tZSBzZWNyZXQgb2YgdGhpcyB0ZXN0"
STRUCK = (
    "connection refused",
    "certificate nobody vouches for",
    "closed before anything was read, 5 MB to come",
    "kept connection closed as the next request comes",
    "reset in the body of 5 MB",
    "reset after the task was made",
    "reply cut",
    "no reply in time, task made",
    "video cut",
)
"""What a loop's connections, buffers and timers decide, of all the faults there are."""


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Generator[None]:
    """What was not closed or not awaited warns when it is collected, and warnings are errors."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_to_complain_of(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """The loop logs no error."""
    yield
    assert [each for each in caplog.get_records("call") if each.name == "asyncio"] == []


def client(url: str, **options: Any) -> KlingClient:
    """A client with short waits."""
    return KlingClient(APIKey("sim-key"), KLING.at(url), polling=POLLING, retries=RETRIES, **options)


def test_from_the_file_to_the_video(tmp_path: Path):
    """Pictures are uploaded whole, tasks polled, videos downloaded, and all of it recorded in a journal."""
    picture = tmp_path / "a.png"
    picture.write_bytes(png(300_000))
    requests = [ImageToVideo(image=picture, prompt=f"yawn {number}") for number in range(3)]

    async def main() -> None:
        simulator = Simulator(seconds=0.1, parallel=None, render=lambda _: VIDEO)
        async with serve(simulator) as url, client(url) as kling:
            paths = [done.path async for done in kling.completions(requests, save_to=tmp_path / "out")]
        assert [path and path.read_bytes() for path in paths] == [VIDEO] * 3
        sha256 = hashlib.sha256(picture.read_bytes()).hexdigest()
        assert [task.body["image"] for task in simulator.ledger.made] == [f"sha256:{sha256}"] * 3
        async with serve(simulator) as url, client(url) as kling:
            again = [done async for done in kling.completions(requests, save_to=tmp_path / "out")]
        assert [done.resumed for done in again] == [True] * 3
        assert len(simulator.ledger.made) == 3

    uvloop.run(main())


def test_callbacks_come():
    """They tell of every task, and no status request is made."""

    async def main() -> None:
        simulator = Simulator(seconds=0.1, parallel=None, callback_secrets=[SECRET])
        ports: list[int] = []

        def receiver(_: str) -> str:
            return f"http://127.0.0.1:{ports[0]}/kling"

        options: dict[str, Any] = {"retries": RETRIES, "callback_url": receiver}
        async with serve(simulator) as url, KlingClient(APIKey("sim-key"), KLING.at(url), **options) as kling:
            app = web.Application()
            app.add_routes([webhook.route("/kling", kling, secrets=[SECRET])])
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ports.append(runner.addresses[0][1])
            done = [done.ok async for done in kling.completions([REQUEST] * 5)]
            await runner.cleanup()
        assert done == [True] * 5
        assert simulator.ledger.requests == {"create": 5}

    uvloop.run(main())


def test_tasks_taken_up_together():
    """Several that are due at once, as after a restart: each is polled."""

    async def main() -> None:
        async with serve(Simulator(seconds=0.05, parallel=None)) as url:
            async with client(url) as kling:
                tokens = [(await kling.submit(REQUEST)).token for _ in range(3)]
            async with client(url) as kling:
                handles = [kling.attach(token) for token in tokens]
                tasks = await asyncio.gather(*(handle.result(timeout=5) for handle in handles))
        assert [task.status for task in tasks] == ["succeed"] * 3

    uvloop.run(main())


@pytest.mark.parametrize("row", [row for row in ROWS if row.what in STRUCK], ids=lambda row: row.what)
def test_a_fault_has_the_end_that_is_told(row: Any, tmp_path: Path):
    """What nothing was sent of is proven not to be made, what may be made is not: as the table says."""

    async def main() -> dict[Operation, End]:
        operations: list[Operation] = [each for each in OPERATIONS if each in row.ends]
        if row.fault in NETWORKS:
            ends = await asyncio.gather(*(unreached(row, each, tmp_path / each) for each in operations))
        else:
            found = await asyncio.gather(*(struck(row, each, tmp_path / each) for each in operations))
            ends = [end for end, _, _ in found]
        return dict(zip(operations, ends, strict=True))

    assert uvloop.run(main()) == row.ends


def test_no_reply_in_time():
    """A read that nobody answers ends when its time is over."""

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        transport = AiohttpTransport(connect_seconds=2.0, reply_seconds=0.05)
        async with Host(say_nothing).serve() as url:
            with pytest.raises(ResponseLostError, match="no reply in time"):
                await transport.send(Request("GET", f"{url}/"), authorization="Bearer k")
        await transport.aclose()

    uvloop.run(main())


def test_closing_leaves_nothing():
    """Closed with tasks at Kling, one on its way and one in line, the client leaves no task of the loop."""

    async def main() -> None:
        simulator = Simulator(seconds=60.0, parallel=None)
        async with serve(simulator) as url:
            others = asyncio.all_tasks()
            kling = client(url, max_in_flight=2)
            first = await kling.submit(REQUEST)
            on_its_way, in_line = kling.submit_soon(REQUEST), kling.submit_soon(REQUEST)
            await asyncio.sleep(0)
            left = await kling.aclose()
            assert asyncio.all_tasks() == others
        assert [each.task_id for each in left] == [first.task_id, on_its_way.task_id]
        assert in_line.task_id is None
        assert len(simulator.ledger.made) == 2

    uvloop.run(main())
