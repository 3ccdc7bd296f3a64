"""What the benchmarks found, kept as JSON and told as tables: the budgets, the peers, every figure."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.budgets import BUDGETS, Budget
from benchmarks.figure import Result, bound, number
from benchmarks.tables import TABLES, markdown, short, side_by_side

__all__ = [
    "FIGURES",
    "NAMES",
    "PUBLISHED",
    "ROOT",
    "Entries",
    "Entry",
    "Line",
    "failed",
    "load",
    "save",
]

NAMES: Final = (
    *("poll_cost", "uploads", "downloads", "submits", "imports", "loops"),
    *("makespan", "schedules", "callbacks", "growth", "peers"),
)
"""The benchmarks, in the order in which they run."""
ROOT: Final = Path(__file__).parent.parent
FIGURES: Final = ROOT / "docs" / "explanation" / "figures"
"""Where plots and numbers are published: the docs are made of them."""
PUBLISHED: Final = FIGURES / "benchmarks.json"
PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "explanation" / "performance.md")
"""What has measured parts, each between ``<!-- benchmarks: NAME -->`` and ``<!-- end -->``."""


@attrs.frozen(kw_only=True)
class Entry:
    """One benchmark as it is published.

    Attributes:
        result: what it found.
        error: what ended it instead; empty: nothing did.
        runs: of how many the worst counts.
        quick: fewer and smaller than the budgets are made for.
        machine: what it ran on, each fact in words a reader understands.
    """

    result: Result = attrs.field(factory=lambda: Result(()))
    error: str = ""
    runs: int
    quick: bool
    machine: dict[str, str] = attrs.field(factory=dict[str, str])


Entries = Mapping[str, Entry]


def load(path: Path = PUBLISHED) -> dict[str, Entry]:
    """What `save` wrote, by the benchmark's name; empty where there is no file."""
    if not path.exists():
        return {}
    document: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {name: _entry(**each) for name, each in document.items()}


def _entry(result: dict[str, Any], **facts: Any) -> Entry:
    return Entry(result=Result.of(result), **facts)


def save(entries: Entries, path: Path) -> None:
    """Write *entries* as JSON, in the order of `NAMES`."""
    document = {name: _json(attrs.asdict(entries[name])) for name in NAMES if name in entries}
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _json(value: Any) -> Any:
    """*value* with None for what JSON has no number for: a cost per task where none completed."""
    match value:
        case dict():
            return {key: _json(each) for key, each in value.items()}
        case list() | tuple():
            return [_json(each) for each in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


@attrs.frozen
class Line:
    """A budget and what became of it, as tables print it.

    Attributes:
        name: what is bounded.
        budget: the bound.
        worst: the run that counts; empty: there is none.
        verdict: ``within``, or in capitals why not.
        benchmark: who measures it.
        note: of the figure that decided.
    """

    name: str
    budget: str
    worst: str
    verdict: str
    benchmark: str
    note: str = ""


def lines(entries: Entries, names: Iterable[str] = NAMES) -> list[Line]:
    """One for each budget of the benchmarks *names*, measured or not."""
    wanted = set(names)
    return [_line(each, entries.get(each.benchmark)) for each in BUDGETS if each.benchmark in wanted]


def _line(budget: Budget, entry: Entry | None) -> Line:
    told = bound(budget.limit, budget.unit, at_least=budget.at_least)
    if entry is None:
        return Line(budget.name, told, "", "NOT RUN", budget.benchmark)
    if entry.error:
        return Line(budget.name, told, "", f"CRASHED: {entry.error}", budget.benchmark)
    figure = budget.worst(entry.result.figures)
    if figure is None:
        return Line(budget.name, told, "", "NOT MEASURED", budget.benchmark)
    worst = f"{number(figure.worst)} {budget.unit}".rstrip()
    return Line(
        budget.name, told, worst, "within" if figure.within else "MISSED", budget.benchmark, figure.note
    )


def text(found: Iterable[Line]) -> str:
    """The lines for a terminal."""
    rows = [("figure", "budget", "worst", "")]
    rows += [(line.name, line.budget, line.worst, line.verdict) for line in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    )


def failed(entries: Entries, names: Iterable[str] = NAMES) -> bool:
    """Whether a figure is over its budget, or is not there though the run was a full one."""
    bad = {"MISSED", "NOT RUN", "NOT MEASURED"}
    for name in names:
        entry = entries.get(name)
        if entry is None or entry.error or not all(each.within for each in entry.result.figures):
            return True
        if {line.verdict for line in lines(entries, [name])} & (bad if not entry.quick else {"MISSED"}):
            return True
    return False


def machine(entries: Entries) -> str:
    """On what, and how often, the published figures were measured: a sentence for each kind of run."""
    kinds: dict[str, list[str]] = {}
    for name in NAMES:
        if (entry := entries.get(name)) is not None:
            facts = ", ".join(entry.machine.values())
            size = "a quick run, smaller than the budgets are made for; " if entry.quick else ""
            runs = "one run" if entry.runs == 1 else f"worst of {entry.runs} runs"
            kinds.setdefault(f"{size}{facts}; {runs}", []).append(name)
    if len(kinds) == 1:
        return next(iter(kinds))
    return ". ".join(f"{', '.join(names)}: {kind}" for kind, names in kinds.items())


def kept(entries: Entries) -> str:
    """How many budgets are kept, and what became of the others."""
    verdicts = [line.verdict for line in lines(entries)]
    others = {
        "missed": verdicts.count("MISSED"),
        "not measured": sum(each not in ("within", "MISSED") for each in verdicts),
    }
    told = "".join(f", {count} {what}" for what, count in others.items() if count)
    return f"{verdicts.count('within')} of {len(verdicts)} budgets kept{told}"


# The peers

OURS: Final = "kling_async"
PEER_COLUMNS: Final = (
    ("tasks lost", "lost", 1.0, ""),
    ("status requests a task", "requests_per_task", 1.0, ""),
    ("CPU a task", "cpu_ms_per_task", 1.0, " ms"),
    ("memory a task", "rss_kib_per_task", 1.0, " KiB"),
    ("95 % found within", "delay_p95", 1.0, " s"),
    ("loop late by, p99", "lag_p99", 1000.0, " ms"),
)
"""Heading, field of the row, factor, unit."""


def peer_rows(entries: Entries, *, every: bool = False) -> list[dict[str, Any]]:
    """The rows that can be compared: all clients, polled as often, with the most tasks at once.

    Of several runs of one client the worst of each field counts. The last row is this client by its own
    schedule.

    Args:
        entries: what was found.
        every: for every number of tasks at once.
    """
    entry = entries.get("peers")
    rows = entry.result.rows.get("peers", []) if entry is not None else []
    rows = [row for row in rows if "instant" not in row["client"]]
    if not every:
        most = max((row["n"] for row in rows), default=0)
        rows = [row for row in rows if row["n"] == most]
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sorted(rows, key=_place):
        own = row["interval"] == "default"
        if not own or (row["client"] == OURS and not every):
            key = row["n"], row["client"], own
            merged[key] = _worst(merged.get(key, row), row)
    return list(merged.values())


def _place(row: dict[str, Any]) -> tuple[int, bool, bool]:
    """This client first, and last by its own schedule; the others as they were measured."""
    return row["n"], row["interval"] == "default", row["client"] != OURS


def _worst(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    fields = [field for _, field, _, _ in PEER_COLUMNS if field in one and field in other]
    return {**one, **{each: max(one[each] or 0, other[each] or 0) for each in fields}}


def peers(entries: Entries) -> str:
    """The peers side by side, as Markdown."""
    rows = [_peer(row) for row in peer_rows(entries)]
    return markdown(["client", *(heading for heading, _, _, _ in PEER_COLUMNS)], rows)


def _peer(row: dict[str, Any]) -> list[str]:
    name = f"{row['client'].replace('_', '-')} {row.get('version', '')}".rstrip()
    if row["client"] == "aiohttp":
        name += ", a bare loop"
    if row["interval"] == "default":
        name += ", its own schedule"
    if "error" in row:
        return [name, row["error"], *["-"] * (len(PEER_COLUMNS) - 1)]
    if not row["completed"]:
        return [name, f"{row['lost']:,d}", *["-"] * (len(PEER_COLUMNS) - 1)]
    return [name, *(f"{short(row[field] * factor)}{unit}" for _, field, factor, unit in PEER_COLUMNS)]


# As Markdown


def budgets(entries: Entries) -> str:
    """The budgets: worst run, and whether it is within."""
    found: list[list[str]] = []
    for line in lines(entries):
        verdict = "within" if line.verdict == "within" else f"**{line.verdict}**"
        name = f"{line.name} ({line.note})" if line.note else line.name
        found.append([name, line.budget, line.worst or "-", verdict, f"`{line.benchmark}`"])
    return markdown(["figure", "budget", "worst", "", "measured by"], found)


def own_table(name: str, entries: Entries) -> str:
    """The rows of a benchmark that has a table of its own, side by side."""
    return side_by_side(name, entries[name].result.rows.get(name, []) if name in entries else [])


def missed(entries: Entries) -> str:
    """Every figure over its bound, budgets and finer ones alike."""
    found = [
        f"- {each.name}{f' ({each.note})' if each.note else ''}: {number(each.worst)} {each.unit}".rstrip()
        + f", budget {bound(each.budget, each.unit, at_least=each.at_least)}"
        for name in NAMES
        if name in entries
        for each in entries[name].result.figures
        if not each.within
    ]
    return "\n".join(found) or "Nothing."


def everything(entries: Entries) -> str:
    """Every figure of every benchmark, run by run."""
    parts: list[str] = []
    for name in NAMES:
        entry = entries.get(name)
        if entry is None or not entry.result.figures:
            continue
        rows = (
            [
                each.name + (f" ({each.note})" if each.note else ""),
                " / ".join(number(run) for run in each.runs) + f" {each.unit}".rstrip(),
                bound(each.budget, each.unit, at_least=each.at_least) or "-",
                "" if each.within else "**MISSED**",
            ]
            for each in entry.result.figures
        )
        parts.append(f"### {name}\n\n" + markdown(["figure", "each run", "budget", ""], rows))
    return "\n\n".join(parts)


def readme(entries: Entries) -> str:
    """The measured part of the README."""
    rows = peer_rows(entries)
    tasks = max((row["n"] for row in rows), default=0)
    every = next((row["interval"] for row in rows if row["interval"] != "default"), 0)
    return (
        f"What waiting costs: {tasks:,d} tasks at once against one stub server, each client in a process\n"
        f"and on a core of its own, every task polled each {every:g} s until it ends, if the row does not\n"
        "say otherwise. Of three runs of this client the worst is told; the others are run once.\n\n"
        f"{peers(entries)}\n\n"
        f"{kept(entries)}: [all of them](docs/explanation/performance.md), with plots. Measured by\n"
        f"`python -m benchmarks --publish` ({machine(entries)})."
    )


def summary(entries: Entries) -> str:
    """How it went, and on what."""
    return f"{kept(entries)}. Measured by `python -m benchmarks --publish` ({machine(entries)})."


PARTS: Final[dict[str, Callable[[Entries], str]]] = {
    "readme": readme,
    "summary": summary,
    "budgets": budgets,
    "missed": missed,
    "peers": peers,
    **{name: partial(own_table, name) for name in TABLES},
    "figures": everything,
}
"""What makes each measured part of a page, by the part's name."""
_PART: Final = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewritten(page: str, entries: Entries) -> str:
    """The text of *page* with its measured parts made anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]](entries)}\n\n{part[3]}", page)
