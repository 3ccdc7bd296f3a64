"""The processes of a service: workers on one folder of journals, and replicas that take callbacks.

Each line of stdin is the JSON of a `Job` and begins a process of its own: a fork, for the imports and the
certificate store would take most of a short life. A process tells what happens to it in lines of JSON on the
common stdout, each with its name. SIGTERM stops it as a service is stopped.
"""

import asyncio
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from ssl import SSLContext
from typing import Any

import aiohttp
import attrs
from aiohttp import web

from kling_async import KLING, APIKey, ImageToVideo, KlingClient, Polling, Provider, Retries, new_api, webhook
from kling_async.transport import default_ssl

IMAGE = "https://cdn.example.org/a.png"


@attrs.frozen(kw_only=True)
class Job:
    """What one process is to do.

    Attributes:
        name: its own.
        base_url: of the simulator.
        videos: the folder for them.
        keys: of its items, each also the prompt.
        gateway: whether the simulator is one that cannot look tasks up.
        journal: the folder of journals.
        first_poll: seconds until a task is asked for.
        callback_url: where callbacks are sent.
        socket: the descriptor of the socket to take callbacks at; None: it takes none.
        others: where the other replicas take them.
        secret: callbacks are signed with.
        failing: how many callbacks it fails to pass on before it can.
    """

    name: str
    base_url: str
    videos: str
    keys: list[str]
    gateway: bool = False
    journal: str | None = None
    first_poll: float = 0.15
    callback_url: str | None = None
    socket: int | None = None
    others: list[str] = attrs.field(factory=list[str])
    secret: str = ""
    failing: int = 0

    @property
    def provider(self) -> Provider:
        """Whom it works with."""
        if self.gateway:  # which is asked as often as Kling, so that it does not take minutes
            return attrs.evolve(new_api(self.base_url), poll_floor=0.0)
        return KLING.at(self.base_url)


@attrs.define(eq=False)
class Life:
    """One process at its job."""

    job: Job
    received: int = 0
    passed_on: int = 0

    def say(self, **told: Any) -> None:
        """Tell *told*, in one write so that the lines of several processes stay whole."""
        line = json.dumps({"name": self.job.name, **told})
        os.write(sys.stdout.fileno(), line.encode() + b"\n")

    async def work(self, ssl: SSLContext) -> None:
        """Make and save every item, or stop when told to."""
        job = self.job
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        client = KlingClient(
            APIKey("sim-key"),
            job.provider,
            max_in_flight=2,
            journal=job.journal,
            polling=Polling(aim=None, factor=job.first_poll, base=1, floor=0.1, max_interval=job.first_poll),
            retries=Retries(factor=0.1, max_value=0.5, quarantine=0.5),
            callback_url=job.callback_url,
            ssl=ssl,
        )
        async with client as kling, aiohttp.ClientSession() as session:
            runner = await self.take_callbacks(kling, session)
            reading = asyncio.create_task(self.read(kling))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
                self.say(done=True, callbacks=kling.statistics().callbacks, polls=kling.statistics().polls)
                await stopping
            else:
                reading.cancel()
                await asyncio.wait([reading])
            if runner is not None:
                await runner.cleanup()
        self.say(ended=True, received=self.received, passed_on=self.passed_on)

    async def read(self, kling: KlingClient) -> None:
        """Tell of each item as it ends."""
        requests = [(key, ImageToVideo(image=IMAGE, prompt=key)) for key in self.job.keys]
        async for done in kling.completions(requests, save_to=self.job.videos):
            outcome = None if done.error is None else done.error.outcome.value
            self.say(key=done.key, path=done.path and str(done.path), outcome=outcome, error=repr(done.error))

    async def take_callbacks(
        self, kling: KlingClient, session: aiohttp.ClientSession
    ) -> web.AppRunner | None:
        """Take callbacks as one replica of several, if it is one."""
        job = self.job
        if job.socket is None:
            return None

        async def pass_on(headers: Mapping[str, str], body: bytes) -> None:
            self.passed_on += 1
            if self.passed_on <= job.failing:
                raise ConnectionError("the others cannot be reached")
            for other in job.others:
                async with session.post(other, data=body, headers=headers) as reply:
                    reply.raise_for_status()

        async def counted(request: web.Request, handler: Any) -> web.StreamResponse:
            self.received += 1
            response: web.StreamResponse = await handler(request)
            return response

        app = web.Application(middlewares=[web.middleware(counted)])
        app.add_routes([webhook.route("/kling", kling, secrets=[job.secret], pass_on=pass_on)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, socket.socket(fileno=job.socket)).start()
        return runner


def main() -> None:
    """Begin a process for each job; at the end of stdin stop them, and end when all have ended."""
    ssl = default_ssl()
    for module in ("engine", "downloads"):  # which a client imports when it needs them
        importlib.import_module(f"kling_async.{module}")
    begun = []
    for line in sys.stdin:
        begun.append(os.fork())
        if begun[-1] == 0:
            life = Life(Job(**json.loads(line)))
            life.say(pid=os.getpid())
            asyncio.run(life.work(ssl))
            os._exit(0)  # what the parent has read of stdin, and the rest of its loop, are not ours
    for pid in begun:
        os.kill(pid, signal.SIGTERM)  # one that has ended keeps its id until it is waited for
    for pid in begun:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
