"""The batch that is killed: one run of `KlingClient.completions(save_to=...)`, in a process of its own.

Each line of its stdin is the JSON of a `Job`, and each job a life: a fork that works on it, for the imports
and the certificate store would take most of a short life. A life prints ``began`` and its process id, a JSON
line for each completion, and ends with 0 once every item has its video or is named as MAY_EXIST; with 3 if
something is left for the next run. Then ``ended`` tells its exit code, the negative signal if that killed it.

Where it is told to die, it kills itself with SIGKILL at seams that any user has: a transport around the real
one, and a hook. `migrating` opens the journal as a later version would, with a step that never comes to its
end, for the harness to kill.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from ssl import SSLContext
from typing import Any

import attrs

from kling_async import (
    KLING,
    APIKey,
    ImageToVideo,
    KlingClient,
    KlingError,
    Outcome,
    Polling,
    Retries,
    new_api,
)
from kling_async.instrumentation import Event, Saved
from kling_async.journal import FILE_NAME, MIGRATIONS, Journal
from kling_async.protocol.wire import Request, Response
from kling_async.transport import AiohttpTransport, default_ssl
from kling_async.typing import Body

_ENDLESS = """
    ALTER TABLE tasks ADD COLUMN later TEXT;
    UPDATE tasks SET state = 'migrated', request = hex(zeroblob(100000));
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT max(n) FROM numbers
"""
"""Touches every row, more than SQLite's cache holds, and never gets to its commit."""


@attrs.frozen(kw_only=True)
class Job:
    """What to do.

    Attributes:
        base_url: of the simulator.
        gateway: whether it is one that cannot look tasks up.
        folder: for the videos and the journal.
        items: key (or None) and prompt of each.
        picture: the picture of them all.
        quarantine: seconds, see `Retries`.
        point: where to die: `intent`, `reply`, `saved` or `migrating`; others are the harness's business.
        nth: at which time that it is reached, from 1.
    """

    base_url: str
    gateway: bool
    folder: str
    items: list[tuple[str | None, str]]
    picture: str
    quarantine: float
    point: str = ""
    nth: int = 1


@attrs.define(eq=False)
class Death:
    """Kills this process when it comes to the wanted point for the n-th time."""

    point: str
    nth: int

    def at(self, point: str) -> None:
        """The process is at *point* now."""
        if point == self.point:
            self.nth -= 1
            if self.nth == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event: Event) -> None:
        """The client's: a file has its name, and the journal does not know it yet."""
        if isinstance(event, Saved):
            self.at("saved")


@attrs.define(eq=False)
class DyingTransport:
    """The real transport, with a death before a create leaves and one when its reply is here."""

    inner: AiohttpTransport
    death: Death

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """The transport's."""
        if request.method != "POST":
            return await self.inner.send(request, authorization=authorization, body=body)
        self.death.at("intent")
        response = await self.inner.send(request, authorization=authorization, body=body)
        if response.status == 200:
            self.death.at("reply")
        return response

    async def aclose(self) -> None:
        """The transport's."""
        await self.inner.aclose()


async def work(job: Job, ssl: SSLContext) -> int:
    """Run the batch once; returns the exit code."""
    if job.point == "migrating":
        _say("migrating")
        await Journal.open(Path(job.folder) / FILE_NAME, now=time.time(), migrations=(*MIGRATIONS, _ENDLESS))
    death = Death(job.point, job.nth)
    transport = DyingTransport(AiohttpTransport(ssl=ssl), death)
    client = KlingClient(
        APIKey("sim-key"),
        new_api(job.base_url) if job.gateway else KLING.at(job.base_url),
        transport=transport,
        hooks=(death.hook,),
        polling=Polling(aim=None, factor=0.2, base=1.3, max_interval=0.6, floor=0.1),
        retries=Retries(factor=0.1, max_value=0.5, quarantine=job.quarantine),
    )
    requests = [_named(key, ImageToVideo(image=job.picture, prompt=prompt)) for key, prompt in job.items]
    left = len(requests)
    try:
        async with client:
            async for done in client.completions(requests, save_to=job.folder):
                may_exist = done.error is not None and done.error.outcome is Outcome.MAY_EXIST
                left -= done.ok or may_exist
                told: Mapping[str, Any] = {
                    "index": done.index,
                    "path": None if done.path is None else str(done.path),
                    "task_id": done.task.task_id,
                    "may_exist": may_exist,
                    "error": None if done.error is None else repr(done.error),
                }
                sys.stdout.write(json.dumps(told) + "\n")
    except KlingError as error:
        sys.stderr.write(f"the stream ended: {error!r}\n")
    finally:
        await transport.aclose()
    return 3 if left else 0


def _named(key: str | None, request: ImageToVideo) -> ImageToVideo | tuple[str, ImageToVideo]:
    return request if key is None else (key, request)


def main() -> None:
    """Give each job its life, one after the other."""
    ssl = default_ssl()
    for module in ("engine", "downloads"):  # which a client imports when it needs them
        importlib.import_module(f"kling_async.{module}")
    for line in sys.stdin:
        life = os.fork()
        if life == 0:
            _say(f"began {os.getpid()}")
            sys.exit(asyncio.run(work(Job(**json.loads(line)), ssl)))
        _, status = os.waitpid(life, 0)
        _say(f"\nended {os.waitstatus_to_exitcode(status)}")  # what is killed may leave half a line


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
