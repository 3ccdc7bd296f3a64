"""How cost grows with the tasks in flight: 100 to 100,000, in one process on one core.

    python -m benchmarks.growth [--runs 3] [--quick] [--json FILE]

Three things, each in a process of its own beside a stub of its own. *Completed*: so many tasks are
submitted through `KlingClient.completions`, and when all are in flight they end within ten seconds; creates
are acknowledged in memory, status requests go over sockets. *Held*: what a submitted task takes of the memory
while nothing happens. *Refreshed*: the states of all are read once, as a service does that took up its tasks
by their tokens, and once more after all have ended together; beside it a bare loop that reads the same pages.
"""

import asyncio
import gc
import json
import logging
import subprocess
import sys
import time
from typing import Any, Self

import aiohttp
import attrs

from benchmarks import alone, stub
from benchmarks.figure import Figure, Result
from benchmarks.keeper import FIRST, Ends
from benchmarks.peer_clients import InstantCreates, even, image_url, prompt
from benchmarks.peer_worker import WARM_UP, Meter, resident
from benchmarks.peers import cell, heading, line
from benchmarks.processes import CLIENT, ROOT, pin
from kling_async import KLING, APIKey, ImageToVideo, KlingClient
from kling_async.protocol.identity import Token
from kling_async.protocol.wire import Request, Response
from kling_async.typing import Body

__all__ = ["measure"]

MOST = 100_000
"""Tasks in flight that the budgets of scale are made for."""
PAGE = 500
"""The largest list page (API reference, list)."""
WORKERS = 8
"""Status requests under way at once: the default of `Polling.pollers`, and the bare loop's."""
REFRESH_EVERY = 20.0
"""Seconds between two looks at `MOST` tasks: longer than a look may take."""
QUIET = 3.0
"""Seconds without a status request after which a look is over."""
LONGEST_LOOK = 60.0
"""Seconds after which a look is called over, from before it begins."""
LONGEST_RUN = 600.0
"""Seconds after which a process is ended from outside."""
WAVE = 500
"""Requests submitted at once where only what they leave behind counts."""


class CountedReads(InstantCreates):
    """Counts the status requests."""

    reads = 0

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """See `kling_async.typing.Transport.send`."""
        self.reads += body is None
        return await super().send(request, authorization=authorization, body=body)

    async def told(self) -> int:
        """Of how many tasks the stub has told since this was asked last."""
        async with self._session.get(f"{self._url}/control/told") as response:
            return int(await response.read())


@attrs.frozen
class Look:
    """One look at the states of all tasks: what it cost."""

    requests: int
    cpu: float
    block: float
    block_cpu: float
    collection: float
    told: int

    @classmethod
    async def watched(cls, transport: CountedReads, meter: Meter) -> Self:
        """Wait for the next look to begin and to end."""
        await transport.told()
        first = last = transport.reads
        meter.reset()
        changed = waited = time.monotonic()
        end = waited + LONGEST_LOOK
        while (now := time.monotonic()) < end:
            if transport.reads != last:
                last, changed = transport.reads, now
            elif last > first and now - changed > QUIET:
                break
            elif last == first and now - waited > QUIET:  # nothing yet: what was before does not count
                meter.reset()
                waited = now
            await asyncio.sleep(0.05)
        cpu, block = meter.cpu, max(meter.lags, default=0.0)
        return cls(last - first, cpu, block, meter.block_cpu, meter.collection, await transport.told())


def _client(url: str, tasks: int, transport: CountedReads, interval: float) -> KlingClient:
    polling = attrs.evolve(even(interval), floor=interval, pollers=WORKERS)
    return KlingClient(
        APIKey("key"), KLING.at(url), max_in_flight=tasks, polling=polling, transport=transport
    )


async def held(url: str, tasks: int) -> dict[str, Any]:
    """KiB of memory that each of *tasks* takes from its acknowledgement on; nothing of it is kept outside."""
    transport, meter = CountedReads(url), Meter()
    async with _client(url, tasks + WARM_UP, transport, 3600.0) as kling:

        async def submit(numbers: range) -> None:
            requests = (ImageToVideo(image=image_url(number), prompt=prompt(number)) for number in numbers)
            await asyncio.gather(*(kling.submit(request) for request in requests))

        await submit(range(tasks, tasks + WARM_UP))
        await meter.start()
        for begin in range(0, tasks, WAVE):
            await submit(range(begin, begin + WAVE))
        cpu, block = meter.cpu, max(meter.lags)
        gc.collect()
        kib = (resident() - meter.resident) / tasks
        meter.stop()
    await transport.aclose()
    return {"rss_kib_per_task": kib, "submit_cpu_ms": cpu * 1000 / tasks, "block": block}


async def refreshed(url: str, tasks: int) -> dict[str, Any]:
    """What it costs to read the states of *tasks* once while they run, and once after all have ended."""
    transport, meter = CountedReads(url), Meter()
    every = REFRESH_EVERY if tasks >= MOST else REFRESH_EVERY / 2
    async with aiohttp.ClientSession() as session, _client(url, tasks + 1, transport, every) as kling:
        await meter.start()
        handle = await kling.submit(ImageToVideo(image=image_url(0), prompt=prompt(0)))
        await transport.tell()
        names = [f"bench-{number}" for number in range(1, tasks)]
        await session.post(f"{url}/control/tasks", json=names)
        first = Token.parse(handle.token)
        tokens = [
            attrs.evolve(first, key=name, task_id=str(FIRST + place), external_task_id=name).text
            for place, name in enumerate(names, start=1)
        ]
        for token in tokens:
            kling.attach(token)
        await Look.watched(transport, meter)  # the first one: of tasks just taken up it may come at once
        running = await Look.watched(transport, meter)
        await session.post(f"{url}/control/tasks", json=["the last"])  # now all end
        ended = await Look.watched(transport, meter)
        found = kling.statistics().succeeded
        meter.stop()
    await transport.aclose()
    return {
        "running": attrs.asdict(running),
        "ended": attrs.asdict(ended),
        "found": found,
        "bare": await _bare(url, tasks),
    }


async def _bare(url: str, tasks: int) -> float:
    """CPU seconds of a loop that reads the pages that *tasks* are on, and nothing else."""
    pages = iter(range(1, -(-tasks // PAGE) + 1))

    async def work(session: aiohttp.ClientSession) -> None:
        for page in pages:
            target = f"{url}/v1/videos/image2video?pageNum={page}&pageSize={PAGE}"
            async with session.get(target, headers={"Authorization": "Bearer key"}) as response:
                json.loads(await response.read())

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.process_time()
        await asyncio.gather(*(work(session) for _ in range(WORKERS)))
        return time.process_time() - started


def _alone(what: str, tasks: int, ends: Ends) -> dict[str, Any]:
    """What `held` or `refreshed` finds in a process of its own."""
    with stub.running(ends) as url:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.growth", json.dumps([what, url, tasks])],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            timeout=LONGEST_RUN,
            check=True,
            text=True,
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(runs: int, *, quick: bool) -> Result:
    """Every figure of every run; the rows are the last run's.

    Args:
        runs: how often each is measured.
        quick: up to 1,000 tasks completed and 10,000 held, for which there are fewer budgets.
    """
    sizes = (100, 1_000) if quick else (100, 1_000, 10_000, MOST)
    most = 10_000 if quick else MOST
    rows = [_grown(sizes, quick=quick) for _ in range(runs)]
    sockets = [
        _told(cell("kling_async", 1_000, 0.5 if quick else None, Ends(2, 4) if quick else Ends(10, 20)))
        for _ in range(runs)
    ]
    memory = [_alone("held", most, Ends(1, 2, hold=most * 2)) for _ in range(runs)]
    looks = [_alone("refreshed", most, Ends(0, 0, hold=most + 1)) for _ in range(runs)]
    figures = (*_growth_figures(rows), *_socket_figures(sockets), *_scale_figures(most, memory, looks))
    return Result(figures, {"growth": rows[-1]})


def _grown(sizes: tuple[int, ...], *, quick: bool) -> list[dict[str, Any]]:
    """One row for each number of tasks, all completed."""
    print(heading(), file=sys.stderr)
    return [
        _told(
            cell(
                "kling_async, instant creates",
                tasks,
                0.5 if quick else None,
                Ends(2 if quick else 10, 4 if quick else 20, hold=tasks + WARM_UP),
                limit=240.0,
            )
        )
        for tasks in sizes
    ]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    print(line(row), file=sys.stderr)
    if "error" in row:
        raise RuntimeError(f"the cell of {row['n']:,d} tasks failed: {row['error']}")
    return row


def _growth_figures(rows: list[list[dict[str, Any]]]) -> list[Figure]:
    """Whether ten times the tasks cost no more than ten times as much, and their requests fall."""
    figures: list[Figure] = []
    for place, row in enumerate(rows[0]):
        told = f"{row['n']:,d} tasks in flight: "
        at = [each[place] for each in rows]
        figures.append(
            Figure(name=told + "lost tasks", unit="", runs=[each["lost"] for each in at], budget=0)
        )
        for field, name, unit in (
            ("cpu_ms_per_task", "client CPU per completed task, submit included", "ms"),
            ("requests_per_task", "status requests per completed task", ""),
            ("rss_kib_per_task", "memory per task at its peak", "KiB"),
            ("delay_mean", "mean detection delay", "s"),
            ("lag_max", "worst block of the loop", "s"),
        ):
            figures.append(Figure(name=told + name, unit=unit, runs=[each[field] for each in at]))
    base = len(rows[0]) - 2  # with few tasks what the watching costs is as much as what is watched
    fewest, first, last = rows[0][0]["n"], rows[0][base]["n"], rows[0][-1]["n"]
    figures.append(
        Figure(
            name=f"client CPU per completed task, {last:,d} over {first:,d} in flight",
            unit="x",
            runs=[each[-1]["cpu_ms_per_task"] / each[base]["cpu_ms_per_task"] for each in rows],
            budget=1.1,
            note="1 is linear growth; a tenth is what two runs differ by",
        )
    )
    figures.append(
        Figure(
            name=f"status requests per completed task, {last:,d} over {fewest:,d} in flight",
            unit="x",
            runs=[each[-1]["requests_per_task"] / each[0]["requests_per_task"] for each in rows],
            budget=1.0,
            note="below 1 they fall: until pages are full, at 500 tasks each",
        )
    )
    return figures


def _socket_figures(rows: list[dict[str, Any]]) -> list[Figure]:
    told = "1,000 tasks in flight, creates over sockets: "
    return [
        Figure(name=told + "lost tasks", unit="", runs=[row["lost"] for row in rows], budget=0),
        Figure(
            name=told + "loop late by, p99",
            unit="ms",
            runs=[row["lag_p99"] * 1000 for row in rows],
            budget=20,
        ),
    ]


def _scale_figures(tasks: int, memory: list[dict[str, Any]], looks: list[dict[str, Any]]) -> list[Figure]:
    """What so many tasks in flight take; the budgets of cost are those of `MOST`."""
    told = f"{tasks:,d} tasks in flight: "
    counts = tasks >= MOST
    bare = min(look["bare"] for look in looks)
    kib = [each["rss_kib_per_task"] for each in memory]
    untold = [tasks - look["running"]["told"] for look in looks]
    unfound = [tasks - look["found"] for look in looks]
    held = told + "memory per task held (prompt of 100 characters, URL)"
    figures = [
        Figure(name=held, unit="KiB", runs=kib, budget=1.5),
        Figure(name=told + "not told of in a refresh of all", unit="", runs=untold, budget=0),
        Figure(name=told + "not found after all had ended", unit="", runs=unfound, budget=0),
    ]
    for state, name in (("running", "refresh of all"), ("ended", "refresh of all, all ended since")):
        at = [look[state] for look in looks]
        first = state == "running"
        figures += [
            Figure(
                name=told + f"{name}: requests",
                unit="",
                runs=[each["requests"] for each in at],
                budget=250 if counts else None,
            ),
            Figure(
                name=told + f"{name}: CPU",
                unit="s",
                runs=[each["cpu"] for each in at],
                budget=1.5 if first and counts else None,
                note=f"a bare loop over the same pages, json.loads alone: {bare:.2f} s" if first else "",
            ),
            Figure(
                name=told + f"{name}: worst block of the loop",
                unit="ms",
                runs=[each["block"] * 1000 for each in at],
                budget=250,
                note=f"CPU of the longest {1000 * max(each['block_cpu'] for each in at):.0f} ms, "
                f"of the longest garbage collection {1000 * max(each['collection'] for each in at):.0f} ms",
            ),
        ]
    return figures


def main() -> int:
    """Measure and print; 1 if a figure is over its budget."""
    if len(sys.argv) > 1 and sys.argv[1].startswith("["):
        what, url, tasks = json.loads(sys.argv[1])
        pin(CLIENT)
        logging.disable(logging.WARNING)
        print(json.dumps(asyncio.run({"held": held, "refreshed": refreshed}[what](url, tasks))))
        return 0
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
