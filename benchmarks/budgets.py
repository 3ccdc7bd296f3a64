"""What the project promised itself: every budget, whether it is measured or not."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

import attrs

from benchmarks.figure import Figure

__all__ = ["BUDGETS", "Budget"]


@attrs.frozen
class Budget:
    """A bound that the project set itself, and which figures it is for.

    Attributes:
        name: what is bounded, as the table prints it.
        benchmark: who measures it.
        figures: their names, ``*`` for any text; of several the worst counts.
        limit: the bound.
        unit: what it is counted in.
        at_least: the bound is a lower one.
    """

    name: str
    benchmark: str
    figures: str
    limit: float
    unit: str = ""
    at_least: bool = False

    def worst(self, figures: Iterable[Figure]) -> Figure | None:
        """The one of *figures* that decides, judged by this budget; None: nobody measured it."""
        judged = [
            attrs.evolve(each, budget=self.limit, at_least=self.at_least)
            for each in figures
            if fnmatchcase(each.name, self.figures)
        ]
        pick = min if self.at_least else max
        return pick(judged, key=lambda figure: figure.worst, default=None)


BUDGETS: Final = (
    Budget("makespan of 200 tasks on 5 slots not told to the client, over an oracle's",
           "makespan", "200 tasks, 5 slots not told: makespan over an oracle", 1.03, "x"),
    Budget("refused creates a task meanwhile",
           "makespan", "200 tasks, 5 slots not told: refused creates per task", 0.5),
    Budget("status requests a task, 20 slots, uniform durations, list endpoint",
           "schedules", "status requests a task, 20 slots, uniform, list", 1.25),
    Budget("mean delay, the same", "schedules", "mean delay, 20 slots, uniform, list", 2.0, "s"),
    Budget("status requests a task, uniform, no list endpoint (least possible: 5.0)",
           "schedules", "status requests a task, 20 slots, uniform, no list", 6.5),
    Budget("mean delay, the same", "schedules", "mean delay, 20 slots, uniform, no list", 2.0, "s"),
    Budget("status requests a task, lognormal, no list endpoint (least possible: 10.2)",
           "schedules", "status requests a task, 20 slots, lognormal, no list", 13.0),
    Budget("mean delay, the same", "schedules", "mean delay, 20 slots, lognormal, no list", 2.0, "s"),
    Budget("client CPU of a single-task poll, over a bare aiohttp GET and json.loads",
           "poll_cost", "client CPU per single-task poll*", 1.25, "x"),
    Budget("peak memory over idle, 8 MB files, 4 uploads at once",
           "uploads", "peak memory over idle, 4 uploads at once", 60.0, "MB"),
    Budget("peak memory over idle, 8 MB files, 32 uploads at once",
           "uploads", "peak memory over idle, 32 uploads at once", 150.0, "MB"),
    Budget("upload throughput over a bare loop",
           "uploads", "upload throughput over a bare loop, *", 1.0, "x", at_least=True),
    Budget("longest block of the loop while a 10 MB image is checked, encoded and sent",
           "uploads", "longest block of the loop, a 10 MB image, *", 20.0, "ms"),
    Budget("download throughput over bare streaming to a file, both synced",
           "downloads", "download throughput over bare streaming to a file", 1.0, "x", at_least=True),
    Budget("1,000 tasks of 20 s with callbacks: median detection delay",
           "callbacks", "detection delay with callbacks, median", 50.0, "ms"),
    Budget("status requests without callbacks over those with",
           "callbacks", "status requests without callbacks over those with", 10.0, "x", at_least=True),
    Budget("with callbacks, and with a receiver switched off half-way: lost",
           "callbacks", "lost tasks, *", 0),
    Budget("after the receiver is switched off: mean detection delay over that without callbacks",
           "callbacks", "mean detection delay of later tasks over that without callbacks, *", 1.5, "x"),
    Budget("CPU of a journalled submit over one without a journal",
           "submits", "CPU of a journalled submit over one without, *", 1.3, "x"),
    Budget("import time over that of aiohttp, attrs, cattrs, backoff alone",
           "imports", "import time over *", 1.2, "x"),
    Budget("1,000 tasks in flight: lost", "growth", "1,000 tasks in flight, *: lost tasks", 0),
    Budget("1,000 tasks in flight: event loop late by, p99",
           "growth", "1,000 tasks in flight, *: loop late by, p99", 20.0, "ms"),
    Budget("100,000 tasks in flight: requests of a refresh of all",
           "growth", "100,000 tasks in flight: refresh of all*: requests", 250),
    Budget("100,000 tasks in flight: CPU of a refresh of all",
           "growth", "100,000 tasks in flight: refresh of all: CPU", 1.5, "s"),
    Budget("100,000 tasks in flight: memory of a task (prompt of 100 characters, URL)",
           "growth", "100,000 tasks in flight: memory per task held*", 1.5, "KiB"),
    Budget("100,000 tasks in flight: worst block of the loop in a refresh of all",
           "growth", "100,000 tasks in flight: refresh of all*: worst block of the loop", 250, "ms"),
)  # fmt: skip  # a line for what it means, a line for where it comes from
"""Every bound that is promised, whether it is measured or not."""
