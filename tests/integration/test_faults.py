"""Every fault against every operation over real sockets, as `fault_table` says; the ledger is the judge."""

import asyncio
import contextlib
import random
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
import steady_time
from aiohttp.abc import AbstractResolver, ResolveResult
from integration.fault_table import OPERATIONS, ROWS, End, Operation, Row
from integration.sockets import POLLING, RETRIES, VIDEO, png

from kling_async import AccessKey, APIKey, ImageToVideo, KlingClient, KlingError
from kling_async.downloads import Downloads
from kling_async.instrumentation import Hooks
from kling_async.protocol.models import Task, TaskStatus, Video
from kling_async.protocol.providers import KLING
from kling_async.simulator import Faults, Simulator, serve
from kling_async.simulator.prices import price
from kling_async.transport import AiohttpTransport

NETWORKS = ("refused", "nameless", "untrusted", "full", "closing", "proxy")
UNIT_PRICE = price("kling-v2-6", {"mode": "std", "duration": "5"})


LARGE = png(5_000_000)


def request(row: Row, folder: Path) -> ImageToVideo:
    """What the row's create submits."""
    if not row.large:
        return ImageToVideo(image="https://cdn.example.org/a.png", prompt="x")
    picture = folder / "large.png"
    picture.write_bytes(LARGE)
    return ImageToVideo(image=picture, prompt="x")


def ended(error: KlingError | None, requests: int, made: int) -> End:
    """How a call ended."""
    if error is None:
        return End(requests, made)
    return End(requests, made, type(error).__name__, error.outcome.name)


def count_of(counted: Counter[str], operation: Operation) -> int:
    """How many requests of the operation's kind have come."""
    return counted[f"{'create' if operation == 'blind' else operation}-headers"]


def is_answered(counted: Counter[str], operation: Operation) -> bool:
    """Whether the server is done with every request of the operation's kind."""
    kind = "create" if operation == "blind" else operation
    return counted[f"{kind}-replied"] + counted[f"{kind}-lost"] == counted[f"{kind}-headers"]


@contextlib.asynccontextmanager
async def client_of(url: str, row: Row, operation: Operation) -> AsyncGenerator[KlingClient]:
    """A client of the simulator at *url*; it waits briefly for replies where none comes in time."""
    provider = attrs.evolve(KLING.at(url), lookup="no" if operation == "blind" else "yes")
    credentials = AccessKey("sim-access", "sim-secret") if row.signs else APIKey("sim-key")
    seconds = 0.4 if ":delay" in row.fault else 5.0
    transport = AiohttpTransport(connect_seconds=seconds, reply_seconds=seconds)
    options: dict[str, Any] = {"polling": POLLING, "retries": RETRIES, "rng": random.Random(0)}
    options["clock"] = steady_time.now
    try:
        async with KlingClient(credentials, provider, transport=transport, **options) as kling:
            yield kling
    finally:
        await transport.aclose()


async def struck(row: Row, operation: Operation, folder: Path) -> tuple[End, float, int]:
    """What becomes of *operation* when the fault strikes it; the seconds it took; how often it struck."""
    simulator = Simulator(seconds=0.0, parallel=None, render=lambda _: VIDEO)
    counted, answered = Counter[str](), asyncio.Event()
    await asyncio.to_thread(folder.mkdir)

    def count(event: str) -> None:
        counted[event] += 1
        (answered.set if is_answered(counted, operation) else answered.clear)()

    async with (
        serve(simulator, clock=steady_time.now, on_event=count) as url,
        client_of(url, row, operation) as kling,
    ):
        assert [task async for task in kling.list_tasks()] == []
        task: Any = None
        if operation in ("query", "list", "download"):
            task = await kling.run(ImageToVideo(image="https://cdn.example.org/a.png", prompt="before"))
        script = row.fault.format(on="create" if operation == "blind" else operation)
        first, *others = script.split("; ")
        simulator.faults.add(*Faults.parse("; ".join([f"{first} times=1", *others])))
        if row.kept:
            _ = [task async for task in kling.list_tasks()]
        before, made = count_of(counted, operation), len(simulator.ledger.made)
        error: KlingError | None = None
        started = time.monotonic()
        try:
            if operation in ("create", "blind"):
                handle = await kling.submit(request(row, folder))
                assert (await handle.result(timeout=5)).task_id == simulator.ledger.made[-1].task_id
            elif operation == "query":
                assert (await kling.get_task(task.task_id)).status is TaskStatus.SUCCEED
            elif operation == "list":
                assert [each.task_id async for each in kling.list_tasks()] == [task.task_id]
            else:
                path = await kling.download(task, folder / "out")
                assert path.read_bytes() == VIDEO
        except KlingError as raised:
            error = raised
        took = time.monotonic() - started
        if ":delay" in row.fault and "made=1" not in row.fault:
            await answered.wait()  # the server makes it when nobody waits any more
        requests = count_of(counted, operation) - before
    ledger = simulator.ledger
    if operation == "download":
        assert [path.name.endswith(".mp4") for path in (folder / "out").iterdir()] == [True] * (error is None)
    assert ledger.billed() == len(ledger.made) * (UNIT_PRICE or 0) > 0 or not ledger.made
    assert all(len(tasks) == 1 for tasks in ledger.made_by_external_id().values())
    assert ledger.leaks == []
    return ended(error, requests, len(ledger.made) - made), took, sum(ledger.faults.values())


@pytest.mark.parametrize("row", [row for row in ROWS if row.fault not in NETWORKS], ids=lambda row: row.what)
def test_a_fault_has_the_end_that_is_told(row: Row, tmp_path: Path):
    """Class and outcome, requests, tasks made and billed are those of the table, for every operation."""

    async def main() -> dict[Operation, tuple[End, float, int]]:
        operations: list[Operation] = [each for each in OPERATIONS if each in row.ends]
        ends = await asyncio.gather(*(struck(row, each, tmp_path / each) for each in operations))
        return dict(zip(operations, ends, strict=True))

    seen = steady_time.run(main())
    ends: dict[str, End] = {operation: end for operation, (end, _, _) in seen.items()}
    assert ends == row.ends
    assert all(took >= row.wait for _, took, _ in seen.values())
    assert all(faults >= 1 for _, _, faults in seen.values()), "a fault that did not strike proves nothing"


# Networks that lead nowhere


class _Nameless(AbstractResolver):
    """Knows no name."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Fail as the system's does."""
        raise OSError(f"no address for {host}")

    async def close(self) -> None:
        """Nothing is open."""


@attrs.frozen
class Nowhere:
    """A base URL that cannot be reached, and what sets it up.

    Attributes:
        url: base URL.
        proxy: the proxy on the way.
        resolver: of names.
    """

    url: str
    proxy: str | None = None
    resolver: AbstractResolver | None = None

    def session(self) -> aiohttp.ClientSession:
        """A session on this network."""
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=self.resolver))


@contextlib.contextmanager
def bound(*, backlog: int | None):
    """A socket on a free port of this machine; it listens if a backlog is given, and accepts nobody."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if backlog is not None:
            listener.listen(backlog)
        yield listener, f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def untrusted(folder: Path) -> AsyncGenerator[str]:
    """A TLS server whose certificate is signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificate with the openssl command, which is not here")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    command = [openssl, *words.split(), *extra]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def refusing_proxy(asked: list[bytes]) -> AsyncGenerator[str]:
    """A proxy that opens no tunnel."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def network(name: str, folder: Path) -> AsyncGenerator[Nowhere]:
    """The network of that name."""
    match name:
        case "refused":
            with bound(backlog=None) as (_, address):
                yield Nowhere(f"http://{address}")
        case "nameless":
            yield Nowhere("https://kling.invalid", resolver=_Nameless())
        case "untrusted":
            async with untrusted(folder) as url:
                yield Nowhere(url)
        case "full":
            with bound(backlog=0) as (listener, address), contextlib.ExitStack() as waiting:
                for _ in range(4):  # Linux takes one more than the backlog says
                    each = waiting.enter_context(socket.socket())
                    each.setblocking(False)
                    each.connect_ex(listener.getsockname())
                yield Nowhere(f"http://{address}")
        case "closing":
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
            async with server:
                yield Nowhere(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        case _:
            asked: list[bytes] = []
            async with refusing_proxy(asked) as url:
                yield Nowhere("https://kling.invalid", proxy=url)
            assert asked
            assert all(each.startswith(b"CONNECT kling.invalid:443 ") for each in asked)
            assert not any(b"sim-key" in each for each in asked)


async def unreached(row: Row, operation: Operation, folder: Path) -> End:
    """What becomes of *operation* where the server cannot be reached."""
    await asyncio.to_thread(folder.mkdir)
    async with network(row.fault, folder) as nowhere:
        if operation == "download":
            return await _unreached_download(nowhere, folder)
        transport = AiohttpTransport(
            proxy=nowhere.proxy, connect_seconds=0.2 if row.fault == "full" else 30.0
        )
        if nowhere.resolver is not None:
            transport._creates, transport._reads = nowhere.session(), nowhere.session()
        options: dict[str, Any] = {"polling": POLLING, "retries": RETRIES, "transport": transport}
        provider = attrs.evolve(KLING.at(nowhere.url), lookup="no" if operation == "blind" else "yes")
        try:
            async with KlingClient(APIKey("sim-key"), provider, **options) as kling:
                if operation == "query":
                    await kling.get_task("880000")
                elif operation == "list":
                    _ = [task async for task in kling.list_tasks()]
                else:
                    await kling.submit(request(row, folder))
        except KlingError as error:
            return ended(error, 0, 0)
        finally:
            await transport.aclose()
    raise AssertionError("reached what is nowhere")


async def _unreached_download(nowhere: Nowhere, folder: Path) -> End:
    async def fresh(task: Task) -> Task:
        raise AssertionError("the URL is not dead")

    downloads = Downloads(
        nowhere.session,
        fresh=fresh,
        in_thread=asyncio.to_thread,
        retries=RETRIES,
        rng=random.Random(0),
        hooks=Hooks(()),
        proxy=nowhere.proxy,
        timeout=aiohttp.ClientTimeout(connect=0.2),
    )
    task = Task(
        "880000", None, TaskStatus.SUCCEED, videos=(Video(id="1", url=f"{nowhere.url}/videos/1.mp4"),)
    )
    try:
        await downloads.save(task, folder / "out")
    except KlingError as error:
        assert list((folder / "out").iterdir()) == []
        return ended(error, 0, 0)
    finally:
        await downloads.aclose()
    raise AssertionError("reached what is nowhere")


@pytest.mark.parametrize("row", [row for row in ROWS if row.fault in NETWORKS], ids=lambda row: row.what)
def test_what_cannot_be_reached_made_nothing(row: Row, tmp_path: Path):
    """No connection, for whatever reason, is proof that nothing was made: the error says so."""

    async def main() -> list[End]:
        return await asyncio.gather(*(unreached(row, each, tmp_path / each) for each in OPERATIONS))

    assert dict(zip(OPERATIONS, steady_time.run(main()), strict=True)) == row.ends


def test_the_reference_prints_this_table(monkeypatch: pytest.MonkeyPatch):
    """Every row stands in the page, with the end of each operation."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs"))
    import tables

    told = tables.fault_matrix()
    assert all(f"| {row.what} |" in told for row in ROWS)
    assert len(told.splitlines()) == len(ROWS) + 2
    [lost] = [line for line in told.splitlines() if line.startswith("| reply cut |")]
    assert "| succeeds; 1 request; 1 task | `ResponseLostError`, MAY_EXIST; 1 request; 1 task |" in lost
