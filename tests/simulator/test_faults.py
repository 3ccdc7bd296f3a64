"""Faults: what a client sees of each over a socket, and whether a task was made and billed."""

import asyncio
import io
import json
import re
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from math import inf
from random import Random
from typing import Any

import aiohttp
import jwt
import pytest
from attrs import define, field
from hypothesis import given, strategies as st

from kling_async.simulator import FAULTS, Fault, Faults, Reply, Simulator, Wire, serve

PATH = "/v1/videos/image2video"
BODY = {"model_name": "kling-v2-6", "image": "https://cdn.example.org/a.png", "prompt": "a cat"}
START = 1_800_000_000.0
CONNECTION = aiohttp.ClientConnectionError


@define(slots=False)
class Client:
    """A bare HTTP client of a simulator on a port; each request has a connection of its own."""

    simulator: Simulator
    session: aiohttp.ClientSession
    url: str = ""
    now: float = START
    events: list[str] = field(factory=list)
    waiting: dict[str, asyncio.Event] = field(factory=dict)
    on_event: Callable[[str], None] | None = None

    def note(self, event: str) -> None:
        """Note a named point."""
        if self.on_event is not None:
            self.on_event(event)
        self.events.append(event)
        self.waiting.setdefault(event, asyncio.Event()).set()

    async def until(self, event: str) -> None:
        """Return once the server has reached a named point."""
        await self.waiting.setdefault(event, asyncio.Event()).wait()

    async def call(self, method: str, path: str, *, key: str | None = "sim-key", **options: Any):
        """Status, headers and body of a reply that arrived whole; redirects are not followed."""
        url = path if path.startswith("http") else self.url + path
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        async with self.session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as reply:
            return reply.status, reply.headers, await reply.read()

    async def create(self, *, key: str = "sim-key", **changes: Any):
        """A create of a good request with *changes*."""
        return await self.call("POST", PATH, key=key, json=BODY | changes)

    async def code(self, reply: Awaitable[Any]) -> tuple[int, int]:
        """HTTP status and Kling's code of a reply."""
        status, _, body = await reply
        return status, json.loads(body)["code"]

    async def made(self, **changes: Any) -> str:
        """The id of a task just made."""
        return json.loads((await self.create(**changes))[2])["data"]["task_id"]

    async def status(self, task_id: str) -> str:
        """The status of a task, or Kling's code where the query is refused."""
        body = json.loads((await self.call("GET", f"{PATH}/{task_id}"))[2])
        return body["data"]["task_status"] if body["code"] == 0 else str(body["code"])

    async def listed(self, query: str = "") -> list[str]:
        """The ids of the tasks in the list."""
        return [task["task_id"] for task in json.loads((await self.call("GET", PATH + query))[2])["data"]]

    async def video(self, task_id: str) -> str:
        """The URL of a finished task's video."""
        body = json.loads((await self.call("GET", f"{PATH}/{task_id}"))[2])
        return body["data"]["task_result"]["videos"][0]["url"]

    async def finished(self) -> str:
        """The URL of a video made and finished."""
        task_id = await self.made()
        self.now += 100
        return await self.video(task_id)

    async def download(self, url: str, **headers: str):
        """Status, headers and body of a download."""
        return await self.call("GET", url, key=None, headers=headers)


Scenario = Callable[[Client], Awaitable[Any]]


def run(script: str, scenario: Scenario, *, keep_alive: bool = False, **settings: Any) -> Simulator:
    """Run *scenario* against a simulator with this script on a port; returns the simulator."""
    options: dict[str, Any] = {"seconds": 100, "parallel": None} | settings
    simulator = Simulator(faults=Faults.parse(script), **options)

    async def main():
        connector = aiohttp.TCPConnector(force_close=not keep_alive)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = Client(simulator, session)
            async with serve(simulator, clock=lambda: client.now, on_event=client.note) as client.url:
                await asyncio.wait_for(scenario(client), 10)

    asyncio.run(main())
    return simulator


@pytest.mark.parametrize(
    ("script", "error", "made", "last"),
    [
        ("lost_reply_before", aiohttp.ServerDisconnectedError, 0, "create-lost"),
        ("lost_reply_before reset=1", aiohttp.ClientOSError, 0, "create-lost"),
        ("lost_reply_after", aiohttp.ServerDisconnectedError, 1, "create-lost"),
        ("lost_reply_after reset=1", aiohttp.ClientOSError, 1, "create-lost"),
        ("closed_after_headers", CONNECTION, 0, "create-lost"),
        ("closed_after_headers reset=1", aiohttp.ClientOSError, 0, "create-lost"),
        ("reset_in_body at=20", aiohttp.ClientOSError, 0, "create-lost"),
        ("not_http", aiohttp.ClientResponseError, 0, "create-lost"),
        ("not_http made=1", aiohttp.ClientResponseError, 1, "create-lost"),
        ("cut_reply", aiohttp.ClientPayloadError, 1, "create-lost"),
        ("cut_reply at=0", aiohttp.ClientPayloadError, 1, "create-lost"),
        ("wrong_length by=7", aiohttp.ClientPayloadError, 1, "create-lost"),
        ("wrong_length by=-7", json.JSONDecodeError, 1, "create-replied"),
        ("truncated_json", json.JSONDecodeError, 1, "create-replied"),
    ],
)
def test_unreadable_reply(script: str, error: type[Exception], made: int, last: str):
    """The client has no readable reply; the ledger alone tells whether the task was made and billed."""

    async def scenario(client: Client):
        with pytest.raises(error):
            await client.made()
        assert client.events[-1] == last
        await client.made()  # the script is over

    simulator = run(f"create:{script} times=1", scenario)
    kind = script.partition(" ")[0]
    assert len(simulator.ledger.made) == made + 1
    assert simulator.ledger.faults == {("create", kind): 1}
    assert simulator.ledger.refused_creates == 1 - made
    assert simulator.ledger.billed() == simulator.ledger.made[0].units * (made + 1) > 0


@pytest.mark.parametrize("operation", ["query", "list", "download"])
@pytest.mark.parametrize(
    "kind", ["lost_reply_before", "lost_reply_after", "closed_after_headers", "not_http"]
)
def test_reads_get_lost_too(operation: str, kind: str):
    """The same faults strike reads and downloads, and only the operation they are set on."""

    async def scenario(client: Client):
        url = await client.finished()
        task_id = await client.made()
        client.simulator.faults.add(Fault(kind, on=operation))
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "query": lambda: client.status(task_id),
            "list": client.listed,
            "download": lambda: client.download(url),
        }
        with pytest.raises((CONNECTION, aiohttp.ClientResponseError)):
            await calls.pop(operation)()
        for call in calls.values():
            await call()

    # aiohttp asks again by itself when the connection of a GET breaks
    assert run("", scenario).ledger.faults == {(operation, kind): 1 if kind == "not_http" else 2}


async def raw(client: Client, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the head of a request was sent, and nothing of its body."""
    host, _, port = client.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


def test_closed_before_the_body():
    """The connection is closed although not one byte of the body was sent."""

    async def scenario(client: Client):
        reader, writer = await raw(client, "Content-Length: 1000")
        assert await reader.read() == b""
        writer.close()
        assert client.events == ["create-headers", "create-lost"]

    assert run("closed_after_headers", scenario).ledger.requests == {"create": 1}


def test_refused_before_the_body():
    """A 413 comes, and says that the connection ends, although not one byte of the body was sent."""

    async def scenario(client: Client):
        reader, writer = await raw(client, "Content-Length: 90000000")
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 413 ")
        assert "connection: close" in head
        assert "retry-after: 5" in head
        writer.close()
        await writer.wait_closed()

    simulator = run("create:early_refusal retry_after=5", scenario)
    assert simulator.ledger.outcomes == {("create", 413): 1}
    assert simulator.ledger.made == []


def test_reset_in_the_middle_of_a_body():
    """The server reads so many bytes of the body and resets; the client cannot send the rest."""

    async def scenario(client: Client):
        with pytest.raises(aiohttp.ClientOSError):
            await client.call("POST", PATH, data=io.BytesIO(bytes(20_000_000)))

    simulator = run("reset_in_body at=100000", scenario)
    assert simulator.ledger.made == []
    assert simulator.ledger.outcomes == {("create", 444): 1}


@pytest.mark.parametrize("made", [0, 1])
@pytest.mark.parametrize(
    ("script", "status", "kind"),
    [
        ("redirect", 302, "text/html"),
        ("redirect status=301 location=/login", 301, "text/html"),
        ("redirect status=307", 307, "text/html"),
        ("html", 502, "text/html"),
        ("html status=503", 503, "text/html"),
        ("html status=504", 504, "text/html"),
        ("html status=429", 429, "text/html"),
        ("html status=200", 200, "text/html"),
        ("empty", 429, ""),
        ("empty status=503", 503, ""),
        ("refuse code=1302", 429, "application/json"),
        ("refuse code=1303", 429, "application/json"),
        ("refuse code=5000", 500, "application/json"),
        ("refuse code=5001", 503, "application/json"),
        ("refuse code=5002", 504, "application/json"),
        ("refuse code=1003", 401, "application/json"),
        ("refuse code=1004", 401, "application/json"),
    ],
)
def test_another_reply(script: str, status: int, kind: str, made: int):
    """Something else comes instead of the reply: before the task is made, or after it was made and billed."""

    async def scenario(client: Client):
        seen, headers, body = await client.create()
        assert seen == status
        if kind:
            assert headers["Content-Type"].startswith(kind)
        else:
            assert body == b""
        if status in (301, 302, 307):
            assert headers["Location"] == ("/login" if "login" in script else "/")
        if "code=" in script:
            assert json.loads(body)["code"] == int(script[-4:])
        assert (await client.create())[0] == 200

    simulator = run(f"create:{script} made={made} times=1", scenario)
    assert len(simulator.ledger.made) == 1 + made
    assert simulator.ledger.refused_creates == 1 - made
    assert simulator.ledger.faults == {("create", script.partition(" ")[0]): 1}


@pytest.mark.parametrize("script", ["refuse code=1302", "html status=503", "empty status=429"])
def test_retry_after(script: str):
    """A refusal tells when to come again, in seconds or as a date; fractions are rounded up."""

    async def scenario(client: Client):
        _, headers, _ = await client.create()
        assert headers["Retry-After"] == "8"
        _, headers, _ = await client.create()
        assert parsedate_to_datetime(headers["Retry-After"]).timestamp() == START + 8
        assert "Retry-After" not in (await client.create())[1]

    run(f"{script} times=1 retry_after=7.5; {script} times=1 retry_after=7.5 retry_date=1", scenario)


def test_gateway_tells_refusals_in_its_own_words():
    """Behind a gateway a scripted refusal looks as that gateway makes it."""

    async def scenario(client: Client):
        status, _, body = await client.call("POST", "/kling" + PATH, json=BODY | {"model": "kling-v2-6"})
        assert (status, json.loads(body)["code"]) == (429, "fail_to_fetch_task")

    run("create:refuse code=1303", scenario, face="new-api-2026")


def test_refusals_hide_nothing():
    """A fault that strikes after the making does not strike a create that is refused."""

    async def scenario(client: Client):
        assert await client.code(client.create(prompt="[policy]")) == (400, 1301)

    assert run("create:lost_reply_after; create:html made=1", scenario).ledger.faults == {}


@pytest.mark.parametrize(
    ("script", "reached", "then"),
    [
        ("delay seconds=0.2 times=1", "create-received", 1),
        ("delay seconds=0.2 times=1 made=1", "create-made", 1),
        ("delay seconds=0.2 times=1; lost_reply_before", "create-received", 0),
        ("delay seconds=0.2 times=1; not_http made=1", "create-received", 1),
        ("slow bytes_per_second=500", "create-made", 1),
    ],
)
def test_client_leaves_first(script: str, reached: str, then: int, caplog: pytest.LogCaptureFixture):
    """A client that did not wait for its reply has its task all the same, before the delay or after it.

    The server takes it for what it is, and logs nothing.
    """

    async def scenario(client: Client):
        impatient = asyncio.create_task(client.create())
        await client.until(reached)
        assert len(client.simulator.ledger.made) == (reached == "create-made")
        impatient.cancel()
        await client.until("create-lost")

    assert len(run(script, scenario).ledger.made) == then
    assert caplog.text == ""


@pytest.mark.parametrize("script", ["", "reset_in_body at=900", "delay seconds=0.05"])
def test_client_leaves_within_its_body(script: str, caplog: pytest.LogCaptureFixture):
    """Half a request makes nothing, and is no error of the server's."""

    async def scenario(client: Client):
        _, writer = await raw(client, "Content-Length: 1000")
        writer.write(b"{" * 500)
        await writer.drain()
        await client.until("create-headers")
        writer.close()
        await client.until("create-lost")

    assert run(script, scenario).ledger.made == []
    assert caplog.text == ""


def test_delayed_reply_arrives():
    """A reply that is late is whole; delays add to what else goes wrong."""

    async def scenario(client: Client):
        begun = time.monotonic()
        assert (await client.create())[0] == 503
        assert time.monotonic() - begun >= 0.1

    run("create:delay seconds=0.05; html status=503; delay seconds=0.05 made=1", scenario)


def test_keepalive_race():
    """The next request on a kept connection dies, and nobody at Kling has seen it."""

    async def scenario(client: Client):
        assert await client.listed() == []
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.create()
        await client.create()

    simulator = run("list:keepalive_race times=1", scenario, keep_alive=True)
    assert simulator.ledger.requests == {"list": 1, "create": 1}
    assert len(simulator.ledger.made) == 1


def test_storm_of_so_many():
    """A storm refuses so many creates, in the order in which its faults were added."""

    async def scenario(client: Client):
        codes = [(await client.code(client.create()))[1] for _ in range(5)]
        assert codes == [1302, 1302, 1303, 1303, 0]

    simulator = run("create:refuse code=1302 times=2; create:refuse code=1303 times=2", scenario)
    assert simulator.ledger.faults == {("create", "refuse"): 4}


def test_storm_for_a_time():
    """A storm between two times, counted from the first request, leaves what comes before and after alone."""

    async def scenario(client: Client):
        codes: list[int] = []
        for client.now in (START, START + 9.9, START + 10, START + 19.9, START + 20):
            codes.append((await client.code(client.create()))[1])
        assert codes == [0, 0, 1303, 1303, 0]

    run("create:refuse code=1303 after=10 until=20", scenario)


def test_added_later():
    """The seconds of a fault added to a running script count from the next request."""

    async def scenario(client: Client):
        await client.create()
        client.simulator.faults.add(Fault("refuse", on="create", code=1302, until=5))
        codes: list[int] = []
        for client.now in (START + 100, START + 104, START + 105):
            codes.append((await client.code(client.create()))[1])
        assert codes == [1302, 1302, 0]

    run("", scenario)


def test_slots_held_by_another():
    """Another process holds some slots, or all, for a time; only a refusal that it causes is counted."""

    async def scenario(client: Client):
        codes: list[int] = []
        for client.now in (START, START, START, START + 5, START + 10, START + 15, START + 15):
            codes.append((await client.code(client.create()))[1])
        assert codes == [0, 1303, 1303, 0, 1303, 0, 1303]

    held = "create:slots_held count=2 until=5; create:slots_held after=10 until=15"
    simulator = run(held, scenario, parallel=3)
    assert simulator.ledger.faults == {("create", "slots_held"): 3}


@pytest.mark.parametrize(("seconds", "code"), [(0.0, 0), (3600, 1004), (-3600, 1003)])
def test_clock_skew(seconds: float, code: int):
    """A signed token is held against the server's clock, which its Date header shows; keys do not mind."""

    async def scenario(client: Client):
        claims = {"iss": "sim-access", "exp": int(START) + 1800, "nbf": int(START) - 5}
        token = jwt.encode(claims, "sim-secret-of-thirty-two-letters", headers={"typ": "JWT"})
        _, headers, body = await client.create(key=token)
        assert json.loads(body)["code"] == code
        assert parsedate_to_datetime(headers["Date"]).timestamp() == START + seconds
        assert (await client.create())[0] == 200

    keys = {"sim-access": "sim-secret-of-thirty-two-letters"}
    simulator = run(f"clock_skew seconds={seconds}", scenario, access_keys=keys)
    assert simulator.ledger.faults == {("create", "clock_skew"): 2}


def test_duplicates():
    """A known external_task_id is refused; under the fault a second task is made and billed."""

    async def scenario(client: Client):
        for expected in (0, 0, 1201):
            assert (await client.code(client.create(external_task_id="ka-1")))[1] == expected

    simulator = run("create:duplicates times=1", scenario)
    assert [len(tasks) for tasks in simulator.ledger.made_by_external_id().values()] == [2]
    assert simulator.ledger.faults == {("create", "duplicates"): 1}


def test_lagging_look_up():
    """A young task is neither found by the caller's id nor listed; by its own id it is, unless asked."""

    async def scenario(client: Client):
        old = await client.made()
        client.now += 10
        task_id = await client.made(external_task_id="ka-1")
        client.now += 1.9
        assert await client.status("ka-1") == "1201"
        assert await client.listed() == [old]
        assert await client.status(task_id) == "submitted"
        client.now += 0.1
        assert await client.status("ka-1") == "submitted"
        assert await client.listed() == [task_id, old]

    simulator = run("lookup_lag seconds=2", scenario)
    assert simulator.ledger.faults == {("query", "lookup_lag"): 1, ("list", "lookup_lag"): 1}


@pytest.mark.parametrize(("code", "status"), [(1201, 400), (1203, 404), (404, 404)])
def test_not_found_just_after_create(code: int, status: int):
    """For a while even the task's own id is unknown, in the words asked for."""

    async def scenario(client: Client):
        task_id = await client.made()
        assert (await client.call("GET", f"{PATH}/{task_id}"))[0] == status
        client.now += 2
        assert await client.status(task_id) == "submitted"

    simulator = run(f"query:lookup_lag by_task_id=1 code={code}", scenario)
    assert simulator.ledger.outcomes["query", code] == 1


def test_new_api_lags_too():
    """A gateway with ids of its own knows a young task no sooner."""

    async def scenario(client: Client):
        reply = await client.call("POST", "/kling" + PATH, json=BODY | {"model": "kling-v2-6"})
        path = f"/kling{PATH}/{json.loads(reply[2])['id']}"
        assert (await client.call("GET", path))[0] == 400
        client.now += 2
        assert json.loads((await client.call("GET", path))[2])["data"]["status"] == "PAUSED"

    run("query:lookup_lag by_task_id=1; unknown_status", scenario, face="new-api-2026")


def test_unstable_list():
    """Pages read one after the other repeat some tasks and miss others."""

    async def scenario(client: Client):
        made = [await client.made() for _ in range(12)]
        pages = [await client.listed(f"?pageNum={number}&pageSize=4") for number in (1, 2, 3)]
        together = [task_id for page in pages for task_id in page]
        assert len(together) == 12
        assert set(together) < set(made)
        client.simulator.faults.clear()
        assert await client.listed() == made[::-1]

    assert run("unstable_list", scenario).ledger.faults == {("list", "unstable_list"): 3}


def test_unknown_status():
    """For a while a status is told that no document has, without a result."""

    async def scenario(client: Client):
        task_id = await client.made()
        client.now += 100
        _, _, body = await client.call("GET", f"{PATH}/{task_id}")
        assert json.loads(body)["data"]["task_status"] == "resting"
        assert "task_result" not in json.loads(body)["data"]
        _, _, body = await client.call("GET", PATH)
        assert json.loads(body)["data"][0]["task_status"] == "resting"
        assert await client.status(task_id) == "succeed"

    run("query:unknown_status word=resting times=1; list:unknown_status word=resting", scenario)


def test_never_ends():
    """A task goes on for ever, holds its slot and is not billed; the next one is as usual."""

    async def scenario(client: Client):
        stuck, usual = await client.made(), await client.made()
        client.now += 10_000_000
        assert await client.status(stuck) in ("submitted", "processing")
        assert await client.status(usual) == "1201"  # purged long ago
        assert client.simulator.in_flight(client.now) == 1
        assert await client.listed() == [stuck]

    simulator = run("create:never_ends times=1", scenario)
    assert [task.succeeds for task in simulator.ledger.made] == [False, True]
    assert simulator.ledger.billed() == simulator.ledger.made[1].units > 0


def test_forgotten():
    """A task that was known is unknown from some time on, everywhere, and was billed all the same."""

    async def scenario(client: Client):
        before = await client.made()
        client.simulator.faults.add(Fault("forgotten", seconds=60, times=1))
        lost, after = await client.made(), await client.made()
        client.now += 59
        assert await client.status(lost) == "processing"
        client.now += 1
        assert await client.status(lost) == "1201"
        assert await client.listed("?pageSize=2") == [after, before]

    simulator = run("", scenario)
    assert len(simulator.ledger.made) == 3
    assert simulator.ledger.billed() == 3 * simulator.ledger.made[0].units


def test_late_success():
    """A failure becomes a success: with a video, at the price of one."""

    async def scenario(client: Client):
        task_id = await client.made()
        client.now += 100
        assert await client.status(task_id) == "failed"
        client.now += 30
        assert await client.status(task_id) == "succeed"
        assert (await client.download(await client.video(task_id)))[0] == 200

    simulator = run("create:late_success", scenario)
    assert simulator.ledger.made[0].succeeds
    assert simulator.ledger.billed() > 0


def test_url_dies_of_age():
    """A URL works for so many seconds and never again; the next query gives one that works."""

    async def scenario(client: Client):
        task_id = await client.made()
        client.now += 100
        url = await client.video(task_id)
        client.now += 4.9
        assert (await client.download(url))[0] == 200
        assert await client.video(task_id) == url
        client.now += 0.1
        assert [(await client.download(url))[0] for _ in range(2)] == [410, 410]
        fresh = await client.video(task_id)
        assert fresh != url
        assert (await client.download(fresh))[0] == 200

    simulator = run("url_dies seconds=5 status=410", scenario)
    assert simulator.ledger.faults == {("download", "url_dies"): 1}


@pytest.mark.parametrize("status", [403, 404, 410])
def test_url_dies_of_use(status: int):
    """A URL serves so many requests, each URL anew."""

    async def scenario(client: Client):
        task_id = await client.made()
        client.now += 100
        for _ in range(2):
            url = await client.video(task_id)
            assert [(await client.download(url))[0] for _ in range(3)] == [200, 200, status]

    run(f"url_dies downloads=2 status={status}", scenario)


def test_url_dead_on_arrival():
    """Without a limit the first use finds the URL dead."""

    async def scenario(client: Client):
        url = await client.finished()
        assert [(await client.download(url))[0] for _ in range(2)] == [403, 403]
        forged = url[:-1] + ("0" if url[-1] != "0" else "1")
        assert (await client.download(forged))[0] == 403

    assert run("url_dies times=1", scenario).ledger.faults == {("download", "url_dies"): 1}


def test_slow_download():
    """The bytes come at the rate set, and whole."""

    async def scenario(client: Client):
        url = await client.finished()
        whole = (await client.download(url))[2]
        client.simulator.faults.add(Fault("slow", on="download", bytes_per_second=len(whole) * 5))
        begun = time.monotonic()
        status, headers, body = await client.download(url)
        assert time.monotonic() - begun >= 0.18
        assert (status, body, headers["Content-Length"]) == (200, whole, str(len(whole)))

    run("", scenario)


def test_cut_download():
    """A download ends after so many bytes; the rest can be had by range."""

    async def scenario(client: Client):
        url = await client.finished()
        received = bytearray()

        async def receive(reply: aiohttp.ClientResponse):
            async for piece in reply.content.iter_any():
                received.extend(piece)

        async with client.session.get(url) as reply:
            with pytest.raises(aiohttp.ClientPayloadError):
                await receive(reply)
        assert len(received) == 10
        status, _, rest = await client.download(url, Range="bytes=10-")
        assert status == 206
        assert bytes(received) + rest == (await client.download(url))[2]

    run("download:cut_reply at=10 times=1", scenario)


def test_wrong_length_of_a_download():
    """A header that says less than there is makes a short file that looks whole; more, one that looks cut."""

    async def scenario(client: Client):
        url = await client.finished()
        short, more, whole = await client.download(url), client.download(url), client.download(url)
        with pytest.raises(aiohttp.ClientPayloadError):
            await more
        assert (await whole)[2].startswith(short[2])
        assert len((await client.download(url))[2]) - len(short[2]) == 5

    run("download:wrong_length by=-5 times=1; download:wrong_length by=5 times=1", scenario)


def test_changed_etag():
    """An ETag that no longer holds makes a resume start over."""

    async def scenario(client: Client):
        url = await client.finished()
        etag = (await client.download(url))[1]["ETag"]
        resume = {"Range": "bytes=4-7", "If-Range": etag}
        assert (await client.download(url, **resume))[0] == 206
        client.simulator.faults.add(Fault("changed_etag", times=2))
        status, headers, _ = await client.download(url, **resume)
        assert status == 200
        assert len({etag, headers["ETag"], (await client.download(url))[1]["ETag"]}) == 3
        assert (await client.download(url))[1]["ETag"] == etag

    run("", scenario)


def test_no_range():
    """A host without Range support sends the whole file."""

    async def scenario(client: Client):
        status, headers, body = await client.download(await client.finished(), Range="bytes=4-7")
        assert (status, headers["Accept-Ranges"]) == (200, "none")
        assert int(headers["Content-Length"]) == len(body) > 4

    run("no_range", scenario)


def test_html_download():
    """A page of HTML in place of a video."""

    async def scenario(client: Client):
        status, headers, _ = await client.download(await client.finished())
        assert (status, headers["Content-Type"][:9]) == (200, "text/html")

    assert run("download:html status=200", scenario).ledger.faults == {("download", "html"): 1}


def test_named_points():
    """The server tells of each point of a request in order, and that a reply was cut."""

    async def scenario(client: Client):
        def since(operation: str) -> list[str]:
            told, client.events = client.events, []
            return [event.removeprefix(operation) for event in told]

        await client.create(prompt="")
        assert since("create-") == ["headers", "received", "started", "replied"]
        task_id = await client.made()
        assert since("create-") == ["headers", "received", "made", "started", "replied"]
        client.now += 100
        url = await client.video(task_id)
        assert since("query-") == ["headers", "received", "started", "replied"]
        await client.download(url)
        assert since("download-") == ["headers", "received", "started", "replied"]
        client.simulator.faults.add(Fault("cut_reply"))
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.download(url)
        assert since("download-") == ["headers", "received", "started", "lost"]

    run("", scenario)


def test_nothing_goes_on_at_a_point():
    """While `on_event` runs the server stands still, so that a client can be killed between two points."""
    tasks: dict[str, int] = {}

    async def scenario(client: Client):
        def heard(event: str):
            tasks[event] = len(client.simulator.ledger.made)

        client.on_event = heard
        await client.create()

    run("", scenario)
    assert list(tasks.values()) == [0, 0, 1, 1, 1]


def test_log_line_names_the_faults():
    """The line of a request tells which faults struck it."""
    lines: list[str] = []

    async def scenario(client: Client):
        await client.create()
        with pytest.raises(CONNECTION):
            await client.create()
        await client.create()

    run("create:lost_reply_after times=1; create:html times=1", scenario, on_request=lines.append)
    assert lines == [
        f"POST {PATH} 502 (502) [html]",
        f"POST {PATH} 200 [lost_reply_after]",
        f"POST {PATH} 200",
    ]


def test_table_is_complete():
    """Each kind says in one line what it means, and works with its own defaults wherever it can strike."""
    for name, kind in FAULTS.items():
        assert kind.meaning
        assert "\n" not in kind.meaning
        for operation in kind.on:
            fault = Fault(name, on=operation)
            assert {word: fault[word] for word in kind.parameters} == kind.parameters
        assert list(Faults.parse(name)) == [Fault(name)]


@st.composite
def scripted_faults(draw: st.DrawFn):
    """Any fault that is allowed."""
    name = draw(st.sampled_from(sorted(FAULTS)))
    after = draw(st.floats(0, 1000))
    samples: dict[str, st.SearchStrategy[Any]] = {
        "word": st.just("resting"),
        "location": st.just("https://example.org/a?b=c"),
        "code": st.sampled_from([1302, 5001, 404]),
        "status": st.integers(200, 599),
        "bytes_per_second": st.floats(0.1, 1e9),
        "seconds": st.floats(0, 1e6) | st.just({"clock_skew": -3.0, "stale_timestamp": 3.0}.get(name, inf)),
        "by": st.integers(-100, 100),
        **dict.fromkeys(("made", "reset", "retry_date", "by_task_id"), st.booleans()),
        **dict.fromkeys(("at", "count", "downloads"), st.integers(0, 10**12)),
        "retry_after": st.floats(0, 100),
    }
    return Fault(
        name,
        on=draw(st.sampled_from([*FAULTS[name].on, "any"])),
        p=draw(st.floats(0.001, 1)),
        times=draw(st.none() | st.integers(1, 10**6)),
        after=after,
        until=draw(st.just(float("inf")) | st.floats(after, 2000, exclude_min=True)),
        **draw(st.fixed_dictionaries({}, optional={word: samples[word] for word in FAULTS[name].parameters})),
    )


@given(st.lists(scripted_faults(), max_size=4))
def test_text_round_trip(faults: list[Fault]):
    """A script written as text and read again is the same script."""
    script = Faults()
    script.add(*faults)
    again = Faults.parse(str(script))
    assert list(again) == faults
    assert len(again) == len(faults)
    assert str(again) == str(script)


def test_text():
    """The text of the documentation, with white space at will."""
    script = Faults.parse(" create:lost_reply_after   p=0.1;\nquery:delay seconds=2 times=3 ; ; clock_skew;")
    assert list(script) == [
        Fault("lost_reply_after", on="create", p=0.1),
        Fault("delay", on="query", seconds=2, times=3),
        Fault("clock_skew"),
    ]
    assert str(script) == "create:lost_reply_after p=0.1; query:delay times=3 seconds=2; any:clock_skew"
    assert Fault.parse("delay on=list") == Fault("delay", on="list")
    assert list(Faults.parse("")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("creat:delay", "no operation is called 'creat'; did you mean 'create'?"),
        ("create:dely", "no fault is called 'dely'; did you mean 'delay'?"),
        ("xyz", "no fault is called 'xyz'; known are lost_reply_before, "),
        ("", "no fault is called ''"),
        ("create:no_range", "no_range cannot strike 'create', only download"),
        ("delay second=2", "delay has no 'second', only p, times, after, until, seconds, made"),
        ("delay kind=2", "delay has no 'kind'"),
        ("delay seconds", "'seconds' is not name=value"),
        ("delay seconds=", "'seconds=' is not name=value"),
        ("delay seconds=soon", "'seconds=soon': 'soon' is no number"),
        ("delay times=1.5", "'times=1.5': '1.5' is no whole number"),
        ("delay p=0.1 p=0.2", "'p' is said twice"),
        ("query:delay on=list", "'on' is said twice"),
        ("delay p=0", "p must be above 0 and at most 1, not 0"),
        ("delay p=nan", "p must be above 0 and at most 1, not nan"),
        ("delay times=0", "times must be at least 1, not 0"),
        ("delay after=5 until=5", "until=5 must be later than after=5"),
        ("delay seconds=-1", "seconds must not be negative, not -1"),
        ("delay seconds=nan", "seconds must be a number, not nan"),
        ("delay made=2", "made must be 0 or 1, not 2"),
        ("clock_skew seconds=inf", "seconds must be a number, not inf"),
        ("html status=99", "status must be 200 to 599, not 99"),
        ("refuse code=3", "3 is neither a code of Kling nor an HTTP error status"),
        ("slow bytes_per_second=0", "bytes_per_second must be above 0, not 0"),
    ],
)
def test_bad_text(text: str, message: str):
    """An error names the bad word and what could stand there."""
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Fault.parse(text)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("redirect", {"location": "two words"}),
        ("redirect", {"location": "a;b"}),
        ("redirect", {"location": ""}),
        ("unknown_status", {"word": 3}),
        ("html", {"status": 502.5}),
        ("delay", {"seconds": "2"}),
    ],
)
def test_bad_values(kind: str, parameters: dict[str, Any]):
    """A value that could not be written as text, or is of another type, is refused in Python too."""
    with pytest.raises(ValueError, match=next(iter(parameters))):
        Fault(kind, **parameters)


def test_determinism(on: Any):
    """Script, seed and requests decide what strikes; how long tasks take does not depend on it."""

    def story(seed: int, script: str):
        kling = on(faults=Faults.parse(script, seed=seed), seconds=(60, 120))
        replies = [kling.create() for _ in range(40)]
        struck = [reply.arrives for reply in replies]
        return struck, [task.ended for task in kling.simulator.ledger.made]

    script = "create:lost_reply_after p=0.3"
    assert story(1, script) == story(1, script)
    assert story(1, script)[0] != story(2, script)[0]
    assert 0 < story(1, script)[0].count(False) < 40
    assert story(1, script)[1] == story(2, script)[1] == story(1, "")[1]


def test_default_seed(on: Any):
    """The generator is the user's to give; by default it is seeded too."""
    draws = [Faults().rng.random(), Faults.parse("delay").rng.random(), Faults(Random(0)).rng.random()]
    assert len(set(draws)) == 1


def test_in_memory(on: Any):
    """Without a socket the same script is told by the reply's `wire`, and by `handle_headers`."""
    kling = on(faults=Faults.parse("create:reset_in_body at=9 times=1; create:delay seconds=2 times=1"))
    headers = {"Authorization": "Bearer sim-key"}

    def early():
        return kling.simulator.handle_headers("POST", PATH, headers, START)

    assert early() == Reply(444, {}, b"", Wire(abort="reset", read=9))
    assert early() == Reply(100, {}, b"", Wire(delay=2.0))
    assert early() is None
    kling.simulator.faults.add(Fault("slow", bytes_per_second=10), Fault("cut_reply", on="create", at=3))
    cut = kling.create()
    assert (cut.status, cut.arrives, cut.received, cut.wire.cut_at) == (200, False, cut.body[:3], 3)
    slow = kling.call("GET", PATH)
    assert slow.arrives
    assert (slow.received, slow.wire.bytes_per_second) == (slow.body, 10)
    kling.simulator.faults.clear()
    assert kling.call("GET", PATH).wire == Wire()


def test_operations(on: Any):
    """The core tells what a request asks for, below the face's own paths."""
    comet = on(face="cometapi").simulator
    paths = ["/kling" + PATH, "/kling" + PATH + "/1?x", "/videos/1.mp4?token=2", PATH]
    assert [comet.operation("GET", path) for path in paths] == ["list", "query", "download", "other"]
    assert comet.operation("POST", paths[0]) == "create"
