"""When to ask: status requests against delay, in virtual time.

    python -m benchmarks.schedules [--runs 3] [--quick]

Two parts. The budgets are measured with the whole client against the simulator in memory, 20 slots, on a
loop whose clock jumps. The comparison of schedules runs the schedule alone, many more tasks: ours, fixed
intervals and plain exponential backoff, on four distributions of durations, beside the least product of
requests and delay that any schedule can reach.
"""

import asyncio
import heapq
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from benchmarks import alone
from benchmarks.figure import Figure, Result
from kling_async import KLING, APIKey, ImageToVideo, KlingClient, Polling
from kling_async.protocol.durations import Durations
from kling_async.retries import poll_intervals
from kling_async.simulator import Simulator
from kling_async.testing import SimulatorTransport
from tests import virtual_time

SLOTS = 20
NORMAL = statistics.NormalDist()

Quantile = Callable[[float], float]
"""Seconds that a share of tasks does not exceed."""

DURATIONS: dict[str, Quantile] = {
    "uniform": lambda share: 67.5 + 45 * share,
    "lognormal": lambda share: 90 * math.exp(0.25 * NORMAL.inv_cdf(share)),
    "bimodal": lambda share: (
        60 * math.exp(0.15 * NORMAL.inv_cdf(share / 0.6))
        if share < 0.6
        else 150 * math.exp(0.15 * NORMAL.inv_cdf(min(max((share - 0.6) / 0.4, 1e-9), 1 - 1e-9)))
    ),
    "memoryless": lambda share: -90 * math.log(1 - share),
}
CLASS = ("image2video", "kling-v2-6", "", "")
STEADY = (5, 20, 100, 1000)
"""Slots of a client that always has more requests than slots."""
SETTLED = 600
"""Tasks after which a schedule has learned what it will."""


# The whole client


class _Counting(SimulatorTransport):
    """Counts status requests."""

    reads = 0

    async def send(self, request: Any, *, authorization: str, body: Any = None) -> Any:
        self.reads += request.method == "GET"
        return await super().send(request, authorization=authorization, body=body)


def with_client(
    quantile: Quantile, *, lists: bool, tasks: int, seed: int, slots: int = SLOTS
) -> tuple[float, float]:
    """Requests per task and mean delay, once 100 tasks and twice the slots have ended: what is learned is."""
    chance, found = random.Random(seed), dict[str, float]()
    simulator = Simulator(
        seconds=lambda _: quantile(chance.random()), parallel=slots, validates_schema=False, rng=chance
    )
    transport = _Counting(simulator)
    settled, reads = max(100, 2 * slots), 0

    async def main() -> None:
        nonlocal reads
        loop = asyncio.get_running_loop()
        transport.clock = lambda: 1_800_000_000 + loop.time()
        request = ImageToVideo(image="https://cdn.example.org/cat.png", prompt="the cat yawns")
        async with KlingClient(
            APIKey("sim-key"),
            attrs.evolve(KLING, lists=lists),
            max_in_flight=slots,
            transport=transport,
            clock=transport.clock,
            rng=random.Random(seed),
        ) as kling:
            async for done in kling.completions([request] * tasks, timeout=None):
                found[done.result().task_id or ""] = transport.clock()
                if len(found) == settled:
                    reads = transport.reads

    virtual_time.run(main())
    late = {made.task_id: found[made.task_id] - made.ended for made in simulator.ledger.made}
    counted = list(found)[settled:]
    return (transport.reads - reads) / len(counted), statistics.mean(late[each] for each in counted)


def steady(seed: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of a client whose slots are always full, for more and more of them."""
    for slots in STEADY[: len(STEADY) - quick]:
        tasks = max(500, 5 * slots)
        requests, delay = with_client(DURATIONS["uniform"], lists=True, tasks=tasks, seed=seed, slots=slots)
        yield {"n": slots, "requests_per_task": requests, "delay_mean": delay}


# The schedule alone


@attrs.frozen
class Run:
    """What a schedule did: for each task, in the order they were found, polls and seconds late."""

    polls: tuple[int, ...]
    delays: tuple[float, ...]

    def after(self, count: int) -> "Run":
        """Without the first *count*."""
        return Run(self.polls[count:], self.delays[count:])

    @property
    def requests(self) -> float:
        """Polls per task."""
        return statistics.mean(self.polls)

    @property
    def delay(self) -> float:
        """Seconds late, on average."""
        return statistics.mean(self.delays)

    @property
    def product(self) -> float:
        """Requests times delay: what one schedule can trade for the other."""
        return self.requests * self.delay


def known(polling: Polling, seed: int, unit: float = 1.0) -> Durations:
    """A schedule that has seen nothing yet, with the smallest wait of *unit* seconds."""
    return Durations(polling, poll_intervals(polling), floor=unit, rng=random.Random(seed))


def simulated(schedule: Durations, quantile: Quantile, *, tasks: int, seed: int) -> Run:
    """Run *schedule* for that many tasks, 20 at a time, each asked for by itself."""
    chance, order, ended = random.Random(seed), 0, list[tuple[int, float]]()
    heap: list[tuple[float, int, float, float, int]] = []

    def begin(now: float) -> None:
        nonlocal order
        order += 1
        heapq.heappush(heap, (now + schedule.wait(CLASS, 0.0), order, now, quantile(chance.random()), 1))

    for _ in range(SLOTS):
        begin(0.0)
    while len(ended) < tasks:
        now, place, begun, seconds, polls = heapq.heappop(heap)
        if now - begun >= seconds:
            ended.append((polls, now - begun - seconds))
            schedule.learn(CLASS, seconds)
            begin(now)
        else:
            heapq.heappush(heap, (now + schedule.wait(CLASS, now - begun), place, begun, seconds, polls + 1))
    return Run(*zip(*ended, strict=True))


def bound(quantile: Quantile) -> float:
    """``(∫ sqrt(S f) dt)² / 2``: the least product of requests and delay of any schedule."""
    count = 100_000
    times = [quantile((place + 0.5) / count) for place in range(count)]
    whole = sum(
        math.sqrt((1 - place / count) * max(times[place] - times[place - 1], 0) / count)
        for place in range(1, count)
    )
    return whole * whole / 2


def _schedules() -> dict[str, Polling]:
    fixed = {
        f"fixed {seconds} s": Polling(aim=None, factor=seconds, base=1, max_interval=seconds, jitter=0)
        for seconds in (1, 5, 10)
    }
    return {"ours": Polling(), **fixed, "exponential": Polling(aim=None)}


def compared(tasks: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of every schedule on every distribution, settled; of ours also at other aims."""
    for name, quantile in DURATIONS.items():
        least = bound(quantile)
        schedules = {
            **_schedules(),
            **{f"ours, aim {aim:g}": Polling(aim=aim) for aim in (0.01, 0.04, 0.08)},
        }
        for schedule, polling in schedules.items():
            run = simulated(known(polling, seed), quantile, tasks=tasks + SETTLED, seed=seed).after(SETTLED)
            yield {
                "durations": name,
                "schedule": schedule,
                "requests_per_task": run.requests,
                "delay_mean": run.delay,
                "delay_p95": statistics.quantiles(run.delays, n=20)[-1],
                "product": run.product,
                "bound": least,
            }


def with_prior(wrong: float, quantile: Quantile, *, tasks: int, seed: int) -> Run:
    """The first tasks of a client whose prior is *wrong* times too long.

    The prior is what it is: so tasks, and all that is counted in seconds beside them, are that much shorter.
    """
    usual, unit = Polling(), 1 / wrong
    polling = Polling(factor=usual.factor * unit, max_interval=usual.max_interval * unit)
    run = simulated(known(polling, seed, unit), lambda share: unit * quantile(share), tasks=tasks, seed=seed)
    return Run(run.polls, tuple(delay / unit for delay in run.delays))


def _prior_figures(runs: int, seeds: int) -> Iterator[Figure]:
    for name, quantile in DURATIONS.items():
        for wrong in (0.25, 4.0):
            ratios, latest = list[float](), list[float]()
            for run in range(runs):
                products = dict.fromkeys((1.0, wrong), 0.0)
                for each in products:
                    trials = [
                        with_prior(each, quantile, tasks=220, seed=seed)
                        for seed in range(run * seeds, (run + 1) * seeds)
                    ]
                    requests = statistics.mean(trial.after(20).requests for trial in trials)
                    products[each] = requests * statistics.mean(trial.after(20).delay for trial in trials)
                    latest.append(max(max(trial.delays[:20]) for trial in trials))
                ratios.append(products[wrong] / products[1.0])
            what = f"{wrong:g} times the truth, {name}"
            yield Figure(
                name=f"prior {what}: requests x delay from the 20th task on, over the right prior's",
                unit="x",
                runs=ratios,
                budget=1.2,
            )
            yield Figure(name=f"prior {what}: latest of the first 20", unit="s", runs=latest, budget=15.0)


def measure(runs: int, *, quick: bool) -> Result:
    """Budgets with the whole client, then the schedules alone."""
    tasks = 400 if quick else 1500
    figures: list[Figure] = []
    for name, lists, most in (("uniform", True, 1.25), ("uniform", False, 6.5), ("lognormal", False, 13.0)):
        seen = [with_client(DURATIONS[name], lists=lists, tasks=tasks, seed=seed) for seed in range(runs)]
        what = f"20 slots, {name}, {'list' if lists else 'no list'}"
        figures.append(
            Figure(
                name=f"status requests a task, {what}", unit="", runs=[each for each, _ in seen], budget=most
            )
        )
        figures.append(
            Figure(name=f"mean delay, {what}", unit="s", runs=[each for _, each in seen], budget=2.0)
        )
    crowds = [dict(row, run=seed) for seed in range(runs) for row in steady(seed, quick=quick)]
    few, crowd = (
        [row["requests_per_task"] for row in crowds if row["n"] == n] for n in (STEADY[0], STEADY[-1 - quick])
    )
    figures.append(
        Figure(
            name=f"status requests a task with a list, {STEADY[-1 - quick]:,d} slots over {STEADY[0]}",
            unit="x",
            runs=[after / before for before, after in zip(few, crowd, strict=True)],
            budget=1.0,
            note="below 1 they fall",
        )
    )
    many = 1000 if quick else 6000
    rows = [dict(row, run=seed) for seed in range(runs) for row in compared(many, seed)]
    for name in DURATIONS:
        ours = {row["run"]: row for row in rows if (row["durations"], row["schedule"]) == (name, "ours")}
        ratios = [row["product"] / row["bound"] for row in ours.values()]
        figures.append(
            Figure(
                name=f"requests x delay over the least possible, {name}", unit="x", runs=ratios, budget=1.3
            )
        )
    five = {
        row["run"]: row for row in rows if (row["durations"], row["schedule"]) == ("memoryless", "fixed 5 s")
    }
    ours = {row["run"]: row for row in rows if (row["durations"], row["schedule"]) == ("memoryless", "ours")}
    against = [ours[run]["product"] / five[run]["product"] for run in five]
    figures.append(
        Figure(name="requests x delay over fixed 5 s, memoryless", unit="x", runs=against, budget=1.05)
    )
    figures += _prior_figures(runs, 5 if quick else 40)
    shown = {"schedules": rows, "steady": crowds}
    return Result(figures, {name: [row for row in each if row["run"] == 0] for name, each in shown.items()})


def main() -> int:
    """Measure and print; 1 if a figure is over its budget."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
