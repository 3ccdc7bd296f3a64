"""Runs one benchmark by itself: measures, prints each figure beside its budget, writes JSON if asked."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.figure import Figure, Result

__all__ = ["run"]


def run(description: str | None, measure: Callable[..., Result]) -> int:
    """Measure as the command line says; returns 1 if a figure is over its budget, else 0."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="the worst of them counts")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, to see whether it works")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    result = measure(options.runs, quick=options.quick)
    for figure in result.figures:
        print(_line(figure))
    if options.json is not None:
        options.json.write_text(json.dumps(attrs.asdict(result), indent=2) + "\n")
    return 0 if all(figure.within for figure in result.figures) else 1


def _line(figure: Figure) -> str:
    runs = " ".join(f"{each:.3g}" for each in figure.runs)
    told = f"{figure.name}: {figure.worst:.3g} {figure.unit}"
    if figure.budget is not None:
        sign = ">=" if figure.at_least else "<="
        verdict = "" if figure.within else "  OVER BUDGET"
        told += f"   budget {sign} {figure.budget:g}{verdict}"
    return f"{told}   runs {runs}" + (f"   ({figure.note})" if figure.note else "")
