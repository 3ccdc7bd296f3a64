"""What a program leaves behind and what it is told when the whole account or address is wrong.

Each program runs in a process of its own in Python's development mode with warnings as errors: an unclosed
session, an un-awaited coroutine or a pending task would be told on stderr.
"""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from PIL import Image

from kling_async.simulator import Simulator, serve

BEGIN = """
import asyncio, gc, logging, os, signal, sys
from kling_async import *

logging.getLogger("kling_async").setLevel(logging.ERROR)  # what fails on purpose is a warning

URL, FOLDER = sys.argv[1:]
QUICK = Polling(factor=0.1, base=1.5, max_interval=0.5, floor=0.05)


def make(**options):
    env = {"KLING_API_KEY": "sim-key", "KLING_BASE_URL": URL}
    return KlingClient.from_env(env=env, polling=QUICK, **options)


def request(prompt="x"):
    return ImageToVideo(image=os.path.join(FOLDER, "a.jpg"), prompt=prompt)


def out():
    return os.path.join(FOLDER, "out")
"""

PROGRAMS = {
    "runs": (
        """
async def main():
    async with make() as kling:
        task = await kling.run(request(), save_to=out())
        print(task.status, len([done async for done in kling.completions([request("a"), request("b")])]))
asyncio.run(main())
""",
        "succeed 2\n",
        0,
    ),
    "fails": (
        """
async def main():
    async with make() as kling:
        for prompt in ("[fail]", "[policy]"):
            try:
                await kling.run(request(prompt))
            except (TaskFailedError, PolicyError) as error:
                print(type(error).__name__)
asyncio.run(main())
""",
        "TaskFailedError\nPolicyError\n",
        0,
    ),
    "is cancelled": (
        """
async def work():
    async with make() as kling:
        await asyncio.gather(*(kling.run(request("[slow]"), save_to=out()) for _ in range(3)))
async def main():
    for seconds in (0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.6):
        task = asyncio.create_task(work())
        await asyncio.sleep(seconds)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")
asyncio.run(main())
""",
        "cancelled\n" * 7,
        0,
    ),
    "is interrupted": (
        """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin deaf to it
async def main():
    async with make() as kling:
        await kling.submit(request("[slow]"))
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit("interrupted" and 130)
""",
        "",
        130,
    ),
    "raises in the body": (
        """
class Own(Exception):
    pass
own = Own()
async def main():
    async with make(journal=os.path.join(FOLDER, "j.db")) as kling:
        async for done in kling.completions([request(), request("[slow]")]):
            raise own
try:
    asyncio.run(main())
except BaseException as error:
    print(error is own, error.__cause__, error.__context__)
""",
        "True None None\n",
        0,
    ),
    "exits in the body": (
        """
async def main():
    async with make() as kling:
        await kling.submit(request("[slow]"))
        sys.exit(3)
asyncio.run(main())
""",
        "",
        3,
    ),
    "leaves streams early": (
        """
async def main():
    requests = [request(str(n)) for n in range(5)]
    async with make(max_in_flight=2) as kling:
        async for done in kling.completions(requests, save_to=out()):
            break
        async with kling.completions(requests) as stream:
            await anext(stream)
        stream = kling.completions(requests)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.02)
        await stream.aclose()
        try:
            await waiting
        except StopAsyncIteration:
            print("closed")
        never_read = kling.completions(requests)
        dropped = kling.completions(requests)
        await anext(dropped)
        del dropped
        gc.collect()
asyncio.run(main())
""",
        "closed\n",
        0,
    ),
    "two loops in a row": (
        """
kling = make()
async def main():
    async with kling:
        return (await kling.run(request(), save_to=out())).status
print(asyncio.run(main()), asyncio.run(main()))
""",
        "succeed succeed\n",
        0,
    ),
    "never closes": (
        """
kling = make()
async def main():
    handle = await kling.submit(request("[slow]"))
    return handle.status
print(asyncio.run(main()), asyncio.run(main()))
""",
        "submitted submitted\n",
        0,
    ),
    "notebook cells": (
        """
loop = asyncio.new_event_loop()
async def first():
    global kling
    kling = await make().__aenter__()
async def second():
    global handles
    handles = [await kling.submit(request(str(n))) for n in range(2)]
async def third():
    print([(await handle.result()).status.value for handle in handles])
async def fourth():
    async for done in kling.completions([request("y")], save_to=out()):
        print(done.ok)
async def last():
    print(await kling.aclose())
for cell in (first, second, third, fourth, last):
    loop.run_until_complete(cell())
loop.close()
""",
        "['succeed', 'succeed']\nTrue\n[]\n",
        0,
    ),
    "wants what cannot be": (
        """
async def main():
    async with make() as kling:
        for what in (
            kling.submit(ImageToVideo(image="no.png", prompt="x")),
            kling.get_task("123"),
            kling.run(request("[slow]"), timeout=0.2),
            kling.run(request("[slow]"), timeout=0),
        ):
            try:
                await what
            except KlingError as error:
                print(type(error).__name__)
        soon = [kling.submit_soon(request()) for _ in range(3)]
        soon[0].withdraw()
asyncio.run(main())
""",
        "RequestError\nNotFoundError\nWaitTimeoutError\nWaitTimeoutError\n",
        0,
    ),
}


@frozen
class Done:
    """A process that has ended."""

    code: int | None
    out: str
    err: str


async def run(*arguments: str, **env: str) -> Done:
    """Python in development mode with *arguments*, and no word about Kling in its environment but *env*."""
    kept = {name: value for name, value in os.environ.items() if "KLING" not in name and "COMET" not in name}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", *arguments),
        env=kept | {"NO_COLOR": "1", "COLUMNS": "80"} | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 120)
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    # what asyncio says of a callback that took long is of the machine, not of the program
    told = re.sub(r"^Executing <.*> took [\d.]+ seconds\n", "", err.decode(), flags=re.MULTILINE)
    return Done(process.returncode, out.decode(), told)


@asynccontextmanager
async def web_site() -> AsyncGenerator[str]:
    """A server that knows nothing of Kling and answers everything with a page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        await reader.readexactly(int(length[1]) if length else 0)
        page = b"<!doctype html><title>Welcome</title>"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + page)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def nobody() -> AsyncGenerator[str]:
    """The address of a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def kling(**settings: Any) -> Callable[[], Any]:
    """Makes a simulator on a port."""
    return lambda: serve(Simulator(seconds=0.1, **settings))


WRONG: dict[str, tuple[Callable[[], Any], dict[str, str], str, int, str]] = {
    "wrong key": (
        kling(),
        {"KLING_API_KEY": "another"},
        "AuthenticationError",
        1,
        r"Authorization is invalid \(HTTP 401, code 1002\)[^;]*; nothing was paid; check the key.*",
    ),
    "no key": (
        kling(),
        {},
        "ConfigurationError",
        2,
        (
            r"no key; nothing was paid; set KLING_API_KEY \(or KLING_ACCESS_KEY and KLING_SECRET_KEY\), "
            r"or COMETAPI_KEY, or EZMODEL_API_KEY"
        ),
    ),
    "keys of two providers": (
        kling(),
        {"KLING_API_KEY": "sim-key", "COMETAPI_KEY": "other"},
        "ConfigurationError",
        2,
        (
            r"keys of several providers are set: KLING_API_KEY and COMETAPI_KEY; nothing was paid; "
            r"set KLING_PROVIDER to one of kling, cometapi"
        ),
    ),
    "wrong base URL": (
        web_site,
        {"KLING_API_KEY": "sim-key"},
        "GatewayError",
        1,
        r"a web page instead of JSON \(HTTP 200: <!doctype html><title>Welcome.*check the base URL.*",
    ),
    "no network": (
        nobody,
        {"KLING_API_KEY": "sim-key"},
        "ConnectError",
        1,
        r"cannot reach 127\.0\.0\.1:\d+: .*; nothing was paid; check the network and try again",
    ),
    "arrears": (
        kling(account_code=1102),
        {"KLING_API_KEY": "sim-key"},
        "AccountError",
        1,
        r"Account balance not enough \(HTTP 429, code 1102\)[^;]*; nothing was paid; see to the account.*",
    ),
}

STREAMS = """
import asyncio, json, logging, os, sys
from kling_async import ImageToVideo, KlingClient, KlingError, Retries

logging.disable()


async def stream(folder, env):
    ended = []
    try:
        async with KlingClient.from_env(env=env, retries=Retries(attempts=2, factor=0.1)) as kling:
            requests = [(n, ImageToVideo(image=os.path.join(folder, f"{n}.jpg"), prompt="x")) for n in "abc"]
            async for done in kling.completions(requests):
                ended.append(done.key)
    except KlingError as error:
        return type(error).__name__, str(error), error.outcome.value, ended
    return "no error", "", "", ended


async def main():
    return await asyncio.gather(*(stream(*each) for each in json.loads(sys.argv[1])))


print(json.dumps(asyncio.run(main())))
"""


@frozen
class Ends:
    """How every process of this module ended; they run at once, because most of their time is waiting.

    The streams are of one process: each one's error by class, text and outcome, and the keys that ended.
    """

    programs: dict[str, Done]
    streams: dict[str, tuple[str, str, str, list[str]]]
    commands: dict[str, Done]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """Runs them."""
    ends, few = Ends({}, {}, {}), asyncio.Semaphore(4)

    def pictures(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        for stem in "abc":
            Image.new("RGB", (400, 300), "teal").save(folder / f"{stem}.jpg", comment=stem.encode())
        return folder

    def seconds(body: Any) -> float:
        return 3600.0 if "[slow]" in body["prompt"] else 0.1

    async def program(name: str) -> None:
        async with few, serve(Simulator(seconds=seconds, parallel=None)) as url:
            ends.programs[name] = await run("-c", BEGIN + PROGRAMS[name][0], url, str(pictures(name)))

    async def wrong() -> None:
        async with AsyncExitStack() as servers:
            each: dict[str, tuple[str, dict[str, str]]] = {}
            for name, (server, env, *_) in WRONG.items():
                url = await servers.enter_async_context(server())
                where = {"KLING_BASE_URL": url} if len(env) == 1 else {}
                each[name] = str(pictures(name)), {**env, **where}
            async with asyncio.TaskGroup() as group:
                for name, (folder, env) in each.items():
                    group.create_task(command(name, folder, env))
                async with few:
                    streams = await run("-c", STREAMS, json.dumps(list(each.values())))
            assert (streams.code, streams.err) == (0, "")
            ends.streams.update(zip(each, json.loads(streams.out), strict=True))

    async def command(name: str, folder: str, env: dict[str, str]) -> None:
        batch = (
            "-m",
            "kling_async",
            "batch",
            "--yes",
            "--quiet",
            folder,
            "--prompt",
            "x",
            "-o",
            str(Path(folder) / "out"),
        )
        async with few:
            ends.commands[name] = await run(*batch, **env)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wrong())  # it tries again for the longest time
            for name in PROGRAMS:
                group.create_task(program(name))

    asyncio.run(main())
    return ends


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_leaves_nothing_behind(name: str, ends: Ends):
    """However it ends, nothing is told on stderr, and what it prints is what is stated."""
    _, out, code = PROGRAMS[name]
    assert ends.programs[name] == Done(code, out, "")


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_for_every_item(name: str, ends: Ends):
    """Told once, by one clear line and by the exit code; nothing hangs, nothing is left behind.

    The stream raises it once, and no item comes to two ends.
    """
    *_, kind, code, told = WRONG[name]
    command = ends.commands[name]
    raised, text, outcome, ended = ends.streams[name]
    assert (raised, outcome) == (kind, "not_created"), text
    assert re.fullmatch(told, text), text
    assert len(set(ended)) == len(ended)
    assert (command.code, command.out) == (code, "")
    lines = command.err.splitlines()
    assert [bool(re.fullmatch(told, line)) for line in lines].count(True) == 1, command.err
    assert "Traceback" not in command.err
    assert len(lines) <= 3, command.err
