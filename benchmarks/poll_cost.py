"""Client CPU of one single-task poll, against a bare aiohttp loop.

    python -m benchmarks.poll_cost [--runs 3] [--quick] [--json FILE] [--profile]

Both sides run in one process, in turns, against the same stub on another core: kept-alive connections, a
reply of 1 KiB, as many requests under way at once. Ours does all a poll does: schedule, wire, observe, one
hook. CPU is `time.process_time`. The worst run counts. The exit code is 1 if it is over the budget.
"""

import asyncio
import cProfile
import pstats
import sys
import time

import attrs

from benchmarks import alone, bare, sides, stub
from benchmarks.figure import Figure, Result
from kling_async import KLING, APIKey, Event, ImageToVideo, KlingClient, Polling

BUDGET = 1.25
"""Times the bare loop's CPU, at most."""
TASKS = 200
WORKERS = 8
"""Polls under way at once on both sides: the default of `Polling.pollers`."""
TURNS = 10
"""How often the two sides take turns within a run, so that a busy moment of the machine meets both."""


def _no_op(event: Event) -> None:
    """The one hook."""


async def ours(base_url: str, polls: int, profile: cProfile.Profile | None = None) -> float:
    """CPU seconds per poll of a client whose tasks are always due."""
    request = ImageToVideo(image="https://example.com/cat.png", prompt="the cat yawns")
    polling = Polling(
        aim=None,
        factor=0.01,
        base=1.0,
        max_interval=0.01,
        floor=0.001,
        jitter=0.0,
        give_up=1e6,
        pollers=WORKERS,
    )
    client = KlingClient(
        APIKey("key"),
        attrs.evolve(KLING, lists=False).at(base_url),
        max_in_flight=TASKS,
        polling=polling,
        hooks=[_no_op],
    )
    async with client as kling:
        await asyncio.gather(*(kling.submit(request) for _ in range(TASKS)))
        await _until(kling, kling.statistics().polls + polls // 10)
        if profile is not None:
            profile.enable()
        first, started = kling.statistics().polls, time.process_time()
        await _until(kling, first + polls)
        cost = (time.process_time() - started) / (kling.statistics().polls - first)
        if profile is not None:
            profile.disable()
    return cost


async def _until(kling: KlingClient, polls: int) -> None:
    while kling.statistics().polls < polls:  # noqa: ASYNC110 - an event would be part of what is measured
        await asyncio.sleep(0.05)


async def compared(base_url: str, polls: int) -> dict[str, float]:
    """Microseconds per poll of both sides."""
    reference = cost = 0.0
    for _ in range(TURNS):
        reference += await bare.poll(base_url, tasks=TASKS, workers=WORKERS, polls=polls // TURNS)
        cost += await ours(base_url, polls // TURNS)
    return {"bare_us": reference / TURNS * 1e6, "ours_us": cost / TURNS * 1e6}


def measure(runs: int, *, quick: bool) -> Result:
    """Every run's microseconds per poll on both sides, and their ratio."""
    polls = 1_000 if quick else 20_000
    with stub.running() as base_url:
        rows = [
            sides.run("benchmarks.poll_cost:compared", base_url=base_url, polls=polls) for _ in range(runs)
        ]
    figure = Figure(
        name="client CPU per single-task poll over a bare aiohttp GET and json.loads",
        unit="x",
        runs=[row["ours_us"] / row["bare_us"] for row in rows],
        budget=BUDGET,
    )
    return Result((figure,), {"poll_cost": rows})


def profiled() -> int:
    """Show where our CPU goes."""
    profile = cProfile.Profile()
    with stub.running() as base_url:
        asyncio.run(ours(base_url, 10_000, profile))
    pstats.Stats(profile).sort_stats("tottime").print_stats(35)
    return 0


if __name__ == "__main__":
    sys.exit(profiled() if "--profile" in sys.argv else alone.run(__doc__, measure))
