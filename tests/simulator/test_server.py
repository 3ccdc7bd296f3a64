"""The simulator on a real port."""

import asyncio
import io
import json
import threading
import time
from base64 import b64encode
from typing import Any

import aiohttp
import aiohttp.web
import pytest
from yarl import URL

from kling_async.simulator import Simulator, VideoJob, make_app, serve

KEY = {"Authorization": "Bearer sim-key"}
BODY = {"model_name": "kling-v2-6", "image": "https://cdn.example.org/a.png", "prompt": "a cat"}
PATH = "/v1/videos/image2video"


class Clock:
    """A clock that tests set."""

    now = 1_800_000_000.0

    def __call__(self):
        """Unix seconds."""
        return self.now


async def finished_url(session: aiohttp.ClientSession, url: str, clock: Clock, **changes: Any):
    """The URL of a video made and finished."""
    async with session.post(url + PATH, json=BODY | changes, headers=KEY) as reply:
        task_id = (await reply.json())["data"]["task_id"]
    clock.now += 1000
    async with session.get(f"{url}{PATH}/{task_id}", headers=KEY) as reply:
        return (await reply.json())["data"]["task_result"]["videos"][0]["url"]


def run(simulator: Simulator, scenario: Any, clock: Clock | None = None):
    """Run *scenario(session, url, clock)* against *simulator* on a port."""
    clock = clock or Clock()

    async def main():
        async with serve(simulator, clock=clock) as url, aiohttp.ClientSession() as session:
            return await asyncio.wait_for(scenario(session, url, clock), 20)

    return asyncio.run(main())


def test_whole_way():
    """Create, query, list and download work over a socket, with the headers of the core."""
    simulator = Simulator()

    async def scenario(session: aiohttp.ClientSession, url: str, clock: Clock):
        video = await finished_url(session, url, clock, external_task_id="a/b c")
        async with session.get(f"{url}{PATH}?pageSize=10", headers=KEY) as reply:
            assert len((await reply.json())["data"]) == 1
        assert video.startswith(url + "/videos/")
        async with session.get(video) as reply:
            assert reply.content_type == "video/mp4"
            whole = await reply.read()
        async with session.head(video) as reply:
            assert (reply.status, reply.content_length) == (200, len(whole))
        async with session.get(video, headers={"Range": "bytes=4-7"}) as reply:
            assert (reply.status, await reply.read()) == (206, b"ftyp")
        async with session.get(video, headers=KEY) as reply:
            assert reply.status == 400
        async with session.get(url + "/nowhere") as reply:
            assert (reply.status, (await reply.json())["code"]) == (401, 1001)

    run(simulator, scenario)
    assert simulator.ledger.requests == {"create": 1, "query": 1, "list": 1, "download": 4, "other": 1}
    assert len(simulator.ledger.leaks) == 1


def test_encoded_ids():
    """An id with a slash, percent-encoded, stays one segment of the path."""

    async def scenario(session: aiohttp.ClientSession, url: str, clock: Clock):
        await finished_url(session, url, clock, external_task_id="a/b c?")
        path = URL(f"{url}{PATH}/a%2Fb%20c%3F", encoded=True)
        async with session.get(path, headers=KEY) as reply:
            return (await reply.json())["data"]["task_info"]

    assert run(Simulator(), scenario) == {"external_task_id": "a/b c?"}


def test_redirect_is_not_decorated():
    """The status and headers of a gateway's redirect arrive as the core made them."""

    async def scenario(session: aiohttp.ClientSession, url: str, clock: Clock):
        async with session.get(url + "/kling" + PATH, headers=KEY, allow_redirects=False) as reply:
            return reply.status, reply.headers["Location"], reply.content_type

    assert run(Simulator(face="cometapi"), scenario) == (301, "/", "text/html")


def test_large_bodies(png: Any):
    """Four pictures of 10 MB in base64 fit into one request."""
    picture = png(640, 480, 10_000_000)
    body = json.dumps({"image_list": [{"image": picture}] * 4, "prompt": "four"}).encode()
    simulator = Simulator()

    async def scenario(session: aiohttp.ClientSession, url: str, clock: Clock):
        headers = {**KEY, "Content-Type": "application/json"}
        path = url + "/v1/videos/multi-image2video"
        async with session.post(path, data=io.BytesIO(body), headers=headers) as reply:
            return reply.status

    assert run(simulator, scenario) == 200
    assert len(simulator.ledger.made) == 1


def test_rendered_once_beside_the_loop():
    """However many ask, a video is rendered once, in a thread, and other calls are answered meanwhile."""
    rendering, release = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def render(job: VideoJob):
        threads.append(threading.current_thread())
        rendering.set()
        assert release.wait(10)
        return b"rendered " + job.video_id.encode()

    async def scenario(session: aiohttp.ClientSession, url: str, clock: Clock):
        video = await finished_url(session, url, clock)

        async def download():
            async with session.get(video) as reply:
                return await reply.read()

        downloads = [asyncio.create_task(download()) for _ in range(3)]
        leaver = asyncio.create_task(download())
        await asyncio.to_thread(rendering.wait, 10)
        leaver.cancel()
        async with session.get(url + PATH, headers=KEY) as reply:
            assert reply.status == 200
        release.set()
        return await asyncio.gather(*downloads)

    bodies = run(Simulator(render=render), scenario)
    assert len(set(bodies)) == 1
    assert bodies[0].startswith(b"rendered ")
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_failing_renderer():
    """A renderer that fails costs that one download; the next one renders again."""
    results = [None, b"rendered"]

    def render(job: VideoJob) -> bytes:
        content = results.pop(0)
        assert content is not None
        return content

    async def scenario(session: aiohttp.ClientSession, url: str, clock: Clock):
        video = await finished_url(session, url, clock)
        async with session.get(video) as failed, session.get(video) as reply:
            return failed.status, await reply.read()

    assert run(Simulator(render=render), scenario) == (500, b"rendered")


def test_real_video():
    """The bundled renderer makes an MP4 of the length asked for; a false picture is no obstacle."""
    import av
    from PIL import Image

    from kling_async.simulator import render_video

    file = io.BytesIO()
    Image.new("RGB", (400, 300), "teal").save(file, "PNG")
    picture = b64encode(file.getvalue()).decode()
    cut = b64encode(file.getvalue()[:60]).decode()

    async def scenario(session: aiohttp.ClientSession, url: str, clock: Clock):
        contents: list[bytes] = []
        for image in (picture, cut):
            async with session.get(await finished_url(session, url, clock, image=image)) as reply:
                contents.append(await reply.read())
        return contents

    for content in run(Simulator(render=render_video), scenario):
        with av.open(io.BytesIO(content), "r") as video:
            assert sum(1 for _ in video.decode(video=0)) == pytest.approx(5 * 24, abs=1)


def test_clean_end():
    """After the block the port is free again, and no task and no thread of the server is left."""
    before = set(threading.enumerate())

    async def main():
        async with serve(Simulator(render=lambda _: b"x")) as url, aiohttp.ClientSession() as session:
            clock = Clock()
            clock.now = time.time()
            async with session.get(url) as reply:
                assert reply.status == 401
        assert asyncio.all_tasks() == {asyncio.current_task()}
        port = int(url.rpartition(":")[2])
        async with serve(Simulator(), port=port) as again:
            assert again == url

    asyncio.run(main())
    assert set(threading.enumerate()) <= before


def test_port_taken():
    """A port in use is an OSError, and nothing is left open."""

    async def main():
        async with serve(Simulator()) as url:
            with pytest.raises(OSError, match="address"):
                async with serve(Simulator(), port=int(url.rpartition(":")[2])):
                    pass

    asyncio.run(main())


def test_application_alone():
    """`make_app` can be mounted by hand; the base of the results' URLs is then the user's to set."""
    simulator = Simulator(public_url="http://kling.localhost", seconds=0)

    async def main():
        runner = aiohttp.web.AppRunner(make_app(simulator))
        await runner.setup()
        try:
            await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with aiohttp.ClientSession() as session:
                return await finished_url(session, url, Clock())
        finally:
            await runner.cleanup()

    assert asyncio.run(main()).startswith("http://kling.localhost/videos/")
