"""The clients that are measured side by side, each used as its own README shows.

Peers are imported by name when they are asked for: one that is not installed is a `ModuleNotFoundError`,
and a row of the table that says so.
"""

import asyncio
import importlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import aiohttp
import attrs

from benchmarks.keeper import FIRST
from kling_async import KLING, APIKey, ImageToVideo, KlingClient, Polling
from kling_async.protocol.wire import Request, Response
from kling_async.transport import AiohttpTransport
from kling_async.typing import Body, Transport

__all__ = ["CLIENTS", "Client", "Ledger", "_Ours", "image_url", "prompt"]

INSTANT_BATCH = 100
"""Creates that `InstantCreates` tells the stub of at once."""


def prompt(number: int) -> str:
    """A prompt of 100 characters, another one for each task."""
    return f"{number:08d} the cat on the red sofa yawns, stretches, looks at the camera; slow push-in".ljust(
        100, "."
    )


def image_url(number: int) -> str:
    """Where a picture would be."""
    return f"https://images.example.com/bench/{number:08d}.png"


@attrs.define
class Ledger:
    """What became of each task, as the client told.

    Attributes:
        found: when each task that succeeded was handed over, seconds of the monotonic clock, by task id.
        lost: how many were not, by the class of the error.
    """

    found: dict[str, float] = attrs.field(factory=dict[str, float])
    lost: dict[str, int] = attrs.field(factory=dict[str, int])

    def succeed(self, task_id: str) -> None:
        """The client hands over a task that succeeded."""
        self.found[task_id] = time.monotonic()

    def fail(self, error: BaseException) -> None:
        """The client hands over an error."""
        name = type(error).__name__
        self.lost[name] = self.lost.get(name, 0) + 1


class Client(ABC):
    """One client pointed at the stub."""

    @abstractmethod
    async def submit(self, number: int) -> Any:
        """Create one task and wait for nothing."""

    @abstractmethod
    async def run(self, number: int) -> str:
        """Create one task and wait for it; returns its id."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close it."""

    async def ready(self) -> None:  # noqa: B027 - most have nothing to do
        """Tasks were submitted to see what that costs: let go of them."""

    async def complete(self, tasks: int, ledger: Ledger) -> None:
        """Create so many tasks at once and wait for all: one coroutine per task, as the READMEs have it."""

        async def one(number: int) -> None:
            try:
                ledger.succeed(await self.run(number))
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is a lost task
                ledger.fail(error)

        await asyncio.gather(*(one(number) for number in range(tasks)))


class Bare(Client):
    """What anyone would write first: a session, and one loop per task."""

    def __init__(self, url: str, interval: float | None) -> None:
        self._url = f"{url}/v1/videos/image2video"
        self._interval = 5.0 if interval is None else interval
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers={"Authorization": "Bearer key"}
        )

    async def submit(self, number: int) -> str:
        body = {"model_name": "kling-v2-6", "image": image_url(number), "prompt": prompt(number)}
        async with self._session.post(self._url, json=body) as response:
            document: dict[str, Any] = json.loads(await response.read())
        task_id: str = document["data"]["task_id"]
        return task_id

    async def run(self, number: int) -> str:
        task_id = await self.submit(number)
        status = "submitted"
        while status != "succeed":
            await asyncio.sleep(self._interval)
            async with self._session.get(f"{self._url}/{task_id}") as response:
                document: dict[str, Any] = json.loads(await response.read())
            status = document["data"]["task_status"]
        return task_id

    async def aclose(self) -> None:
        await self._session.close()


class Fal(Client):
    """fal-client: ``subscribe``."""

    APP = "fal-ai/kling-video/v2.5-turbo/pro/image-to-video"

    def __init__(self, url: str, interval: float | None) -> None:
        fal: Any = importlib.import_module("fal_client")
        # its host can be set, its scheme cannot: https to the stub would measure TLS
        importlib.import_module("fal_client.client").QUEUE_URL_FORMAT = f"{url}/fal/"  # type: ignore[attr-defined]  # a module known by its name alone
        self._client = fal.AsyncClient(key="key")
        self._options = {} if interval is None else {"interval": interval}

    def _arguments(self, number: int) -> dict[str, Any]:
        return {"prompt": prompt(number), "image_url": image_url(number)}

    async def submit(self, number: int) -> Any:
        return await self._client.submit(self.APP, arguments=self._arguments(number))

    async def run(self, number: int) -> str:
        arguments = self._arguments(number)
        result = await self._client.subscribe(self.APP, arguments=arguments, **self._options)
        task_id: str = result["id"]
        return task_id

    async def aclose(self) -> None:
        await (await self._client._client).aclose()  # noqa: SLF001 - it has no close of its own


class Replicate(Client):
    """replicate: ``predictions.async_create`` and ``async_wait``."""

    def __init__(self, url: str, interval: float | None) -> None:
        replicate: Any = importlib.import_module("replicate")
        self._client = replicate.Client(api_token="key", base_url=f"{url}/replicate")  # noqa: S106 - opens nothing
        if interval is not None:
            self._client.poll_interval = interval

    async def submit(self, number: int) -> Any:
        request = {"prompt": prompt(number), "start_image": image_url(number)}
        return await self._client.predictions.async_create(model="kwaivgi/kling-v2.1", input=request)

    async def run(self, number: int) -> str:
        prediction = await self.submit(number)
        await prediction.async_wait()
        task_id: str = prediction.id
        return task_id

    async def aclose(self) -> None:
        await self._client._async_client.aclose()  # noqa: SLF001 - it has no close of its own


class OpenAI(Client):
    """openai: ``videos.create`` and ``videos.poll``."""

    def __init__(self, url: str, interval: float | None) -> None:
        openai: Any = importlib.import_module("openai")
        self._client = openai.AsyncOpenAI(api_key="key", base_url=f"{url}/openai/v1")
        self._options = {} if interval is None else {"poll_interval_ms": int(interval * 1000)}

    async def submit(self, number: int) -> Any:
        return await self._client.videos.create(model="sora-2", prompt=prompt(number), seconds="4")

    async def run(self, number: int) -> str:
        video = await self.submit(number)
        video = await self._client.videos.poll(video.id, **self._options)
        task_id: str = video.id
        return task_id

    async def aclose(self) -> None:
        await self._client.close()


class Runway(Client):
    """runwayml: ``image_to_video.create`` and ``wait_for_task_output``."""

    def __init__(self, url: str, interval: float | None) -> None:
        runwayml: Any = importlib.import_module("runwayml")
        self._client = runwayml.AsyncRunwayML(api_key="key", base_url=f"{url}/runway")
        if interval is not None:  # no public option: these two are what its wait reads
            polling: Any = importlib.import_module("runwayml.lib.polling")
            polling.POLL_TIME, polling.POLL_JITTER = interval, 0.0

    async def submit(self, number: int) -> Any:
        return await self._client.image_to_video.create(
            model="gen4.5",
            prompt_image=image_url(number),
            prompt_text=prompt(number),
            ratio="1280:720",
            duration=5,
        )

    async def run(self, number: int) -> str:
        task = await self.submit(number)
        task_id: str = (await task.wait_for_task_output()).id
        return task_id

    async def aclose(self) -> None:
        await self._client.close()


class InstantCreates:
    """A transport that acknowledges creates itself and tells the stub of them; reads go over sockets.

    So many tasks can be in flight without a connection each: that is not what is measured with it.

    Args:
        url: the stub's.
    """

    def __init__(self, url: str) -> None:
        self._reads = AiohttpTransport()
        self._session = aiohttp.ClientSession()
        self._url = url
        self._count = 0
        self._untold: list[str] = []
        self._telling = asyncio.Lock()

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """See `kling_async.typing.Transport.send`."""
        if body is None:
            await self.tell()  # also of the last few, which are no whole batch
            return await self._reads.send(request, authorization=authorization)
        document: dict[str, Any] = json.loads(b"".join([piece async for piece in body]))
        task_id = FIRST + self._count
        self._count += 1
        self._untold.append(document["external_task_id"])
        if len(self._untold) >= INSTANT_BATCH:
            await self.tell()
        told = {"code": 0, "data": {"task_id": str(task_id), "task_status": "submitted"}}
        return Response(200, {"content-type": "application/json"}, json.dumps(told).encode())

    async def tell(self) -> None:
        """Have the stub keep the tasks it was not told of."""
        async with self._telling:  # one after the other: the stub numbers them as they come
            untold, self._untold = self._untold, []
            if untold:
                async with self._session.post(f"{self._url}/control/tasks", json=untold) as response:
                    response.raise_for_status()

    async def aclose(self) -> None:
        await self._reads.aclose()
        await self._session.close()


def _request(number: int) -> ImageToVideo:
    return ImageToVideo(image=image_url(number), prompt=prompt(number))


def even(interval: float, **options: Any) -> Polling:
    """Polls every *interval* seconds, and nothing learned."""
    if "aim" in attrs.fields_dict(Polling):
        options["aim"] = None
    return Polling(
        factor=interval, base=1.0, max_interval=interval, floor=min(1.0, interval), jitter=0.0, **options
    )


class _Ours(Client):
    """kling_async: ``completions``.

    Args:
        url: the stub's.
        interval: between two polls of a task; None: as the client decides.
        instant: creates are acknowledged in memory.
    """

    def __init__(self, url: str, interval: float | None, *, instant: bool = False) -> None:
        self._url = url
        self._polling = None if interval is None else even(interval)
        self._transport = InstantCreates(url) if instant else None
        self._submitting: KlingClient | None = None

    def client(self, tasks: int) -> KlingClient:
        """A client for so many tasks in flight."""
        transport: Transport | None = self._transport
        return KlingClient(
            APIKey("key"),
            KLING.at(self._url),
            max_in_flight=tasks,
            polling=self._polling,
            transport=transport,
        )

    async def submit(self, number: int) -> Any:
        if self._submitting is None:
            self._submitting = self.client(10_000)
        return await self._submitting.submit(_request(number))

    async def run(self, number: int) -> str:
        assert self._submitting is not None  # one alone is never asked for
        return (await self._submitting.run(_request(number))).task_id or ""

    async def ready(self) -> None:
        if self._submitting is not None:
            await self._submitting.aclose()
        if self._transport is not None:
            await self._transport.tell()

    async def complete(self, tasks: int, ledger: Ledger) -> None:
        async with self.client(tasks) as kling:
            async for done in kling.completions(_request(number) for number in range(tasks)):
                if done.error is None:
                    ledger.succeed(done.task.task_id or "")
                else:
                    ledger.fail(done.error)

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()


def _instant(url: str, interval: float | None) -> _Ours:
    return _Ours(url, interval, instant=True)


CLIENTS: dict[str, tuple[str, Callable[[str, float | None], Client]]] = {
    "aiohttp": ("aiohttp", Bare),
    "fal-client": ("fal-client", Fal),
    "replicate": ("replicate", Replicate),
    "openai": ("openai", OpenAI),
    "runwayml": ("runwayml", Runway),
    "kling_async": ("kling-async", _Ours),
    "kling_async, instant creates": ("kling-async", _instant),
}
"""Each client by its name in the table: its distribution, and what makes it for a URL and an interval."""
