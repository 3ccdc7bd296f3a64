"""The transport over real sockets: whose connections, what is sent on them, what it costs and proves."""

import asyncio
import contextlib
import errno
import gc
import hashlib
import os
import random
import socket
import tracemalloc
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import steady_time
from aiohttp import web
from attrs import define, field
from integration.sockets import POLLING, RETRIES, VIDEO, Answer, Host, png, reply

from kling_async import (
    APIKey,
    ConnectError,
    GatewayError,
    ImageToVideo,
    KlingClient,
    MultiImageToVideo,
    Outcome,
    RequestError,
    ResponseLostError,
    Retries,
)
from kling_async.instrumentation import Event, Retried
from kling_async.protocol.providers import KLING
from kling_async.protocol.wire import Request
from kling_async.simulator import Faults, Simulator, make_app
from kling_async.transport import REPLY_LIMIT, AiohttpTransport

REQUEST = ImageToVideo(image="https://cdn.example.org/a.png", prompt="x")
ACKNOWLEDGED = b'{"code": 0, "data": {"task_id": "880001", "task_status": "submitted"}}'


@define(eq=False)
class Server:
    """A simulator on a port, which notes each request: its kind, its connection, its headers."""

    simulator: Simulator
    url: str = ""
    seen: list[tuple[str, Any, dict[str, str]]] = field(factory=list)

    def connections(self, operation: str) -> list[Any]:
        """The connection of each request of that kind."""
        return [peer for kind, peer, _ in self.seen if kind == operation]

    def headers(self, operation: str) -> list[dict[str, str]]:
        """The headers of each request of that kind, by name in lower case."""
        return [headers for kind, _, headers in self.seen if kind == operation]


@contextlib.asynccontextmanager
async def serving(script: str = "", **settings: Any) -> AsyncGenerator[Server]:
    """A server; each of its replies sets a cookie."""
    server = Server(Simulator(seconds=0.0, parallel=None, render=lambda _: VIDEO, **settings))

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        operation = server.simulator.operation(request.method, request.raw_path)
        peer = request.transport and request.transport.get_extra_info("peername")
        server.seen.append((operation, peer, {name.lower(): text for name, text in request.headers.items()}))
        return await handler(request)

    async def give_cookie(_: web.Request, response: web.StreamResponse) -> None:
        response.set_cookie("theirs", "1")

    app = make_app(server.simulator)
    app.middlewares.append(note)
    app.on_response_prepare.append(give_cookie)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = server.simulator.public_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        server.simulator.faults.add(*Faults.parse(script))
        yield server
    finally:
        await runner.cleanup()


def client(url: str, **options: Any) -> KlingClient:
    """A client with short waits."""
    return KlingClient(APIKey("sim-key"), KLING.at(url), polling=POLLING, retries=RETRIES, **options)


# Whose connections


def test_creates_take_fresh_connections_and_reads_keep_theirs():
    """Each create has a connection of its own; the reads after it share one."""

    async def main() -> Server:
        async with serving() as server, client(server.url) as kling:
            for _ in range(5):
                handle = await kling.submit(REQUEST)
                await handle.result()
                await kling.get_task(handle.task_id or "")
            return server

    server = asyncio.run(main())
    creates, queries = server.connections("create"), server.connections("query")
    assert len(creates) == len(set(creates)) == 5
    assert len(queries) >= 10
    assert len(set(queries)) == 1
    assert not set(creates) & set(queries)
    assert all(headers["connection"] == "close" for headers in server.headers("create"))


def test_why_there_is_no_connection_is_told_in_the_system_s_words():
    """Host and reason, each once; no name of a class."""

    async def main() -> str:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            async with KlingClient(APIKey("sim-key"), KLING.at(url), retries=Retries(attempts=1)) as kling:
                with pytest.raises(ConnectError) as caught:
                    await kling.get_task("1")
        return caught.value.what.replace(url.removeprefix("http://"), "HOST")

    assert asyncio.run(main()) == f"cannot reach HOST: {os.strerror(errno.ECONNREFUSED)}"


def test_a_kept_connection_that_dies_costs_a_query_nothing():
    """The server closes as the next request comes: the query goes through, and no create ever meets it."""

    async def main() -> Server:
        async with serving("any:keepalive_race") as server, client(server.url) as kling:
            task = await kling.run(REQUEST)
            for _ in range(5):
                assert (await kling.get_task(task.task_id or "")).task_id == task.task_id
                await kling.submit(REQUEST)
            return server

    server = asyncio.run(main())
    ledger = server.simulator.ledger
    assert ledger.faults["query", "keepalive_race"] >= 5
    assert len(server.connections("create")) == ledger.requests["create"] == len(ledger.made) == 6


# A session given from outside


async def retry_everything(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
    """A middleware that would pay twice."""
    await (await handler(request)).read()
    return await handler(request)


SESSIONS: dict[str, dict[str, Any]] = {
    "everything": {
        "raise_for_status": True,
        "headers": {"Authorization": "Bearer mine", "Content-Type": "text/plain", "X-Mine": "1"},
        "cookies": {"mine": "1"},
        "middlewares": (retry_everything,),
        "trust_env": True,
    },
    "another base": {"base_url": "http://127.0.0.1:9/", "proxy": "http://127.0.0.1:9/"},
}


@pytest.mark.parametrize("options", SESSIONS.values(), ids=SESSIONS)
def test_a_given_session_changes_nothing(options: dict[str, Any], tmp_path: Path):
    """Reads go over its connections and show in its tracing; nothing it would add or do reaches Kling."""
    traced: list[str] = []

    async def trace(_: Any, __: Any, params: aiohttp.TraceRequestStartParams) -> None:
        traced.append(params.method)

    async def main() -> tuple[Server, bool]:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(trace)
        jar = aiohttp.CookieJar(unsafe=True)
        script = "query:empty status=429 times=1; list:redirect times=1"
        async with (
            serving(script) as server,
            aiohttp.ClientSession(trace_configs=[config], cookie_jar=jar, **options) as session,
        ):
            async with client(server.url, session=session) as kling:
                task = await kling.run(REQUEST)
                with pytest.raises(GatewayError, match="redirected"):
                    _ = [each async for each in kling.list_tasks()]
                path = await kling.download(task, tmp_path)
            assert path.name.endswith(".mp4")
            return server, session.closed

    server, closed = asyncio.run(main())
    assert not closed
    assert traced == ["GET"] * (len(server.headers("query")) + len(server.headers("list")))
    assert len(server.headers("list")) == len(server.headers("create")) == 1
    for operation in ("create", "query", "list", "download"):
        for headers in server.headers(operation):
            assert not {"cookie", "x-mine"} & headers.keys(), operation
            wanted = None if operation == "download" else "Bearer sim-key"
            assert headers.get("authorization") == wanted, operation
    assert server.headers("create")[0]["content-type"] == "application/json"
    assert set(server.headers("download")[0]) <= {"host", "accept", "accept-encoding", "user-agent"}
    assert server.simulator.ledger.leaks == []


def test_a_given_session_that_was_closed_is_told():
    """The error says so; the task that is there can still be told apart from one that is not."""

    async def main() -> None:
        async with serving() as server:
            session = aiohttp.ClientSession()
            async with client(server.url, session=session) as kling:
                handle = await kling.submit(REQUEST)
                await handle.result()
                await session.close()
                with pytest.raises(ConnectError, match=r"session .* is closed"):
                    await kling.get_task(handle.task_id or "")

    asyncio.run(main())


# What proves what

BAD_REPLIES = {
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n",
    "cut chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "bad gzip": reply(200, b"no gzip at all", Content_Encoding="gzip"),
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: zz\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
    "no http": b"\x15\x03\x01\x00 hello\r\n\r\n",
    "nothing": b"",
}


class Whole:
    """A body in one piece."""

    size = 2

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        yield b"{}"


async def sent(answer: Answer, method: str = "POST", **options: Any) -> Any:
    """What the transport makes of *answer*."""
    usual: dict[str, Any] = {"reply_seconds": 0.3, "connect_seconds": 5.0}
    transport = AiohttpTransport(**(usual | options))
    try:
        async with Host(answer).serve() as url:
            body = Whole() if method == "POST" else None
            return await transport.send(Request(method, f"{url}/"), authorization="Bearer k", body=body)
    finally:
        await transport.aclose()


@pytest.mark.parametrize("bad", BAD_REPLIES.values(), ids=BAD_REPLIES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_reply_that_cannot_be_read_is_lost(method: str, bad: bytes):
    """Once the body is handed over, whatever is no whole reply leaves a create unknown."""
    with pytest.raises(ResponseLostError, match=r"127\.0\.0\.1"):
        steady_time.run(sent(bad, method))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_reply_without_end_is_lost(method: str):
    """One that swells to more than 64 MiB is not read to its end."""
    swollen = reply(200, zlib.compress(bytes(REPLY_LIMIT + 1), 9), Content_Encoding="deflate")
    with pytest.raises(ResponseLostError, match="larger than"):
        steady_time.run(sent(swollen, method, reply_seconds=20.0))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_large_reply_is_read_whole(method: str):
    """A page of the list comes in many pieces; headers are found by their lower-case names."""
    body = random.Random(1).randbytes(1_000_000)
    seen = steady_time.run(sent(reply(200, body, Retry_After="7"), method, reply_seconds=20.0))
    assert (seen.status, seen.body, seen.headers["retry-after"]) == (200, body, "7")


def test_a_bad_chunk_that_comes_late_is_lost():
    """So is one that comes after a good beginning."""

    async def late(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, chunk = BAD_REPLIES["bad chunk"].split(b"ZZ")
        writer.write(head)
        for _turn in range(20):  # of the loop that the client runs in too
            await asyncio.sleep(0)
        writer.write(b"ZZ" + chunk)

    with pytest.raises(ResponseLostError):
        steady_time.run(sent(late))


def test_no_reply_in_time_is_lost():
    """The time runs from the end of the body."""
    with pytest.raises(ResponseLostError, match="no reply in time"):
        steady_time.run(sent(say_nothing))


QUICK: dict[str, Any] = {"connect_seconds": 0.1, "reply_seconds": 0.2}


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """A server that waits for what never comes."""
    await reader.read()


async def say_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that goes silent within its reply."""
    writer.write(reply(200, ACKNOWLEDGED)[:-1])
    await reader.read()


@pytest.mark.parametrize("answer", [say_nothing, say_half])
def test_a_read_has_its_time(answer: Answer):
    """No whole reply in time: the read is lost, as a create is."""
    with pytest.raises(ResponseLostError, match="no reply in time"):
        steady_time.run(sent(answer, "GET", **QUICK))


def test_each_read_has_its_own_time():
    """Reads that come together and one after another: only those that get no answer are lost, each time."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "/silent " in host.asked[-1][""]:
            await reader.read()
        writer.write(reply(200, ACKNOWLEDGED))

    host = Host(answer)

    async def main() -> list[list[Any]]:
        transport = AiohttpTransport(**QUICK)
        async with host.serve() as url:

            async def read(path: str) -> Any:
                return await transport.send(Request("GET", f"{url}/{path}"), authorization="Bearer k")

            paths = ("silent", "prompt", "silent", "prompt")
            rounds = [
                await asyncio.gather(*(read(path) for path in paths), return_exceptions=True)
                for _ in range(2)
            ]
            await transport.aclose()
            return rounds

    for ends in steady_time.run(main()):
        assert [isinstance(end, ResponseLostError) for end in ends] == [True, False, True, False]


def test_a_read_that_is_cancelled_is_no_failure():
    """Who cancels a read gets the cancellation, and the time limit forgets it."""

    async def main() -> None:
        asked = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()

        transport = AiohttpTransport()
        async with Host(answer).serve() as url:
            read = asyncio.create_task(transport.send(Request("GET", f"{url}/"), authorization="Bearer k"))
            await asked.wait()
            read.cancel()
            with pytest.raises(asyncio.CancelledError):
                await read
            assert not transport._limit._ends
            await transport.aclose()

    asyncio.run(main())


# Bodies


def pictures(folder: Path, size: int = 9_000_000) -> list[Path]:
    """Four pictures of that many bytes."""
    paths = [folder / f"{number}.png" for number in range(4)]
    for path in paths:
        path.write_bytes(png(size - len(png(0))))
    return paths


async def body_of(host: Host, reader: asyncio.StreamReader) -> int:
    """Read the body of the request that has come; how many of its bytes came."""
    left = told = int(host.asked[-1]["content-length"])
    while left and (piece := await reader.read(min(left, 1 << 20))):
        left -= len(piece)
    return told - left


def test_four_pictures_of_nine_megabytes_in_flat_memory(tmp_path: Path):
    """48 MB of body pass through a few megabytes of memory."""
    request = MultiImageToVideo(image_list=pictures(tmp_path), prompt="x")
    came: list[int] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await body_of(host, reader))
        writer.write(reply(200, ACKNOWLEDGED))

    host = Host(take)

    async def main() -> int:
        async with host.serve() as url, KlingClient(APIKey("k"), KLING.at(url)) as kling:
            gc.collect()
            tracemalloc.start()
            try:
                assert (await kling.submit(request)).task_id == "880001"
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    peak = asyncio.run(main())
    assert came == [int(host.asked[0]["content-length"])]
    assert came[0] > 48_000_000
    assert peak < 12_000_000


def test_an_upload_that_stands_still_made_nothing(tmp_path: Path):
    """Nothing of the body leaves any more: given up, and by proof nothing was made."""
    request = MultiImageToVideo(image_list=pictures(tmp_path), prompt="x")

    async def main() -> None:
        left = asyncio.Event()

        async def stand_still(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
            await left.wait()

        transport = AiohttpTransport(progress_seconds=0.3)
        async with Host(stand_still).serve() as url:
            with pytest.raises(ConnectError) as caught:
                async with client(url, transport=transport) as kling:
                    await kling.submit(request)
            assert caught.value.outcome is Outcome.NOT_CREATED
            await transport.aclose()
            left.set()

    asyncio.run(main())


def test_the_next_attempt_reads_the_file_again(tmp_path: Path):
    """Broken in the middle of its picture, the create is sent anew from its first byte."""
    path = tmp_path / "cat.png"
    path.write_bytes(png(3_000_000))

    async def main() -> Server:
        async with serving("create:reset_in_body at=1000000 times=2") as server, client(server.url) as kling:
            await kling.submit(ImageToVideo(image=path, prompt="x"))
            return server

    server = asyncio.run(main())
    assert len(server.headers("create")) == 3
    [made] = server.simulator.ledger.made
    assert made.body["image"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("disguised", [False, True], ids=["changed", "of the same size and time"])
def test_a_file_that_changed_between_attempts_is_never_sent_whole(disguised: bool, tmp_path: Path):
    """The second attempt stops before its last byte: the server sees fewer than were promised."""
    path = tmp_path / "cat.png"
    path.write_bytes(png(3_000_000))
    before = path.stat()

    def change(event: Event) -> None:
        if not isinstance(event, Retried):
            return
        content = bytearray(path.read_bytes())
        content[2_000_000] = 7
        path.write_bytes(content)
        if disguised:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    async def break_off(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(500_000)

    async def take(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        came.put_nowait(await body_of(host, reader))

    came: asyncio.Queue[int] = asyncio.Queue()
    host = Host(break_off, take)

    async def main() -> int:
        async with host.serve() as url, client(url, hooks=(change,)) as kling:
            with pytest.raises(RequestError, match="changed") as caught:
                await kling.submit(ImageToVideo(image=path, prompt="x"))
            assert caught.value.outcome is Outcome.NOT_CREATED
            return await asyncio.wait_for(came.get(), 5)

    arrived = asyncio.run(main())
    assert arrived < int(host.asked[1]["content-length"])
    assert len(host.asked) == 2
    assert (arrived > 3_000_000) == disguised


# Proxies


@pytest.mark.parametrize(
    ("env", "proxy"),
    [
        ({"HTTPS_PROXY": "http://127.0.0.1:3128"}, "http://127.0.0.1:3128"),
        ({"https_proxy": "http://127.0.0.1:3128"}, "http://127.0.0.1:3128"),
        ({"HTTPS_PROXY": "http://127.0.0.1:3128", "NO_PROXY": "klingai.com"}, None),
        ({"HTTPS_PROXY": "http://127.0.0.1:3128", "no_proxy": "example.com,.klingai.com"}, None),
        ({"HTTPS_PROXY": "http://127.0.0.1:3128", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://127.0.0.1:3128", "NO_PROXY": "example.com"}, "http://127.0.0.1:3128"),
        ({"HTTP_PROXY": "http://127.0.0.1:3128"}, None),
        ({}, None),
    ],
)
def test_the_environment_names_the_proxy(env: dict[str, str], proxy: str | None):
    """HTTPS_PROXY is taken unless NO_PROXY names the host."""
    kling = KlingClient.from_env(env={"KLING_API_KEY": "k", **env})
    assert kling._setup.proxy == proxy


def test_the_proxy_carries_api_and_video(tmp_path: Path):
    """Plain http on this machine goes through the proxy too, if one is given: every request passes it."""
    lines: list[str] = []

    async def pass_on(request: web.Request) -> web.StreamResponse:
        lines.append(str(request.url))
        async with (
            aiohttp.ClientSession() as onward,
            onward.request(
                request.method, request.url, headers=request.headers, data=await request.read()
            ) as answer,
        ):
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type
            )

    async def main() -> Server:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with serving() as server, client(server.url, proxy=proxy) as kling:
                await kling.download(await kling.run(REQUEST), tmp_path)
                return server
        finally:
            await runner.cleanup()

    server = asyncio.run(main())
    assert len(lines) == len(server.seen) >= 3
    assert server.simulator.ledger.leaks == []
