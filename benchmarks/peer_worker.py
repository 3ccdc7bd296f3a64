"""One cell of the comparison: one client, so many tasks, in a process of its own, told as JSON.

    python -m benchmarks.peer_worker '{"client": "openai", "tasks": 200, "url": "http://127.0.0.1:1234"}'

The process keeps to one core and the stub to another. CPU is `time.process_time` without what the watching
itself takes; memory is what the system says is resident.
"""

import asyncio
import gc
import importlib.metadata
import json
import logging
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from benchmarks import stub
from benchmarks.keeper import FIRST
from benchmarks.peer_clients import CLIENTS, Client, Ledger
from benchmarks.processes import CLIENT, pin

__all__ = ["WARM_UP", "Cell", "Meter", "share"]

WARM_UP = 30
"""Tasks submitted one after the other beforehand: what that costs; then everything is imported."""
IDLE = 1.0
"""Seconds of doing nothing, to see what the watching takes."""


@attrs.frozen
class Cell:
    """What is to be measured.

    Attributes:
        client: by its name in `CLIENTS`.
        tasks: how many, all at once.
        url: the stub's.
        interval: seconds between two polls of a task; None: the client's default.
        limit: seconds after which what is left is lost, by a TimeoutError.
    """

    client: str
    tasks: int
    url: str
    interval: float | None = None
    limit: float = 150.0


class Meter:
    """Watches this process while it works: how late the event loop is, and how much memory is resident.

    Attributes:
        lags: how late the loop came to each moment at which it should have been there, seconds.
        block_cpu: the longest the loop was away by its own work, CPU seconds: a busy machine is not in it.
        collection: the longest collection of garbage, CPU seconds.
        peak: most KiB resident.
        resident: KiB resident at the last reset.
    """

    PERIOD = 0.005
    """Seconds between two moments at which the loop should be there."""
    LOOK = 20
    """Moments between two looks at the memory: every 0.1 s."""

    def __init__(self) -> None:
        self.lags: list[float] = []
        self.block_cpu = self.collection = self.peak = self.resident = 0.0
        self._last_cpu = self._collecting = time.process_time()
        self._idle_rate = 0.0
        self._count = 0
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def start(self) -> None:
        """Watch from now on; the first second tells what the watching takes."""
        gc.collect()
        gc.callbacks.append(self._collect)
        self._due = asyncio.get_running_loop().time()
        self._look()
        started = time.process_time()
        await asyncio.sleep(IDLE)
        self._idle_rate = (time.process_time() - started) / IDLE
        self.reset()

    def reset(self) -> None:
        """Forget what was seen so far."""
        self.lags.clear()
        self.block_cpu = self.collection = 0.0
        self.peak = self.resident = resident()
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def stop(self) -> None:
        """Watch no more."""
        gc.callbacks.remove(self._collect)
        if self._handle is not None:
            self._handle.cancel()

    @property
    def cpu(self) -> float:
        """CPU seconds since the last reset, without the watching."""
        watching = self._idle_rate * (time.monotonic() - self._wall)
        return max(0.0, time.process_time() - self._cpu - watching)

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        cpu = time.process_time()
        if phase == "stop":
            self.collection = max(self.collection, cpu - self._collecting)
        self._collecting = cpu

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now, cpu = loop.time(), time.process_time()
        self.block_cpu, self._last_cpu = max(self.block_cpu, cpu - self._last_cpu), cpu
        while self._due <= now:  # a long block is many moments at which the loop was not there
            self.lags.append(now - self._due)
            self._due += self.PERIOD
        self._count += 1
        if self._count % self.LOOK == 0:
            self.peak = max(self.peak, resident())
        self._handle = loop.call_at(self._due, self._look)


def resident() -> float:
    """KiB of this process in memory; where only the most so far is known, that; nan where nothing is."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * 4.0
    if sys.platform == "win32":
        return float("nan")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 if sys.platform == "darwin" else float(most)


def share(values: list[float], part: float) -> float:
    """The value that *part* of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else 0.0


async def measure(cell: Cell) -> dict[str, Any]:
    """The row of *cell*."""
    distribution, make = CLIENTS[cell.client]
    client = make(cell.url, cell.interval)
    meter, ledger = Meter(), Ledger()
    submit = await _submit_cost(client)
    await client.ready()
    before = await _report(cell.url)
    await meter.start()
    started = time.monotonic()
    try:
        async with asyncio.timeout(cell.limit):
            await client.complete(cell.tasks, ledger)
    except Exception as error:  # noqa: BLE001 - whatever ends the whole run loses what is left
        left = cell.tasks - len(ledger.found) - sum(ledger.lost.values())
        ledger.lost[f"whole run: {type(error).__name__}"] = left
    cpu, seconds = meter.cpu, time.monotonic() - started
    meter.stop()
    after = await _report(cell.url)
    await client.aclose()
    delays = [at - after["ends"][int(task_id) - FIRST] for task_id, at in ledger.found.items()]
    asked = {kind: count - before["requests"][kind] for kind, count in after["requests"].items()}
    completed = len(ledger.found)
    each = 1 / completed if completed else math.inf
    return {
        "client": cell.client,
        "version": importlib.metadata.version(distribution),
        "n": cell.tasks,
        "interval": "default" if cell.interval is None else cell.interval,
        "completed": completed,
        "lost": cell.tasks - completed,
        "errors": ledger.lost,
        "seconds": seconds,
        "requests": asked,
        "requests_per_task": (asked["status"] + asked["result"] + asked["list"]) * each,
        "cpu_s": cpu,
        "cpu_ms_per_task": cpu * 1000 * each,
        "submit_cpu_ms": submit * 1000,
        "rss_kib_per_task": (meter.peak - meter.resident) / cell.tasks,
        "delay_mean": statistics.fmean(delays) if delays else 0.0,
        "delay_p50": share(delays, 0.5),
        "delay_p95": share(delays, 0.95),
        "delay_max": share(delays, 1.0),
        "lag_p50": share(meter.lags, 0.5),
        "lag_p99": share(meter.lags, 0.99),
        "lag_max": share(meter.lags, 1.0),
        "block_cpu": meter.block_cpu,
        "collection": meter.collection,
    }


async def _submit_cost(client: Client) -> float:
    """CPU seconds of one submit, one after the other on warm connections."""
    for number in range(WARM_UP // 3):
        await client.submit(number)
    started = time.process_time()
    for number in range(WARM_UP // 3, WARM_UP):
        await client.submit(number)
    return (time.process_time() - started) / (WARM_UP - WARM_UP // 3)


async def _report(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/control/report") as response:
        report: dict[str, Any] = json.loads(await response.read())
    return report


def main() -> None:
    """Measure the cell of the first argument and print its row."""
    cell = Cell(**json.loads(sys.argv[1]))
    pin(CLIENT)
    stub.open_many_files()
    logging.disable(logging.WARNING)
    try:
        row = asyncio.run(measure(cell))
    except ModuleNotFoundError as error:
        row = {"client": cell.client, "n": cell.tasks, "interval": cell.interval or "default"}
        row["error"] = f"not installed: {error.name}"
    print(json.dumps(row))


if __name__ == "__main__":
    main()
