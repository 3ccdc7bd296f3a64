"""README and docs say what is so: figures, commands, names. Their code blocks are run by the top conftest."""

import re
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

import kling_async
from kling_async.journal import Record
from kling_async.simulator.prices import price

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
    """Title, example, output, five bullets and links stand before line 45."""
    first = "\n".join(README.splitlines()[:45])
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


def test_the_api_page_has_every_public_name() -> None:
    """What is exported is documented, once, and nothing else is."""
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto\w+:: kling_async\.(\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(kling_async.__all__)


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
