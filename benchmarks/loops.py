"""What uvloop spares: the CPU of a poll, a submit, an upload and a download on it, over that on asyncio's.

    python -m benchmarks.loops [--runs 3] [--quick] [--json FILE]

The client's own work as the other benchmarks measure it, each time in a fresh process on a core of its own,
beside a server on another: on both loops in turns, which of them first alternates. CPU is that of the whole
process; less than 1 is what uvloop spares. Without uvloop nothing is measured.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import alone, downloads, poll_cost, sides, sink, stub, submits, uploads
from benchmarks.figure import Figure, Result

__all__ = ["measure"]

LOOPS: Final = ("asyncio", "uvloop")
TURNS: Final = 4
"""How often the loops take turns within a run, so that a busy moment of the machine meets both."""
WORKS: Final = {
    "poll": "poll of a single task",
    "submit": "submit, 20 callers",
    "upload": "upload of 8 MB, 4 at once",
    "download": "download of 20 to 50 MB, 4 at once",
}
"""What is measured, as the table tells it."""


async def poll(base_url: str, count: int) -> dict[str, float]:
    """CPU seconds of a poll."""
    return {"cpu": await poll_cost.ours(base_url, count)}


async def submit(base_url: str, count: int) -> dict[str, float]:
    """CPU seconds of a submit."""
    return {"cpu": await submits.submit(base_url, None, count, callers=20)}


async def upload(base_url: str, count: int) -> dict[str, float]:
    """CPU seconds of an upload."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        file.write_bytes(uploads.picture(uploads.SIZE))
        found = await uploads.ours(base_url, [str(file)], count, at_once=4)
    return {"cpu": found["cpu"] / count}


async def download(base_url: str, count: int) -> dict[str, float]:
    """CPU seconds of a download."""
    with tempfile.TemporaryDirectory() as folder:
        found = await downloads.ours(base_url, folder, downloads.SIZES[:count])
    return {"cpu": found["cpu"] / count}


def _turns(base_url: str, work: str, count: int) -> dict[str, Any]:
    """Milliseconds of CPU on each loop for one *work*."""
    taken = dict.fromkeys(LOOPS, 0.0)
    for turn in range(TURNS):
        for loop in LOOPS if turn % 2 == 0 else reversed(LOOPS):
            found = sides.run(f"benchmarks.loops:{work}", loop=loop, base_url=base_url, count=count)
            taken[loop] += found["cpu"]
    times = {f"{loop}_ms": seconds / TURNS * 1e3 for loop, seconds in taken.items()}
    return {"work": WORKS[work], **times, "ratio": taken["uvloop"] / taken["asyncio"]}


def measure(runs: int, *, quick: bool) -> Result:
    """The ratio for each of `WORKS`; *quick* does a tenth of the polls and submits, and fewer files."""
    counts = {"poll": 20_000, "submit": 2_000, "upload": 100, "download": 12}
    if quick:
        counts = {"poll": 2_000, "submit": 200, "upload": 10, "download": 2}
    if importlib.util.find_spec("uvloop") is None:
        return Result(())
    rows: list[dict[str, Any]] = []
    with stub.running() as stub_url, sink.running() as sink_url:
        for _ in range(runs):
            for work, count in counts.items():
                rows.append(_turns(stub_url if work in ("poll", "submit") else sink_url, work, count))
    figures = [
        Figure(
            name=f"CPU on uvloop over asyncio's loop, {what}",
            unit="x",
            runs=[row["ratio"] for row in rows if row["work"] == what],
        )
        for what in WORKS.values()
    ]
    return Result(figures, {"loops": rows})


def main() -> int:
    """Measure, print."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
