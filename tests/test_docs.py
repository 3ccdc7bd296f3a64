"""README and docs say what is so: figures, commands, names. Their code blocks are run by the top conftest."""

import asyncio
import doctest
import html
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

import kling_async
from kling_async.batch import Item
from kling_async.batch.documents import Documents, Summary
from kling_async.batch.entries import Entry
from kling_async.cli.app import run
from kling_async.journal import Record
from kling_async.protocol.lifecycle import STATES
from kling_async.simulator import Simulator
from kling_async.simulator.prices import price

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUICKLY = f"""import sys
sys.path.append({str(ROOT / "tests")!r})
import conftest
conftest.set_quick(True)
sys.exit(conftest.run(sys.argv[1:]))"""
"""The command, as a program whose clock runs fast."""
USD_PER_UNIT = Decimal("0.14")
"""List price of a unit (API reference, prices)."""


def _priced_cells() -> list[tuple[str, str, str]]:
    """Model, mode and cell of the README's price table."""
    rows = re.findall(r"^\| `(kling-[^`]+)`[^|]*\|([^|]*)\|([^|]*)\|([^|]*)\|", README, re.MULTILINE)
    return [
        (model, mode, cell.strip())
        for model, *cells in rows
        for mode, cell in zip(("std", "pro", "4k"), cells, strict=True)
    ]


def test_the_price_table_has_every_current_model() -> None:
    """Three models in three modes, the default model first."""
    cells = _priced_cells()
    assert len(cells) == 9
    assert cells[0][0] == kling_async.DEFAULT_MODEL


@pytest.mark.parametrize(("model", "mode", "cell"), _priced_cells())
def test_a_price_is_the_price_lists(model: str, mode: str, cell: str) -> None:
    """Units a second and list USD of a silent 5 s video; a dash where the price list has none."""
    units = price(model, {"mode": mode, "duration": "5"})
    if units is None:
        assert cell == "-"
        return
    assert cell == f"{units / 5:.1f} units/s: {units * USD_PER_UNIT:.2f} USD"


def test_the_first_screen_has_it_all() -> None:
    """Title, example, output, five bullets and links stand in the first 40 lines."""
    first = "\n".join(README.splitlines()[:40])
    title, _, claim = README.splitlines()[0].partition(": ")
    assert title == "# kling-async"
    assert len(claim.split()) == 6
    assert first.count("```python") == 1
    assert "```output" in first
    assert "$ kling-async" in first
    assert len(re.findall(r"^- \*\*", first, re.MULTILINE)) == 5
    assert "[Tutorial]" in first


def test_the_readme_is_what_ci_runs() -> None:
    """CI takes the test command out of the README; each of the two commands is one line of its own."""
    lines = README.splitlines()
    assert lines.count('python -m pip install ".[demo]" && python -m kling_async demo') == 1
    assert lines.count('python -m pip install ".[test]" && python -m pytest') == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that is there."""
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def _anchors(page: Path) -> set[str]:
    """What a link may name in *page*: its headings, in lower case, without signs, with dashes for spaces."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_into_pages_lead_to_a_heading(page: Path) -> None:
    """Every link with an anchor names a heading of the page it leads to, or of its own."""
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{link}#{anchor}"
        for link, anchor in links
        if anchor not in _anchors(page.parent / link if link else page)
    ]
    assert missing == []


def _refused() -> list[tuple[str, str]]:
    """Commands that pages show to be refused, each with what it prints."""
    texts = (page.read_text(encoding="utf-8") for page in PAGES)
    return sorted(
        {
            found
            for text in texts
            for found in re.findall(r"^```text\n\$ kling-async (.*)\n([^`]+)```$", text, re.MULTILINE)
        }
    )


@pytest.mark.parametrize(("command", "printed"), _refused(), ids=lambda text: text.split("\n")[0][:40])
def test_what_is_shown_as_refused_is_refused(
    command: str, printed: str, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with code 2 and prints what the page says, but for the plan that goes before it."""
    for manifest in (ROOT / "docs" / "examples").glob("*.csv"):
        shutil.copy(manifest, page)
    renamed = (page / "mistakes.csv").read_text("utf-8").replace("model_name", "model")
    (page / "renamed.csv").write_text(renamed, "utf-8")
    assert run(shlex.split(command.removesuffix(" < /dev/null"))) == 2
    told = capsys.readouterr()
    assert doctest.OutputChecker().check_output(printed, told.err, doctest.ELLIPSIS)
    assert told.out == ""


def test_the_page_of_the_report_has_every_key(tmp_path: Path) -> None:
    """The file, its totals, its items: what is in them is told, and nothing else is."""
    request = kling_async.ImageToVideo(image="cat.png", prompt="a cat")
    now = datetime.now(UTC)
    counts = dict.fromkeys(("total", "done", "failed", "running", "waiting", "not_submitted"), 0)
    counts |= dict.fromkeys(("unknown", "unlisted"), 0)
    money = dict.fromkeys(("units", "estimated", "budget", "spent"), Decimal(0))
    summary = Summary(title="", provider="", state="ended", began_at=now, written_at=now, **counts, **money)
    documents = Documents(tmp_path, [Item(None, "cat", request, "")], [None])
    report = json.loads(documents.report(summary, [Entry()]))
    text = (ROOT / "docs" / "reference" / "report.md").read_text(encoding="utf-8")
    tables = [
        re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?`) \|", part, re.MULTILINE)))
        for part in text.split("\n## ")[1:]
    ]
    assert tables == [list(report), list(report["totals"]), list(report["items"][0])]
    item = dict(re.findall(r"^\| `(request|times)` \| (.*) \|$", text, re.MULTILINE))
    for name, cell in item.items():
        assert re.findall(r"`(\w+)`", cell) == list(report["items"][0][name])
    assert len(item) == 2


def test_pictures_are_small_and_load_nothing() -> None:
    """Each screenshot has less than 250 KB, an SVG asks nobody for anything, and each is shown with words."""
    pictures = sorted((ROOT / "docs" / "screenshots").iterdir())
    assert [picture.suffix for picture in pictures] == [".png", ".png", ".svg"]
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in pictures:
        assert picture.stat().st_size < 250_000
        assert picture.name in shown
    svg = pictures[-1].read_text(encoding="utf-8")
    assert "@font-face" not in svg
    assert re.findall(r"https?://[^\s\"<]+", svg) == ["http://www.w3.org/2000/svg"]
    assert re.findall(r"!\[[^]]{0,30}\]", shown) == []


def _lines(svg: str) -> list[str]:
    """The lines of a drawn terminal, but for what differs from run to run: their order, the time, the id."""
    told = "".join(re.findall(r"<text class=\"kling-r[^>]*>([^<]*)<", svg))
    told = html.unescape(told).replace("\xa0", " ")
    return sorted(re.sub(r"(?<=task )\d+|(?<=failed in )[^;]+", "...", told).splitlines())


def test_the_terminal_shows_what_the_program_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture has the words of the same command today; docs/screenshots.py takes it anew if not."""
    pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import screenshots

    simulator = Simulator(seconds=0.1, fail_marker=screenshots.FAIL_MARKER)
    now = screenshots.drawn(asyncio.run(screenshots.run(tmp_path, simulator, ("-c", QUICKLY))))
    picture = (ROOT / "docs" / "screenshots" / "terminal.svg").read_text(encoding="utf-8")
    assert _lines(picture) == _lines(now)


def test_every_page_is_in_the_contents() -> None:
    """Whatever page there is, a reader finds it from the first."""
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {
        name for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL) for name in block.split()
    }
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES[1:]}
    assert {page.replace("\\", "/") for page in pages} - {"index"} <= listed


def test_the_page_of_the_layout_has_every_module() -> None:
    """Each module and package at the top stands in the table of layers, and nothing else does."""
    text = (ROOT / "docs" / "explanation" / "layout.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+\.py|\w+/)`", "\n".join(re.findall(r"^\| .*$", text, re.MULTILINE)))
    package = Path(kling_async.__file__).parent
    modules = {path.name for path in package.glob("[a-z]*.py")}
    packages = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert sorted(named) == sorted(modules | packages)


PUBLIC = ("", ".webhook", ".testing", ".simulator", ".integrations.otel")
"""The public modules (docs/reference/stability.md), as they are called below the package."""


def _public() -> dict[str, object]:
    """Every public name in full, and what it names."""
    modules = [importlib.import_module(f"kling_async{each}") for each in PUBLIC]
    return {
        f"{module.__name__}.{name}": getattr(module, name) for module in modules for name in module.__all__
    }


def test_the_api_page_has_every_public_name() -> None:
    """What is exported is documented, once, and nothing else is."""
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. (?:auto\w+|data):: (kling_async\.[\w.]+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(_public())


def _defaults() -> Iterator[tuple[str, object]]:
    """The defaults of all public functions and methods, each with where it stands."""
    for name, value in _public().items():
        methods = vars(value).values() if inspect.isclass(value) else [value]
        functions = [getattr(each, "__func__", each) for each in methods]
        for function in filter(inspect.isfunction, functions):
            for parameter in inspect.signature(function).parameters.values():
                yield f"{name}: {function.__name__}({parameter.name})", parameter.default


def test_no_page_shows_where_it_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults are printed as they are written, and none of them is the environment, which holds keys."""
    settings = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert "\nautodoc_preserve_defaults = True" in settings
    monkeypatch.setenv("KLING_API_KEY", "a-key-of-the-builder")
    defaults = dict(_defaults())
    assert len(defaults) > 50
    shown = [
        where for where, default in defaults.items() if default is os.environ or "a-key" in repr(default)
    ]
    assert shown == []


def _blocks(language: str) -> list[tuple[str, str]]:
    """The blocks of *language*, each with its page."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for block in pattern.findall(page.read_text(encoding="utf-8"))
    ]


def test_what_only_a_simulator_knows_is_shown_with_one() -> None:
    """A prompt that only a simulator refuses is a paid video at Kling: such code starts its own."""
    marked = [(page, block) for page, block in _blocks("python") if re.search(r"\[(fail|policy)\]", block)]
    assert len(marked) > 3
    assert [page for page, block in marked if "Simulator(" not in block] == []


def test_pages_do_not_find_the_videos_of_each_other() -> None:
    """Each page writes to folders, and uses keys, of its own: so its output is the same after all others."""
    used: dict[str, set[str]] = {}
    for page, block in _blocks("console"):
        for name in re.findall(r"--out (\S+/)", block):
            used.setdefault(name, set()).add(page)
    for page, block in _blocks("python"):
        for name in re.findall(r'(?:save_to|journal|key)="([^"]+)"', block):
            if "Simulator(" not in block or "/" in name or name.endswith(".mp4"):
                used.setdefault(name, set()).add(page)
    assert len(used) > 15
    shared = {name: pages for name, pages in used.items() if len(pages) > 1}
    assert shared == {}


def test_each_how_to_page_says_what_it_stands_on() -> None:
    """Each links at its head to the page that makes folder, pictures and simulator."""
    pages = [page for page in PAGES if page.parent.name == "howto" and page.name != "try-it.md"]
    heads = {page.name: page.read_text(encoding="utf-8").split("\n## ")[0] for page in pages}
    assert [name for name, head in heads.items() if "(try-it.md)" not in head] == []


def test_the_page_of_errors_has_every_error() -> None:
    """Each error that somebody gets stands in the table of what to do."""
    text = (ROOT / "docs" / "howto" / "errors.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| `.*Error.*$", text, re.MULTILINE))
    errors = {name for name in kling_async.__all__ if name.endswith("Error")}
    above = {
        "KlingError",
        "APIError",
        "TransportError",
        "AlreadyExistsError",
    }  # roots; and what the client handles
    assert {name for name in errors - above if f"`{name}`" not in rows} == set()


def test_the_page_of_commands_has_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command that the command line knows has its section, made of its own help."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import tables

    told = re.findall(r"^│ (\w+)  ", tables.help_of(), re.MULTILINE)
    assert sorted(told) == sorted(tables.COMMANDS)
    assert "--prompt" in tables.help_of("animate")


def test_names_in_the_text_are_public() -> None:
    """A name of an error that README or docs mention exists."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`([A-Z][A-Za-z]+Error)`", text))
    assert named <= set(kling_async.__all__)
    assert "ResponseLostError" in named


def test_the_tables_of_the_reference_are_made_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error, code, status, provider and column of the journal has its row."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import tables

    errors = tables.errors()
    assert all(f"`{name}`" in errors for name in kling_async.__all__ if name.endswith("Error"))
    assert all(f"`{status.name}`" in tables.states() for status in kling_async.TaskStatus)
    assert "| 1303 | `ConcurrencyLimitError` | tried again | tried again |" in tables.retryable()
    assert "| 5000 | `ServerError` | tried again | looked up first |" in tables.retryable()
    assert "| `EZMODEL_API_KEY` | no | no | 15 s |" in tables.providers()
    assert "| `task_id` | TEXT or NULL | Kling's id |" in tables.journal()
    assert tables.journal().count("\n| `") == len(attrs.fields(Record))
    assert "| 1304 | this machine's address is not on the allow-list | `AccountError` |" in tables.codes()
    account = re.findall(r"`AccountError` \| (.*) \|$", tables.codes(), re.MULTILINE)
    assert len(set(account)) == len(account) == 5  # each code has its own cure


def test_the_diagram_of_states_is_made_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every status has its box, arrows lead to a higher rank only, and each but the first is reached."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import diagram

    boxes = re.findall(r">([A-Z_]+)</text></g>", diagram.states())
    assert sorted(boxes) == sorted(status.name for status in STATES)
    assert all(STATES[start].rank < STATES[end].rank for start, end in diagram.ways())
    assert {end for _, end in diagram.ways()} == set(STATES) - {kling_async.TaskStatus.INTENDED}
    late = [start for start, end in diagram.ways() if STATES[start].terminal and end.name == "SUCCEED"]
    assert {status.name for status in late} == {"GIVEN_UP", "LOST", "MAY_EXIST", "FAILED"}
    assert "\n\n" not in diagram.states()  # which would end it in Markdown


def test_the_page_of_models_is_made_of_their_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters become words: for all, for one mode, for one duration, and with what there is to say."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import model_map

    rows = {line.split(" | ")[0][2:]: line for line in model_map.features().splitlines()[2:]}
    assert rows["the model"].split(" | ")[1:] == [*["yes"] * 3, *["doubted"] * 5, "doubted |"]
    cells = dict(zip(model_map.models(), rows["`image` and `image_tail`"].split(" | ")[1:], strict=True))
    assert cells["kling-v3"] == "yes"
    assert cells["kling-v2-6"] == "pro with sound off"
    assert cells["kling-v2-5-turbo"] == "pro"
    assert cells["kling-v2-master"] == "-"
    assert cells["kling-v1"] == "5 s |"
    assert "| the model | `kling-v1` | is discontinued |" in model_map.sources()
    assert "| `kling-v2-6` | std 0.3, pro 0.5 | pro 1.0 | pro 1.2 | 90 s |" in model_map.prices()
    assert all(f"`{name}`" in model_map.providers() for name in ("kling", "cometapi", "new-api"))
