"""How we compare: many tasks waited for at once, by this client and by others, against one stub.

    python -m benchmarks.peers [--runs 3] [--quick] [--json FILE]

Each cell is a client in a process of its own, so many tasks at once that end uniformly 10 to 20 s after their
create, and either the client's own way of polling or one poll a second for all. The others are measured once,
this client `runs` times. ``pip install "kling-async[bench]"`` installs the others; one that is missing is
a row that says so.
"""

import json
import subprocess
import sys
from typing import Any

import attrs

from benchmarks import alone, stub
from benchmarks.figure import Figure, Result
from benchmarks.keeper import Ends
from benchmarks.peer_worker import WARM_UP, Cell
from benchmarks.processes import ROOT

__all__ = ["cell", "measure"]

OURS = "kling_async"
PEERS = ("aiohttp", "fal-client", "replicate", "openai", "runwayml")
TASKS = (200, 1000)
MANY = (10_000, 100_000)
"""Tasks at once for us alone: the others lose tasks or hours at 1,000."""
GRACE = 60.0
"""Seconds after its limit after which a cell is ended from outside."""

COLUMNS = (
    ("n", "n", ",d", 1.0),
    ("lost", "lost", ",d", 1.0),
    ("requests_per_task", "GETs/task", ".2f", 1.0),
    ("cpu_s", "CPU s", ".2f", 1.0),
    ("cpu_ms_per_task", "CPU ms/task", ".2f", 1.0),
    ("submit_cpu_ms", "submit ms", ".2f", 1.0),
    ("rss_kib_per_task", "KiB/task", ".1f", 1.0),
    ("delay_mean", "delay mean s", ".2f", 1.0),
    ("delay_p50", "p50 s", ".2f", 1.0),
    ("delay_p95", "p95 s", ".2f", 1.0),
    ("delay_max", "max s", ".2f", 1.0),
    ("lag_p50", "lag p50 ms", ".1f", 1000.0),
    ("lag_p99", "p99 ms", ".1f", 1000.0),
    ("lag_max", "max ms", ".0f", 1000.0),
    ("block_cpu", "block CPU ms", ".0f", 1000.0),
)
"""Of the table: field, heading, format, factor."""


def cell(
    client: str, tasks: int, interval: float | None, ends: Ends, *, limit: float = 150.0
) -> dict[str, Any]:
    """The row of one client in a process of its own, with a stub of its own.

    Args:
        client: by its name in `peer_clients.CLIENTS`.
        tasks: at once.
        interval: seconds between two polls of a task; None: the client's default.
        ends: when they end.
        limit: seconds after which what is left is lost.
    """
    with stub.running(ends) as url:
        wanted = Cell(client, tasks, url, interval, limit)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.peer_worker", json.dumps(attrs.asdict(wanted))],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                timeout=limit + GRACE,
                check=True,
                text=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            row = {"client": client, "n": tasks, "interval": interval or "default"}
            return {**row, "error": type(error).__name__}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    interval = row["interval"] if isinstance(row["interval"], str) else f"{row['interval']:g} s"
    name = f"{row['client']} {row.get('version', '')}"
    if "error" in row:
        return f"{name:38}{interval:>8}{row['n']:>8,d}  {row['error']}"
    told = (
        f"{row[field] * factor if factor != 1.0 else row[field]:>{_width(heading)}{form}}"
        for field, heading, form, factor in COLUMNS
    )
    errors = " ".join(f"{count}x{error}" for error, count in row["errors"].items())
    return f"{name:38}{interval:>8}{''.join(told)}  {errors}"


def _width(heading: str) -> int:
    return max(len(heading) + 2, 8)


def heading() -> str:
    """The first line of the table."""
    return f"{'client':38}{'interval':>8}" + "".join(f"{text:>{_width(text)}}" for _, text, _, _ in COLUMNS)


def measure(runs: int, *, quick: bool) -> Result:
    """Every cell, told on standard error as it comes.

    Args:
        runs: how often we are measured; the others once.
        quick: 100 tasks that end after 2 to 4 s, polled every half second.
    """
    ends = Ends(2, 4) if quick else Ends(10, 20)
    even = 0.5 if quick else 1.0
    rows: list[dict[str, Any]] = []

    def add(client: str, tasks: int, interval: float | None, ends: Ends = ends) -> None:
        rows.append(cell(client, tasks, interval, ends, limit=45.0 if quick else 150.0))
        print(line(rows[-1]), file=sys.stderr)

    print(heading(), file=sys.stderr)
    for tasks in (100,) if quick else TASKS:
        for interval in (even,) if quick else (None, even):
            for peer in PEERS:
                if peer != "aiohttp" or interval is not None:  # it has no default
                    add(peer, tasks, interval)
            for _ in range(runs):
                add(OURS, tasks, interval)
    for tasks in () if quick else MANY:
        held = attrs.evolve(ends, hold=tasks + WARM_UP)
        add(f"{OURS}, instant creates", tasks, None, held)
    return Result(_figures(rows, even), {"peers": rows})


def _figures(rows: list[dict[str, Any]], even: float) -> list[Figure]:
    """Ours at the same interval as all others, each beside the best of them that lost nothing."""
    figures: list[Figure] = []
    measured = [row for row in rows if "error" not in row and row["interval"] == even]
    for tasks in sorted({row["n"] for row in measured}):
        at = [row for row in measured if row["n"] == tasks]
        ours = [row for row in at if row["client"] == OURS]
        if not ours:
            continue
        what = f"{tasks:,d} tasks at once, a poll every {even:g} s: "
        figures.append(
            Figure(name=what + "lost tasks", unit="", runs=[row["lost"] for row in ours], budget=0)
        )
        for field, name, unit in (
            ("requests_per_task", "status requests per completed task", ""),
            ("cpu_ms_per_task", "client CPU per completed task", "ms"),
            ("rss_kib_per_task", "memory per task", "KiB"),
            ("delay_p95", "95 % found within", "s"),
            ("lag_p99", "event loop late by, p99", "s"),
        ):
            values = [
                (row[field], row["client"]) for row in at if row["client"] in PEERS[1:] and not row["lost"]
            ]
            best = min(values, default=None)
            note = f"best of the others that lost nothing: {best[0]:.3g}, {best[1]}" if best else ""
            figures.append(Figure(name=what + name, unit=unit, runs=[row[field] for row in ours], note=note))
    return figures


def main() -> int:
    """Measure and print; 1 if a figure is over its budget."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
