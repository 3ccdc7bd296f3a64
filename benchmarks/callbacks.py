"""What callbacks are worth: how soon the end of a task is known, and how many status requests that takes.

    python -m benchmarks.callbacks [--runs 3] [--quick] [--json FILE]

1,000 tasks of 18 to 22 s pass through 250 slots: the simulator on one core, which posts signed callbacks over
sockets, and the client with its receiver in a process on another. Three times: without callbacks, with them,
and with a receiver that no longer listens once half of the tasks are there. The schedule is the client's
own, and reads Kling's list. Delay is by the wall clock, from the moment at which the simulator ended the
task until the caller has its completion.

Tasks take unequally long, as Kling's do, and pass through slots: those of one length, all begun at once,
would end in one second, of which half-way is no point in time.
"""

import math
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import attrs
from aiohttp import web

from benchmarks import alone, sides, simulated
from benchmarks.figure import Figure, Result
from benchmarks.simulated import KEY, SECRET
from kling_async import KLING, APIKey, ImageToVideo, KlingClient, Polling, webhook
from kling_async.trust import TIMELY

__all__ = ["measure"]

WITHOUT, WITH, CEASED = "no callbacks", "callbacks", "receiver switched off half-way"
SIDES: Final = {WITHOUT: (False, False), WITH: (True, False), CEASED: (True, True)}
"""Each by its name: whether there are callbacks, and whether the receiver is switched off half-way."""


@attrs.frozen
class Scale:
    """How much, and how long.

    Attributes:
        tasks: in all.
        in_flight: of them at once.
        seconds: the shortest and the longest generation.
        max_interval: of the schedule, seconds.
        floor: of the schedule, seconds.
    """

    tasks: int = 1000
    in_flight: int = 250
    seconds: tuple[float, float] = (18.0, 22.0)
    max_interval: float = 15.0
    floor: float = 1.0

    @property
    def settled(self) -> float:
        """Seconds from the switch-off until a task is overdue and found, whatever their ages were then."""
        low, high = self.seconds
        return high - low + TIMELY + self.floor


QUICK: Final = Scale(tasks=80, in_flight=20, seconds=(0.27, 0.33), max_interval=0.25, floor=0.02)
"""Some sixty times as fast, the schedule too: to see whether it works."""


async def waited(
    base_url: str, tasks: int, in_flight: int, polling: dict[str, Any], *, callbacks: bool, goes_off: bool
) -> dict[str, Any]:
    """Wait for all tasks in the way of one of `SIDES`.

    Returns:
        When the receiver was switched off, Unix seconds or None; for each task in the order of making when
        it was made, ended and found (None: never); how many status requests there were, for single tasks
        and for pages of the list.
    """
    found: dict[str | None, float] = {}
    off: float | None = None
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/kling"
    client = KlingClient(
        APIKey(KEY),
        KLING.at(base_url),
        max_in_flight=in_flight,
        polling=Polling(**polling),
        callback_url=url if callbacks else None,
    )
    app = web.Application()
    app.add_routes([webhook.route("/kling", client, secrets=[SECRET])])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.SockSite(runner, listener)
    await site.start()
    requests = (
        ImageToVideo(image="https://example.com/cat.png", prompt=f"yawn {number}") for number in range(tasks)
    )
    async with client as kling:
        async for done in kling.completions(requests):
            if done.ok:
                found[done.result().task_id] = time.time()
            if goes_off and len(found) == tasks // 2:
                off = time.time()
                await site.stop()
    await runner.cleanup()
    async with aiohttp.ClientSession() as session, session.get(f"{base_url}/control/ledger") as response:
        ledger = await response.json()
    made = [(created, ended, found.get(task_id)) for task_id, created, ended in ledger["made"]]
    return {"off": off, "made": made, "queries": ledger["queries"], "pages": ledger["pages"]}


@attrs.frozen
class Side:
    """What one of `SIDES` came to."""

    made: Sequence[tuple[float, float, float | None]]
    queries: int
    pages: int
    off: float | None = None

    @property
    def status_requests(self) -> int:
        """For one task or for a page of them."""
        return self.queries + self.pages

    @property
    def delays(self) -> list[float]:
        """Seconds from the end of each task to its completion, in the order of making."""
        return [found - ended for _, ended, found in self.made if found is not None]

    def lost(self, tasks: int) -> int:
        """How many of so many tasks have no completion."""
        return tasks - len(self.delays)

    def row(self, name: str, tasks: int) -> dict[str, Any]:
        """The side as a row of the result."""
        delays = self.delays or [math.inf]
        return {
            "side": name,
            "tasks": tasks,
            "lost": self.lost(tasks),
            "status_requests": self.status_requests,
            "pages": self.pages,
            "delay_mean": statistics.fmean(delays),
            "delay_p50": statistics.median(delays),
            "delay_p99": _p99(delays),
            "delay_max": max(delays),
        }


def _p99(delays: Sequence[float]) -> float:
    return sorted(delays)[len(delays) * 99 // 100]


def _side(name: str, scale: Scale) -> Side:
    callbacks, goes_off = SIDES[name]
    with simulated.running(scale.seconds) as base_url:
        found = sides.run(
            "benchmarks.callbacks:waited",
            base_url=base_url,
            tasks=scale.tasks,
            in_flight=scale.in_flight,
            polling={"max_interval": scale.max_interval, "floor": scale.floor},
            callbacks=callbacks,
            goes_off=goes_off,
        )
    return Side(**found)


def after(schedule: Side, switched_off: Side, settled: float) -> tuple[float, float]:
    """What becomes of delays when callbacks cease.

    Args:
        schedule: the side without callbacks.
        switched_off: the side whose receiver was switched off.
        settled: seconds from then until polling rests on callbacks no longer.

    Returns:
        The mean delay of tasks made after that, over that of the same tasks by the schedule alone; and the
        longest delay of a task that was in flight when it happened, seconds.
    """
    off = switched_off.off
    assert off is not None
    later = [found - ended for made, ended, found in switched_off.made if found and made > off + settled]
    caught = [found - ended for made, ended, found in switched_off.made if found and made <= off < ended]
    if not later:  # lost, all of them
        return math.inf, max(caught, default=math.inf)
    own = statistics.fmean(schedule.delays[-len(later) :])
    return statistics.fmean(later) / own, max(caught, default=0.0)


def measure(runs: int, *, quick: bool) -> Result:
    """Every figure; *quick* is `QUICK`, whose figures mean little."""
    scale = QUICK if quick else Scale()
    taken = [{name: _side(name, scale) for name in SIDES} for _ in range(runs)]
    rows = [each.row(name, scale.tasks) for run in taken for name, each in run.items()]
    spared = [run[WITHOUT].status_requests / max(1, run[WITH].status_requests) for run in taken]
    ceased = [after(run[WITHOUT], run[CEASED], scale.settled) for run in taken]

    def of(side: str, field: str, factor: float = 1.0) -> list[float]:
        return [row[field] * factor for row in rows if row["side"] == side]

    note = f"{scale.tasks:,d} tasks, {scale.in_flight} at once"
    figures = [
        Figure(name="detection delay with callbacks, median", unit="ms", runs=of(WITH, "delay_p50", 1e3),
               budget=50.0, note=note),
        Figure(name="detection delay with callbacks, p99", unit="ms", runs=of(WITH, "delay_p99", 1e3)),
        Figure(name="detection delay without callbacks, median", unit="ms",
               runs=of(WITHOUT, "delay_p50", 1e3)),
        Figure(name="detection delay without callbacks, p99", unit="ms",
               runs=of(WITHOUT, "delay_p99", 1e3)),
        Figure(name="status requests without callbacks", unit="", runs=of(WITHOUT, "status_requests")),
        Figure(name="status requests without callbacks over those with", unit="x", runs=spared,
               budget=10.0, at_least=True),
        Figure(name="lost tasks, with callbacks", unit="", runs=of(WITH, "lost"), budget=0.0),
        Figure(name=f"lost tasks, {CEASED}", unit="", runs=of(CEASED, "lost"), budget=0.0),
        Figure(name=f"mean detection delay of later tasks over that without callbacks, {CEASED}", unit="x",
               runs=[ratio for ratio, _ in ceased], budget=1.5),
        Figure(name=f"longest detection delay of a task in flight then, {CEASED}", unit="s",
               runs=[longest for _, longest in ceased]),
    ]  # fmt: skip  # a line or two for each
    return Result(figures, {"callbacks": rows})


def main() -> int:
    """Measure, print; the exit code says whether the budgets were kept."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
