"""What a first name of `kling_async` costs to import, over what it needs: aiohttp, attrs, cattrs and backoff.

    python -m benchmarks.imports [--runs 3] [--quick] [--json FILE]

Fresh interpreters in turns, bytecode cached for both; CPU time of the import alone, the median of each run.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import alone
from benchmarks.figure import Figure, Result

BUDGET = 1.2
"""Times the import of what is needed anyway, at most."""
TURNS = 20
"""Interpreters of each side in a run."""
NEEDED = "aiohttp, attrs, cattrs, backoff"
SIDES = {"bare": f"import {NEEDED}", "ours": "from kling_async import KlingClient"}
"""The package alone loads nothing; its first name loads all of them."""


def seconds(statement: str, cache: str) -> float:
    """CPU seconds in which a fresh interpreter executes *statement*, with its bytecode in *cache*."""
    code = f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)"
    done = subprocess.run(
        [sys.executable, "-X", f"pycache_prefix={cache}", "-c", code],
        cwd=Path(__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure(runs: int, *, quick: bool) -> Result:
    """The ratio of each run; *quick* starts fewer interpreters."""
    ratios: list[float] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        for statement in SIDES.values():
            seconds(statement, cache)  # compiles
        for _ in range(runs):
            taken: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(5 if quick else TURNS):
                for side, statement in SIDES.items():
                    taken[side].append(seconds(statement, cache))
            medians = {side: statistics.median(each) for side, each in taken.items()}
            ratios.append(medians["ours"] / medians["bare"])
            rows.append({f"{side}_ms": each * 1e3 for side, each in medians.items()})
    name = f"import time over {NEEDED}"
    return Result([Figure(name=name, unit="x", runs=ratios, budget=BUDGET)], {"imports": rows})


def main() -> int:
    """Measure, print; the exit code says whether the budget was kept."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
