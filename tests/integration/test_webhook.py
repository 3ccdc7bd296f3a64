"""The aiohttp route: what each callback is answered with, and what it changes."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator

import aiohttp
import attrs
import pytest
import yarl
from aiohttp import web
from vendors_vector import BODY, HEADERS, SECRET, SIGNED_AT

from kling_async import (
    COMETAPI,
    KLING,
    APIKey,
    ConfigurationError,
    Event,
    ImageToVideo,
    KlingClient,
    KlingError,
    Polled,
    TaskHandle,
    webhook,
)
from kling_async.simulator import Simulator
from kling_async.testing import SimulatorTransport

REQUEST = ImageToVideo(image="https://cdn.example.org/a.png", prompt="a cat")


@attrs.frozen
class Service:
    """A service with the route.

    Attributes:
        client: whose tasks.
        handle: a task of it that goes on.
        polled: set when the task was asked for.
        url: of the route.
        http: what posts.
    """

    client: KlingClient
    handle: TaskHandle
    polled: asyncio.Event
    url: str
    http: aiohttp.ClientSession

    async def post(self, body, headers=None):
        """Post it; returns the status."""
        async with self.http.post(self.url, data=body, headers=headers) as response:
            return response.status

    def told(self, status="succeed", **changes):
        """What Kling posts of the task."""
        names = {"external_task_id": self.handle.external_task_id}
        body = {"task_id": self.handle.task_id, "task_status": status, "task_info": names}
        return json.dumps(body | changes).encode()


@contextlib.asynccontextmanager
async def service(provider=KLING, **options) -> AsyncGenerator[Service]:
    """A service on a free port, whose client has one task."""
    face = "cometapi" if provider is COMETAPI else "kling"
    polled = asyncio.Event()

    def watch(event: Event) -> None:
        if isinstance(event, Polled):
            polled.set()

    transport = SimulatorTransport(Simulator(seconds=3600, face=face))
    async with KlingClient(APIKey("sim-key"), provider, transport=transport, hooks=[watch]) as client:
        app = web.Application()
        app.add_routes([webhook.route("/kling", client, clock=lambda: SIGNED_AT, **options)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            handle = await client.submit(REQUEST)
            async with aiohttp.ClientSession() as http:
                yield Service(
                    client, handle, polled, f"http://127.0.0.1:{runner.addresses[0][1]}/kling", http
                )
        finally:
            await runner.cleanup()


def test_what_is_refused_or_ignored_changes_nothing(caplog):
    """Forged, stale, oversized, no JSON, no task, another's, out of its folder: the status of each."""
    stale = HEADERS | {"Webhook-Timestamp": str(SIGNED_AT - 301)}

    async def pieces():
        for _ in range(300):
            yield b" " * 1024

    async def main():
        async with service(secrets=[SECRET]) as here:
            for status, body, headers in (
                (401, here.told(), HEADERS),
                (401, BODY, stale),
                (401, BODY + b" ", HEADERS),
                (413, b" " * 300_000, None),
                (413, pieces(), None),
                (400, b"", None),
                (400, b"nonsense", None),
                (400, b"{}", None),
                (400, here.told(task_id="../../../etc/passwd"), None),
                (200, BODY, HEADERS),  # another's: whoever asks learns nothing of which tasks there are
                (200, BODY, HEADERS),  # and again
                (200, here.told("processing"), None),
            ):
                assert await here.post(body, headers) == status, body
            async with here.http.get(here.url) as response:
                assert response.status == 405
            assert here.handle.status == "submitted"
            assert here.client.statistics().polls == here.client.statistics().callbacks == 0

    with caplog.at_level(logging.WARNING, "kling_async"):
        asyncio.run(main())
    assert caplog.text.count("callbacks refused") == 1
    assert SECRET not in caplog.text


def test_a_hint_is_answered_and_looked_into():
    """Unsigned: 200, and the task is asked for; it goes on, whatever was said."""

    async def main():
        async with service(secrets=[SECRET]) as here:
            assert await here.post(here.told()) == 200
            await asyncio.wait_for(here.polled.wait(), 10)
            assert not here.handle.done()

    asyncio.run(main())


def test_secrets_are_not_for_gateways():
    """What comes through a gateway bears its own signature, or none: it is a hint, and no forgery."""

    async def main():
        async with service(COMETAPI, secrets=[SECRET]) as here:
            assert await here.post(here.told(task_id="880000000000000001"), HEADERS) == 200
            await asyncio.wait_for(here.polled.wait(), 10)

    asyncio.run(main())


def test_what_is_not_ours_is_passed_on_once():
    """To the other replicas, as it came; what was passed on to us is not passed on again."""
    passed = []

    async def pass_on(headers, body):
        passed.append((headers, body))

    async def main():
        async with service(secrets=[SECRET], pass_on=pass_on) as here:
            assert await here.post(BODY, HEADERS) == 200
            assert await here.post(here.told()) == 200
            assert await here.post(*reversed(passed[0])) == 200

    asyncio.run(main())
    assert len(passed) == 1
    headers, body = passed[0]
    assert body == BODY
    assert headers["webhook-signature"] == HEADERS["Webhook-Signature"]
    assert headers[webhook.PASSED_ON] == "1"


def test_only_what_is_signed_is_passed_on_where_kling_signs():
    """Anyone could have our replicas post to each other, else."""
    passed = []

    async def pass_on(headers, body):
        passed.append(body)

    async def main():
        async with service(secrets=[SECRET], pass_on=pass_on) as here:
            assert await here.post(BODY) == 200
        async with service(pass_on=pass_on) as here:
            assert await here.post(BODY) == 200

    asyncio.run(main())
    assert passed == [BODY]


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"Transfer-Encoding: chunked\r\n\r\nnope\r\n",
    ],
)
def test_body_that_is_not_as_its_headers_say(sent):
    """Answered with 400, not with an error of ours."""

    async def main():
        async with service() as here:
            url = yarl.URL(here.url)
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(b"POST /kling HTTP/1.1\r\nHost: x\r\n" + sent)
            assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_secrets_are_checked_when_the_route_is_made():
    """And not by the first callback."""
    with pytest.raises(ConfigurationError):
        webhook.route("/kling", KlingClient(APIKey("sim-key")), secrets=["whsec_!"])


def test_a_replica_that_is_down(caplog):
    """503 says that it may be sent again; the log says why."""

    async def pass_on(headers, body):
        raise ConnectionRefusedError("replica 2 is down")

    async def main():
        async with service(pass_on=pass_on) as here:
            assert await here.post(BODY, HEADERS) == 503

    asyncio.run(main())
    assert "replica 2 is down" in caplog.text


def test_route_needs_no_client_at_work():
    """While a service starts and stops, callbacks are answered all the same."""
    client = KlingClient(APIKey("sim-key"))
    callback = webhook.read({}, BODY, (), SIGNED_AT)
    assert client.observe(callback) is False
    with pytest.raises(KlingError):
        webhook.read({}, b"", (), SIGNED_AT)
