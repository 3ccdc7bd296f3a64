"""All benchmarks, one after the other: measures, prints every figure beside its budget, publishes.

    python -m benchmarks [--quick] [--only NAME ...] [--runs 3] [--json FILE] [--plots FOLDER] [--publish]

Each runs in a process of its own, so that the garbage of one is not the memory of another. ``--publish`` does
all that the docs need: numbers and plots in ``docs/explanation/figures``, the tables of README and docs.
``--only`` measures some again and keeps what the JSON file has of the others; with no name it measures
nothing, and draws and tells again what is in the file. The exit code is 1 if a budget is missed or not
measured, or a benchmark crashed.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import plots, report
from benchmarks.figure import Result, table
from benchmarks.report import NAMES, Entry

__all__ = ["main", "measured"]

LONGEST: Final = 2 * 3600.0
"""Seconds after which a benchmark is ended: several times what the slowest takes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and publish as *arguments* say; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.one is not None:
        name, file = options.one
        return _one(name, options.runs, Path(file), quick=options.quick)
    numbers = report.PUBLISHED if options.publish else options.json
    folder = report.FIGURES if options.publish else options.plots
    if folder is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error('plots need matplotlib: python -m pip install "kling-async[bench]"')
    names = NAMES if options.only is None else [name for name in NAMES if name in options.only]
    entries = report.load(numbers) if options.only is not None and numbers is not None else {}
    for name in names:
        print(f"=== {name}", file=sys.stderr, flush=True)
        started = time.monotonic()
        entries[name] = measured(name, options.runs, quick=options.quick)
        print(f"=== {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if numbers is not None:  # after each: what ends the whole run loses one
            report.save(entries, numbers)
    shown = names or [name for name in NAMES if name in entries]
    _print(entries, shown)
    if folder is not None:
        plots.draw(entries, folder)
    if options.publish:
        for page in report.PAGES:
            page.write_text(report.rewritten(page.read_text(encoding="utf-8"), entries), encoding="utf-8")
    return 1 if report.failed(entries, shown) else 0


def measured(name: str, runs: int, *, quick: bool) -> Entry:
    """What the benchmark *name* finds in a process of its own; what ended it is told in the entry."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        size = ["--quick"] if quick else []
        command = [sys.executable, "-m", "benchmarks", "--one", name, str(file), "--runs", str(runs), *size]
        try:
            code = subprocess.run(command, cwd=report.ROOT, timeout=LONGEST, check=False).returncode
            document = json.loads(file.read_text()) if file.exists() else {"error": f"exit code {code}"}
        except subprocess.TimeoutExpired:
            document = {"error": f"not done in {LONGEST:.0f} s"}
    result = Result(()) if "error" in document else Result.of(document)
    error = document.get("error", "")
    return Entry(result=result, error=error, runs=runs, quick=quick, machine=_machine())


def _one(name: str, runs: int, file: Path, *, quick: bool) -> int:
    """Measure one benchmark here, and write what it found to *file*; of an error only its class."""
    document: dict[str, Any]
    code = 0
    try:
        with contextlib.redirect_stdout(sys.stderr):
            measure = importlib.import_module(f"benchmarks.{name}").measure
            document = attrs.asdict(measure(runs, quick=quick))
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
        traceback.print_exc()
        document, code = {"error": type(error).__name__}, 1
    file.write_text(json.dumps(document))
    return code


def _machine() -> dict[str, str]:
    """What it ran on, as far as figures depend on it: no name of a host, no path."""
    encoder = "the standard library's base64"
    if importlib.util.find_spec("pybase64") is not None:
        encoder = f"pybase64 {importlib.metadata.version('pybase64')} and {encoder}"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "aiohttp": f"aiohttp {importlib.metadata.version('aiohttp')}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": f"{cores} cores",
        "encoder": encoder,
    }


def _print(entries: report.Entries, names: Sequence[str]) -> None:
    for name in names:
        if name in entries and (figures := entries[name].result.figures):
            print(f"{name}\n{table(figures)}\n")
    print(report.text(report.lines(entries, names)))
    for name in names:
        if name in entries and entries[name].error:
            print(f"{name} CRASHED: {entries[name].error}")
    print(report.machine(entries))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="All benchmarks, and their tables."
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, to see whether it works")
    parser.add_argument("--runs", type=int, default=3, help="the worst of them counts")
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the plots here, as SVG")
    parser.add_argument("--publish", action="store_true", help="numbers, plots and tables of docs and README")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
