"""A service of several processes: workers on one folder of journals, and replicas behind one address."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web
from integration.kill_batch import video

import kling_async
from kling_async.simulator import Simulator, serve
from kling_async.simulator.core import FaceName

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is neither SIGKILL nor fork")

PATIENCE = 300.0
"""Seconds after which a test has failed, on a machine that is busy with others."""

SECRET = f"whsec_{b64encode(b'x' * 32).decode()}"


@attrs.define(eq=False)
class Workers:
    """The processes, and what they told."""

    nest: asyncio.subprocess.Process
    told: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    _pids: dict[str, int] = attrs.field(factory=dict[str, int])
    _news: asyncio.Condition = attrs.field(factory=asyncio.Condition)

    async def begin(self, **job: Any) -> None:
        """Begin a process, and return when it is there."""
        assert self.nest.stdin is not None
        self.nest.stdin.write(json.dumps(job).encode() + b"\n")
        await self.until(lambda: job["name"] in self._pids)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one of them; SIGKILL ends it for good."""
        pid = self._pids[name]
        if number == signal.SIGKILL:
            del self._pids[name]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def stop(self, *names: str) -> None:
        """Stop those as a service is stopped, and wait for their end."""
        for name in names:
            self.signal(name, signal.SIGTERM)
        await self.until(lambda: all(self.of(name, "ended") for name in names))
        for name in names:
            del self._pids[name]

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until what they told is enough."""
        async with self._news:
            await self._news.wait_for(reached)

    def of(self, name: str, what: str) -> list[dict[str, Any]]:
        """What one of them told of one thing."""
        return [each for each in self.told if each["name"] == name and what in each]

    def delivered(self, *names: str) -> dict[str, dict[str, Any]]:
        """What those told of each item."""
        return {each["key"]: each for name in names for each in self.of(name, "key")}

    async def listen(self) -> None:
        """Read what they tell, until the last has ended."""
        assert self.nest.stdout is not None
        async for line in self.nest.stdout:
            told = json.loads(line)
            async with self._news:
                if "pid" in told:
                    self._pids[told["name"]] = told["pid"]
                self.told.append(told)
                self._news.notify_all()

    def end(self) -> None:
        """Leave nobody behind."""
        for name in list(self._pids):
            self.signal(name, signal.SIGKILL)


@contextlib.asynccontextmanager
async def working(sockets: tuple[socket.socket, ...] = ()) -> AsyncGenerator[Workers]:
    """What begins processes; none outlives the block."""
    nest = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("service_worker.py"))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(kling_async.__file__).parents[1])},
        pass_fds=[each.fileno() for each in sockets],
    )
    workers = Workers(nest)
    listening = asyncio.create_task(workers.listen())
    try:
        async with asyncio.timeout(PATIENCE):
            yield workers
    finally:
        workers.end()
        assert nest.stdin is not None
        nest.stdin.close()
        await asyncio.wait([listening])
        await nest.wait()
    listening.result()


@pytest.mark.parametrize("face", ["kling", "new-api-2026"])
def test_four_workers_restarted_as_two(tmp_path: Path, face: FaceName):
    """Four workers on one folder, one killed amid a submit, one later, two stopped; two go on with all.

    Every video is delivered, and none is made twice. Where nothing can be looked up, the submits under way
    at a kill (two a worker at most) may be in doubt instead, and are told as such.
    """
    keys = {f"w{worker}": [f"w{worker}-{number}" for number in range(5)] for worker in range(4)}
    everything = sorted(key for each in keys.values() for key in each)
    simulator = Simulator(seconds=(0.3, 1.0), parallel=None, face=face, rng=Random(0), render=video)

    def prompts() -> Counter[str]:
        return Counter(str(each.body["prompt"]) for each in simulator.ledger.made)

    async def main() -> dict[str, dict[str, Any]]:
        killed = asyncio.Event()

        def on_event(event: str) -> None:
            mine = [prompt for prompt in prompts() if prompt.startswith("w1-")]
            if event == "create-made" and len(mine) == 3 and not killed.is_set():
                workers.signal("w1", signal.SIGKILL)  # its task is made, and it never reads the answer
                killed.set()

        common = {"journal": str(tmp_path / "state"), "videos": str(tmp_path / "videos")}
        (tmp_path / "state").mkdir()
        async with serve(simulator, on_event=on_event) as url, working() as workers:
            common |= {"base_url": url, "gateway": face != "kling"}
            for name, mine in keys.items():
                await workers.begin(name=name, keys=mine, **common)
            await killed.wait()
            await workers.until(lambda: len(workers.delivered("w3")) >= 1)
            workers.signal("w3", signal.SIGKILL)
            await workers.stop("w0", "w2")
            assert len(prompts()) < len(everything), "they were stopped amid their work"
            for number in range(2):
                await workers.begin(name=f"new{number}", keys=everything[number::2], **common)
            await workers.until(lambda: all(workers.of(f"new{number}", "done") for number in range(2)))
            await workers.stop("new0", "new1")
            return workers.delivered("new0", "new1")

    delivered = asyncio.run(main())
    assert sorted(delivered) == everything
    in_doubt = {key for key, each in delivered.items() if each["outcome"] == "may_exist"}
    assert len(in_doubt) <= (0 if face == "kling" else 4)
    assert set(prompts().values()) == {1}, "none was paid twice"
    for key, each in delivered.items():
        if key not in in_doubt:
            assert each["path"] is not None, each["error"]
            assert Path(each["path"]).stat().st_size > 0
            assert prompts()[key] == 1
    assert len(list((tmp_path / "state").glob("*.sqlite"))) <= 4 + 1, "as many as there were, and at most one"


@attrs.define(eq=False)
class Proxy:
    """What stands before the replicas: each callback goes to the next of them, whoever its task is."""

    replicas: list[str]
    statuses: Counter[int] = attrs.field(factory=Counter[int])
    _news: asyncio.Condition = attrs.field(factory=asyncio.Condition)

    async def until(self, count: int) -> None:
        """Wait until so many were answered."""
        async with self._news:
            await self._news.wait_for(lambda: self.statuses.total() >= count)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Serve while the block runs; yields the URL for callbacks."""
        turns = cycle(self.replicas)

        async def give(request: web.Request) -> web.Response:
            names = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature")
            headers = {name: request.headers[name] for name in names if name in request.headers}
            async with session.post(next(turns), data=await request.read(), headers=headers) as reply:
                async with self._news:
                    self.statuses[reply.status] += 1
                    self._news.notify_all()
                return web.Response(status=reply.status)

        app = web.Application()
        app.add_routes([web.post("/kling", give)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        async with aiohttp.ClientSession() as session:
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}/kling"
            finally:
                await runner.cleanup()


@pytest.mark.parametrize("failing", [0, 2])
def test_three_replicas_behind_a_proxy(tmp_path: Path, failing: int):
    """A callback that comes to the wrong replica is passed on, once, and ends its task before any poll.

    Where passing on fails, Kling is told so, and polling finds the task: nothing is lost.
    """
    keys = {f"r{replica}": [f"r{replica}-{number}" for number in range(4)] for replica in range(3)}
    simulator = Simulator(
        seconds=(0.3, 1.0), parallel=None, rng=Random(0), render=video, callback_secrets=(SECRET,)
    )

    async def main() -> tuple[Workers, Proxy]:
        with contextlib.ExitStack() as stack:
            sockets = tuple(stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in keys)
            urls = [f"http://127.0.0.1:{each.getsockname()[1]}/kling" for each in sockets]
            proxy = Proxy(urls)
            async with serve(simulator) as url, proxy.serve() as callback_url, working(sockets) as workers:
                for number, (name, mine) in enumerate(keys.items()):
                    await workers.begin(
                        name=name,
                        base_url=url,
                        keys=mine,
                        videos=str(tmp_path / name),
                        first_poll=3.0 if failing else 2 * PATIENCE,
                        callback_url=callback_url,
                        socket=sockets[number].fileno(),
                        others=[each for each in urls if each != urls[number]],
                        secret=SECRET,
                        failing=failing,
                    )
                await workers.until(lambda: all(workers.of(name, "done") for name in keys))
                await proxy.until(2 * 12)  # the beginning and the end of each task
                await workers.stop(*keys)
            return workers, proxy

    workers, proxy = asyncio.run(main())
    delivered = workers.delivered(*keys)
    assert sorted(delivered) == sorted(key for mine in keys.values() for key in mine)
    assert all(each["path"] for each in delivered.values()), delivered
    assert Counter(str(each.body["prompt"]) for each in simulator.ledger.made) == dict.fromkeys(delivered, 1)
    ends = [workers.of(name, "ended")[0] for name in keys]
    passed_on = sum(each["passed_on"] for each in ends)
    failed = sum(min(each["passed_on"], failing) for each in ends)
    assert proxy.statuses == {200: 2 * 12 - failed, 503: failed} if failing else {200: 2 * 12}
    assert passed_on > failed
    received = sum(each["received"] for each in ends)
    assert received == proxy.statuses.total() + 2 * (passed_on - failed), "nothing is passed on twice"
    if not failing:
        told = sum(workers.of(name, "done")[0]["callbacks"] for name in keys)
        assert told == len(delivered), "every end came by its callback"
        assert simulator.ledger.requests["query"] + simulator.ledger.requests["list"] == 0
