"""Keys, proxy passwords, signatures and pictures appear nowhere: not in logs, texts, tracebacks or files."""

import asyncio
import base64
import contextlib
import io
import json
import logging
import os
import random
import re
import subprocess
import sys
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image

import kling_async
from kling_async import (
    COMETAPI,
    AccessKey,
    APIKey,
    ConnectError,
    DownloadError,
    Event,
    ImageToVideo,
    KlingClient,
    KlingError,
    Polling,
    ResponseLostError,
    Retries,
)
from kling_async.integrations.otel import OpenTelemetry
from kling_async.protocol.providers import KLING, Provider
from kling_async.protocol.wire import Request, Response
from kling_async.simulator import Simulator, serve
from kling_async.simulator.faults import Faults
from kling_async.testing import SimulatorTransport

API = "api-Known0Text1Of2An3Api4Key5"
COMET = "comet-Known0Text1Of2A3Gateway4Key"
ACCESS = "AccessKnown0Text1Of2Access"
SECRET = "SecretKnown0Text1Of2Secret3That4Signs5"
PASSWORD = "ProxyKnown0Password"

QUICK: dict[str, Any] = {
    "polling": Polling(factor=0.1, base=1.5, max_interval=0.5, floor=0.05),
    "retries": Retries(attempts=2, factor=0.01, quarantine=0.1),
}

CREDENTIALS: dict[str, tuple[Any, Provider, Any]] = {
    "api key": (APIKey(f"  'Bearer {API}'\n"), KLING, "kling"),
    "access key": (AccessKey(ACCESS, SECRET), KLING, "kling"),
    "gateway": (APIKey(COMET), COMETAPI, "cometapi"),
}


def noisy_picture() -> bytes:
    """A JPEG without two equal stretches, so that any part of it is told when it is told."""
    noise = random.Random(1).randbytes(400 * 300 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (400, 300), noise).save(file, "JPEG", quality=60)
    return file.getvalue()


PICTURE = noisy_picture()
ENCODED = base64.b64encode(PICTURE).decode()


class Heard:
    """Everything that was told anywhere, and the secrets that it must not hold."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        middle = len(ENCODED) // 8 * 4
        self.secrets = [API, COMET, SECRET, ACCESS, PASSWORD, ENCODED[:40], ENCODED[middle : middle + 40]]
        self.raw = [PICTURE[1000:1030]]

    def say(self, *things: Any) -> None:
        """Keep the str and the repr of *things*; of an error its traceback and all it carries too."""
        for thing in things:
            self.texts += [str(thing), repr(thing)]
            if isinstance(thing, BaseException):
                self.texts += traceback.format_exception(thing)
                self.texts += [f"{name}={value!s} {value!r}" for name, value in vars(thing).items()]

    def files(self, folder: Path) -> None:
        """Read every file below *folder* but the pictures and videos."""
        found = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".jpg", ".mp4")]
        assert found, "there was a journal"
        for path in found:
            content = path.read_bytes()
            assert not any(raw in content for raw in self.raw), path
            self.texts.append(content.decode("latin-1"))

    def told(self) -> list[str]:
        """Where a secret was told."""
        return [
            f"{secret!r} in {text[max(0, text.index(secret) - 200) :][:400]!r}"
            for text in self.texts
            for secret in self.secrets
            if secret in text
        ]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Hears every logger there is, at DEBUG."""
    heard = Heard()

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.texts.append(self.format(record))
            heard.texts.append(f"{record.args!r} {record.__dict__!r}")

    root = logging.getLogger()
    handler, level = Keeping(), root.level
    names = ["kling_async", "aiohttp", "aiohttp.client", "aiohttp.access", "asyncio", "backoff"]
    levels = {name: logging.getLogger(name).level for name in names}
    root.addHandler(handler)
    for name in ("", *names):
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield heard
    root.removeHandler(handler)
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def simulator_for(face: Any, heard: Heard, faults: str = "") -> Simulator:
    """A simulator that takes the known keys and whose own log is heard."""
    return Simulator(
        face=face,
        api_keys={API, COMET},
        access_keys={ACCESS: SECRET},
        on_request=heard.texts.append,
        faults=Faults.parse(faults),
        seconds=0.05,
    )


@pytest.mark.parametrize(
    "faults", ["", "create:lost_reply_after times=1", "create:lost_reply_before times=1; any:html p=0.1"]
)
@pytest.mark.parametrize("kind", CREDENTIALS)
def test_a_stream_of_every_end(kind: str, faults: str, heard: Heard, tmp_path: Path):
    """Success, failure, refusal, a lost reply: nothing that was told or written holds a secret."""
    credentials, provider, face = CREDENTIALS[kind]
    simulator = simulator_for(face, heard, faults)
    (tmp_path / "in.jpg").write_bytes(PICTURE)

    def requests() -> Iterator[tuple[str, ImageToVideo]]:
        images: list[Any] = [tmp_path / "in.jpg", PICTURE, ENCODED, f"data:image/jpeg;base64,{ENCODED}"]
        for number, image in enumerate(images):
            yield f"k{number}", ImageToVideo(image=image, prompt="x")
        yield "failed", ImageToVideo(image=PICTURE, prompt="[fail]")
        yield "refused", ImageToVideo(image=PICTURE, prompt="[policy]")
        yield "bad", ImageToVideo(image=PICTURE[:40], prompt="bad")

    async def main() -> int:
        saved = 0
        async with serve(simulator) as url:
            client = KlingClient(credentials, provider.at(url), max_in_flight=4, hooks=[heard.say], **QUICK)
            async with client as kling:
                heard.say(
                    credentials, kling, kling.provider, kling._setup, kling._setup.options, kling._running()
                )
                async for done in kling.completions(requests(), save_to=tmp_path / "out"):
                    saved += done.ok
                    heard.say(done.key, done.error, done.request, done.path, done.task.status)
                    heard.texts += [repr(done), str(done.task.status_message)]
                handle = await kling.submit(ImageToVideo(image=PICTURE, prompt="again"), key="again")
                heard.say(handle, handle.token, kling.statistics(), *kling.tasks())
                await handle.result(timeout=20)
        return saved

    saved = asyncio.run(main(), debug=True)
    assert saved >= 2
    heard.files(tmp_path / "out")
    assert heard.told() == []


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_a_refused_key(kind: str, heard: Heard):
    """A 401 tells what to do and not the key, also where the server says the key back."""
    credentials, provider, face = CREDENTIALS[kind]

    async def refused(url: str) -> None:
        async with KlingClient(credentials, provider.at(url), **QUICK) as kling:
            with pytest.raises(KlingError) as caught:
                await kling.submit(ImageToVideo(image=PICTURE, prompt="x"))
            heard.say(caught.value)
            assert "nothing was paid" in str(caught.value)

    async def main() -> None:
        simulator = Simulator(face=face, api_keys={"another"}, access_keys={}, on_request=heard.texts.append)
        async with serve(simulator) as url:
            await refused(url)
        async with echo() as url:
            await refused(url)

    asyncio.run(main(), debug=True)
    assert heard.told() == []


@asynccontextmanager
async def raw_server(answer: Callable[[bytes], bytes]) -> AsyncGenerator[str]:
    """A server that answers each head of a request with bytes; yields host and port."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        writer.write(answer(head))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def echo() -> AsyncGenerator[str]:
    """A gateway that says the whole Authorization header back."""

    def answer(head: bytes) -> bytes:
        value = next(line for line in head.decode().split("\r\n") if line.lower().startswith("authorization"))
        key = value.partition(": ")[2]
        body = (
            f'{{"error": {{"message": "Invalid token: {key} / {key.split()[-1]}", "type": "x", "code": ""}}}}'
        )
        return f"HTTP/1.1 401 No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()

    async with raw_server(answer) as address:
        yield f"http://{address}"


@pytest.mark.parametrize("answer", ["407", "garbage", "nobody"])
def test_a_proxy_that_fails(answer: str, heard: Heard):
    """A proxy that wants another password, talks nonsense or is absent: its own is told to nobody else."""
    heads: list[bytes] = []
    replies = {
        "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        "garbage": b"\x15\x03\x01 this is no HTTP\r\n\r\n",
    }

    def asked(head: bytes) -> bytes:
        heads.append(head)
        return replies[answer]

    async def main() -> None:
        async with raw_server(asked) as heard_at:
            address = "127.0.0.1:1" if answer == "nobody" else heard_at
            env = {"KLING_API_KEY": API, "HTTPS_PROXY": f"http://user:{PASSWORD}@{address}"}
            async with KlingClient.from_env(env=env, **QUICK) as kling:
                heard.say(kling, kling._setup)
                with pytest.raises(ConnectError) as caught:
                    await kling.submit(ImageToVideo(image=PICTURE, prompt="x"))
                heard.say(caught.value)
                with pytest.raises(KlingError) as read:
                    await kling.get_task("1")
                heard.say(read.value)

    asyncio.run(main(), debug=True)
    given = base64.b64encode(f"user:{PASSWORD}".encode())
    assert all(b"Proxy-Authorization: Basic " + given in head for head in heads)
    assert bool(heads) == (answer != "nobody")
    assert heard.told() == []


@pytest.mark.parametrize(
    "fault",
    [
        "download:html status=502",
        "download:lost_reply_after",
        "download:cut_reply",
        "download:refuse code=404",
        "download:redirect",
    ],
)
def test_a_download_that_fails(fault: str, heard: Heard, tmp_path: Path):
    """The signature in the query of a video's URL is told neither by logs nor by the download's error."""
    simulator = simulator_for("kling", heard, fault)

    async def main() -> None:
        async with (
            serve(simulator) as url,
            KlingClient(APIKey(API), KLING.at(url), hooks=[heard.say], **QUICK) as kling,
        ):
            handle = await kling.submit(ImageToVideo(image=PICTURE, prompt="x"), key="one")
            task = await handle.result(timeout=20)
            signature = task.video.url.partition("?")[2]
            assert len(signature) > 10
            heard.secrets.append(signature)
            simulator.on_request = None  # the video host knows its own URLs
            with pytest.raises(DownloadError) as caught:
                await kling.download(handle, tmp_path / "v.mp4")
            heard.say(caught.value, handle)

    asyncio.run(main(), debug=True)
    assert heard.told() == []


def test_a_lost_reply_without_look_up(heard: Heard, tmp_path: Path):
    """The error that tells of a possible payment has a token, and the token holds no secret."""
    simulator = simulator_for("new-api-2026", heard, "create:lost_reply_after")
    (tmp_path / "out").mkdir()

    async def main() -> None:
        async with serve(simulator) as url:
            env = {"EZMODEL_API_KEY": API, "KLING_BASE_URL": url}
            async with KlingClient.from_env(env=env, journal=tmp_path / "out" / "j.db", **QUICK) as kling:
                with pytest.raises(ResponseLostError) as caught:
                    await kling.run(ImageToVideo(image=PICTURE, prompt="x"), key="one")
                heard.say(caught.value, caught.value.token)
                decoded = (caught.value.token or "").removeprefix("kling1.")
                heard.texts.append(base64.urlsafe_b64decode(decoded + "==").decode("latin-1"))

    asyncio.run(main(), debug=True)
    heard.files(tmp_path / "out")
    assert heard.told() == []


class Parrot:
    """A transport onto a simulator whose every reply says the Authorization header back, wherever it can.

    Args:
        simulator: answers.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.inner = SimulatorTransport(simulator)
        self.urls: list[str] = []
        self.tokens: set[str] = set()

    async def send(self, request: Request, *, authorization: str, body: Any = None) -> Response:
        """Send *request*, and put the header into each text of the reply."""
        response = await self.inner.send(request, authorization=authorization, body=body)
        self.urls.append(request.url)
        self.tokens.add(authorization.removeprefix("Bearer "))
        document = json.loads(response.body)
        document["message"] = f"for {authorization}"
        found = document.get("data") or {}
        for entry in found if isinstance(found, list) else [found]:
            entry["task_status_msg"] = f"for {authorization}"
            entry["extra"] = {"header": [authorization.rsplit(maxsplit=1)[-1]]}
        return attrs.evolve(response, body=json.dumps(document).encode())

    async def aclose(self) -> None:
        """Nothing was opened."""


@pytest.mark.parametrize("path", ["ends", "poll error", "reads", "sweep"])
@pytest.mark.parametrize("kind", ["api key", "access key"])
def test_a_key_said_back_is_kept_nowhere(kind: str, path: str, heard: Heard):
    """Every reply that is kept is searched: an error, a task with its raw reply, a page; at DEBUG too."""
    credentials, provider, face = CREDENTIALS[kind]
    faults = "query:refuse code=5000 times=1" if path == "poll error" else ""
    parrot = Parrot(simulator_for(face, heard, faults))
    provider = attrs.evolve(provider, lists=path in ("sweep", "reads"))
    options: dict[str, Any] = QUICK | {"transport": parrot, "hooks": [heard.say]}
    prompts = {"ends": ("x", "[fail]", "[policy]"), "sweep": "abcd"}.get(path, ("x",))

    async def main() -> None:
        async with KlingClient(credentials, provider, **options) as kling:
            handles = [kling.submit_soon(ImageToVideo(image=PICTURE, prompt=each)) for each in prompts]
            for handle in handles:
                with contextlib.suppress(KlingError):
                    heard.say((await handle.result(timeout=20)).raw)
                heard.say(handle, handle.task, handle.task.raw, handle._flight.judged, handle._flight.error)
            if path == "reads":
                heard.say(seen := await kling.get_task(handles[0].task_id or ""), seen.raw)
                with pytest.raises(KlingError) as caught:
                    await kling.get_task("1")
                assert "***" in str(caught.value)
                heard.say(caught.value)
                async for seen in kling.list_tasks():
                    heard.say(seen, seen.raw)

    asyncio.run(main(), debug=True)
    heard.secrets += parrot.tokens
    assert any("pageNum" in url for url in parrot.urls) == provider.lists
    assert heard.told() == []


def test_a_bad_day_at_debug(heard: Heard, tmp_path: Path):
    """All that can go wrong, every logger at DEBUG, spans, metrics: no key, picture, prompt or link."""
    simulator = simulator_for(
        "kling",
        heard,
        "create:lost_reply_after times=1; create:refuse code=1303 times=2; any:html p=0.1;"
        "query:cut_reply p=0.1; download:lost_reply_after times=1",
    )
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    otel = OpenTelemetry(tracers, MeterProvider([reader]))
    wish = "a wish that is nobody's business"
    heard.secrets.append(wish)

    def requests() -> Iterator[tuple[str, ImageToVideo]]:
        for number in range(6):
            yield f"k{number}", ImageToVideo(image=PICTURE, prompt=f"{wish} {number}")
        yield "failed", ImageToVideo(image=PICTURE, prompt=f"[fail] {wish}")
        yield "refused", ImageToVideo(image=PICTURE, prompt=f"[policy] {wish}")
        yield "bad", ImageToVideo(image=PICTURE[:40], prompt=wish)

    def broken(event: Event) -> None:
        raise ValueError("a hook of the user's")

    async def main() -> None:
        async with serve(simulator) as url:
            hooks = [otel, broken]
            async with KlingClient(
                APIKey(API), KLING.at(url), max_in_flight=3, hooks=hooks, **QUICK
            ) as kling:
                async for done in kling.completions(requests(), save_to=tmp_path / "out"):
                    heard.texts.append(str(done.error))
                    heard.secrets += [video.url.partition("?")[2] for video in done.task.videos]

    asyncio.run(main(), debug=True)
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(spans) == 8
    heard.texts += [*spans, str(reader.get_metrics_data())]
    lost = re.compile(r"POST /v1/videos/image2video of ka-\w+: ResponseLostError")
    assert any(lost.search(text) for text in heard.texts)
    assert any("k0: submitted as task" in text for text in heard.texts)
    assert heard.told() == []


def test_nothing_public_shows_a_key():
    """No public value made of a key shows it; pictures in requests are told by their size at most."""
    heard = Heard()
    client = KlingClient(AccessKey(ACCESS, SECRET), proxy=f"http://u:{PASSWORD}@proxy.example")
    heard.say(APIKey(API), AccessKey(ACCESS, SECRET), client)
    heard.say(ImageToVideo(image=PICTURE, image_tail=ENCODED, prompt="x"))
    heard.say(kling_async.MultiImageToVideo(image_list=[PICTURE, ENCODED], prompt="x"))
    with pytest.raises(KlingError) as caught:
        APIKey(f"{API} {SECRET}")
    heard.say(caught.value)
    with pytest.raises(KlingError) as caught:
        KLING.at(f"https://user:{PASSWORD}@api.example.com")
    heard.say(caught.value)
    assert heard.told() == []


def test_the_command_line(heard: Heard, tmp_path: Path):
    """A batch in a process of its own tells and writes no secret: streams, journal, simulator's log."""
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(PICTURE + name.encode() + b"\xff\xd9")
    simulator = simulator_for("kling", heard, "create:lost_reply_after times=1; download:html times=1")
    kept = {name: value for name, value in os.environ.items() if "KLING" not in name}

    async def main() -> tuple[int | None, str]:
        async with serve(simulator) as url:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-X",
                    "dev",
                    "-m",
                    "kling_async",
                    "batch",
                    "--yes",
                    str(tmp_path / "in"),
                    "--prompt",
                    "x",
                ),
                *("-o", str(tmp_path / "out"), "--json"),
                env={**kept, "KLING_ACCESS_KEY": ACCESS, "KLING_SECRET_KEY": SECRET, "KLING_BASE_URL": url},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            out, _ = await asyncio.wait_for(process.communicate(), 150)
            return process.returncode, out.decode()

    code, out = asyncio.run(main())
    assert code == 0, out
    heard.texts.append(out)
    heard.files(tmp_path / "out")
    assert heard.told() == []
