"""The example files, as their readers run them: processes, connections, kills, a notebook's kernel."""

import asyncio
import base64
import contextlib
import gc
import io
import itertools
import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import aiohttp
import nbformat
import pytest
from fastapi import FastAPI
from integration.services import EXAMPLES, PICTURE, SECRET, Customer, Service, environment
from integration.sockets import png
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbclient.util import ensure_async
from nbformat.v4 import new_code_cell, new_notebook
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn

from kling_async import KLING, APIKey, ImageToVideo, KlingClient
from kling_async.simulator import Faults, Simulator, serve
from kling_async.testing import assert_made_once

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

SERVICES = ("aiohttp", "fastapi")
NAMES = [f"order-{number}" for number in range(12)]
DEADLINE = 300.0
PHOTOS = Path(str(files("kling_async") / "photos"))
PICTURES = [each for each in PHOTOS.iterdir() if each.suffix in (".jpg", ".png")]


class Other:
    """The other side: a simulator, and what is to happen at some point of a request.

    Args:
        faults: a script of them.
    """

    def __init__(self, faults: str = "") -> None:
        self.simulator = Simulator(
            seconds=(0.6, 1.2), parallel=None, callback_secrets=[SECRET], faults=Faults.parse(faults)
        )
        self.seen: Counter[str] = Counter()
        self._at: Callable[[str], None] = lambda _: None

    @property
    def made(self) -> int:
        """How many tasks there are."""
        return len(self.simulator.ledger.made)

    def on_event(self, event: str) -> None:
        """Called by the simulator at each point."""
        self.seen[event] += 1
        self._at(event)

    async def until(self, is_so: Callable[[str], bool], then: Callable[[], object] = bool) -> None:
        """Return after the first event of which it is so; *then* is called in that very moment."""
        reached = asyncio.Event()

        def look(event: str) -> None:
            if not reached.is_set() and is_so(event):
                then()
                reached.set()

        self._at = look
        await reached.wait()

    async def assert_delivered(self, customer: Customer, names: Sequence[str]) -> None:
        """Each of *names* ends with the file of its own task, and there is one task for each."""
        for name in names:
            assert (await customer.ended(name)).get("url") == f"/videos/{name}.mp4"
            status, video = await customer.get(f"/videos/{name}.mp4")
            (task,) = [each.task_id for each in self.simulator.ledger.made if each.body["prompt"] == name]
            assert (status, task in video.decode()) == (200, True)
        assert_made_once(self.simulator, len(names))

    @asynccontextmanager
    async def served(self) -> AsyncGenerator[str]:
        """Its base URL, while the block runs, and no longer than anyone would wait."""
        async with asyncio.timeout(DEADLINE), serve(self.simulator, on_event=self.on_event) as base_url:
            yield base_url

    @asynccontextmanager
    async def service(self, name: str, state: Path) -> AsyncGenerator[tuple[Service, Customer]]:
        """The service *name* of this simulator, not yet alive, and a customer of it."""
        async with self.served() as base_url, aiohttp.ClientSession() as session:
            service = Service(name, base_url, state)
            yield service, Customer(session, service)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_delivers_every_order_however_it_dies(name: str, tmp_path: Path) -> None:
    """It is killed with tasks of which it was not told, orders in line, and videos half on their way."""

    def all_made() -> bool:
        return other.made == len(NAMES) and other.seen["create-replied"] == len(NAMES) - 5

    async def main() -> None:
        async with other.service(name, tmp_path) as (service, customer):
            async with service.life():  # until Kling has made five, and answered none
                orders = [asyncio.create_task(customer.order(each)) for each in NAMES]
                await other.until(lambda _: other.made == 5)
                # one lets the others stand in line, one sends them away
                told = [202] * 12 if name == "aiohttp" else [503] * 7
                answers = itertools.islice(asyncio.as_completed(orders), len(told))
                assert [(await each)[0] for each in answers] == told
                service.kill()
                await asyncio.gather(*orders, return_exceptions=True)
            assert other.made == 5
            assert not (tmp_path / "videos").exists()

            other.simulator.faults = Faults()
            async with service.life():  # until all are made, and one is being downloaded
                with contextlib.suppress(aiohttp.ClientError):  # it may die before it has answered the last
                    await asyncio.gather(
                        customer.insist(NAMES),
                        other.until(lambda event: event == "download-started" and all_made(), service.kill),
                    )
                assert other.made == len(NAMES)

            async with service.life():
                await other.assert_delivered(customer, NAMES)
                assert await service.stop() in (0, -signal.SIGTERM)
            assert "Traceback" not in "\n".join(service.said)

    # no callback tells the first life of the five: it would accept them before it has sent the others away
    other = Other("create:delay seconds=50 made=1 times=5; callback:never_sent")
    asyncio.run(main())


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_answers_its_customers(name: str, tmp_path: Path) -> None:
    """Progress as it happens, then a file; what is wrong is told; who pretends to be Kling is not heard."""

    async def main() -> None:
        async with other.service(name, tmp_path) as (service, customer), service.life():
            photo = base64.b64encode(png(100)).decode()
            usual, other.simulator.seconds = other.simulator.seconds, 2.5  # which no machine sleeps through
            status, answer = await customer.order("cat", photo)
            assert (status, answer["id"]) == (202, "cat")
            assert (await customer.order("cat", photo))[0] == 202
            events = [event async for event in customer.events("cat")]
            statuses = [event["status"] for event in events]
            assert statuses[-3:] == ["processing", "succeed", "succeed"]
            assert events[-1] == {"id": "cat", "status": "succeed", "url": "/videos/cat.mp4"}
            assert json.loads((await customer.get("/videos/cat"))[1]) == events[-1]
            assert [event async for event in customer.events("cat")] == events[-1:]
            assert (await customer.order("cat", photo))[0] == 202
            await other.assert_delivered(customer, ["cat"])

            other.simulator.seconds = usual
            await customer.order("bad", prompt="[fail]")
            assert "content risk control" in (await customer.ended("bad"))["error"]
            (tmp_path / "secret.png").write_bytes(png(0))
            paths = ("/etc/passwd", str(tmp_path / "secret.png"), f"file://{tmp_path}/secret.png")
            for wrong in (*paths, "http://example.com/cat.png", "", 5, None):
                assert (await customer.order("wrong", wrong))[0] == 422
            for wrong in ("", "../cat", "a/b", "Cat", "a" * 65, 5):
                assert (await customer.order(wrong))[0] == 422
            status, answer = await customer.order("wrong", prompt="a" * 2501)
            assert (status, len(answer["problems"])) == (422, 1)
            assert (await customer.post("/videos", data=b"{"))[0] == 422
            assert (await customer.post("/videos", json=[]))[0] == 422
            for path in ("wrong", "wrong.mp4", "wrong/events", "..%2Fcat.mp4"):
                assert (await customer.get(f"/videos/{path}"))[0] == 404

            forged = {"task_id": other.simulator.ledger.made[0].task_id, "task_status": "failed"}
            signature = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,c2lnbg=="}
            assert (await customer.post("/kling", json=forged, headers=signature))[0] == 401
            assert (await customer.post("/kling", data=b"{"))[0] == 400
            assert other.simulator.ledger.callbacks == {"processing": 2, "succeed": 1, "failed": 1}
            assert other.simulator.ledger.requests["query"] + other.simulator.ledger.requests["list"] == 0

            await refuses_strangers(customer)

            other.simulator.seconds, other.simulator.parallel = 60.0, 1
            await customer.order("slow")
            more = [(await customer.order(f"more-{number}"))[0] for number in range(22)]
            assert (more[0] == 202, more[-1]) == (name == "aiohttp", 503)
            late = {"id": "late", "image": PICTURE, "prompt": "late"}
            async with customer.session.post(f"{service.url}/videos", json=late) as answered:
                assert int(answered.headers["Retry-After"]) > 0
            stopping: asyncio.Task[int] | None = None
            with contextlib.suppress(aiohttp.ClientPayloadError):  # uvicorn cuts off streams that do not end
                async for event in customer.events("slow"):
                    if event["status"] != "intended" and stopping is None:
                        stopping = asyncio.create_task(service.stop())
            assert stopping is not None
            assert await stopping in (0, -signal.SIGTERM)
            assert "ExceptionGroup" not in "\n".join(service.said)

    other = Other()
    asyncio.run(main())


async def refuses_strangers(customer: Customer) -> None:
    """What no customer means is answered with what is wrong with it, and kept nowhere."""
    for picture in (b"no picture", b""):
        assert (await customer.order("torn", base64.b64encode(picture).decode()))[0] == 422
    assert (await customer.order("torn", prompt="\ud800"))[0] == 422
    assert (await customer.order("torn", "https://example.com/\ud800.png"))[0] == 422
    for body in (b"\xff\xfe\xfa", b"[" * 200_000, b'{"id": NaN}', b"NaN"):
        assert (await customer.post("/videos", data=body))[0] == 422
    charset = {"Content-Type": "application/json; charset=none"}
    assert (await customer.post("/videos", data=b"{}", headers=charset))[0] == 422
    assert (await customer.post("/videos", data=io.BytesIO(bytes(16 * 1024 * 1024 + 1))))[0] == 413
    assert (await customer.post("/kling", data=bytes(1024 * 1024)))[0] == 413
    for path in ("torn", "a" * 3000, f"{'a' * 3000}.mp4", f"{'a' * 3000}/events", "..%5Ccat", "..%5Ccat.mp4"):
        assert (await customer.get(f"/videos/{path}"))[0] == 404


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_needs_no_callbacks(name: str, tmp_path: Path) -> None:
    """None arrives: polls find every video, also what an earlier life had submitted."""

    async def main() -> None:
        async with other.service(name, tmp_path) as (service, customer):
            async with service.life():
                orders = [asyncio.create_task(customer.order(each)) for each in NAMES[:5]]
                await other.until(lambda _: other.seen["create-replied"] == 5)
                await asyncio.gather(*orders)
                service.kill()
            async with service.life():
                await other.assert_delivered(customer, NAMES[:5])

    other = Other("callback:never_sent")
    other.simulator.seconds = 0.05  # over when the next life asks, which is at once
    asyncio.run(main())


def test_the_batch_script_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    """Interrupted with all tasks running, and run again, it makes nothing twice. Exit codes tell the rest."""

    async def main() -> None:
        async with other.served() as base_url:
            first = await run_batch(base_url, tmp_path)
            await other.until(lambda _: other.made == len(PICTURES))
            first.send_signal(signal.SIGINT)
            assert await said(first) == (130, "interrupted; run it again to go on\n")
            (tmp_path / "photos" / "broken.png").write_text("no picture")
            code, text = await said(await run_batch(base_url, tmp_path))
            assert (code, text.count("videos/"), text.count("broken.png: ")) == (1, len(PICTURES), 1)
            (tmp_path / "photos" / "broken.png").unlink()
            assert (await said(await run_batch(base_url, tmp_path)))[0] == 0
            code, text = await said(await run_batch(base_url, tmp_path, KLING_API_KEY=""))
            assert (code, "KLING_API_KEY" in text) == (2, True)

    shutil.copytree(PHOTOS, tmp_path / "photos")
    other = Other()
    other.simulator.seconds = 0.05
    asyncio.run(main())
    assert_made_once(other.simulator, len(PICTURES))
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == len(PICTURES)


async def run_batch(base_url: str, folder: Path, **more: str) -> asyncio.subprocess.Process:
    """The batch script, begun."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "batch_script.py"), "photos", "videos", "a slow push-in"),
        cwd=folder,
        env=environment(base_url, **more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def said(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """The exit code and the output of *process*, when it has ended."""
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def test_the_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    """Killed with all tasks running; then from top to bottom, twice. A cell's error is shown as it is."""

    async def main() -> None:
        async with other.served() as base_url:
            kernel, running = execute(base_url, code)
            await other.until(lambda _: other.made == 4)  # which is every photo
            assert kernel.km is not None
            await ensure_async(kernel.km.shutdown_kernel(now=True))
            with pytest.raises(DeadKernelError):
                await running
            kernel, running = execute(base_url, [*code, *code, *code[:1], *wrong, *code[-1:]])
            await running
        check(kernel.nb)

    def execute(
        base_url: str, cells: Sequence[nbformat.NotebookNode]
    ) -> tuple[NotebookClient, asyncio.Task[nbformat.NotebookNode]]:
        fresh = [new_code_cell(cell.source, metadata=cell.metadata) for cell in cells]
        book = new_notebook(cells=fresh, metadata=notebook.metadata)
        kernel = NotebookClient(book, resources={"metadata": {"path": str(tmp_path)}})
        return kernel, asyncio.create_task(kernel.async_execute(env=environment(base_url)))

    def check(book: nbformat.NotebookNode) -> None:
        shown = json.dumps(book)
        assert "ExceptionGroup" not in shown
        assert "different loop" not in shown
        for cell in book.cells:
            warnings = [each.text for each in cell.outputs if each.get("name") == "stderr"]
            # the kernel may have been killed before it had an answer
            assert all("it is looked for" in line for line in "".join(warnings).splitlines())
            names = [each.ename for each in cell.outputs if each.output_type == "error"]
            assert names == cell.metadata.get("ends", [])
        assert shown.count("| rocket | succeed | videos/rocket.mp4 |") == 2
        assert_made_once(other.simulator, 4)

    shutil.copytree(PHOTOS, tmp_path / "photos")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    wrong = [
        new_code_cell(source, metadata={"tags": ["raises-exception"], "ends": [error]})
        for source, error in (
            ('await kling.run(ImageToVideo(image="none.png", prompt="x"))', "RequestError"),
            ('await kling.run(ImageToVideo(image=photos[0], prompt="[policy]"))', "PolicyError"),
            ("async for done in kling.completions(requests): 1 / 0", "ZeroDivisionError"),
        )
    ]
    other = Other()
    other.simulator.seconds = 0.05
    asyncio.run(main())


class OwnError(Exception):
    """Raised by an application."""


@pytest.mark.parametrize("where", ["startup", "shutdown"])
def test_the_error_of_a_lifespan_is_its_own(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that fails while a client is open, with a task under way: its error comes out, bare."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with KlingClient(APIKey("sim-key"), KLING.at(urls[0]), journal=tmp_path / "journal") as kling:
            await kling.submit(ImageToVideo(image="https://example.com/cat.png", prompt="x"))
            if where == "startup":
                raise OwnError
            yield
            raise OwnError

    async def main() -> None:
        async with other.served() as base_url:
            urls.append(base_url)
            before = asyncio.all_tasks()
            app = FastAPI(lifespan=lifespan)
            with pytest.raises(OwnError) as caught:
                async with app.router.lifespan_context(app):
                    pass
            assert caught.value.__context__ is None
            assert asyncio.all_tasks() == before
            served = LifespanOn(Config(app, lifespan="on", log_config=None))
            await served.startup()
            await served.shutdown()
            assert served.should_exit
            assert asyncio.all_tasks() == before

    urls: list[str] = []
    other = Other()
    asyncio.run(main())
    assert "OwnError" in caplog.text
    assert "ExceptionGroup" not in caplog.text
    gc.collect()  # what was not closed warns, and warnings are errors
