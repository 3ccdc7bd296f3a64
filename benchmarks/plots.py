"""The plots of ``docs/explanation/performance.md``, drawn from what the benchmarks found.

The same numbers give the same SVG, byte by byte. The background is transparent, and every colour stands out
from a white page as from a dark one.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Entries, peer_rows

__all__ = ["COLORS", "INK", "PLOTS", "draw"]

INK: Final = "#7a7f87"
"""Of text, axes and grid."""
BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, OCHRE = COLORS = (
    *("#2a7fce", "#d9660a", "#1f9a62", "#a45fd6"),
    *("#e0484e", "#1593a5", "#a8820f"),
)
"""Of the series; blue is this client."""
OURS: Final = "kling_async"
PEERS: Final = {
    OURS: BLUE,
    "aiohttp": OCHRE,
    "fal-client": ORANGE,
    "replicate": GREEN,
    "openai": PURPLE,
    "runwayml": RED,
}
STYLE: Final = {
    "svg.hashsalt": "kling-async",
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
}

Rows = Sequence[dict[str, Any]]


def draw(entries: Entries, folder: Path) -> list[Path]:
    """Draw every plot whose rows are there into *folder*; returns the files."""
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, (needed, height, plot) in PLOTS.items():
        rows = {each: _rows(entries, each) for each in needed}
        if not all(rows.values()):
            continue
        files.append(folder / f"{name}.svg")
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            figure = figures.Figure(figsize=(7.6, height), layout="constrained")
            plot(figure, *rows.values())
            figure.savefig(
                files[-1], format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
    return files


def _rows(entries: Entries, name: str) -> Rows:
    if name == "peers":
        return _all_peers(entries)
    entry = entries.get("schedules" if name == "steady" else name)
    return entry.result.rows.get(name, []) if entry is not None else []


def _all_peers(entries: Entries) -> Rows:
    """The comparable rows of each number of tasks, and none of a client that was not there."""
    return [row for row in peer_rows(entries, every=True) if "error" not in row]


def _growth(figure: Any, steady: Rows, burst: Rows) -> None:
    """Status requests and delay against tasks in flight: always as many, or all begun and ended at once."""
    left, right = figure.subplots(1, 2)
    for rows, label, color in ((steady, "always as many", BLUE), (burst, "all at once", ORANGE)):
        at = [row["n"] for row in rows]
        left.plot(at, [row["requests_per_task"] for row in rows], "o-", color=color, label=label)
        right.plot(at, [row["delay_mean"] for row in rows], "o-", color=color, label=label)
    left.set(title="Requests", ylabel="status requests per completed task", xscale="log", yscale="log")
    right.set(title="Delay", ylabel="mean detection delay, s", xscale="log")
    _from_zero(right)
    left.legend()
    _plain(left.yaxis)
    _in_flight(left, right)


def _cpu(figure: Any, peers: Rows, growth: Rows) -> None:
    """CPU per completed task: beside the peers, and as it grows."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(left, peers, "cpu_ms_per_task")
    left.set(title="All clients, polled as often", ylabel="CPU per completed task, ms (log)")
    right.plot([row["n"] for row in growth], [row["cpu_ms_per_task"] for row in growth], "o-", color=BLUE)
    right.set(title="This client, by its own schedule", ylabel="CPU per completed task, ms", xscale="log")
    _from_zero(right)
    _in_flight(right)


def _memory(figure: Any, peers: Rows, growth: Rows) -> None:
    """Memory per task: beside the peers, and as it grows."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(left, peers, "rss_kib_per_task")
    left.set(title="All clients, polled as often", ylabel="peak memory over idle per task, KiB (log)")
    right.plot([row["n"] for row in growth], [row["rss_kib_per_task"] for row in growth], "o-", color=BLUE)
    right.set(
        title="This client, by its own schedule", ylabel="peak memory over idle per task, KiB", xscale="log"
    )
    _from_zero(right)
    _in_flight(right)


def _bars(axes: Any, rows: Rows, field: str) -> None:
    """A bar for each client in a group for each number of tasks; lost tasks are told in it."""
    counts = sorted({row["n"] for row in rows})
    clients = [each for each in PEERS if any(row["client"] == each for row in rows)]
    width = 0.8 / len(clients)
    for place, client in enumerate(clients):
        axes.bar(0, 0, color=PEERS[client], label=client.replace("_", "-"))
        for group, count in enumerate(counts):
            row = next((row for row in rows if (row["client"], row["n"]) == (client, count)), None)
            if row is None:
                continue
            x = group + (place - (len(clients) - 1) / 2) * width
            if row["completed"] and (row[field] or 0) > 0:
                axes.bar(x, row[field], width * 0.92, color=PEERS[client])
                _above(axes, x, row[field], row["lost"])
            else:
                bottom = {"transform": axes.get_xaxis_transform(), "rotation": 90}
                axes.text(x, 0.02, "none completed", ha="center", va="bottom", fontsize=6.5, **bottom)
    axes.set(
        yscale="log", xticks=range(len(counts)), xticklabels=[f"{count:,d} tasks at once" for count in counts]
    )
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.35)
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    _plain(axes.yaxis)


def _above(axes: Any, x: float, value: float, lost: int) -> None:
    """What a bar stands for, and in the bar how many tasks it does not."""
    axes.text(x, value * 1.06, f"{value:.3g}", ha="center", va="bottom", fontsize=6.5)
    if lost:
        inside = {"color": "white", "rotation": 90}
        axes.text(x, value * 0.85, f"({lost:,d} lost)", ha="center", va="top", fontsize=6.5, **inside)


def _schedules(figure: Any, rows: Rows) -> None:
    """Each schedule as a point: requests per task against mean delay, with the least possible of both."""
    names = list(dict.fromkeys(row["durations"] for row in rows))
    columns = 2 if len(names) > 1 else 1
    grid = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True, sharey=True)
    for name, axes in zip(names, grid.flat, strict=False):
        at = [row for row in rows if row["durations"] == name]
        _plane(axes, at)
        axes.set(title=name.capitalize(), xscale="log", yscale="log")
    for axes in grid[-1]:
        axes.set_xlabel("status requests per task (log)")
        _plain(axes.xaxis)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean delay, s (log)")
        _plain(axes.yaxis)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, loc="outside lower center")


def _plane(axes: Any, rows: Rows) -> None:
    """The points of one distribution of durations, and its curve of the least."""
    asked = [row["requests_per_task"] for row in rows]
    low, high = math.log10(min(asked) / 1.5), math.log10(max(asked) * 1.5)
    curve = [10 ** (low + (high - low) * step / 60) for step in range(61)]
    axes.plot(curve, [rows[0]["bound"] / each for each in curve], "--", color=INK, label="least possible")
    ours = sorted(
        (row for row in rows if row["schedule"].startswith("ours")), key=lambda row: row["requests_per_task"]
    )
    points = [row["requests_per_task"] for row in ours], [row["delay_mean"] for row in ours]
    axes.plot(*points, "-", color=BLUE, alpha=0.6, label="this client, other aims")
    others = [ORANGE, GREEN, PURPLE, RED, OCHRE, TEAL]
    for row in rows:
        look: dict[str, Any] = {"color": BLUE, "marker": "o"}
        if row["schedule"] == "ours":
            look["label"] = "this client"
        elif row["schedule"].startswith("ours"):
            look["marker"] = "."
        else:
            look = {"color": others.pop(0), "marker": "s", "label": row["schedule"]}
        axes.plot(row["requests_per_task"], row["delay_mean"], linestyle="none", **look)


MAKESPAN: Final = {
    "post": ("create on its way", BLUE),
    "tail": ("no request waits", INK),
    "detection": ("end not yet seen", ORANGE),
    "refused": ("refused create", RED),
    "unsent": ("free, nothing sent", PURPLE),
}
"""What an empty slot is lost to: the row's field, its words, its colour."""


def _makespan(figure: Any, rows: Rows) -> None:
    """Slot-seconds lost beside the oracle's, by what they were lost to."""
    axes = figure.subplots()
    labels: list[str] = []
    for place, row in enumerate(rows):
        _stack(axes, place - 0.2, [(row[part], color) for part, (_, color) in MAKESPAN.items()], 1.0)
        parts = [(row["oracle_post"], BLUE), (row["oracle_tail"], INK)]
        end = _stack(axes, place + 0.2, parts, 0.45)
        axes.text(end + 0.05, place + 0.2, "oracle", va="center", fontsize=7)
        slots = "1 slot" if row["slots"] == 1 else f"{row['slots']} slots"
        labels.append(f"{slots}, {'told' if row['told'] else 'not told'}\n{row['ratio']:.3f}x")
    for name, color in MAKESPAN.values():
        axes.barh(0, 0, color=color, label=name)
    axes.set(
        yticks=range(len(rows)), yticklabels=labels, xlabel="empty slots, % of the oracle's slots x makespan"
    )
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    figure.legend(ncols=5, loc="outside lower center")


def _stack(axes: Any, y: float, parts: Iterable[tuple[float, str]], alpha: float) -> float:
    """Bars end to end, in percent; returns where the last one ends."""
    left = 0.0
    for share, color in parts:
        axes.barh(y, share * 100, 0.36, left=left, color=color, alpha=alpha)
        left += share * 100
    return left


def _in_flight(*each: Any) -> None:
    for axes in each:
        axes.set_xlabel("tasks in flight (log)")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _from_zero(axes: Any) -> None:
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)


def _plain(axis: Any) -> None:
    """Numbers as one reads them, not powers of ten; between those where there is room."""

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if high < 1000 * low and f"{value:e}"[0] in "25" else ""

    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(between)


PLOTS: Final[dict[str, tuple[tuple[str, ...], float, Callable[..., None]]]] = {
    "growth": (("steady", "growth"), 2.9, _growth),
    "cpu": (("peers", "growth"), 3.4, _cpu),
    "memory": (("peers", "growth"), 3.4, _memory),
    "schedules": (("schedules",), 5.6, _schedules),
    "makespan": (("makespan",), 4.4, _makespan),
}
"""Each plot's name: the rows it is drawn from, its height in inches, and how it is drawn."""
