"""Downloads: throughput and memory against bare streaming to a file.

    python -m benchmarks.downloads [--runs 3] [--quick] [--json FILE]

Twelve files of 20 to 50 MB come four at once from a sink on another core, ours and bare in turns, each in a
fresh process. The bare side writes what it receives to a file and syncs it; ours does what it promises:
a part that can be resumed, its name only when it is whole, the name durable too.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import alone, sides, sink
from benchmarks.figure import Figure, Result
from kling_async import KLING, APIKey, KlingClient, Task, TaskStatus, Video

SIZES = tuple(MB * 1_000_000 for MB in (20, 50, 30, 40, 25, 45, 35, 20, 50, 30, 40, 35))
"""Bytes of the videos: 10 s in 1080p have about that."""
AT_ONCE = 4
"""Files on their way at once: what a client takes."""
BUDGET = 1.0
"""Times the throughput of the bare side, at least."""
MEGABYTE = 1_000_000


def _urls(base_url: str, sizes: Sequence[int]) -> list[str]:
    return [f"{base_url}/videos/{n}.mp4?size={size}" for n, size in enumerate(sizes)]


async def ours(base_url: str, folder: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Seconds, CPU seconds and memory of a client that downloads a file of each of *sizes*."""
    tasks = [
        Task(f"t{n}", None, TaskStatus.SUCCEED, videos=(Video(url=url),))
        for n, url in enumerate(_urls(base_url, sizes))
    ]
    memory = sides.Memory()
    async with KlingClient(APIKey("key"), KLING.at(base_url)) as kling:
        with memory.measured():
            started = time.perf_counter(), time.process_time()
            await asyncio.gather(*(kling.download(task, folder) for task in tasks))
            seconds, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"seconds": seconds, "cpu": cpu, "memory": memory.over_idle}


async def bare(base_url: str, folder: str, sizes: Sequence[int]) -> dict[str, Any]:
    """The same of a loop that writes what it receives and syncs the file."""
    memory = sides.Memory()
    pending = iter(_urls(base_url, sizes))

    async def work(session: aiohttp.ClientSession) -> None:
        for url in pending:
            async with session.get(url) as response:
                with (Path(folder) / url.rpartition("/")[2].partition("?")[0]).open("wb") as file:
                    async for piece in response.content.iter_any():
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())

    async with aiohttp.ClientSession() as session:
        with memory.measured():
            started = time.perf_counter(), time.process_time()
            await asyncio.gather(*(work(session) for _ in range(AT_ONCE)))
            seconds, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"seconds": seconds, "cpu": cpu, "memory": memory.over_idle}


def _received(side: str, base_url: str, sizes: Sequence[int], parent: str | None) -> dict[str, Any]:
    """What *side* took for all files, which are there whole and then gone."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        found = sides.run(f"benchmarks.downloads:{side}", base_url=base_url, folder=folder, sizes=sizes)
        assert sorted(each.stat().st_size for each in Path(folder).iterdir()) == sorted(sizes)
    return found


def measure(runs: int, *, quick: bool, folder: str | None = None) -> Result:
    """Throughput and memory; *quick* takes a quarter of the files.

    Args:
        runs: how often.
        quick: fewer files.
        folder: where the files are written; left out, where the system keeps temporary files.
    """
    sizes = SIZES[:4] if quick else SIZES
    ratios: list[float] = []
    peaks: list[float] = []
    rows: list[dict[str, Any]] = []
    with sink.running() as base_url:
        for _ in range(runs):
            found = {side: _received(side, base_url, sizes, folder) for side in ("bare", "ours")}
            for side, each in found.items():
                rates = {"mb_per_s": sum(sizes) / MEGABYTE / each["seconds"], "cpu_s": each["cpu"]}
                rows.append({"side": side, "peak_mb": each["memory"] / MEGABYTE, **rates})
            ratios.append(found["bare"]["seconds"] / found["ours"]["seconds"])
            peaks.append(found["ours"]["memory"] / MEGABYTE)
    note = f"{len(sizes)} files of {min(sizes) // MEGABYTE} to {max(sizes) // MEGABYTE} MB, all synced"
    return Result(
        [
            Figure(
                name="download throughput over bare streaming to a file",
                unit="x",
                runs=ratios,
                budget=BUDGET,
                at_least=True,
                note=note,
            ),
            Figure(name="peak memory over idle of downloads", unit="MB", runs=peaks, note=note),
        ],
        {"downloads": rows},
    )


def main() -> int:
    """Measure, print; the exit code says whether the budget was kept."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
