"""The benchmarks are run, told and published as the command says. Nothing here measures a clock."""

import importlib
import inspect
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

from benchmarks import __main__ as command, callbacks, plots, report
from benchmarks.budgets import BUDGETS, Budget
from benchmarks.figure import Figure, Result, table
from benchmarks.report import NAMES, Entry


def entry(*figures: Figure, error: str = "", quick: bool = False, **rows: list[dict[str, Any]]) -> Entry:
    """One that was measured three times."""
    return Entry(result=Result(figures, rows), error=error, runs=3, quick=quick, machine={"cores": "2 cores"})


def peer(client: str, tasks: int = 200, interval: float | str = 1.0, **fields: Any) -> dict[str, Any]:
    """A row of the peers."""
    row = {
        "client": client,
        "version": "1.0",
        "n": tasks,
        "interval": interval,
        "completed": tasks,
        "lost": 0,
    }
    return {**row, **{field: 1.5 for _, field, _, _ in report.PEER_COLUMNS[1:]}, **fields}


IMPORTS = Figure(name="import time over all", unit="x", runs=[1.1, 1.3, 1.2])
GROWTH = {"delay_mean": 1.0, "delay_p95": 2.0, "cpu_ms_per_task": 0.5, "rss_kib_per_task": 4.0}
MAKESPAN = {"slots": 5, "told": False, "ratio": 1.02, "oracle_post": 0.01, "oracle_tail": 0.01}
CANNED = {
    "growth": entry(growth=[{"n": n, "requests_per_task": 100 / n, **GROWTH} for n in (100, 1000)]),
    "peers": entry(
        peers=[
            peer("kling_async"),
            peer("openai", lost=3),
            peer("replicate", completed=0, lost=200, cpu_ms_per_task=None),
            {"client": "runwayml", "n": 200, "interval": 1.0, "error": "not installed: runwayml"},
        ]
    ),
    "schedules": entry(
        schedules=[
            {
                "durations": "uniform",
                "schedule": name,
                "requests_per_task": 5.0 + place,
                "delay_mean": 2.0,
                "bound": 9.0,
            }
            for place, name in enumerate(("ours", "fixed 5 s", "ours, aim 0.04"))
        ],
        steady=[{"n": n, "requests_per_task": 25 / n, "delay_mean": 1.9} for n in (5, 20, 100)],
    ),
    "makespan": entry(makespan=[{**MAKESPAN, **dict.fromkeys(plots.MAKESPAN, 0.01)}]),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_can_be_measured(name: str) -> None:
    """Each is a module whose `measure` takes first how many runs."""
    measure = importlib.import_module(f"benchmarks.{name}").measure
    assert next(iter(inspect.signature(measure).parameters)) == "runs"


def test_each_budget_is_one_of_a_benchmark_that_runs() -> None:
    """No two budgets are for the same figures, and each is measured by a benchmark of the command."""
    assert {budget.benchmark for budget in BUDGETS} <= set(NAMES)
    assert max(Counter(budget.figures for budget in BUDGETS).values()) == 1


def test_the_worst_figure_decides_a_budget() -> None:
    """Of several figures of one budget the worst run of all counts: the least where it is a lower bound."""
    figures = [
        Figure(name=f"rate, {place}", unit="x", runs=runs) for place, runs in enumerate([[3, 2], [9, 1]])
    ]
    most, least = Budget("", "uploads", "rate, *", 4.0), Budget("", "uploads", "rate, *", 1.5, at_least=True)
    worst, lowest = most.worst(figures), least.worst(figures)
    assert worst is not None
    assert lowest is not None
    assert (worst.worst, worst.within) == (9, False)
    assert (lowest.worst, lowest.within) == (1, False)
    assert most.worst([]) is None


def test_a_table_marks_what_is_missed() -> None:
    """A figure over its budget is marked, one within it is not; notes tell equal names apart."""
    figures = [
        Figure(name="memory", unit="MB", runs=[10, 70], budget=60, note="standard library"),
        Figure(name="memory", unit="MB", runs=[10, 50], budget=60, note="pybase64"),
    ]
    first, second = table(figures).splitlines()
    assert re.fullmatch(r"memory \(standard library\) +70 MB +<= 60 MB +MISSED", first)
    assert re.fullmatch(r"memory \(pybase64\) +50 MB +<= 60 MB", second)


def test_no_budget_vanishes() -> None:
    """Missed, not measured, crashed and not run each stand in the table, and are a failure."""
    entries = {"imports": entry(IMPORTS), "poll_cost": entry(), "submits": entry(error="OSError")}
    verdicts = {line.benchmark: line.verdict for line in report.lines(entries)}
    assert len(report.lines(entries)) == len(BUDGETS)
    assert verdicts["imports"] == "MISSED"
    assert verdicts["poll_cost"] == "NOT MEASURED"
    assert verdicts["submits"] == "CRASHED: OSError"
    assert verdicts["growth"] == "NOT RUN"
    assert all(report.failed(entries, [name]) for name in (*entries, "growth"))
    assert "**CRASHED: OSError**" in report.budgets(entries)
    assert not report.failed({"poll_cost": entry(quick=True)}, ["poll_cost"])


def test_json_there_and_back(tmp_path: Path) -> None:
    """What is saved is loaded again; what JSON has no number for is None in a row, infinite in a figure."""
    none = Figure(name="cost", unit="", runs=[math.inf], budget=2)
    entries = {
        "imports": entry(IMPORTS),
        "peers": entry(none, peers=[peer("openai", cpu_ms_per_task=math.inf)]),
    }
    report.save(entries, tmp_path / "numbers.json")
    loaded = report.load(tmp_path / "numbers.json")
    assert loaded["imports"] == entries["imports"]
    assert loaded["peers"].result.figures == (none,)
    assert loaded["peers"].result.rows["peers"] == [peer("openai", cpu_ms_per_task=None)]
    assert report.load(tmp_path / "nothing.json") == {}


def test_only_measures_some_and_keeps_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--only`` replaces what it names in the JSON file, and prints that alone."""
    numbers = tmp_path / "numbers.json"
    report.save({"imports": entry(IMPORTS), "makespan": entry(error="OSError")}, numbers)
    command.main(["--only", "makespan", "--quick", "--runs", "1", "--json", str(numbers)])
    assert set(document := json.loads(numbers.read_text())) == {"imports", "makespan"}
    assert document["makespan"]["error"] == ""
    assert document["makespan"]["result"]["figures"][0]["name"].startswith("200 tasks, 5 slots")
    assert "import time" not in capsys.readouterr().out


def test_only_without_a_name_tells_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--only`` alone measures nothing, and the exit code is that of what is in the file."""
    numbers = tmp_path / "numbers.json"
    report.save({"imports": entry(IMPORTS)}, numbers)
    assert command.main(["--only", "--json", str(numbers)]) == 1
    assert "MISSED" in capsys.readouterr().out
    report.save({"imports": entry(attrs.evolve(IMPORTS, runs=[1.0]))}, numbers)
    assert command.main(["--only", "--json", str(numbers)]) == 0


def test_an_unknown_name_is_refused() -> None:
    """``--only`` knows the benchmarks, and says so before anything runs."""
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "nonsense"])


def test_a_benchmark_that_crashes_is_an_entry() -> None:
    """What ends one benchmark is told by its class in its place."""
    crashed = command.measured("nonsense", 1, quick=True)
    assert crashed.error == "ModuleNotFoundError"
    assert crashed.result.figures == ()


def test_what_is_missed_is_listed() -> None:
    """A figure over its own bound is listed though no budget names it; if there is none, that is said."""
    fine = Figure(name="finer", unit="s", runs=[1.0, 2.5], budget=2)
    assert report.missed({"imports": entry(fine, IMPORTS)}) == "- finer: 2.5 s, budget <= 2 s"
    assert report.missed({"imports": entry(IMPORTS)}) == "Nothing."


def test_peers_stand_beside_us() -> None:
    """This client first, of several runs the worst, by its own schedule last; who is missing is told."""
    rows = [peer("openai", lost=2), peer("kling_async", delay_p95=2.0), peer("kling_async", delay_p95=3.0)]
    rows += [peer("kling_async", interval="default"), peer("openai", interval="default")]
    rows += [{"client": "runwayml", "n": 200, "interval": 1.0, "error": "not installed: runwayml"}]
    told = report.peers({"peers": entry(peers=[*rows, peer("kling_async", tasks=100)])}).splitlines()[2:]
    assert [line.split(" |")[0] for line in told] == [
        "| kling-async 1.0",
        "| openai 1.0",
        "| runwayml",
        "| kling-async 1.0, its own schedule",
    ]
    assert "| 3 s |" in told[0]
    assert "| 2 | 1.5 |" in told[1]
    assert "not installed" in told[2]


def test_rows_stand_side_by_side() -> None:
    """A table of a benchmark's own rows: of several runs the worst of each field."""
    runs = [{"work": "poll", "asyncio_ms": 2.0, "uvloop_ms": each, "ratio": each / 2} for each in (1.0, 1.5)]
    told = report.own_table("loops", {"loops": entry(loops=[*runs, {**runs[0], "work": "submit"}])})
    assert told.splitlines()[2:] == [
        "| poll | 2 ms | 1.5 ms | 0.75 x |",
        "| submit | 2 ms | 1 ms | 0.5 x |",
    ]
    assert report.own_table("loops", {}) == "Not measured."


def test_what_ceasing_callbacks_cost() -> None:
    """Tasks made after polling had settled are held against the same ones of the schedule alone."""
    ends = [(made, made + 20.0) for made in (0.0, 10.0, 20.0, 30.0, 40.0)]
    schedule = callbacks.Side([(*each, each[1] + place) for place, each in enumerate(ends)], 3, 2)
    found = (20.0, 34.0, 42.0, 51.0, 60.5)  # the receiver goes off at 25, and polling has settled by 28
    ceased = callbacks.Side([(*each, at) for each, at in zip(ends, found, strict=True)], 1, 1, off=25.0)
    ratio, longest = callbacks.after(schedule, ceased, settled=3.0)
    assert ratio == pytest.approx((1.0 + 0.5) / (3.0 + 4.0))
    assert longest == 4.0
    assert (schedule.lost(6), schedule.status_requests) == (1, 5)


def test_plots_are_drawn_alike_each_time(tmp_path: Path) -> None:
    """The same numbers give the same SVG files, with labels as text and without a date."""
    first, second = (plots.draw(CANNED, tmp_path / folder) for folder in ("one", "two"))
    assert {file.stem for file in first} == set(plots.PLOTS)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    text = "".join(file.read_text(encoding="utf-8") for file in first)
    assert all(each in text for each in ("tasks in flight (log)", "CPU per completed task, ms", "(3 lost)"))
    assert "<dc:date>" not in text


def test_a_plot_without_its_rows_is_left_out(tmp_path: Path) -> None:
    """What was not measured is not drawn, and the others are."""
    assert plots.draw({"makespan": CANNED["makespan"]}, tmp_path) == [tmp_path / "makespan.svg"]


@pytest.mark.parametrize("page", ["#ffffff", "#131416"], ids=["light", "dark"])
@pytest.mark.parametrize("color", [*plots.COLORS, plots.INK])
def test_colors_stand_out_from_the_page(color: str, page: str) -> None:
    """Every colour has the contrast that WCAG asks of graphics, 3, on a light page and on a dark one."""
    light, dark = sorted((_luminance(color), _luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def _luminance(color: str) -> float:
    """Relative luminance as WCAG 2 has it, 0 to 1."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_pages_say_what_was_measured(page: Path) -> None:
    """Every measured part of README and docs is what the published numbers make it."""
    text = page.read_text(encoding="utf-8")
    assert re.search(r"<!-- benchmarks: \w+ -->", text)
    assert report.rewritten(text, report.load()) == text


def test_published_figures_and_budgets_agree() -> None:
    """In what is published no two figures are alike, and a figure has no other bound than its budget's."""
    for name, published in report.load().items():
        figures = published.result.figures
        assert max(Counter((each.name, each.note) for each in figures).values(), default=0) <= 1
        for budget in (each for each in BUDGETS if each.benchmark == name):
            judged = budget.worst(figures)
            own = [each.budget for each in figures if judged is not None and each.name == judged.name]
            assert set(own) <= {budget.limit, None}
