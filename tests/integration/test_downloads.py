"""From the video host to the file, over real sockets: every byte once, of one version, under its own name."""

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import threading
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import steady_time
from attrs import define, field
from integration.sockets import RETRIES, VIDEO, Host, reply

from kling_async import DownloadError, KlingError, NotFoundError, Outcome, Retries
from kling_async.downloads import Downloads
from kling_async.instrumentation import Hooks, Saved
from kling_async.protocol.models import Task, TaskStatus, Video
from kling_async.simulator import Faults, Reply, Simulator, serve

BODY = {"model_name": "kling-v2-6", "image": "https://cdn.example.org/a.png", "prompt": "x"}
HALF = len(VIDEO) // 2


def task_at(url: str, task_id: str = "880001") -> Task:
    """A task that succeeded, with its video at *url*."""
    return Task(task_id, "ka-1", TaskStatus.SUCCEED, videos=(Video(id="1", url=url),))


async def no_fresh(task: Task) -> Task:
    """There is no other URL."""
    raise NotFoundError("Task not found")


@contextlib.asynccontextmanager
async def downloads(**changes: Any) -> AsyncGenerator[Downloads]:
    """Downloads with short waits, as a client has them."""
    usual: dict[str, Any] = {
        "fresh": no_fresh,
        "in_thread": asyncio.to_thread,
        "retries": RETRIES,
        "rng": random.Random(0),
        "hooks": Hooks(()),
    }
    here = Downloads(aiohttp.ClientSession, **(usual | changes))
    try:
        yield here
    finally:
        await here.aclose()


ONCE = Retries(attempts=1)


async def saved(host: Host, to: Path, **changes: Any) -> Path:
    """The file of a video at *host*."""
    async with host.serve() as url, downloads(**changes) as here:
        return await here.save(task_at(f"{url}/videos/1.mp4"), to)


def listed(folder: Path) -> list[Path]:
    """What is in *folder*."""
    return sorted(folder.iterdir())


def ranges(host: Host) -> list[str]:
    """The Range header of each request, empty for none."""
    return [asked.get("range", "") for asked in host.asked]


def part(body: bytes, start: int, whole: int, etag: str = "") -> bytes:
    """A reply to a Range request."""
    return reply(206, body, Content_Range=f"bytes {start}-{whole - 1}/{whole}", ETag=etag)


@define(eq=False, kw_only=True)
class Recorder(Simulator):
    """A simulator that notes the Range and the bytes sent of each download."""

    sent: list[tuple[str, int]] = field(factory=list)

    def handle(self, method: str, path: str, headers: Any, body: bytes, now: float) -> Reply:
        """As the simulator does."""
        answer = super().handle(method, path, headers, body, now)
        if path.startswith("/videos/"):
            self.sent.append((headers.get("Range", ""), len(answer.received)))
        return answer


@contextlib.asynccontextmanager
async def simulated(script: str = "", **settings: Any) -> AsyncGenerator[tuple[Recorder, Task]]:
    """A simulator with a finished video, and its task."""
    recorder = Recorder(seconds=0.0, render=lambda _: VIDEO, **settings)
    async with (
        serve(recorder) as url,
        aiohttp.ClientSession(headers={"Authorization": "Bearer sim-key"}) as api,
    ):
        path = f"{url}/v1/videos/image2video"
        async with api.post(path, json=BODY) as answer:
            task_id = (await answer.json())["data"]["task_id"]
        async with api.get(f"{path}/{task_id}") as answer:
            video = (await answer.json())["data"]["task_result"]["videos"][0]["url"]
        recorder.faults.add(*Faults.parse(script))
        yield recorder, task_at(video, task_id)


# Going on where it broke


def test_only_the_missing_bytes_are_sent_again(tmp_path: Path):
    """Cut twice, the video is sent once in all: each attempt asks for what is lacking."""
    script = "download:cut_reply at=100000 times=1; download:cut_reply at=150000 times=1"

    async def main() -> tuple[Path, Recorder]:
        async with simulated(script) as (recorder, task), downloads() as here:
            return await here.save(task, tmp_path), recorder

    path, recorder = asyncio.run(main())
    assert path.read_bytes() == VIDEO
    assert recorder.sent == [("", 100_000), ("bytes=100000-", 150_000), ("bytes=250000-", 50_000)]
    assert recorder.ledger.leaks == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_leftover_part_is_used_by_the_next_call(tmp_path: Path):
    """What a failed download left waits, hidden and without the final name; the next one goes on with it."""

    async def main() -> Recorder:
        async with simulated("download:cut_reply at=120000 times=1") as (recorder, task):
            async with downloads(retries=ONCE) as here:
                with pytest.raises(DownloadError) as caught:
                    await here.save(task, tmp_path, name="cat")
            assert (caught.value.outcome, caught.value.task_id, caught.value.key) == (
                Outcome.CREATED,
                task.task_id,
                "cat",
            )
            [left] = listed(tmp_path)
            assert left.name.startswith(f".{task.task_id}.")
            assert await asyncio.to_thread(left.read_bytes) == VIDEO[:120_000]
            async with downloads() as here:
                assert (await here.save(task, tmp_path, name="cat")).name == "cat.mp4"
            return recorder

    recorder = asyncio.run(main())
    assert recorder.sent == [("", 120_000), ("bytes=120000-", 180_000)]
    assert [path.name for path in tmp_path.iterdir()] == ["cat.mp4"]
    assert (tmp_path / "cat.mp4").read_bytes() == VIDEO


CHILD = """
import asyncio, random, sys
from pathlib import Path
import aiohttp
from kling_async import Retries
from kling_async.downloads import Downloads
from kling_async.instrumentation import Hooks
from kling_async.protocol.models import Task, TaskStatus, Video

async def in_thread(function, *arguments):
    result = await asyncio.to_thread(function, *arguments)
    print(function.__name__, flush=True)
    return result

async def main(url, to):
    here = Downloads(aiohttp.ClientSession, fresh=None, in_thread=in_thread, retries=Retries(attempts=1),
                     rng=random.Random(0), hooks=Hooks(()))
    task = Task("880001", "ka-1", TaskStatus.SUCCEED, videos=(Video(id="1", url=url),))
    try:
        await here.save(task, Path(to))
    finally:
        await here.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_leftover_part_is_used_by_the_next_process(tmp_path: Path):
    """While another process writes to its part we begin our own; killed, it leaves it to the next call."""
    film = VIDEO * 5
    sent = 1024 * 1024 + 1

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, film[:sent], length=len(film), ETag="1"))
        await writer.drain()
        await done.wait()

    async def rest(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = int(host.asked[-1]["range"].removeprefix("bytes=").rstrip("-"))
        assert 0 < start <= sent
        writer.write(part(film[start:], start, len(film), etag="1"))

    done = asyncio.Event()
    host = Host(stall, reply(200, film, ETag="1"), rest)

    async def main() -> None:
        async with host.serve() as url:
            video = f"{url}/videos/1.mp4"
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, video, str(tmp_path), stdout=asyncio.subprocess.PIPE
            )
            assert child.stdout is not None
            async for line in child.stdout:
                if line == b"append\n":
                    break
            async with downloads() as here:
                await here.save(task_at(video), tmp_path, name="own")
                child.send_signal(signal.SIGKILL)
                await child.wait()
                done.set()
                await here.save(task_at(video), tmp_path, name="resumed")

    asyncio.run(main())
    assert ranges(host)[:2] == ["", ""]
    assert [path.name for path in listed(tmp_path)] == ["own.mp4", "resumed.mp4"]
    assert all(path.read_bytes() == film for path in listed(tmp_path))


def test_two_at_once_into_one_folder(tmp_path: Path):
    """Downloads of the same task at the same time, of one client or two, each write a whole file."""

    async def main() -> list[Path]:
        script = "download:slow bytes_per_second=3e6"
        async with simulated(script) as (_, task), downloads() as one, downloads() as two:
            return await asyncio.gather(*(each.save(task, tmp_path) for each in (one, one, two)))

    paths = asyncio.run(main())
    assert len(set(paths)) == 3
    assert all(path.read_bytes() == VIDEO for path in paths)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_what_is_whole_is_not_fetched_again(tmp_path: Path):
    """A part that lacks nothing, left by a run that ended before it was renamed, only gets its name."""
    host = Host(
        reply(200, VIDEO[:HALF], length=len(VIDEO), ETag="1"),
        reply(416, Content_Range=f"bytes */{len(VIDEO)}", ETag="1"),
    )

    async def main() -> Path:
        async with host.serve() as url, downloads(retries=ONCE) as here:
            with pytest.raises(DownloadError):
                await here.save(task_at(url), tmp_path)
            [left] = listed(tmp_path)
            await asyncio.to_thread(left.write_bytes, VIDEO)
            return await here.save(task_at(url), tmp_path)

    assert asyncio.run(main()).read_bytes() == VIDEO
    assert ranges(host) == ["", f"bytes={len(VIDEO)}-"]


# Bytes of one version only

OTHER = VIDEO[::-1]
FIRST_HALF = reply(200, VIDEO[:HALF], length=len(VIDEO), ETag="1")


@pytest.mark.parametrize(
    "second",
    [
        part(OTHER[HALF:], HALF, len(VIDEO), etag="2"),
        part(OTHER[HALF:], HALF, len(VIDEO)),
        part(OTHER[HALF:], HALF, len(VIDEO) + 1, etag="1"),
        part(VIDEO[HALF - 9 :], HALF - 9, len(VIDEO), etag="1"),
        reply(206, OTHER[HALF:], ETag="1"),
        reply(206, OTHER[HALF:], Content_Range="bytes or so", ETag="1"),
        reply(416, Content_Range="bytes */5", ETag="2"),
        reply(416),
    ],
    ids=["etag", "no etag", "size", "place", "no place", "odd place", "416", "bare 416"],
)
def test_versions_are_never_mixed(second: bytes, tmp_path: Path):
    """Bytes that may be of another file, or of another place, never go behind those that are there."""
    host = Host(FIRST_HALF, second, reply(200, OTHER, ETag="2"))
    path = asyncio.run(saved(host, tmp_path))
    assert path.read_bytes() == OTHER
    assert ranges(host) == ["", f"bytes={HALF}-", ""]
    assert list(tmp_path.iterdir()) == [path]


def test_a_host_without_ranges_begins_anew(tmp_path: Path):
    """A whole file in answer to a Range replaces what is there."""
    host = Host(FIRST_HALF, reply(200, OTHER, ETag="1"))
    assert asyncio.run(saved(host, tmp_path)).read_bytes() == OTHER
    assert len(host.asked) == 2


# URLs


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_dead_url_is_replaced_once(status: int, tmp_path: Path):
    """The task is asked again for the URL of today; the part goes on from there."""
    host = Host(FIRST_HALF, reply(status), part(VIDEO[HALF:], HALF, len(VIDEO), etag="1"))
    fresh: list[str] = []

    async def main() -> Path:
        async def ask(task: Task) -> Task:
            fresh.append(task.video.url)
            return task_at(f"{url}/today.mp4")

        async with host.serve() as url, downloads(fresh=ask) as here:
            return await here.save(task_at(f"{url}/old.mp4"), tmp_path)

    assert asyncio.run(main()).read_bytes() == VIDEO
    assert [asked[""].split()[1] for asked in host.asked] == ["/old.mp4", "/old.mp4", "/today.mp4"]
    assert len(fresh) == 1


async def without_video(task: Task) -> Task:
    """The task has lost its video."""
    return Task(task.task_id, status=TaskStatus.SUCCEED)


@pytest.mark.parametrize("fresh", [no_fresh, without_video])
def test_without_a_fresh_url_the_error_says_both(fresh: Any, tmp_path: Path):
    """It stays a DownloadError with the URL expired, and tells why there is no other."""
    with pytest.raises(DownloadError, match="HTTP 403, and there is no fresh URL") as caught:
        asyncio.run(saved(Host(reply(403)), tmp_path, fresh=fresh))
    assert caught.value.url_expired
    assert isinstance(caught.value.__cause__, KlingError | LookupError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "location", ["http://videos.example.com/1.mp4", "ftp://127.0.0.1/1", "http://[", "//[::1"]
)
def test_a_redirect_to_where_nobody_should_go_is_refused(location: str, tmp_path: Path):
    """Plain http is for this machine alone; that is final and not tried again."""
    host = Host(reply(302, Location=location))
    with pytest.raises(DownloadError) as caught:
        asyncio.run(saved(host, tmp_path))
    assert caught.value.http_status == 310
    assert len(host.asked) == 1


@pytest.mark.parametrize("url", ["http://videos.example.com/1.mp4", "file:///etc/hosts", "", "http://[::1"])
def test_an_unsafe_url_is_not_asked(url: str, tmp_path: Path):
    """The URL that the API gives is held to the same rule."""

    async def main() -> None:
        async with downloads() as here:
            await here.save(task_at(url), tmp_path)

    with pytest.raises(DownloadError, match="URL"):
        asyncio.run(main())


def test_redirects_are_followed(tmp_path: Path):
    """Five are, without a cookie on the way."""
    away = reply(307, Location="/next", Set_Cookie="a=b")
    host = Host(away, away, away, away, away, reply(200, VIDEO))
    assert asyncio.run(saved(host, tmp_path)).read_bytes() == VIDEO
    assert not any({"authorization", "cookie"} & asked.keys() for asked in host.asked)


def test_the_log_tells_of_each_attempt_and_of_no_url(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """INFO: each retry, by the task's name, and why; DEBUG: each GET, host and status; never the path."""
    no_http = b"HTTP/1.1 200 x\r\nLocation /videos/signed\r\n\r\n"
    cut = reply(200, VIDEO[:HALF], length=len(VIDEO))
    host = Host(reply(502), no_http, cut, reply(302, Location="/videos/signed?key=1"), reply(200, VIDEO))

    async def main() -> None:
        async with host.serve() as url, downloads(retries=Retries(attempts=5, factor=0.001)) as here:
            await here.save(task_at(f"{url}/videos/signed?key=1"), tmp_path, name="order-17")

    with caplog.at_level(logging.DEBUG, "kling_async"):
        asyncio.run(main())
    mine = [each for each in caplog.records if each.name == "kling_async"]
    info = [each.getMessage() for each in mine if each.levelno == logging.INFO]
    *retried, saved_line = info
    assert len(retried) == 3
    assert all(line.startswith("order-17: downloading it again in 0.0 s: ") for line in retried)
    said = ("the video host answered HTTP 502", "ClientResponseError", "")
    assert all(reason in line for reason, line in zip(said, retried, strict=True))
    assert saved_line.endswith(f"({len(VIDEO)} bytes) after 3 retries")
    gets = [each.getMessage() for each in mine if each.levelno == logging.DEBUG]
    statuses = ("502", "not answered", "200", "302", "200")
    assert gets == [f"GET from the video host 127.0.0.1: {each}" for each in statuses]
    text = "\n".join(each.getMessage() for each in mine)
    assert "signed" not in text
    assert "key=1" not in text


def test_the_log_tells_of_a_fresh_url(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A URL that ran out: INFO says that another is used, and why."""
    host = Host(reply(403), reply(200, VIDEO))

    async def main() -> None:
        async def fresh(_: Task) -> Task:
            return task_at(f"{url}/videos/fresh")

        async with host.serve() as url, downloads(fresh=fresh) as here:
            await here.save(task_at(f"{url}/videos/old"), tmp_path)

    with caplog.at_level(logging.INFO, "kling_async"):
        asyncio.run(main())
    first, last = caplog.messages
    assert first == "880001: downloading it again from a fresh URL: the video host answered HTTP 403"
    assert last.endswith("after 1 retries")


def test_a_redirect_in_a_circle_ends(tmp_path: Path):
    """After five it is an error that is not tried again."""
    host = Host(reply(302, Location="/"))
    with pytest.raises(DownloadError, match="more than 5 times"):
        asyncio.run(saved(host, tmp_path))
    assert len(host.asked) == 6


# What is no video


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (reply(200, b"<html>", Content_Type="text/html"), 1),
        (reply(200, b"{}", Content_Type="application/json; charset=utf-8"), 1),
        (reply(200, b""), 3),
        (reply(200, VIDEO, length=len(VIDEO) + 9), 3),
        (reply(500, b"sorry"), 3),
        (reply(400, b"no"), 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n", 3),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 3),
        (b"\x15\x03\x01 no HTTP\r\n\r\n", 3),
        (b"", 6),  # each attempt is two: aiohttp asks again where a GET was not answered
    ],
    ids=["html", "json", "empty", "short", "500", "400", "bad chunk", "cut chunks", "not http", "nothing"],
)
def test_what_is_no_video_gets_no_name(answer: bytes, requests: int, tmp_path: Path):
    """Whatever comes, nothing has the final name, and only what may pass is tried again."""
    host = Host(answer)
    with pytest.raises(DownloadError) as caught:
        asyncio.run(saved(host, tmp_path))
    assert caught.value.path == tmp_path
    assert len(host.asked) == requests
    assert not list(tmp_path.glob("*.mp4"))


def test_a_host_that_falls_silent_is_asked_again(tmp_path: Path):
    """Without a byte for too long the download is broken, and goes on with the next attempt."""

    async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(FIRST_HALF)
        await reader.read()  # until the client leaves

    host = Host(fall_silent, part(VIDEO[HALF:], HALF, len(VIDEO), etag="1"))
    timeout = aiohttp.ClientTimeout(sock_read=0.3)
    assert steady_time.run(saved(host, tmp_path, timeout=timeout)).read_bytes() == VIDEO
    assert ranges(host) == ["", f"bytes={HALF}-"]


# Others go on


def test_a_failing_download_blocks_no_other(tmp_path: Path):
    """One that waits for its next attempt holds no place: with a single one, another comes through."""
    refused = asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(429, Retry_After="3000"))
        refused.set()

    busy, good = Host(refuse), Host(reply(200, VIDEO))

    async def main() -> Path:
        async with busy.serve() as slow, good.serve() as url, downloads(places=1) as here:
            waits = asyncio.create_task(here.save(task_at(slow, "1"), tmp_path))
            await refused.wait()
            path = await asyncio.wait_for(here.save(task_at(url, "2"), tmp_path), 5)
            assert not waits.done()
            waits.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waits
            return path

    path = asyncio.run(main())
    assert path.read_bytes() == VIDEO
    assert list(tmp_path.iterdir()) == [path]


def test_a_cancelled_download_goes_on_later(tmp_path: Path):
    """It leaves its part and no open file."""
    begun = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, VIDEO[:1000], length=len(VIDEO), ETag="1"))
        await reader.read()  # until the client leaves

    async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        result = await asyncio.to_thread(function, *arguments)
        if function.__name__ == "accept":
            begun.set()
        return result

    host = Host(stall, part(VIDEO[1000:], 1000, len(VIDEO), etag="1"))

    async def main() -> Path:
        async with host.serve() as url, downloads(in_thread=in_thread) as here:
            download = asyncio.create_task(here.save(task_at(url), tmp_path))
            await begun.wait()
            download.cancel()
            with pytest.raises(asyncio.CancelledError):
                await download
            assert [path.suffix for path in listed(tmp_path)] == [".part"]
            return await here.save(task_at(url), tmp_path)

    assert asyncio.run(main()).read_bytes() == VIDEO
    assert ranges(host) == ["", "bytes=1000-"]


def test_a_step_with_the_file_ends_before_its_cancellation(tmp_path: Path):
    """Cancelled while a thread opens the part, the download waits for it: the part is free for the next."""
    host = Host(FIRST_HALF, reply(200, VIDEO, ETag="1"))
    running, go_on = asyncio.Event(), threading.Event()

    async def main() -> Path:
        async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
            def gated() -> Any:
                if function.__name__ == "open" and not go_on.is_set():
                    loop.call_soon_threadsafe(running.set)
                    assert go_on.wait(10)
                return function(*arguments)

            return await asyncio.to_thread(gated)

        loop = asyncio.get_running_loop()
        async with host.serve() as url:
            async with downloads(retries=ONCE) as here:
                with pytest.raises(DownloadError):
                    await here.save(task_at(url), tmp_path)
            async with downloads(in_thread=in_thread) as here:
                download = asyncio.create_task(here.save(task_at(url), tmp_path))
                await running.wait()
                download.cancel()
                await asyncio.sleep(0)
                assert not download.done()
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await download
                return await here.save(task_at(url), tmp_path)

    assert asyncio.run(main()).read_bytes() == VIDEO
    assert ranges(host) == ["", f"bytes={HALF}-"]
    assert len(listed(tmp_path)) == 1


# The disk


def test_a_name_that_is_taken_is_told_before_a_byte_is_fetched(tmp_path: Path):
    """A file that is there is not overwritten, and the video host is not asked."""
    (tmp_path / "cat.mp4").write_bytes(b"mine")
    host = Host(reply(200, VIDEO))
    with pytest.raises(DownloadError, match="not overwritten"):
        asyncio.run(saved(host, tmp_path / "cat.mp4"))
    assert (tmp_path / "cat.mp4").read_bytes() == b"mine"
    assert host.asked == []


def test_a_name_taken_meanwhile_costs_no_second_download(tmp_path: Path):
    """The file stays; the video waits, whole, for another name."""
    host = Host(reply(200, VIDEO, ETag="1"), reply(416, Content_Range=f"bytes */{len(VIDEO)}", ETag="1"))

    async def main() -> Path:
        async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
            if function.__name__ == "make_durable" and len(host.asked) == 1:
                await asyncio.to_thread((tmp_path / "cat.mp4").write_bytes, b"mine")
            return await asyncio.to_thread(function, *arguments)

        async with host.serve() as url, downloads(in_thread=in_thread) as here:
            with pytest.raises(DownloadError, match="not overwritten"):
                await here.save(task_at(url), tmp_path / "cat.mp4")
            return await here.save(task_at(url), tmp_path / "dog.mp4")

    assert asyncio.run(main()).read_bytes() == VIDEO
    assert (tmp_path / "cat.mp4").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_names_differ_also_where_case_does_not_count(tmp_path: Path):
    """In a folder a taken name gets a number."""
    (tmp_path / "CAT.mp4").write_bytes(b"mine")

    async def main() -> Path:
        async with Host(reply(200, VIDEO)).serve() as url, downloads() as here:
            return await here.save(task_at(url), tmp_path, name="cat")

    assert asyncio.run(main()).name == "cat-2.mp4"


def test_a_folder_that_is_a_file(tmp_path: Path):
    """It is told as what it is, and stays."""
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="cannot write to") as caught:
        asyncio.run(saved(Host(reply(200, VIDEO)), tmp_path / "out"))
    assert isinstance(caught.value.__cause__, OSError)
    assert (tmp_path / "out").read_bytes() == b"mine"


LIMITED = """
import concurrent.futures.thread, os, resource  # what a thread needs, while it may still be read
how, *rest = sys.argv[1:]
sys.argv[1:] = rest
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
elif os.geteuid() == 0:
    os.setuid(65534)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits are of POSIX")
@pytest.mark.parametrize(("how", "reason"), [("full", "File too large"), ("denied", "Permission denied")])
def test_a_disk_that_takes_no_more(how: str, reason: str, tmp_path: Path):
    """A full disk and a refused write say so at once, and leave nothing behind."""
    folder = tmp_path / "out"
    folder.mkdir(mode=0o755 if how == "full" else 0o555)
    host = Host(reply(200, VIDEO))
    script = CHILD.replace("asyncio.run(", LIMITED + "asyncio.run(")

    async def main() -> str:
        async with host.serve() as url:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", script, how, url, "."),
                cwd=folder,
                stderr=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
            )
            _, told = await child.communicate()
            assert child.returncode == 1
            return told.decode()

    last = asyncio.run(main()).strip().splitlines()[-1]
    assert last.startswith("kling_async.protocol.errors.DownloadError: cannot write to")
    assert reason in last
    assert len(host.asked) == 1
    assert list(folder.iterdir()) == []


# Cost


def test_two_hundred_megabytes_in_flat_memory(tmp_path: Path):
    """However large a video, a few megabytes of memory carry it."""
    block, count = os.urandom(1_000_000), 200
    told: list[Any] = []

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, length=count * len(block)))
        for _number in range(count):
            writer.write(block)
            await writer.drain()

    tracemalloc.start()
    try:
        path = asyncio.run(saved(Host(send), tmp_path, hooks=Hooks((told.append,))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == count * len(block)
    with path.open("rb") as file:
        assert all(file.read(len(block)) == block for _ in range(count))
    path.unlink()
    assert peak < 16_000_000
    assert [event.size for event in told if isinstance(event, Saved)] == [count * len(block)]
