"""Client CPU of one single-task poll, against a bare aiohttp loop.

    python -m benchmarks.poll_cost [--runs 3] [--polls 10000] [--json FILE] [--profile]

Both sides run in this process, in turns, against the same stub in another: kept-alive connections, a reply
of 1 KiB, as many requests under way at once. Ours does all a poll does: schedule, wire, observe, one hook.
CPU is `time.process_time`. The worst run counts. The exit code is 1 if it is over the budget.
"""

import argparse
import asyncio
import cProfile
import json
import platform
import pstats
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from benchmarks import bare, stub
from kling_async import KLING, APIKey, Event, ImageToVideo, KlingClient, Polling

BUDGET = 1.25
"""Times the bare loop's CPU, at most."""
TASKS = 200
WORKERS = 8
"""Polls under way at once on both sides: the default of `Polling.pollers`."""
TURNS = 5
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


def measure(runs: int, polls: int) -> dict[str, Any]:
    """Every run's microseconds per poll on both sides, and the worst ratio."""
    results: list[dict[str, float]] = []
    with stub.running() as base_url:
        for _ in range(runs):
            reference = cost = 0.0
            for _ in range(TURNS):
                reference += asyncio.run(
                    bare.poll(base_url, tasks=TASKS, workers=WORKERS, polls=polls // TURNS)
                )
                cost += asyncio.run(ours(base_url, polls // TURNS))
            reference, cost = reference / TURNS, cost / TURNS
            results.append({"bare_us": reference * 1e6, "ours_us": cost * 1e6, "ratio": cost / reference})
    worst = max(each["ratio"] for each in results)
    return {
        "figure": "client CPU per single-task poll over a bare aiohttp GET and json.loads",
        "budget": BUDGET,
        "worst": worst,
        "within": worst <= BUDGET,
        "runs": results,
        "polls": polls,
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
    }


def _show_profile(polls: int) -> None:
    profile = cProfile.Profile()
    with stub.running() as base_url:
        asyncio.run(ours(base_url, polls, profile))
    pstats.Stats(profile).sort_stats("tottime").print_stats(35)


def main() -> int:
    """Measure, print, write; the exit code says whether the budget was kept."""
    parser = argparse.ArgumentParser(description="Client CPU of one poll over a bare aiohttp loop.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--polls", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--profile", action="store_true", help="show where our CPU goes")
    options = parser.parse_args()
    if options.profile:
        _show_profile(options.polls)
        return 0
    result = measure(options.runs, options.polls)
    for each in result["runs"]:
        print(f"bare {each['bare_us']:6.1f} us   ours {each['ours_us']:6.1f} us   {each['ratio']:.2f}x")
    print(f"worst of {options.runs}: {result['worst']:.2f}x   budget: <= {BUDGET:.2f}x")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["within"] else 1


if __name__ == "__main__":
    sys.exit(main())
