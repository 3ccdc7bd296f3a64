"""Callbacks over real sockets: who is called, when, in which order, and who never is."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import steady_time
from aiohttp import web
from attrs import define, field

from kling_async.simulator import Faults, Simulator, serve

KEY = {"Authorization": "Bearer sim-key"}
BODY = {"model_name": "kling-v2-6", "image": "https://cdn.example.org/a.png", "prompt": "a cat"}
PATH = "/v1/videos/image2video"


@define(eq=False)
class Receiver:
    """Takes callbacks on a port of this machine.

    Attributes:
        answer: makes the reply of a task object.
        heard: task id, status and time of each, in the order of arrival.
        most: the most that were being answered at once.
        over: set once the simulator is served no more.
        ended: when that was.
    """

    answer: Callable[[Any], Awaitable[web.Response]]
    heard: list[tuple[str, str, float]] = field(factory=list)
    most: int = 0
    url: str = ""
    over: asyncio.Event = field(factory=asyncio.Event)
    ended: float = 0.0
    _now: int = 0
    _news: asyncio.Condition = field(factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.Response:
        """Take one callback."""
        arrived = steady_time.now()
        task = await request.json()
        self._now += 1
        self.most = max(self.most, self._now)
        async with self._news:
            self.heard.append((task["task_id"], task["task_status"], arrived))
            self._news.notify_all()
        try:
            return await self.answer(task)
        finally:
            self._now -= 1

    async def until(self, count: int) -> list[str]:
        """The statuses, once so many were heard."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.heard) >= count)
        return [status for _, status, _ in self.heard]


async def well(_: Any) -> web.Response:
    """The reply of a receiver in good order."""
    return web.Response()


Scenario = Callable[["Stage"], Awaitable[Any]]


@define
class Stage:
    """What a scenario works with."""

    simulator: Simulator
    receiver: Receiver
    session: aiohttp.ClientSession
    url: str

    async def create(self, callback_url: str | None = None, **changes: Any) -> str:
        """The id of a task just made."""
        body = BODY | {"callback_url": callback_url or self.receiver.url} | changes
        async with self.session.post(self.url + PATH, json=body, headers=KEY) as reply:
            return (await reply.json())["data"]["task_id"]

    async def ask(self) -> None:
        """Any request."""
        async with self.session.get(self.url + PATH, headers=KEY) as reply:
            assert reply.status == 200


def run(
    simulator: Simulator,
    scenario: Scenario,
    answer: Callable[[Any], Awaitable[web.Response]] = well,
    clock: Callable[[], float] = steady_time.now,
) -> Receiver:
    """Run *scenario* against *simulator* on a port, beside a receiver; returns the receiver."""

    async def main():
        receiver = Receiver(answer)
        app = web.Application()
        app.router.add_post("/{path:.*}", receiver.take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?item=7"
            async with (
                asyncio.timeout(20),
                serve(simulator, clock=clock) as url,
                aiohttp.ClientSession() as session,
            ):
                await scenario(Stage(simulator, receiver, session, url))
            receiver.over.set()
            receiver.ended = steady_time.now()
        finally:
            await runner.cleanup()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return receiver

    return steady_time.run(main())


def test_called_in_time():
    """Each callback arrives as it is due, also when a later create makes one due before those that wait."""
    simulator = Simulator(seconds=lambda body: float(body["negative_prompt"]))

    async def scenario(stage: Stage):
        await stage.create(negative_prompt="900")
        quick = await stage.create(negative_prompt="0.2")
        assert await stage.receiver.until(2) == ["processing", "succeed"]
        made = simulator.ledger.made[1]
        times = {status: arrived for name, status, arrived in stage.receiver.heard if name == quick}
        assert 0 <= times["processing"] - (made.created + 0.02) < 10
        assert 0 <= times["succeed"] - made.ended < 10

    run(simulator, scenario)
    assert simulator.ledger.callbacks == {"processing": 1, "succeed": 1}
    assert simulator.ledger.withheld == {}


def test_before_the_reply():
    """The callback arrives while the create still waits for its reply."""
    simulator = Simulator(faults=Faults.parse("create:callback_first seconds=0.6"))

    async def scenario(stage: Stage):
        creating = asyncio.create_task(stage.create())
        assert await stage.receiver.until(1) == ["submitted"]
        assert not creating.done()
        assert await creating == stage.receiver.heard[0][0]

    run(simulator, scenario)


def test_a_clock_that_jumps():
    """By another clock the next request, whatever it asks for, shows what has become due."""
    now = [1_800_000_000.0]

    async def scenario(stage: Stage):
        await stage.create()
        now[0] += 500
        await stage.ask()
        assert await stage.receiver.until(2) == ["processing", "succeed"]

    run(Simulator(seconds=100), scenario, clock=lambda: now[0])


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("callback:out_of_order", ["succeed", "processing"]),
        ("callback:sent_twice", ["processing", "processing", "succeed", "succeed"]),
    ],
)
def test_order_of_one_task(script: str, expected: list[str]):
    """What one task has to tell arrives one after the other in the order of the script, times being equal."""

    async def scenario(stage: Stage):
        await stage.create()
        assert await stage.receiver.until(len(expected)) == expected

    receiver = run(Simulator(seconds=0.05, faults=Faults.parse(script)), scenario)
    assert receiver.most == 1


def test_one_waits_and_others_do_not():
    """While a receiver is busy with a task's callback the next one of it waits; those of others do not."""
    busy: list[str] = []
    release = asyncio.Event()

    async def answer(task: Any) -> web.Response:
        if task["task_id"] in busy:
            await release.wait()
        return web.Response()

    async def scenario(stage: Stage):
        now = steady_time.now()
        for number in range(2):
            body = json.dumps(BODY | {"callback_url": stage.receiver.url}).encode()
            headers = {**KEY, "Content-Type": "application/json"}
            stage.simulator.handle("POST", PATH, headers, body, now - 50 + number)
        busy.append(stage.simulator.ledger.made[0].task_id)
        await stage.ask()
        await stage.receiver.until(3)
        assert [name for name, _, _ in stage.receiver.heard].count(busy[0]) == 1
        release.set()
        assert (await stage.receiver.until(4))[-1] == "succeed"
        assert stage.receiver.heard[-1][0] == busy[0]

    run(Simulator(seconds=10), scenario, answer)


def test_so_many_at_once():
    """However many are due, 64 are posted at once, and all in the end."""
    full = asyncio.Event()

    async def answer(_: Any) -> web.Response:
        await full.wait()
        return web.Response()

    async def scenario(stage: Stage):
        headers = {**KEY, "Content-Type": "application/json"}
        body = json.dumps(BODY | {"callback_url": stage.receiver.url}).encode()
        for _ in range(200):
            stage.simulator.handle("POST", PATH, headers, body, steady_time.now())
        await stage.ask()
        await stage.receiver.until(64)
        full.set()
        await stage.receiver.until(200)

    simulator = Simulator(seconds=0, parallel=None)
    assert run(simulator, scenario, answer).most == 64
    assert simulator.ledger.callbacks == {"succeed": 200}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://192.0.2.1/hook", "192.0.2.1"),
        ("https://user.example.org/hook", "user.example.org"),
        ("http://127.0.0.1@user.example.org/", "user.example.org"),
        ("http://2130706433/", "2130706433"),
        ("http://[::1/", ""),
    ],
)
def test_nothing_leaves_the_machine(url: str, host: str):
    """A callback to another machine, or to no address at all, is counted as withheld and told on its line."""
    told = asyncio.Event()
    lines: list[str] = []

    def hear(line: str):
        lines.append(line)
        if line.startswith("callback"):
            told.set()

    simulator = Simulator(seconds=0, on_request=hear)

    async def scenario(stage: Stage):
        await stage.create(url)
        await told.wait()

    receiver = run(simulator, scenario)
    assert receiver.heard == []
    assert simulator.ledger.withheld == {host: 1}
    assert lines[-1] == "callback succeed -> not sent: no address of this machine"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (web.Response(status=204), "callback succeed -> 204 [sent_late]"),
        (web.Response(status=500), "callback succeed -> 500 [sent_late]"),
        (
            web.Response(status=302, headers={"Location": "http://192.0.2.1/"}),
            "callback succeed -> 302 [sent_late]",
        ),
        (None, "callback succeed -> ServerDisconnectedError [sent_late]"),
    ],
)
def test_outcome_is_the_receivers_affair(answer: web.Response | None, line: str):
    """Whatever becomes of a callback is told on a line; nothing is tried again and no redirect followed."""
    told = asyncio.Event()
    lines: list[str] = []

    async def reply(_: Any) -> web.Response:
        return answer or web.Response()

    def hear(text: str):
        if text.startswith("callback"):
            lines.append(text)
            told.set()

    faults = Faults.parse("callback:sent_late seconds=0")
    simulator = Simulator(seconds=0, on_request=hear, faults=faults)

    async def scenario(stage: Stage):
        if answer is None:
            stage.receiver.url = await silent()
        await stage.create()
        await told.wait()

    async def silent() -> str:
        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter):
            writer.close()

        server = await asyncio.start_server(close, "127.0.0.1", 0)
        servers.append(server)
        return f"http://localhost:{server.sockets[0].getsockname()[1]}/"

    async def all_of_it(stage: Stage):
        try:
            await scenario(stage)
        finally:
            for server in servers:
                server.close()
                await server.wait_closed()

    servers: list[asyncio.Server] = []
    receiver = run(simulator, all_of_it, reply)
    assert lines == [line]
    assert len(receiver.heard) == (answer is not None)


def test_end_waits_for_nobody():
    """The end of the server ends what is on its way and what waits behind it."""

    async def scenario(stage: Stage):
        async def hang(_: Any) -> web.Response:
            await stage.receiver.over.wait()
            return web.Response()

        stage.receiver.answer = hang
        await stage.create()
        await stage.receiver.until(1)
        begun.append(steady_time.now())

    begun: list[float] = []
    receiver = run(Simulator(seconds=0.01), scenario)
    assert len(receiver.heard) == 1
    assert receiver.ended - begun[0] < 3
