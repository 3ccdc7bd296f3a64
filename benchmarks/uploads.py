"""Uploads of files: throughput and memory against a bare loop, and the longest block of the event loop.

    python -m benchmarks.uploads [--runs 3] [--quick] [--json FILE]

300 pictures of 8 MB are submitted with 4 and with 32 uploads at once, ours and bare in turns, each in a fresh
process on a core of its own, against a sink on another. The bare side reads, encodes and posts whole files.
Where pybase64 (extra ``speed``) is installed, ours is measured with and without it.
"""

import asyncio
import base64
import importlib.util
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import alone, sides, sink
from benchmarks.figure import Figure, Result
from kling_async import KLING, APIKey, ImageToVideo, KlingClient

SIZE = 8_000_000
"""Bytes of a picture: what a camera makes; 10.7 MB of base64."""
UPLOADS = 300
TURNS = 3
"""How often the sides take turns within a run, so that a busy moment of the machine meets all of them."""
FILES = 12
"""Different pictures, each submitted many times: the page cache holds them, so no disk is measured."""
BUDGETS = {4: 60.0, 32: 150.0}
"""MB over idle by uploads at once."""
BLOCK_BUDGET = 20.0
"""Milliseconds that the event loop may stand still."""
LARGEST = 10 * 1024 * 1024
"""Bytes of the largest picture Kling takes."""
TICK = 0.001
"""Seconds between two looks at the loop's clock."""
MEGABYTE = 1_000_000


def picture(size: int) -> bytes:
    """*size* bytes that pass for a PNG of 2,000 x 2,000 px: its header, noise, its end."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", 2000, 2000, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND\xaeB`\x82"
    return head + os.urandom(size - len(head) - len(end)) + end


def _client(base_url: str, tasks: int, max_uploads: int) -> KlingClient:
    return KlingClient(APIKey("key"), KLING.at(base_url), max_in_flight=tasks, max_uploads=max_uploads)


async def ours(base_url: str, files: Sequence[str], uploads: int, at_once: int) -> dict[str, Any]:
    """Seconds and memory of a client that submits each file in turn until there were *uploads*."""
    memory = sides.Memory()
    async with _client(base_url, uploads, at_once) as kling:
        with memory.measured():
            started = time.perf_counter(), time.process_time()
            await asyncio.gather(
                *(
                    kling.submit(ImageToVideo(image=files[n % len(files)], prompt="it moves"), key=str(n))
                    for n in range(uploads)
                )
            )
            seconds, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"uploads": uploads, "seconds": seconds, "cpu": cpu, "memory": memory.over_idle}


async def bare(base_url: str, files: Sequence[str], uploads: int, at_once: int) -> dict[str, Any]:
    """The same of a loop that reads, encodes and posts whole files."""
    memory = sides.Memory()
    pending = iter(range(uploads))

    async def work(session: aiohttp.ClientSession) -> None:
        for n in pending:
            text = base64.b64encode(Path(files[n % len(files)]).read_bytes()).decode()  # noqa: ASYNC240 - the plain loop blocks
            document = {"model_name": "kling-v1", "image": text, "prompt": "it moves"}
            body = json.dumps(document).encode()
            async with session.post(
                f"{base_url}/v1/videos/image2video", data=body, headers={"Authorization": "Bearer key"}
            ) as response:
                assert json.loads(await response.read())["data"]["task_status"] == "submitted"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        with memory.measured():
            started = time.perf_counter(), time.process_time()
            await asyncio.gather(*(work(session) for _ in range(at_once)))
            seconds, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"uploads": uploads, "seconds": seconds, "cpu": cpu, "memory": memory.over_idle}


async def blocks(base_url: str, path: str, form: str, pictures: int) -> dict[str, Any]:
    """The longest time the loop stood still while *pictures* pictures were checked, hashed, encoded, sent.

    Counted is the CPU time that this process, its threads included, used meanwhile: what the loop waits for
    because another process has the core is not ours. By the wall clock it is told too.

    Args:
        base_url: the sink's.
        path: the picture.
        form: how it is given: ``file``, ``bytes`` or ``base64``.
        pictures: how many, all at once.
    """
    raw = Path(path).read_bytes()  # noqa: ASYNC240 - before anything is measured
    given: dict[str, Any] = {"file": path, "bytes": raw, "base64": base64.b64encode(raw).decode()}
    longest = by_clock = 0.0

    async def watch() -> None:
        nonlocal longest, by_clock
        while True:
            started, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK)
            late = time.perf_counter() - started - TICK
            by_clock = max(by_clock, late)
            longest = max(longest, min(late, time.process_time() - cpu))

    async with _client(base_url, 1000, 4) as kling:
        await kling.submit(ImageToVideo(image="https://example.com/cat.png", prompt="it moves"))
        watching = asyncio.create_task(watch())
        await asyncio.gather(
            *(
                kling.submit(ImageToVideo(image=given[form], prompt="it moves"), key=str(n))
                for n in range(pictures)
            )
        )
        await asyncio.sleep(2 * TICK)  # what came last is seen too
        watching.cancel()
    return {"longest": longest, "by_clock": by_clock}


def encoders() -> dict[str, tuple[str, ...]]:
    """What each way to encode is to be measured without."""
    without: dict[str, tuple[str, ...]] = {"standard library": ("pybase64",)}
    if importlib.util.find_spec("pybase64") is not None:
        without["pybase64"] = ()
    return without


def measure(runs: int, *, quick: bool) -> Result:
    """Every figure of every encoder; *quick* takes a fifth of the uploads."""
    uploads = UPLOADS // 5 if quick else UPLOADS
    figures: list[Figure] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, sink.running() as base_url:
        files = [str(Path(folder) / f"{n}.png") for n in range(FILES)]
        for file in files:
            Path(file).write_bytes(picture(SIZE))
        for at_once in BUDGETS:
            figures += _compared(base_url, files, uploads, at_once, runs, rows)
        largest = Path(folder) / "largest.png"
        largest.write_bytes(picture(LARGEST))
        figures += _blocked(base_url, str(largest), runs)
    return Result(figures, {"uploads": rows})


def _compared(
    base_url: str, files: Sequence[str], uploads: int, at_once: int, runs: int, rows: list[dict[str, Any]]
) -> Iterable[Figure]:
    """Memory and throughput with *at_once* uploads at once."""
    names = encoders()
    ratios: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    work: dict[str, Any] = {
        "base_url": base_url,
        "files": files,
        "uploads": uploads // TURNS,
        "at_once": at_once,
    }
    for _ in range(runs):
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in ("bare", *names)}
        for _ in range(TURNS):
            turns["bare"].append(sides.run("benchmarks.uploads:bare", **work))
            for name, without in names.items():
                turns[name].append(sides.run("benchmarks.uploads:ours", without=without, **work))
        rows += [{"side": side, "at_once": at_once, **_summary(each)} for side, each in turns.items()]
        taken = {side: sum(turn["seconds"] for turn in each) for side, each in turns.items()}
        for name in names:
            ratios[name].append(taken["bare"] / taken[name])
            peaks[name].append(_summary(turns[name])["peak_mb"])
    what = f"{at_once} uploads at once"
    for name in names:
        note = f"{uploads} uploads of 8 MB, {name}"
        memory, rate = f"peak memory over idle, {what}", f"upload throughput over a bare loop, {what}"
        yield Figure(name=memory, unit="MB", runs=peaks[name], budget=BUDGETS[at_once], note=note)
        yield Figure(name=rate, unit="x", runs=ratios[name], budget=1.0, at_least=True, note=note)


def _summary(turns: Sequence[dict[str, Any]]) -> dict[str, float]:
    """One side's turns as one row."""
    uploads = sum(turn["uploads"] for turn in turns)
    return {
        "uploads_per_s": uploads / sum(turn["seconds"] for turn in turns),
        "cpu_ms": sum(turn["cpu"] for turn in turns) / uploads * 1e3,
        "peak_mb": max(turn["memory"] for turn in turns) / MEGABYTE,
    }


def _blocked(base_url: str, path: str, runs: int) -> Iterable[Figure]:
    """The longest block, by the form of the picture and the encoder; with 8 at once threads contend."""
    for name, without in encoders().items():
        for form, pictures in (("file", 1), ("bytes", 1), ("base64", 1), ("file", 8)):
            found = [
                sides.run(
                    "benchmarks.uploads:blocks",
                    without=without,
                    base_url=base_url,
                    path=path,
                    form=form,
                    pictures=pictures,
                )["longest"]
                * 1e3
                for _ in range(runs)
            ]
            what = "a 10 MB image" if pictures == 1 else f"{pictures} images of 10 MB at once"
            yield Figure(
                name=f"longest block of the loop, {what}, {form}",
                unit="ms",
                runs=found,
                budget=BLOCK_BUDGET,
                note=name,
            )


def main() -> int:
    """Measure, print; the exit code says whether the budgets were kept."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
