"""What the journal adds to the CPU of a submit.

    python -m benchmarks.submits [--runs 3] [--quick] [--json FILE]

Requests with a URL for a picture are submitted one after the other by 5 and by 20 callers at once, as many
as most accounts have slots, to a stub on another core: with a journal and without in turns, in one process.
CPU is that of the whole process, the journal's thread included.
"""

import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import alone, sides, stub
from benchmarks.figure import Figure, Result
from kling_async import KLING, APIKey, ImageToVideo, KlingClient

BUDGET = 1.3
"""Times the CPU without a journal, at most."""
CALLERS = (5, 20)
SUBMITS = 2000
"""Of each side in a run."""
URL = "https://example.com/cat.png"
TURNS = 5
"""How often the two sides take turns within a run, so that a busy moment of the machine meets both."""


async def submit(base_url: str, journal: str | None, submits: int, callers: int) -> float:
    """CPU seconds per submit of a client with that journal, or none."""
    numbers = iter(range(submits))
    client = KlingClient(APIKey("key"), KLING.at(base_url), max_in_flight=2 * submits, journal=journal)

    async def call(kling: KlingClient) -> None:
        for number in numbers:
            await kling.submit(ImageToVideo(image=URL, prompt=f"yawn {number}"), key=str(number))

    async with client as kling:
        await kling.submit(ImageToVideo(image=URL, prompt="yawn"), key="first")
        started = time.process_time()
        await asyncio.gather(*(call(kling) for _ in range(callers)))
        return (time.process_time() - started) / submits


async def compared(base_url: str, folder: str, submits: int, callers: int) -> dict[str, Any]:
    """Microseconds of CPU per submit with a journal in *folder* and without."""
    taken = dict.fromkeys(("journalled", "bare"), 0.0)
    journals = (str(Path(folder) / f"{number}.sqlite") for number in itertools.count())
    for _ in range(TURNS):
        taken["bare"] += await submit(base_url, None, submits // TURNS, callers)
        taken["journalled"] += await submit(base_url, next(journals), submits // TURNS, callers)
    return {side: seconds / TURNS * 1e6 for side, seconds in taken.items()}


def measure(runs: int, *, quick: bool) -> Result:
    """The ratio for each number of callers; *quick* takes a fifth of the submits."""
    submits = SUBMITS // 5 if quick else SUBMITS
    figures: list[Figure] = []
    rows: list[dict[str, Any]] = []
    for callers in CALLERS:
        ratios: list[float] = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder, stub.running() as base_url:
                work: dict[str, Any] = {
                    "base_url": base_url,
                    "folder": folder,
                    "submits": submits,
                    "callers": callers,
                }
                found = sides.run("benchmarks.submits:compared", **work)
            rows.append({"callers": callers, **found})
            ratios.append(found["journalled"] / found["bare"])
        name = f"CPU of a journalled submit over one without, {callers} callers"
        figures.append(Figure(name=name, unit="x", runs=ratios, budget=BUDGET))
    return Result(figures, {"submits": rows})


def main() -> int:
    """Measure, print; the exit code says whether the budget was kept."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
