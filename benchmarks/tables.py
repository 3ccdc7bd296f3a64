"""Tables in Markdown, and the benchmarks whose rows are one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

__all__ = ["TABLES", "markdown", "short", "side_by_side"]

TABLES: Final[Mapping[str, tuple[tuple[str, str, float, str], ...]]] = {
    "callbacks": (
        ("", "side", 1.0, ""),
        ("tasks lost", "lost", 1.0, ""),
        ("status requests", "status_requests", 1.0, ""),
        ("median delay", "delay_p50", 1000.0, " ms"),
        ("99 % found within", "delay_p99", 1000.0, " ms"),
        ("longest delay", "delay_max", 1000.0, " ms"),
    ),
    "loops": (
        ("CPU of one", "work", 1.0, ""),
        ("asyncio", "asyncio_ms", 1.0, " ms"),
        ("uvloop", "uvloop_ms", 1.0, " ms"),
        ("uvloop over asyncio", "ratio", 1.0, " x"),
    ),
}
"""Benchmarks whose rows are a table of their own: heading, field, factor, unit; the first names a row."""


def side_by_side(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of the benchmark *name* as Markdown; of several runs the worst of each field counts."""
    (head, first, _, _), *columns = TABLES[name]
    found: dict[str, list[float]] = {}
    for row in rows:
        values = [math.inf if row[field] is None else row[field] * factor for _, field, factor, _ in columns]
        found[row[first]] = list(map(max, values, found.get(row[first], values)))
    if not found:
        return "Not measured."
    units = [unit for *_, unit in columns]
    cells = (
        [what, *(f"{short(value)}{unit}" for value, unit in zip(values, units, strict=True))]
        for what, values in found.items()
    )
    return markdown([head, *(heading for heading, *_ in columns)], cells)


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    first = list(head)
    whole = [first, ["---"] * len(first), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in whole)


def short(value: float) -> str:
    """Three digits that count: enough to compare by."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
